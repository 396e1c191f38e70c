"""netsh's words, as people type and paste them."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.model import RuleType
from portproxy.netsh.grammar import (
    DELETE_ORDER,
    TAG_ORDER,
    Command,
    GrammarError,
    HelpAsked,
    Verb,
    free_tags,
    parse_command,
    parse_rule,
    split_line,
    types,
)
from portproxy.netsh.quoting import quoted

PORT_23 = {"type": "v6tov4", "listenport": "23"}
TYPE_FIRST = "a rule begins with its type, one of v4tov4, v4tov6, v6tov4, v6tov6"
LEAVE_OUT = "leave the tag out where the default is meant"
FULL = {
    "type": "v4tov6",
    "listenport": "80",
    "connectaddress": "::1",
    "connectport": "81",
    "listenaddress": "192.0.2.1",
    "protocol": "tcp",
}


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("v6tov4 23", PORT_23),
        ("V6ToV4 ListenPort=23", PORT_23),
        ("v4tov6 80 ::1 81 192.0.2.1 tcp", FULL),
        ("v4tov6 protocol=tcp connectport=81 80 ::1 listenaddress=192.0.2.1", FULL),
        ("netsh interface portproxy add v6tov4 23", PORT_23),
        ("Netsh int PortProxy Set v6tov4 23", PORT_23),
        ("portproxy add v6tov4 23", PORT_23),
        ("add v6tov4 23", PORT_23),
        ("v6tov4 23 name='my web' maxconn=5", {**PORT_23, "name": "my web", "maxconn": "5"}),
        ('v6tov4 23 "name=a=b"', {**PORT_23, "name": "a=b"}),
        ("nonsense", {"type": "nonsense"}),
    ],
)  # fmt: skip
def test_commands(text: str, tags: dict[str, str]) -> None:
    assert parse_rule(text) == tags


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", '"": ' + TYPE_FIRST),
        ("add", '"add": ' + TYPE_FIRST),
        ("delete v4tov4 80", '"delete v4tov4 80": delete adds no rule; ' + TYPE_FIRST),
        ("netsh int portproxy SHOW all", '"netsh int portproxy SHOW all": show adds no rule; ' + TYPE_FIRST),
        ("listenport=1", '"listenport=1": ' + TYPE_FIRST),
        ("''", "\"''\": " + TYPE_FIRST),
        ("add '' 80", "\"add '' 80\": " + TYPE_FIRST),
        ("v6tov4 'x", "\"v6tov4 'x\": no closing quotation; a quote ends with the same quote"),
        ("v6tov4 x\\", '"v6tov4 x\\": no escaped character; a quote ends with the same quote'),
        ("v6tov4 1 listenport=2", 'listenport = "2": given already as "1"; leave one out'),
        ("v6tov4 name=a NAME=b", 'name = "b": given already as "a"; leave one out'),
        ("v6tov4 type=v4tov4", 'type = "v4tov4": given already as "v6tov4"; leave one out'),
        ("v6tov4 1 2 3 4 tcp 6", '"6": a word too many; further options are written as tag=value'),
        ("v6tov4 =1", '"=1": no tag before the =; a tag is written as tag=value'),
        ("v6tov4 1 connectaddress=", '"connectaddress": no value; ' + LEAVE_OUT),
        ("v6tov4 ''", '"listenport": no value; ' + LEAVE_OUT),
        ("v6tov4 =\n", '"=": no tag before the =; a tag is written as tag=value'),
        ("v6tov4 1 '2=\n3' '2=\n4'", '2 = "\\n4": given already as "\\n3"; leave one out'),
    ],
)  # fmt: skip
def test_refused_commands(text: str, line: str) -> None:
    with pytest.raises(GrammarError) as raised:
        parse_rule(text)
    assert raised.value.lines == (line,)
    assert raised.value.exit_code == 2


def test_a_tag_given_twice_stays_on_the_line() -> None:
    with pytest.raises(GrammarError) as raised:
        parse_rule("v6tov4 '\n=1' '\n=2'")
    assert raised.value.lines == ('\\n = "2": given already as "1"; leave one out',)


@given(st.text("ab \t\n=\"'\\"))
def test_a_line_is_split_as_a_shell_splits_it(text: str) -> None:
    try:
        words = shlex.split(text)
    except ValueError:
        with pytest.raises(
            GrammarError, match=r"no (closing quotation|escaped character); a quote ends with"
        ):
            split_line(text)
    else:
        assert split_line(text) == words


@given(st.lists(st.text()))
def test_quoted_words_are_read_back(words: list[str]) -> None:
    assert split_line(" ".join(map(quoted, words))) == words


def test_a_word_of_a_megabyte_is_split_in_no_time() -> None:
    """shlex takes minutes for it, which the suite's own limit would end."""
    long = "x" * (1 << 22)
    assert split_line(f"a {long} '{long}'") == ["a", long, long]


