"""The operational log: short sentences for people, with fields, one line each.

Nothing here waits or writes: a ``Log`` hands its events to whatever takes them (``portproxy.sink``).
Ours rather than structlog, whose import brings rich and asyncio with it.
"""

from __future__ import annotations

import enum
import functools
import json
import logging
import re
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, Protocol

from portproxy.errors import printable

_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
"""Printable ASCII that needs no quotes: no space, ``"``, ``=`` or backslash."""


class Level(enum.StrEnum):
    """How much an event matters, with the ANSI colour a terminal shows it in (ECMA-48, 8.3.117)."""

    colour: int

    def __new__(cls, value: str, colour: int) -> Level:
        member = str.__new__(cls, value)
        member._value_ = value
        member.colour = colour
        return member

    INFO = "info", 32
    WARNING = "warning", 33
    ERROR = "error", 31


class Event(NamedTuple):
    """Something worth saying. ``time`` is in seconds since the epoch."""

    time: float
    level: Level
    event: str
    fields: dict[str, object]


@functools.lru_cache(maxsize=4096)
def quoted(text: str) -> str:
    """``text`` as the value of a ``key=value`` pair: in double quotes unless it is plain."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


@functools.lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


def encode_console(event: Event) -> bytes:
    """``event`` as one line of text: time, level, sentence, ``key=value`` fields."""
    return _line(event, f"{event.level:<7}")


def encode_colour(event: Event) -> bytes:
    """The same with the level in colour, for a terminal."""
    return _line(event, f"\x1b[{event.level.colour}m{event.level:<7}\x1b[0m")


def _line(event: Event, level: str) -> bytes:
    fields = "".join(f" {key}={quoted(str(value))}" for key, value in event.fields.items())
    return f"{timestamp(event.time)} {level} {printable(event.event)}{fields}\n".encode()


def encode_json(event: Event) -> bytes:
    """``event`` as one line of JSON (RFC 8259) in ASCII; values JSON has no type for become strings."""
    head = {"time": timestamp(event.time), "level": event.level, "event": event.event}
    return json.dumps(head | event.fields, default=str).encode() + b"\n"


class Terminal(Protocol):
    """What is asked of a stream to know whether it takes colour."""

    def isatty(self) -> bool: ...


def encoder(form: str, stream: Terminal, no_color: str | None) -> Callable[[Event], bytes]:
    """The encoder for ``form`` ("console" or "json") on ``stream``.

    Colour is for terminals only, and not where ``no_color``, the environment variable NO_COLOR, is set
    and not empty (https://no-color.org).
    """
    if form == "json":
        return encode_json
    return encode_colour if stream.isatty() and not no_color else encode_console


class Log:
    """Says what happens. ``put`` takes each event and must not wait; ``now`` is the wall clock.

    ``always`` are fields that every event has.
    """

    def __init__(
        self,
        put: Callable[[Event], None],
        now: Callable[[], float] = time.time,
        always: dict[str, object] | None = None,
    ) -> None:
        self._put = put
        self._now = now
        self._always = always or {}

    def info(self, event: str, /, **fields: object) -> None:
        """Something went as it should."""
        self._put(Event(self._now(), Level.INFO, event, self._always | fields))

    def warning(self, event: str, /, **fields: object) -> None:
        """Something a person may want to mend."""
        self._put(Event(self._now(), Level.WARNING, event, self._always | fields))

    def error(self, event: str, /, **fields: object) -> None:
        """Something does not work."""
        self._put(Event(self._now(), Level.ERROR, event, self._always | fields))

    def fault(self, event: str, error: BaseException, /, **fields: object) -> None:
        """A fault of portproxy itself, with the traceback of ``error`` as a field."""
        self.error(event, **fields, traceback="".join(traceback.format_exception(error)))


class LibraryHandler(logging.Handler):
    """Brings what libraries say through ``logging`` (trio when accept fails) into a ``Log``."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's message; its traceback only where the error is not the system's."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, OSError):
            self._log.warning(record.getMessage(), library=record.name)
        else:
            self._log.fault(record.getMessage(), error, library=record.name)
