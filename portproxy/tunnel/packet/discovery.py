"""Neighbour discovery (RFC 4861), with preferences and routes (RFC 4191): solicitations and advertisements.

Addresses are packed. Lifetimes are in seconds; one that never ends, 0xffffffff on the wire, is ``math.inf``.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from portproxy.tunnel.packet import PacketError, icmpv6, ipv6
from portproxy.tunnel.packet.checksum import upper_layer

HOP_LIMIT = 255
"""Only a packet that no router has forwarded has it."""

_SOLICIT_ROUTER, _ADVERTISE_ROUTER, _SOLICIT_NEIGHBOUR, _ADVERTISE_NEIGHBOUR = 133, 134, 135, 136
_SOURCE_ADDRESS, _TARGET_ADDRESS, _PREFIX, _MTU, _ROUTE = 1, 2, 3, 5, 24
_MANAGED, _OTHER = 0x80, 0x40
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_PREFERENCE_SHIFT = 3
_INFINITY = 0xFFFFFFFF
_MOST_OPTION = 255 * 8
_UNSPECIFIED = bytes(16)
_MULTICAST = 0xFF
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
"""How the addresses begin that neighbour solicitations go to (RFC 4291, 2.7.1)."""

_ADVERTISED_ROUTER = struct.Struct(">BBHII")
_ADVERTISED_PREFIX = struct.Struct(">BBII4x16s")
_ADVERTISED_ROUTE = struct.Struct(">BBI")


class Preference(enum.IntEnum):
    """How much a router or a route is to be preferred: two bits with a sign (RFC 4191, 2.1)."""

    LOW = -1
    MEDIUM = 0
    HIGH = 1


_PREFERENCES = {preference & 3: preference for preference in Preference}


class SourceLinkLayerAddress(NamedTuple):
    """The sender's address on the link: all of the option's ``value``, padding too (RFC 4861, 4.6.1).

    Of 6over4 that is two bytes of 0 and the IPv4 address (RFC 2529, 5)."""

    value: bytes


class TargetLinkLayerAddress(NamedTuple):
    """The target's, likewise."""

    value: bytes


class PrefixInformation(NamedTuple):
    """The first ``length`` bits of ``prefix`` are on the link, or addresses are made of them, or both; the
    bits behind are 0 (RFC 4861, 4.6.2)."""

    prefix: bytes
    length: int
    on_link: bool
    autonomous: bool
    valid: float
    preferred: float


class Mtu(NamedTuple):
    """What the link takes, in bytes, as the router says it, be it too little (RFC 4861, 4.6.4)."""

    mtu: int


class RouteInformation(NamedTuple):
    """The router leads to the first ``length`` bits of ``prefix``; those behind are 0 (RFC 4191, 2.3)."""

    prefix: bytes
    length: int
    preference: Preference
    lifetime: float


Option = SourceLinkLayerAddress | TargetLinkLayerAddress | PrefixInformation | Mtu | RouteInformation


class RouterSolicitation(NamedTuple):
    """RFC 4861, 4.1."""

    options: tuple[Option, ...] = ()


class RouterAdvertisement(NamedTuple):
    """RFC 4861, 4.2; RFC 4191, 2.2. ``lifetime`` is the router's as a default router, 0 for none, of which
    the preference is MEDIUM. ``reachable`` and ``retransmit`` are in milliseconds; they and ``hop_limit`` are
    0 where the router says nothing of them."""

    hop_limit: int
    managed: bool
    other: bool
    preference: Preference
    lifetime: int
    reachable: int
    retransmit: int
    options: tuple[Option, ...] = ()


class NeighbourSolicitation(NamedTuple):
    """RFC 4861, 4.3."""

    target: bytes
    options: tuple[Option, ...] = ()


class NeighbourAdvertisement(NamedTuple):
    """RFC 4861, 4.4."""

    router: bool
    solicited: bool
    override: bool
    target: bytes
    options: tuple[Option, ...] = ()


Message = RouterSolicitation | RouterAdvertisement | NeighbourSolicitation | NeighbourAdvertisement


class _Kind(NamedTuple):
    """Bytes that a message has at least, and the options that mean something in it."""

    least: int
    options: tuple[type[Option], ...]


_KINDS = {
    _SOLICIT_ROUTER: _Kind(8, (SourceLinkLayerAddress,)),
    _ADVERTISE_ROUTER: _Kind(16, (SourceLinkLayerAddress, PrefixInformation, Mtu, RouteInformation)),
    _SOLICIT_NEIGHBOUR: _Kind(24, (SourceLinkLayerAddress,)),
    _ADVERTISE_NEIGHBOUR: _Kind(24, (TargetLinkLayerAddress,)),
}


