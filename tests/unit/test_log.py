from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.log import (
    Event,
    Level,
    LibraryHandler,
    Log,
    encode_colour,
    encode_console,
    encode_json,
    encoder,
    quoted,
    timestamp,
)

NOW = 1_795_292_100.1237


class Stream:
    """A stream that is, or is not, a terminal."""

    def __init__(self, tty: bool) -> None:
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def log(events: list[Event]) -> Log:
    return Log(events.append, now=lambda: NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (NOW, "2026-11-21T20:15:00.123Z"),
        (1_795_292_100.9999, "2026-11-21T20:15:00.999Z"),
    ],
)
def test_timestamp(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("web", "web"),
        ("[::1]:80", "[::1]:80"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\nbreak", r'"line\nbreak"'),
        ("\x1b[31m", r'"\x1b[31m"'),
        ("\x9b31m", r'"\x9b31m"'),
        ("\u202eevil", r'"\u202eevil"'),
        ("caf\udce9", r'"caf\udce9"'),
        ("Bücher", '"Bücher"'),
    ],
)
def test_quoted(text: str, value: str) -> None:
    assert quoted(text) == value


def test_console_line(log: Log, events: list[Event]) -> None:
    log.info("listening", rule="web", address="[::]:8080", sessions=3)
    assert encode_console(events[0]) == (
        b"2026-11-21T20:15:00.123Z info    listening rule=web address=[::]:8080 sessions=3\n"
    )


def test_levels(log: Log, events: list[Event]) -> None:
    log.info("a")
    log.warning("b")
    log.error("c")
    assert [event.level for event in events] == [Level.INFO, Level.WARNING, Level.ERROR]


def test_colour_line(log: Log, events: list[Event]) -> None:
    log.error("no")
    assert encode_colour(events[0]) == b"2026-11-21T20:15:00.123Z \x1b[31merror  \x1b[0m no\n"


def test_json_line(log: Log, events: list[Event]) -> None:
    log.warning("slow", rule="web", seconds=1.5, error=OSError(5, "I/O"))
    assert json.loads(encode_json(events[0])) == {
        "time": "2026-11-21T20:15:00.123Z",
        "level": "warning",
        "event": "slow",
        "rule": "web",
        "seconds": 1.5,
        "error": "[Errno 5] I/O",
    }


@given(event=st.text(), value=st.text(st.characters(codec=None, exclude_categories=())))
def test_no_text_breaks_a_line_or_reaches_the_terminal(event: str, value: str) -> None:
    entry = Event(NOW, Level.INFO, event, {"value": value})
    for line in (encode_console(entry), encode_json(entry)):
        text = line.decode()
        assert text.endswith("\n")
        assert text[:-1].isprintable() or "\x7f" in text
    assert "\x7f" not in encode_console(entry).decode()


@pytest.mark.parametrize(
    ("form", "tty", "no_color", "encode"),
    [
        ("json", True, None, encode_json),
        ("console", True, None, encode_colour),
        ("console", True, "", encode_colour),
        ("console", True, "1", encode_console),
        ("console", False, None, encode_console),
    ],
)
def test_encoder(form: str, tty: bool, no_color: str | None, encode: object) -> None:
    assert encoder(form, Stream(tty), no_color) is encode


def test_a_fault_carries_its_traceback_in_one_line(log: Log, events: list[Event]) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError as error:
        log.fault("a session failed", error, rule="web")
    assert "test_log.py" in str(events[0].fields["traceback"])
    assert encode_console(events[0]).count(b"\n") == 1


@pytest.fixture
def library(log: Log) -> Iterator[logging.Logger]:
    logger = logging.getLogger("portproxy.test.lib")
    handler = LibraryHandler(log)
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)


def test_library_warnings_are_logged(library: logging.Logger, events: list[Event]) -> None:
    library.warning("accept returned %s", "EMFILE")
    assert events == [Event(NOW, Level.WARNING, "accept returned EMFILE", {"library": "portproxy.test.lib"})]


def test_library_errors_of_the_system_need_no_traceback(library: logging.Logger, events: list[Event]) -> None:
    try:
        raise OSError(24, "Too many open files")
    except OSError:
        library.exception("accept failed")
    assert "traceback" not in events[0].fields


def test_library_faults_carry_their_traceback(library: logging.Logger, events: list[Event]) -> None:
    try:
        raise ValueError("oops")
    except ValueError:
        library.exception("a handler failed")
    assert "ValueError: oops" in str(events[0].fields["traceback"])
