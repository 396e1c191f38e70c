"""netsh's words as nobody would write them: a command, or one line that says what is wrong."""

from __future__ import annotations

from random import Random

from portproxy import config
from portproxy.model import RuleType
from portproxy.netsh import importer
from portproxy.netsh.grammar import Command, Verb
from portproxy.netsh.render import dump, show
from portproxy.options import option_tags
from tests.fuzz import checks
from tests.fuzz.examples import binary, seeded, text
from tests.fuzz.random_rules import ALWAYS, rule, table

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]


@seeded
def test_a_dump_rebuilds_the_table(random: Random) -> None:
    rules, always = table(random), random.sample(ALWAYS, k=random.choice([0, 3, len(ALWAYS)]))
    dumped = dump(rules, always)
    read = importer.read(dumped.replace("\n", random.choice(["\n", "\r\n"])).encode(random.choice(ENCODINGS)))
    assert (read.kind, read.skipped) == ("dump", ())
    (_, reset), *adds = read.commands
    assert reset == Command(Verb.RESET)
    assert [dumped.splitlines()[number - 1] for number, _ in adds] == [str(command) for _, command in adds]
    assert config.read(None, [str(command) for _, command in adds]).config().rules == rules
    for _, command in adds:
        assert command.verb is Verb.ADD
        assert command.tags.keys() >= {*always}


def test_every_option_is_drawn() -> None:
    """A new option has to be put into the generator above."""
    drawn = {tag.partition("=")[0] for seed in range(100) for tag in option_tags(rule(Random(seed), 1000))}
    assert drawn == {*ALWAYS}


@seeded
def test_a_shown_table_is_read_back(random: Random) -> None:
    rules = table(random)
    read = importer.read(show(rules, tuple(RuleType)).encode(random.choice(ENCODINGS)))
    assert read.skipped == ()
    shown = sorted(
        (r.type, r.listen.address, str(r.listen.port), r.connect.address, str(r.connect.port)) for r in rules
    )
    assert shown == sorted(
        (
            c.type,
            c.tags.get("listenaddress", "*"),
            *(c.tags[t] for t in ("listenport", "connectaddress", "connectport")),
        )
        for _, c in read.commands
    )


WORDS = [
    *(
        "netsh",
        "interface",
        "in",
        "i",
        "portproxy",
        "p",
        *Verb,
        "a",
        "d",
        "s",
        "sh",
        "help",
        "?",
        "/?",
        "all",
    ),
    *(*RuleType, "v4", "80", "http", "65536", "192.0.2.1", "::1", "*", "tcp", "udp", "listenport=80", "="),
    *("listenaddress=*", "connectport=", "protocol=udp", "=x", "name=a b", "maxconn=5", "maxcon=5", "type=x"),
    *("", "\n", "\x00", "\udc80", "\u2028", "\u0130", "x" * 5000, "\U0010ffff" * 99, "9" * 5000),
]


def words(random: Random) -> list[str]:
    if random.random() < 0.2:
        return [text(random, 9) for _ in range(random.randrange(6))]
    some = random.choices(WORDS, k=random.randrange(9))
    return some if random.random() < 0.5 else [random.choice([*Verb]), random.choice([*RuleType]), *some]


@seeded
def test_words_are_a_command_or_a_grammar_error(random: Random) -> None:
    checks.command(words(random))


PIECES = [" ", "=", "'", '"', "\\", "\r", "\n", "\t", "\f", "\x00", "\ufeff", "`", " ^\n", ">", "&", *WORDS]


def line(random: Random) -> str:
    if random.random() < 0.2:
        return text(random, 30)
    return "".join(random.choices(PIECES, k=random.randrange(12)))


@seeded
def test_a_line_is_tags_or_a_grammar_error(random: Random) -> None:
    checks.rule(line(random))


def test_a_tag_that_is_a_line_break_is_a_grammar_error() -> None:
    checks.rule("v6tov4 '\n=1' '\n=2'")


HEADINGS = [
    "Listen on ipv4:  Connect to ipv6:",
    "\u4fa6\u542c ipv4: \u8fde\u63a5\u5230 ipv4:",
    "ipv4\uc5d0\uc11c: ipv4",
]
LINES = [
    *(
        "pushd interface portproxy",
        "pushd interface ipv4",
        "pushd",
        "popd",
        "reset",
        "# x",
        "rem x",
        "::",
        "@echo off",
    ),
    *(*HEADINGS, "Address Port Address Port", "--------------- ----------  --------------- ----------"),
    *("*               1024        192.0.2.1       http", ":: 80 ::1 80", "a b c d", "0.0.0.0 1 192.0.2.1"),
    *("C:\\> netsh interface portproxy show all", "PS C:\\> netsh int p add v4tov4 80 >nul", "netsh>reset"),
    *("netsh interface portproxy add v4tov4 ^", "  listenport=80", "netsh interface ipv4 reset & x", "netsh"),
    *(
        "add v4tov4 listenport=80",
        "set v6tov4 80 name='",
        "delete v4tov4 80",
        "add v4tov4 80 protocol=udp",
        "",
        "\xa0",
    ),
]
OEM = ["cp437", "cp850", "cp866", "cp932", "cp936", "cp949", "cp950"]


def file(random: Random) -> bytes:
    """Any bytes, or lines of dumps and scripts in some encoding, up to three pieces of which are replaced."""
    if random.random() < 0.2:
        return binary(random, 60)
    lines = random.choices(LINES, k=random.randrange(12))
    if random.random() < 0.3:
        lines += dump(table(random)).splitlines()
    joined = random.choice(["\n", "\r\n", "\r\r\n", "\r"]).join(lines)
    data = bytearray(joined.encode(random.choice([*ENCODINGS, *OEM]), "replace"))
    for _ in range(random.choice([0, 0, 1, 2, 3])):
        start = random.randrange(len(data) + 1)
        data[start : start + random.randrange(9)] = random.randbytes(random.randrange(9))
    return bytes(data)


@seeded
def test_bytes_are_commands_and_lines_skipped_with_a_reason(random: Random) -> None:
    checks.imported(file(random))