def parse(packet: bytes) -> Message | None:
    """The message in ``packet``, a whole one with its IPv6 header, or None where it is no such message.

    Raises PacketError where it is one that nobody may believe (RFC 4861, 6.1.1, 6.1.2, 7.1.1, 7.1.2), or no
    IPv6. Options that are unknown, have no meaning in the message or are not of their format are left out.
    """
    header = ipv6.parse(packet)
    upper = ipv6.upper_layer(packet)
    data = packet[upper.offset : ipv6.HEADER + header.payload_length]
    kind = _KINDS.get(data[0]) if data else None
    if upper.protocol != icmpv6.PROTOCOL or not upper.first or kind is None:
        return None
    # RFC 6980, 5 forbids the fragment header; the others only serve to hide from filters (RFC 7113, 2).
    if upper.offset != ipv6.HEADER:
        raise PacketError("neighbour discovery behind extension headers")
    if header.hop_limit != HOP_LIMIT:
        raise PacketError(f"neighbour discovery with a hop limit of {header.hop_limit}, not {HOP_LIMIT}")
    if len(data) < kind.least:
        raise PacketError(f"{len(data)} bytes of ICMPv6, type {data[0]} has {kind.least}")
    if upper_layer(header.source, header.destination, icmpv6.PROTOCOL, data):
        raise PacketError("the checksum of ICMPv6 is wrong")
    if data[1]:
        raise PacketError(f"neighbour discovery with code {data[1]}, not 0")
    options = tuple(one for one in _options(data[kind.least :]) if isinstance(one, kind.options))
    message = _message(data[0], data[4 : kind.least], options)
    _check(message, header.source, header.destination)
    return message


def build(source: bytes, destination: bytes, message: Message) -> bytes:
    """The packet that ``source`` sends. Fractions of lifetimes are left off.

    Raises PacketError where a link-layer address does not fill its option, or the packet would be too long.
    """
    type_, head = _head(message)
    body = head + b"".join(map(_written, message.options))
    sum_ = upper_layer(source, destination, icmpv6.PROTOCOL, bytes((type_, 0, 0, 0)) + body)
    payload = bytes((type_, 0)) + sum_.to_bytes(2) + body
    return ipv6.build(source, destination, icmpv6.PROTOCOL, payload, hop_limit=HOP_LIMIT)


def _check(message: Message, source: bytes, destination: bytes) -> None:
    """What depends on who sends it to whom. Raises PacketError."""
    anonymous = source == _UNSPECIFIED
    match message:
        case RouterAdvertisement() if source[0] != 0xFE or source[1] & 0xC0 != 0x80:
            raise PacketError("a router advertisement from an address that is not link-local")
        case NeighbourSolicitation() | NeighbourAdvertisement() if message.target[0] == _MULTICAST:
            raise PacketError("neighbour discovery about a multicast address")
        case NeighbourAdvertisement(solicited=True) if destination[0] == _MULTICAST:
            raise PacketError("a solicited neighbour advertisement to a multicast address")
        case NeighbourSolicitation() if anonymous and not destination.startswith(_SOLICITED_NODE):
            raise PacketError("a neighbour solicitation from :: to no solicited-node address")
        case RouterSolicitation() | NeighbourSolicitation() if anonymous and message.options:
            # No other option means anything in these.
            raise PacketError("a solicitation from :: with a source link-layer address")


def _message(type_: int, head: bytes, options: tuple[Option, ...]) -> Message:
    """``head`` is what stands between the checksum and the options."""
    if type_ == _SOLICIT_ROUTER:
        return RouterSolicitation(options)
    if type_ == _SOLICIT_NEIGHBOUR:
        return NeighbourSolicitation(head[4:], options)
    if type_ == _ADVERTISE_NEIGHBOUR:
        flags = head[0]
        return NeighbourAdvertisement(
            bool(flags & _ROUTER), bool(flags & _SOLICITED), bool(flags & _OVERRIDE), head[4:], options
        )
    hop_limit, flags, lifetime, reachable, retransmit = _ADVERTISED_ROUTER.unpack(head)
    # RFC 4191, 2.2: without a lifetime it means nothing, and the reserved value means MEDIUM.
    preference = (_preference(flags) if lifetime else None) or Preference.MEDIUM
    managed, other = bool(flags & _MANAGED), bool(flags & _OTHER)
    return RouterAdvertisement(
        hop_limit, managed, other, preference, lifetime, reachable, retransmit, options
    )


