"""Kinds of values: how an option is written, in TOML or as a tag, and what it becomes.

A tag's value is always text, so every kind reads text as well as TOML's own types.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from portproxy.errors import shown
from portproxy.model import IPNetwork

YEAR = 365 * 24 * 3600.0
"""The longest duration: anything longer is a slip, and "off" says it better."""

_NUMBER = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(ms|s|m|h)?")
_SIZE = re.compile(r"([0-9]{1,20})([km]?)", re.IGNORECASE)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+*/-]{0,62}")
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_BYTES = {"m": 1 << 20, "k": 1 << 10, "": 1}
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_OR_OFF = ', "off" or 0'
_USER = re.compile(r"([^\s:/-][^\s:/]{0,255})(?::([^\s:/-][^\s:/]{0,255}))?")
"""passwd(5) and group(5) end a name with a colon; useradd(8) takes none that begins with a dash."""
_LAST_ID = (1 << 32) - 2
"""setresuid(2): -1, which is one more, stands for "leave it as it is"."""
_NEAREST_CHARACTERS = 64
"""difflib takes quadratic time, and a key may be as long as the file."""


class RefusedError(ValueError):
    """A value that an option does not take; the text, where there is any, says why and what would do."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write values: ``convert`` raises RefusedError; ``show`` writes a value back.

    ``words`` are all there is to choose from, where that is a few words.
    """

    accepts: str
    convert: Callable[[object], Any]
    show: Callable[[Any], str] = str
    words: tuple[str, ...] = ()


def nearest(word: str, known: Iterable[str]) -> str:
    """What was meant instead of ``word``: the closest of ``known``, or all of them where none is close."""
    known = tuple(known)
    close = difflib.get_close_matches(word[:_NEAREST_CHARACTERS].lower(), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def text(value: object) -> str:
    """``value`` if it is text that fits on a line; raises RefusedError."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise RefusedError
    return value


def duration(low: float, high: float = YEAR, *, off: bool = False) -> Kind:
    """Seconds from ``low`` to ``high``; with ``off``, "off" and 0 become None."""

    def convert(value: object) -> float | None:
        if off and value == "off":
            return None
        seconds = _seconds(value)
        if off and seconds == 0:
            return None
        # An integer is compared before it is made a float: it may be too large for one.
        if not low <= seconds <= high:
            raise RefusedError
        return float(seconds)

    bounds = f"from {show_duration(low)} to {show_duration(high)}" + (_OR_OFF if off else "")
    accepts = f"a duration is a number of seconds or like 250ms, 5s, 10m, 1h; {bounds}"
    return Kind(accepts, convert, show_duration)


def _seconds(value: object) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise RefusedError
    amount = float(found[1])
    return amount / 1000 if found[2] == "ms" else amount * _SECONDS[found[2] or "s"]


def show_duration(seconds: float | None) -> str:
    """A duration as it is written: ``1h``, ``90s``, ``250ms``, ``off``."""
    if seconds is None:
        return "off"
    for unit, length in _SECONDS.items():
        if seconds and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    milliseconds = round(seconds * 1000)
    return f"{milliseconds}ms" if seconds and milliseconds / 1000 == seconds else f"{seconds}s"


def count(low: int, high: int, *, off: bool = False) -> Kind:
    """A whole number from ``low`` to ``high``; with ``off``, "off" and 0 become None."""

    def convert(value: object) -> int | None:
        if off and value in ("off", "0", 0) and value is not False:
            return None
        return _whole(value, low, high)

    accepts = f"a whole number from {low} to {high}" + (_OR_OFF if off else "")
    return Kind(accepts, convert, lambda number: "off" if number is None else str(number))


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RefusedError
    return value


def size(low: int, high: int) -> Kind:
    """Bytes from ``low`` to ``high``, k and m standing for 2**10 and 2**20."""

    def convert(value: object) -> int:
        found = _SIZE.fullmatch(value) if isinstance(value, str) else None
        return _whole(int(found[1]) * _BYTES[found[2].lower()] if found else value, low, high)

    accepts = f"a size is a number of bytes or like 64k, 1m; from {show_size(low)} to {show_size(high)}"
    return Kind(accepts, convert, show_size)


