"""The bit fields that an IPv6 address is made of, and how what they hold is written. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from typing import NamedTuple

_U_BIT = 1 << 57
"""The universal/local bit of an identifier, which says the opposite in a MAC address (RFC 4291, A)."""
_MAC = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", re.ASCII | re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{1,32}", re.ASCII | re.IGNORECASE)
_DECIMAL = re.compile(r"[0-9]{1,5}", re.ASCII)
_BESIDE = {
    "the spaces": re.compile(r"\s+"),
    "the port": re.compile(r"(?<=\]):[^]:]*\Z"),
    "the prefix length": re.compile(r"/[0-9]*\Z"),
    "the brackets": re.compile(r"\A\[|\]\Z"),
}
"""What is written around addresses and is no part of them, by what it is called."""


_NO_HOST = tuple(
    (IPv4Network(prefix), what)
    for prefix, what in (
        ("0.0.0.0/8", "reserved"),
        ("127.0.0.0/8", "loopback"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
"""What no host has that others reach (RFC 6890, 2.2.2; RFC 5771)."""
_NOT_PUBLIC = tuple(
    (IPv4Network(prefix), what)
    for prefix, what in (
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
    )
)
"""What many hosts have, each for its own network (RFC 6890, 2.2.2)."""


class Needs(enum.Enum):
    """Which IPv4 addresses make sense in a field, in words."""

    ANY = "an IPv4 address"
    HOST = "a host's IPv4 address"
    PUBLIC = "a public IPv4 address"


class Holds(enum.Enum):
    """What a field holds, and so how it is written."""

    IPV4 = enum.auto()
    PORT = enum.auto()
    HEX = enum.auto()
    PREFIX = enum.auto()
    """The first bits of an address."""
    SUFFIX = enum.auto()
    """The last bits of an address, written with zeros in front, as `ip token` takes them (ip-token(8))."""
    MAC = enum.auto()
    """A modified EUI-64 (RFC 4291, appendix A), which is a MAC address with ff:fe in its middle."""


class Field(NamedTuple):
    """``width`` bits of an address above its lowest ``shift``; ``mask`` is what they are XORed with there.

    ``role`` says whose IPv4 address or port it is, and ``needs`` which of them can be that. A field that
    ``encode`` is not given is 0 where it is ``optional``. ``means`` says in words what its bits mean, where
    they are not a number or an address.
    """

    name: str
    shift: int
    width: int
    holds: Holds = Holds.HEX
    mask: int = 0
    role: str = ""
    needs: Needs = Needs.ANY
    optional: bool = False
    means: Callable[[int], str] | None = None

    @property
    def bits(self) -> int:
        """The bits of an address that are the field's, as a mask."""
        return ((1 << self.width) - 1) << self.shift

    @property
    def accepts(self) -> str:
        """What can be written for it, in words."""
        match self.holds:
            case Holds.IPV4:
                return "an IPv4 address"
            case Holds.PORT:
                return "a port, 0 to 65535"
            case Holds.HEX:
                return f"0 to {(1 << self.width) - 1:x}, hexadecimal"
            case Holds.PREFIX:
                return f"a prefix of {self.width} bits, as 2001:db8::/{self.width}"
            case Holds.SUFFIX:
                return f"the last {self.width} bits of an IPv6 address, as ::1"
            case Holds.MAC:
                return "a MAC address, as 00:00:5e:00:53:01"

    def read(self, bits: int) -> int:
        """The field's value in the address ``bits``."""
        return ((bits & self.bits) >> self.shift) ^ self.mask

    def put(self, value: int) -> int:
        """The bits of an address whose field has this ``value``."""
        return (value ^ self.mask) << self.shift

    def unfit(self, value: int) -> str:
        """What the IPv4 address ``value`` is instead of one that the field needs; empty where it is one."""
        kinds = {Needs.ANY: (), Needs.HOST: _NO_HOST, Needs.PUBLIC: (*_NO_HOST, *_NOT_PUBLIC)}[self.needs]
        return next((what for prefix, what in kinds if IPv4Address(value) in prefix), "")

    def text(self, value: int) -> str:
        """A ``value`` as it is written."""
        match self.holds:
            case Holds.IPV4:
                return str(IPv4Address(value))
            case Holds.PORT:
                return str(value)
            case Holds.HEX:
                return f"{value:x}"
            case Holds.PREFIX:
                return f"{written(value << self.shift)}/{self.width}"
            case Holds.SUFFIX:
                return written(value)
            case Holds.MAC:
                octets = (value ^ _U_BIT).to_bytes(8, "big")
                return (octets[:3] + octets[5:]).hex(":")

    def value(self, text: str) -> int:
        """The value that ``text`` writes; ``text`` may write the same value otherwise. Raises ValueError."""
        value = self._value(text)
        if not 0 <= value < 1 << self.width:
            raise ValueError(text)
        return value

    def _value(self, text: str) -> int:
        match self.holds:
            case Holds.IPV4:
                return int(IPv4Address(text))
            case Holds.PORT:
                return int(_matching(_DECIMAL, text))
            case Holds.HEX:
                return int(_matching(_HEX, text), 16)
            case Holds.PREFIX:
                bits = _address(text.removesuffix(f"/{self.width}"))
                return bits >> self.shift if bits & ((1 << self.shift) - 1) == 0 else -1
            case Holds.SUFFIX:
                return _address(text)
            case Holds.MAC:
                octets = bytes.fromhex(re.sub("[:-]", "", _matching(_MAC, text)))
                return int.from_bytes(octets[:3] + b"\xff\xfe" + octets[3:], "big") ^ _U_BIT


def written(bits: int) -> str:
    """An address as RFC 5952 writes it, whatever Python's version: it has ::ffff:192.0.2.1 since 3.13."""
    if bits >> 32 == 0xFFFF:
        return f"::ffff:{IPv4Address(bits & 0xFFFFFFFF)}"
    return str(IPv6Address(bits))


def read(text: str) -> IPv6Address:
    """The address that ``text`` writes, in brackets or not, with its zone.

    Raises ValueError, which says what the text is instead, or what to leave out of it.
    """
    address = _read(text)
    if address is not None:
        return address
    try:
        why = f"an IPv4 address; in IPv6 it is ::ffff:{IPv4Address(_inside(text))}"
    except AddressValueError:
        why = f"not an IPv6 address, such as 2001:db8::1{_what_to_leave_out(text)}"
    raise ValueError(why)


def _read(text: str) -> IPv6Address | None:
    if _BESIDE["the spaces"].search(text):
        return None  # ipaddress would take them in a zone
    try:
        return IPv6Address(_inside(text))
    except AddressValueError:
        return None


def _inside(text: str) -> str:
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _what_to_leave_out(text: str) -> str:
    """What makes ``text`` no address, where one would be left without it; else nothing."""
    superfluous: list[str] = []
    for what, pattern in _BESIDE.items():
        text, times = pattern.subn("", text)
        superfluous += [what] if times else []
        if _read(text) is not None:
            return f"; leave out {' and '.join(superfluous)}"
    return ""


def _address(text: str) -> int:
    address = IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError(text)
    return int(address)


def _matching(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text