def _head(message: Message) -> tuple[int, bytes]:
    """The message's type, and what stands between its checksum and its options."""
    match message:
        case RouterSolicitation():
            return _SOLICIT_ROUTER, bytes(4)
        case NeighbourSolicitation():
            return _SOLICIT_NEIGHBOUR, bytes(4) + message.target
        case NeighbourAdvertisement():
            flags = message.router * _ROUTER | message.solicited * _SOLICITED | message.override * _OVERRIDE
            return _ADVERTISE_NEIGHBOUR, bytes((flags, 0, 0, 0)) + message.target
        case RouterAdvertisement():
            preference = message.preference if message.lifetime else Preference.MEDIUM
            flags = message.managed * _MANAGED | message.other * _OTHER | _preferred(preference)
            return _ADVERTISE_ROUTER, _ADVERTISED_ROUTER.pack(
                message.hop_limit, flags, message.lifetime, message.reachable, message.retransmit
            )


def _options(data: bytes) -> Iterator[Option | None]:
    """The options in ``data``, None for one that is unknown. Raises PacketError (RFC 4861, 4.6)."""
    at = 0
    while at < len(data):
        length = data[at + 1] * 8 if at + 1 < len(data) else 8
        if not length:
            raise PacketError("an option of length 0")
        if at + length > len(data):
            raise PacketError("it ends within an option")
        yield _option(data[at], data[at + 2 : at + length])
        at += length


def _option(type_: int, value: bytes) -> Option | None:
    """None where it is unknown, or not of its format."""
    if type_ == _SOURCE_ADDRESS:
        return SourceLinkLayerAddress(value)
    if type_ == _TARGET_ADDRESS:
        return TargetLinkLayerAddress(value)
    if type_ == _MTU and len(value) == 6:
        return Mtu(int.from_bytes(value[2:]))
    if type_ == _PREFIX and len(value) == _ADVERTISED_PREFIX.size and value[0] <= 128:
        length, flags, valid, preferred, prefix = _ADVERTISED_PREFIX.unpack(value)
        on_link, autonomous = bool(flags & _ON_LINK), bool(flags & _AUTONOMOUS)
        return PrefixInformation(
            _first(prefix, length), length, on_link, autonomous, _seconds(valid), _seconds(preferred)
        )
    if type_ == _ROUTE and len(value) <= 22:
        length, flags, lifetime = _ADVERTISED_ROUTE.unpack_from(value)
        prefix, preference = value[_ADVERTISED_ROUTE.size :], _preference(flags)
        # RFC 4191, 2.3: the reserved preference is not to be guessed at.
        if length <= len(prefix) * 8 and preference is not None:
            return RouteInformation(_first(prefix, length), length, preference, _seconds(lifetime))
    return None


def _written(option: Option) -> bytes:
    """All of an option. Raises PacketError."""
    match option:
        case SourceLinkLayerAddress():
            type_, value = _SOURCE_ADDRESS, option.value
        case TargetLinkLayerAddress():
            type_, value = _TARGET_ADDRESS, option.value
        case Mtu():
            type_, value = _MTU, bytes(2) + option.mtu.to_bytes(4)
        case PrefixInformation():
            flags = option.on_link * _ON_LINK | option.autonomous * _AUTONOMOUS
            lifetimes = _wire(option.valid), _wire(option.preferred)
            prefix = _first(option.prefix, option.length)
            type_, value = _PREFIX, _ADVERTISED_PREFIX.pack(option.length, flags, *lifetimes, prefix)
        case RouteInformation():
            type_, flags = _ROUTE, _preferred(option.preference)
            value = _ADVERTISED_ROUTE.pack(option.length, flags, _wire(option.lifetime))
            # As many groups of 8 bytes as the length calls for.
            value += _first(option.prefix, option.length)[: -(-option.length // 64) * 8]
    size = len(value) + 2
    if size % 8 or size > _MOST_OPTION:
        raise PacketError(f"an option of {size} bytes; they have a multiple of 8, {_MOST_OPTION} at most")
    return bytes((type_, size // 8)) + value


def _first(prefix: bytes, length: int) -> bytes:
    """The first ``length`` bits, as an address; what stands behind them is not to be looked at."""
    rest = 128 - length
    return (int.from_bytes(prefix.ljust(16, b"\0")) >> rest << rest).to_bytes(16)


def _preference(flags: int) -> Preference | None:
    """None where it is the reserved value."""
    return _PREFERENCES.get(flags >> _PREFERENCE_SHIFT & 3)


def _preferred(preference: Preference) -> int:
    return (preference & 3) << _PREFERENCE_SHIFT


def _seconds(lifetime: int) -> float:
    return math.inf if lifetime == _INFINITY else lifetime


def _wire(lifetime: float) -> int:
    return _INFINITY if lifetime == math.inf else int(lifetime)
