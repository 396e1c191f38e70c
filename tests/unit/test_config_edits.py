"""What netsh's commands make of what was written, and what the file is to hold then."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest
from hypothesis import given, settings

from portproxy import config
from portproxy.config.editor import Clear, Put, Remove, rewrite
from portproxy.config.edits import Edited, Labelled, apply, settled
from portproxy.config.entries import key_of
from portproxy.config.reader import Reader
from portproxy.config.rules import Origin, Place
from portproxy.config.source import File, Source
from portproxy.errors import PortproxyError
from portproxy.netsh import importer
from portproxy.netsh.grammar import Command, Verb, parse_command, split_line
from portproxy.netsh.render import dump
from tests.fuzz.examples import seeds
from tests.fuzz.random_rules import table

FILE = """
[[rule]]
type = "V4toV4"
listenport = "http"
connectport = 8080
maxconn = 7

[[rule]]
type = "v6tov4"
listenaddress = "::1"
listenport = 81
name = "second"
"""
HTTP = ("v4tov4", "*", 80)
SECOND = ("v6tov4", "::1", 81)


def reading(text: str) -> Source:
    reader = Reader()
    reader.document(text, "portproxy.toml")
    return reader.source()


def source(*rules: str, environ: str = "") -> Source:
    reader = Reader()
    reader.document(FILE, "portproxy.toml")
    reader.environment(environ)
    for number, rule in enumerate(rules, 1):
        reader.command(rule, f"--rule {number}")
    return reader.source()


def edited(before: Source, *commands: str, save: bool = True) -> Edited:
    labelled = [Labelled(parse_command(split_line(command))) for command in commands]
    return apply(before, dict(enumerate(labelled)), save=save)


def said(done: Edited) -> dict[int, str]:
    """Why commands were refused, by their numbers."""
    return {number: str(error) for number, error in done.refused.items()}


def rules(of: Source) -> list[str]:
    return [f"{rule.type} {rule.listen} {rule.connect}" for rule in of.config().rules]


def test_add_makes_an_entry_what_it_says() -> None:
    done = edited(source(), "add v4tov4 80 192.0.2.1")
    assert done.edits == (Put(HTTP, {"type": "v4tov4", "listenport": "80", "connectaddress": "192.0.2.1"}),)
    first = done.source.config().rules[0]
    assert (str(first.connect), first.limits.maxconn) == ("192.0.2.1:80", None)


def test_set_changes_what_it_names() -> None:
    done = edited(source(), "set v4tov4 80 192.0.2.1")
    (put,) = done.edits
    assert put == Put(
        HTTP,
        {
            "type": "v4tov4",
            "listenport": "80",
            "connectport": 8080,
            "maxconn": 7,
            "connectaddress": "192.0.2.1",
        },
    )
    first = done.source.config().rules[0]
    assert (str(first.connect), first.limits.maxconn) == ("192.0.2.1:8080", 7)


def test_set_adds_an_entry_where_there_is_none() -> None:
    done = edited(source(), "set v4tov4 listenaddress=0.0.0.0 listenport=82 connectport=1")
    assert rules(done.source)[-1] == "v4tov4 0.0.0.0:82 127.0.0.1:1"
    assert [type(edit) for edit in done.edits] == [Remove, Put]


def test_the_key_is_the_address_as_written() -> None:
    done = edited(source(), "add v6tov4 81 listenaddress=0::1 name=third", save=False)
    assert len(done.source.rules) == 3
    assert edited(done.source, "delete v6tov4 81 listenaddress=0::1").edits == (
        Remove(("v6tov4", "0::1", 81)),
    )


def test_delete() -> None:
    done = edited(source(), "delete v4tov4 http")
    assert done.edits == (Remove(HTTP),)
    assert rules(done.source) == ["v6tov4 [::1]:81 127.0.0.1:81"]


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("delete v4tov4 8", "v4tov4/*:8: no such entry"),
        (
            "delete v4tov4 80 listenaddress=0.0.0.0",
            "v4tov4/0.0.0.0:80: no such entry; there is one with listenaddress=*",
        ),
        ("delete v6tov4 81", "v6tov4/*:81: no such entry; there is one with listenaddress=::1"),
        (
            "delete v4tov4 nosuch",
            'listenport = "nosuch": no TCP service of this name is known here;'
            " a port is a number from 1 to 65535 or a service name",
        ),
        (
            "add v4tov4 70000",
            'listenport = "70000": a port is a number from 1 to 65535 or a service name',
        ),
    ],
)
def test_what_cannot_be_carried_out(command: str, problem: str) -> None:
    done = edited(source(), command, "add v4tov4 9 192.0.2.1")
    assert said(done) == {0: problem}
    assert [type(edit) for edit in done.edits] == [Remove, Put]


def test_reset_clears_the_file() -> None:
    done = edited(source(), "reset")
    assert done.edits == (Clear(frozenset()),)
    assert done.source.rules == ()


def test_entries_that_come_back_where_they_were_keep_their_place() -> None:
    again = edited(
        source(), "reset", "add v4tov4 80 maxconn=7", "add v6tov4 81 listenaddress=::1", "add v4tov6 1"
    )
    assert again.edits[0] == Clear(frozenset({HTTP, SECOND}))
    assert [edit.key[2] for edit in again.edits[1:] if isinstance(edit, Put)] == [80, 81, 1]


def test_entries_that_come_back_in_another_order_are_written_anew() -> None:
    other = edited(source(), "reset", "add v6tov4 81 listenaddress=::1", "add v4tov4 80")
    assert other.edits[0] == Clear(frozenset())


def test_the_last_of_several_commands_for_an_entry_counts() -> None:
    done = edited(
        source(), "add v4tov4 9", "delete v4tov4 9", "set v4tov4 80 maxconn=1", "set v4tov4 80 maxconn=2"
    )
    assert [type(edit) for edit in done.edits] == [Remove, Put]
    assert done.source.config().rules[0].limits.maxconn == 2


@pytest.mark.parametrize("command", ["set v4tov4 90 maxconn=1", "add v4tov4 90", "delete v4tov4 90", "reset"])
def test_rules_from_elsewhere_change_without_being_saved_only(command: str) -> None:
    for before, where in (
        (source("v4tov4 90"), "--rule 1 came from --rule"),
        (source(environ="v4tov4 90"), "PORTPROXY_RULES: rule 1 came from PORTPROXY_RULES"),
    ):
        told = (
            f"{where}, where no change can be saved;"
            " change it there, or change the running relay alone with --no-save"
        )
        if command == "reset":
            # Without it, what comes behind it would mean something else.
            with pytest.raises(PortproxyError) as refused:
                edited(before, command)
            assert refused.value.lines == (f"reset: {told}",)
        else:
            assert said(edited(before, command)) == {0: told}
        unsaved = edited(before, command, save=False)
        assert (unsaved.edits, unsaved.refused) == ((), {})


def test_a_refusal_names_the_line() -> None:
    labelled = {7: Labelled(parse_command(["delete", "v4tov4", "9"]), "line 7")}
    assert said(apply(source(), labelled, save=True)) == {7: "line 7: v4tov4/*:9: no such entry"}
    without = Labelled(Command(Verb.ADD, "v4tov4"), "line 8")
    assert said(apply(source(), {0: without}, save=True)) == {
        0: "line 8: listenport is missing: a port is a number from 1 to 65535 or a service name"
    }


def test_a_rule_that_was_not_saved_is_when_it_is_next_changed() -> None:
    unsaved = edited(source(), "add v4tov4 90 192.0.2.1", save=False)
    assert unsaved.source.rules[-1].origin is Origin.CONTROL
    saved = edited(unsaved.source, "set v4tov4 90 maxconn=3")
    assert saved.edits[-1] == Put(
        ("v4tov4", "*", 90),
        {"type": "v4tov4", "listenport": "90", "connectaddress": "192.0.2.1", "maxconn": "3"},
    )
    assert saved.source.rules[-1].origin is Origin.FILE


def test_new_rules_stand_where_the_next_start_will_read_them() -> None:
    done = edited(source("v4tov4 90 192.0.2.1", environ="v4tov4 91 192.0.2.1"), "add v4tov4 92 192.0.2.1")
    assert [rule.listen.port for rule in done.source.config().rules] == [80, 81, 92, 91, 90]


def test_problems_are_told_by_the_command() -> None:
    done = edited(source(), "add v4tov4 80 ::1", "add v6tov6 82 ::2 name=second")
    assert said(done) == {
        0: 'v4tov4/*:80: connectaddress = "::1": v4tov4 connects to IPv4; type = "v4tov6" would take it'
    }
    (problem,) = (line for lines in done.source.check().by_rule.values() for line in lines)
    assert problem == (
        'v6tov6/*:82 (second): name = "second": portproxy.toml: rule 2 (second) has this name already;'
        " each rule needs a name of its own"
    )


def test_a_bad_command_spoils_no_other_for_the_same_entry() -> None:
    done = edited(
        source(),
        "set v4tov4 80 192.0.2.1",
        "set v4tov4 80 maxconn=-1",
        "set v4tov4 80 idletimeout=5s",
        "add v4tov4 9 connectport=abc",
        "add v4tov4 9 connectport=5",
    )
    assert list(done.refused) == [1, 3]
    first, *_, last = done.source.config().rules
    assert (str(first.connect), first.limits.idletimeout, last.connect.port) == ("192.0.2.1:8080", 5.0, 5)


def test_rules_are_called_by_where_they_are_then() -> None:
    before = source()
    done = settled(edited(before, "delete v4tov4 80", "add v4tov4 9", save=True).source)
    assert next(written.place for written in done.rules) == Place("portproxy.toml", 2)


def test_a_rule_that_nobody_changed_is_not_built_again() -> None:
    before = dataclasses.replace(source(), file=File("portproxy.toml", b""))
    second = before.config().rules[1]
    after = settled(edited(before, "delete v4tov4 80", "add v4tov4 22 192.0.2.2 maxconn=5").source)
    assert [written.place.number for written in after.rules] == [1, 2]  # it was the second
    kept, new = after.config().rules
    assert kept is second
    assert new == config.read(None, ["v4tov4 22 192.0.2.2 maxconn=5"]).config().rules[0]


def test_a_rule_is_built_again_where_the_defaults_are_others() -> None:
    before = source()
    assert before.config().rules[0].backlog == 4096
    assert dataclasses.replace(before, defaults={"backlog": 7}).config().rules[0].backlog == 7


def test_every_check_finds_a_default_that_does_not_fit() -> None:
    fitting = dataclasses.replace(reading(FILE), defaults={"connectsource": "192.0.2.9"})
    assert not fitting.check().problems
    # What the command builds on its way to the check must not keep the check from building it.
    after = edited(fitting, "add v6tov6 22 2001:db8::1").source
    for _ in range(2):
        (problem,) = after.check().problems
        assert '[defaults]: connectsource = "192.0.2.9": v6tov6 connects to IPv6' in problem


def test_a_source_from_nowhere_is_empty() -> None:
    assert config.read(None).rules == ()


DEFAULTS = """\
# What all rules have.
[defaults]
connecttimeout = "7s"
idletimeout = "off"
nodelay = false
deny = ["10.0.0.0/9", "2001:db8:1::/48"]
"""


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(seeds)
def test_a_dump_replayed_rebuilds_the_table_and_its_file(random: Random) -> None:
    """Whatever was there before, and whatever ``[defaults]`` say."""
    wanted = table(random)
    before = reading(DEFAULTS + FILE)
    dumped = dump(wanted, before.defaults.keys())
    commands = [Labelled(command) for _, command in importer.read(dumped.encode()).commands]
    done = apply(before, dict(enumerate(commands)), save=True)
    assert done.source.config().rules == wanted
    written = rewrite(DEFAULTS + FILE, done.edits)
    assert written.startswith(DEFAULTS)
    assert reading(written).config().rules == wanted


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(seeds)
def test_the_file_has_the_rules_in_the_order_in_which_they_run(random: Random) -> None:
    """Of two that share an endpoint the first listens, so a start must not find another order."""
    text, running = DEFAULTS + FILE, reading(DEFAULTS + FILE)
    for _ in range(6):
        save = random.random() < 0.7
        commands = [
            random.choice(
                [
                    f"{random.choice(['add', 'set'])} v4tov4 {random.randint(1, 3)} 192.0.2.1"
                    f" listenaddress={random.choice(['*', '0.0.0.0'])} maxconn={random.randint(1, 9)}",
                    f"delete v4tov4 {random.randint(1, 3)}",
                    f"delete v4tov4 {random.randint(1, 3)} listenaddress=0.0.0.0",
                    *(["reset"] if random.random() < 0.1 else []),
                ]
            )
            for _ in range(random.randint(1, 4))
        ]
        done = edited(running, *commands, save=save)
        running = settled(done.source)
        text = rewrite(text, done.edits)
        written = [key_of(rule.tags()) for rule in reading(text).rules]
        runs = [key_of(rule.tags()) for rule in running.rules if rule.origin is Origin.FILE]
        assert [key for key in written if key in runs] == runs
        if save:
            saved = {key for key in written if key in runs}
            assert {key_of(rule.tags()) for rule in running.rules if rule.origin is Origin.FILE} == saved