ADD = Command(Verb.ADD, "v6tov4", {"listenport": "23"})
FULL_TAGS = {tag: FULL[tag] for tag in TAG_ORDER}


def changing(verb: Verb, rule_type: str, **tags: str) -> Command:
    return Command(verb, rule_type, tags)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("add v6tov4 23", ADD),
        ("a V6TOV4 LISTENPORT=23", ADD),
        ("netsh interface portproxy add v6tov4 23", ADD),
        ("NETSH.EXE in p ad v6tov4 listenport=23", ADD),
        ("interface portproxy add v6tov4 23", ADD),
        ("portproxy add v6tov4 23", ADD),
        (
            "set v6tov4 23 name='my web' MaxConn=5",
            changing(Verb.SET, "v6tov4", listenport="23", name="my web", maxconn="5"),
        ),
        ("add v4tov6 80 ::1 81 192.0.2.1 tcp", changing(Verb.ADD, "v4tov6", **FULL_TAGS)),
        ("se v4tov4 telnet db", changing(Verb.SET, "v4tov4", listenport="telnet", connectaddress="db")),
        ("del v4tov4 80", changing(Verb.DELETE, "v4tov4", listenport="80")),
        (
            "delete v4tov4 80 192.0.2.1 TCP",
            changing(Verb.DELETE, "v4tov4", listenport="80", listenaddress="192.0.2.1", protocol="TCP"),
        ),
        ("del v4tov4 listenaddress=* 1", changing(Verb.DELETE, "v4tov4", listenport="1", listenaddress="*")),
        ("r", Command(Verb.RESET)),
        ("du", Command(Verb.DUMP)),
        ("sh ALL", Command(Verb.SHOW, "all")),
        ("show V4toV6", Command(Verb.SHOW, "v4tov6")),
    ],
)  # fmt: skip
def test_commands_of_every_verb(text: str, command: Command) -> None:
    assert parse_command(text.split() if "'" not in text else split_line(text)) == command
    assert parse_command(split_line(str(command))) == command


PORT_MISSING = "listenport is missing: a port is a number from 1 to 65535 or a service name"
DELETE_TAKES = "delete takes listenport, listenaddress, protocol only"
VERBS = "one of add, delete, dump, help, reset, set, show"
TYPES = "v4tov4, v4tov6, v6tov4, v6tov6"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", f"no command; a command begins with its verb, {VERBS}"),
        ("netsh interface portproxy", f"no command; a command begins with its verb, {VERBS}"),
        ("i portproxy reset", f'"i": no such command; a command begins with its verb, {VERBS}'),
        ("v4tov4 80", f'"v4tov4": no such command; a command begins with its verb, {VERBS}'),
        ("d", '"d": short for delete and for dump; write more of it'),
        ("S all", '"S": short for set and for show; write more of it'),
        ("addd v4tov4 80", f'"addd": no such command; a command begins with its verb, {VERBS}'),
        ("add", f"add: the type is missing; one of {TYPES}"),
        ("add listenport=80", f"add: the type is missing; one of {TYPES}"),
        ("add v4tov5 80", '"v4tov5": no such rule type; did you mean v4tov6?'),
        ("add x 80", f'"x": no such rule type; known are {TYPES}'),
        ("add v4tov4", f"add v4tov4: {PORT_MISSING}"),
        ("set v4tov4 connectport=1", f"set v4tov4: {PORT_MISSING}"),
        ("add v4tov4 80 maxcon=5", 'maxcon = "5": no such tag; did you mean maxconn?'),
        ("add v4tov4 80 type=v4tov6", 'type = "v4tov6": given already as "v4tov4"; leave one out'),
        ("add v4tov4 80 protocol=udp", 'protocol = "udp": UDP is not carried; tcp is the only protocol'),
        ("add v4tov4 1 2 3 4 tcp 6", '"6": a word too many; further options are written as tag=value'),
        ("delete v4tov4 80 * tcp x", '"x": a word too many; delete takes no more'),
        ("delete v4tov4 80 connectport=1", f'connectport = "1": {DELETE_TAKES}'),
        ("delete v4tov4 80 name=x", f'name = "x": {DELETE_TAKES}'),
        ("delete v4tov4 80 * sctp", 'protocol = "sctp": tcp is the only protocol'),
        ("reset all", '"all": a word too many; reset takes none'),
        ("dump v4tov4", '"v4tov4": a word too many; dump takes none'),
        ("show", f"show: what to show is missing; one of all, {TYPES}"),
        ("show v4tov5", '"v4tov5": show takes all or a rule type; did you mean v4tov6?'),
        ("show all all", '"all": a word too many; show takes one'),
    ],
)  # fmt: skip
def test_refused_commands_of_every_verb(text: str, line: str) -> None:
    with pytest.raises(GrammarError) as raised:
        parse_command(text.split())
    assert raised.value.lines == (line,)


