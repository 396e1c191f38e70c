"""IPv6 in IPv4, whichever way the other end is found (RFC 4213, 3)."""

from __future__ import annotations

from portproxy.tunnel.packet import PacketError, icmpv6, ipv6
from portproxy.tunnel.packet.ecn import decapsulated
from portproxy.tunnel.reasons import Dropped

OVERHEAD = 20
"""Bytes of the outer header."""
LEAST = 1280
"""What every IPv6 link takes (RFC 8200, 5), in fragments of the outer protocol where need be."""
MOST = 65535 - OVERHEAD
LEAST_PATH = 68
"""No IPv4 path is narrower (RFC 791, 3.2)."""
HEADER = 40

_MULTICAST = 0xFF
_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK = bytes(15) + b"\x01"

# ICMP types and codes (RFC 792).
_DESTINATION_UNREACHABLE, _TIME_EXCEEDED = 3, 11
FRAGMENTATION_NEEDED = (3, 4)

_OF_ROUTERS = (133, 134, 137)
"""ICMPv6 types: router solicitation, router advertisement, redirect (RFC 4861, 4)."""


def opened(data: bytes, tos: int, *, compatible: bool = False) -> bytes | Dropped:
    """The packet in ``data``, which arrived with ``tos``; or why it may go no further.

    ``compatible`` lets a source in ::/96 through: automatic tunnelling is what that is for.
    """
    size = len(data)
    if size < HEADER or data[0] >> 4 != 6:
        return Dropped.NOT_IP
    length = HEADER + (data[4] << 8 | data[5])
    if length > size:
        return Dropped.TRUNCATED
    if length < size:  # RFC 4213, 3.6: padded
        data = data[:length]
    # Whatever is forbidden begins like this, and hardly anything else does.
    if data[8] in (0, _MULTICAST) and _forbidden(data[8:24], compatible):
        return Dropped.INNER_SOURCE
    if tos & 3:
        ecn = decapsulated(data[1] >> 4, tos)
        if ecn is None:
            return Dropped.ECN
        return bytes((data[0], data[1] & 0xCF | ecn << 4)) + data[2:]
    return data


def _forbidden(source: bytes, compatible: bool) -> bool:
    """RFC 4213, 3.6: multicast, ::1 and whatever embeds an IPv4 address by its first 96 bits; :: is let
    through."""
    if source[0] == _MULTICAST or source.startswith(_MAPPED) or source == _LOOPBACK:
        return True
    return not compatible and source.startswith(bytes(12)) and any(source)


def may_speak_of_routers(packet: bytes) -> bool:
    """Whether ``packet``, which ``opened`` let through, is router discovery or a redirect, or could be.

    It could where the first fragment does not hold all headers, or there is no following them; nobody needs
    either (RFC 7112, 5), and whoever puts the fragments together would find out.
    """
    try:
        upper = ipv6.upper_layer(packet)
    except PacketError:
        return True
    if upper.protocol != icmpv6.PROTOCOL or not upper.first:
        return False
    return upper.offset == len(packet) or packet[upper.offset] in _OF_ROUTERS


def told(type_: int, quoted: bytes, own: bytes) -> bytes | None:
    """What ``own`` tells the source of the inner packet ``quoted`` of an ICMPv4 error (RFC 4213, 3.4)."""
    if type_ in (_DESTINATION_UNREACHABLE, _TIME_EXCEEDED):
        # Linux says no more either: why the tunnel does not carry is of no use to the inner source.
        return icmpv6.unreachable(quoted, own, icmpv6.Unreachable.ADDRESS)
    return None
