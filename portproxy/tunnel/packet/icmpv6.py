"""ICMPv6 (RFC 4443): errors."""

from __future__ import annotations

import enum

from portproxy.tunnel.packet import PacketError, ipv6
from portproxy.tunnel.packet.checksum import upper_layer

PROTOCOL = 58

DESTINATION_UNREACHABLE, PACKET_TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM = 1, 2, 3, 4
_REDIRECT = 137
_INFORMATIONAL = 128
"""Types from here on are no errors (RFC 4443, 2.1)."""

_UNSPECIFIED = bytes(16)
_MULTICAST = 0xFF
_HEAD = ipv6.HEADER + 8


class Unreachable(enum.IntEnum):
    """Codes of destination unreachable (RFC 4443, 3.1)."""

    NO_ROUTE = 0
    PROHIBITED = 1
    BEYOND_SCOPE = 2
    ADDRESS = 3
    PORT = 4


def too_big(packet: bytes, sender: bytes, mtu: int) -> bytes | None:
    """The packet from ``sender`` that tells the source of ``packet`` of an ``mtu`` in bytes; None where no
    error may be sent about it."""
    return _error(PACKET_TOO_BIG, 0, mtu, packet, sender)


def unreachable(packet: bytes, sender: bytes, code: Unreachable) -> bytes | None:
    """The packet from ``sender`` that tells the source of ``packet`` that it did not arrive, or None."""
    return _error(DESTINATION_UNREACHABLE, code, 0, packet, sender)


def _error(kind: int, code: int, value: int, packet: bytes, sender: bytes) -> bytes | None:
    if not _answerable(kind, packet):
        return None
    source = packet[8:24]
    # RFC 4443, 2.4 (c): as much of it as fits into what every link takes.
    body = value.to_bytes(4) + packet[: ipv6.LEAST_MTU - _HEAD]
    sum_ = upper_layer(sender, source, PROTOCOL, bytes((kind, code, 0, 0)) + body)
    return ipv6.build(sender, source, PROTOCOL, bytes((kind, code)) + sum_.to_bytes(2) + body)


def _answerable(kind: int, packet: bytes) -> bool:
    """RFC 4443, 2.4 (e): no error about an error, a redirect, or what came from nobody or from many."""
    if len(packet) < ipv6.HEADER or packet[0] >> 4 != 6:
        return False
    source, destination = packet[8:24], packet[24:40]
    if source == _UNSPECIFIED or source[0] == _MULTICAST:
        return False
    if destination[0] == _MULTICAST and kind != PACKET_TOO_BIG:
        return False
    try:
        upper = ipv6.upper_layer(packet)
    except PacketError:
        return True  # what it is cannot be told; RFC 4443, 2.4 (e.1) speaks of errors
    if upper.protocol != PROTOCOL or not upper.first:
        return True
    if upper.offset >= len(packet):
        return False  # cut short: it may have been an error
    return packet[upper.offset] >= _INFORMATIONAL and packet[upper.offset] != _REDIRECT