@pytest.mark.parametrize("word", ["", "\n", "\udc80", "x" * (1 << 20), "\U0010ffff" * 99, "=", "a=", "\n=\n"])
@pytest.mark.parametrize("before", [[], ["add"], ["add", "v4tov4"], ["show"], ["reset"]])
def test_odd_words_are_refused_on_one_short_line(before: list[str], word: str) -> None:
    with pytest.raises(GrammarError) as raised:
        parse_command([*before, word, "=", "="])
    (line,) = raised.value.lines
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        *((word, None) for word in ("?", "/?", "-?", "help", "HELP", "h", "hel", "? ?", "netsh int p ?")),
        *(("help add", Verb.ADD), ("? del", Verb.DELETE), ("add ?", Verb.ADD), ("a v4tov4 8 /?", Verb.ADD)),
        *(("se HELP", Verb.SET), ("show all -?", Verb.SHOW), ("r help", Verb.RESET), ("dump ?", Verb.DUMP)),
    ],
)  # fmt: skip
def test_help(text: str, verb: Verb | None) -> None:
    with pytest.raises(HelpAsked) as asked:
        parse_command(text.split())
    assert asked.value.verb is verb


@pytest.mark.parametrize("text", ["d ?", "x ?", "help x"])
def test_help_on_no_verb_is_an_error(text: str) -> None:
    with pytest.raises(GrammarError):
        parse_command(text.split())


RULE_TYPES = tuple(RuleType)


@pytest.mark.parametrize(
    ("verb", "taken"),
    [
        (Verb.ADD, RULE_TYPES),
        (Verb.SET, RULE_TYPES),
        (Verb.DELETE, RULE_TYPES),
        (Verb.SHOW, ("all", *RULE_TYPES)),
        (Verb.RESET, ()),
        (Verb.DUMP, ()),
    ],
)
def test_what_stands_behind_a_verb(verb: Verb, taken: tuple[str, ...]) -> None:
    assert types(verb) == taken


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", set()),
        ("80", {"listenport"}),
        ("LISTENPORT=80 ::1", {"listenport", "connectaddress"}),
        ("80 connectport=81 ::1 *", {"listenport", "connectport", "connectaddress", "listenaddress"}),
        ("80 ::1 81 * tcp 6 name=x", {*TAG_ORDER, "name"}),
        ("=1 connectport= x=y name=a name=b", {"connectport", "name"}),
    ],
)
def test_tags_that_are_free(text: str, taken: set[str]) -> None:
    every = free_tags(Verb.ADD, ())
    assert free_tags(Verb.ADD, text.split()).keys() == every.keys() - taken
    assert free_tags(Verb.SET, text.split()) == free_tags(Verb.ADD, text.split())


def test_tags_of_other_verbs_that_are_free() -> None:
    assert [*free_tags(Verb.DELETE, ())] == [*DELETE_ORDER]
    assert [*free_tags(Verb.DELETE, ["80", "*"])] == ["protocol"]
    for verb in (Verb.SHOW, Verb.RESET, Verb.DUMP):
        assert free_tags(verb, ["v4tov4"]) == {}


@given(st.lists(st.sampled_from(["1", "*", "listenport=2", "connectport=3", "name=x", "Protocol=tcp"])))
def test_tags_are_free_where_they_may_be_added(words: list[str]) -> None:
    """What is free and what is refused is one question."""
    try:
        tags = parse_rule(" ".join(["v4tov4", *words]))
    except GrammarError:
        return
    assert free_tags(Verb.ADD, words).keys() == free_tags(Verb.ADD, ()).keys() - tags.keys()