def show_size(number: int) -> str:
    """A size as it is written: ``256k``."""
    unit = next(unit for unit, length in _BYTES.items() if number % length == 0)
    return f"{number // _BYTES[unit]}{unit}"


def choice(words: Iterable[str], make: Callable[[str], Any] = str) -> Kind:
    """One of ``words``, in any case; ``make`` turns it into what the model holds."""
    known = tuple(words)
    made = {str(word): make(word) for word in known}
    accepts = f"one of {', '.join(known)}" if len(known) > 1 else known[0]

    def convert(value: object) -> Any:
        if not isinstance(value, str):
            raise RefusedError
        if value.lower() not in made:
            raise RefusedError(nearest(value, known))
        return made[value.lower()]

    return Kind(accepts, convert, words=known)


def _protocol(value: object) -> str:
    if value == "udp":
        raise RefusedError("UDP is not carried; tcp is the only protocol")
    if not isinstance(value, str) or value.lower() != "tcp":
        raise RefusedError
    return "tcp"


def _flag(value: object) -> bool:
    flag = _FLAGS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise RefusedError
    return flag


def _port(value: object) -> int:
    try:
        return _whole(value, 1, 65535)
    except RefusedError:
        if value in (0, "0") and value is not False:
            raise RefusedError("0 is any port, which no client could know; " + PORT.accepts) from None
        if not isinstance(value, str) or value.isdigit() or not _SERVICE.fullmatch(value):
            raise
    # Windows does not mind the case of a service's name, services(5) does.
    for name in (value, value.lower()):
        with contextlib.suppress(OSError):
            return socket.getservbyname(name, "tcp")
    raise RefusedError("no TCP service of this name is known here; " + PORT.accepts)


def _name(value: object) -> str:
    name = text(value)
    if len(name) > 128 or name != name.strip():
        raise RefusedError
    return name


def _user(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value == "off":
        return None
    user = text(value)
    found = _USER.fullmatch(user)
    if found is None or any(part.isdecimal() and int(part) > _LAST_ID for part in found.groups("")):
        raise RefusedError
    return user


def _prefixes(value: object) -> tuple[IPNetwork, ...]:
    if isinstance(value, str):
        value = [] if value == "off" else value.split(",")
    if not isinstance(value, list):
        raise RefusedError
    return tuple(_prefix(item) for item in value)


def _prefix(item: object) -> IPNetwork:
    if not isinstance(item, str):
        raise RefusedError(f"{shown(item)} is no prefix; {PREFIXES.accepts}")
    return _read_prefix(item)


@functools.lru_cache(maxsize=1 << 12)
def _read_prefix(item: str) -> IPNetwork:
    # The same few networks stand in rule after rule.
    written = item.strip()
    # Only lengths: a netmask and a hostmask look alike, and 0.0.0.255 would be taken for a mask.
    address, slash, length = written.partition("/")
    if "%" in address or (slash and not (length.isascii() and length.isdigit() and len(length) <= 3)):
        raise RefusedError(f"{shown(item)} is no prefix; {PREFIXES.accepts}")
    try:
        prefix = ipaddress.ip_network(written, strict=False)
        host = ipaddress.ip_address(address)
    except ValueError:
        raise RefusedError(f"{shown(item)} is no prefix; {PREFIXES.accepts}") from None
    if host != prefix.network_address:
        raise RefusedError(f"{shown(item)} has bits beyond its length; the prefix is {prefix}")
    return prefix


PROTOCOL = Kind("tcp is the only protocol", _protocol, words=("tcp",))
FLAG = Kind(
    'true or false; also "yes" or "no", "on" or "off"',
    _flag,
    lambda flag: str(flag).lower(),
    words=("true", "false"),
)
PORT = Kind("a port is a number from 1 to 65535 or a service name", _port)
NAME = Kind("a name is 1 to 128 printable characters, with no space at either end", _name)
USER = Kind(
    'a user\'s name or number, or both user and group as in "relay:relay", or "off"',
    _user,
    lambda user: "off" if user is None else str(user),
)
PREFIXES = Kind(
    'a list of prefixes or addresses, like ["192.0.2.0/24", "198.51.100.7"]; '
    'also "192.0.2.0/24,198.51.100.7", or "off" for none',
    _prefixes,
    lambda prefixes: "[" + ", ".join(f'"{prefix}"' for prefix in prefixes) + "]",
)
