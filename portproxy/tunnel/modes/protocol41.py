"""IPv6 in IPv4, whichever way the other end is found (RFC 4213, 3)."""

from __future__ import annotations

from portproxy.tunnel.packet import icmpv6
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

_SPECIAL = bytes(10)
"""How sources begin that are ::/96 or ::ffff:0:0/96."""
_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK = bytes(15) + b"\x01"

# ICMP types and codes (RFC 792).
_DESTINATION_UNREACHABLE, _TIME_EXCEEDED = 3, 11
FRAGMENTATION_NEEDED = (3, 4)


def opened(data: bytes, tos: int, *, compatible: bool = False) -> bytes | Dropped:
    """The packet in ``data``, which arrived with ``tos``; or why it may go no further.

    ``compatible`` lets a source in ::/96 through: automatic tunnelling is what that is for.
    """
    if len(data) < HEADER or data[0] >> 4 != 6:
        return Dropped.NOT_IP
    length = HEADER + (data[4] << 8 | data[5])
    if length > len(data):
        return Dropped.TRUNCATED
    if length < len(data):  # RFC 4213, 3.6: padded
        data = data[:length]
    if data[8] == 0xFF or (data.startswith(_SPECIAL, 8) and _forbidden(data[8:24], compatible)):
        return Dropped.INNER_SOURCE
    if tos & 3:
        ecn = decapsulated(data[1] >> 4, tos)
        if ecn is None:
            return Dropped.ECN
        return bytes((data[0], data[1] & 0xCF | ecn << 4)) + data[2:]
    return data


def _forbidden(source: bytes, compatible: bool) -> bool:
    """RFC 4213, 3.6: ::1 and whatever embeds an IPv4 address by its first 96 bits; :: is let through."""
    if source.startswith(_MAPPED) or source == _LOOPBACK:
        return True
    return not compatible and source.startswith(bytes(12)) and any(source)


def told(type_: int, quoted: bytes, own: bytes) -> bytes | None:
    """What ``own`` tells the source of the inner packet ``quoted`` of an ICMPv4 error (RFC 4213, 3.4)."""
    if type_ in (_DESTINATION_UNREACHABLE, _TIME_EXCEEDED):
        # Linux says no more either: why the tunnel does not carry is of no use to the inner source.
        return icmpv6.unreachable(quoted, own, icmpv6.Unreachable.ADDRESS)
    return None
