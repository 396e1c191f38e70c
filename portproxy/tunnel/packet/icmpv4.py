"""ICMP (RFC 792): errors."""

from __future__ import annotations

import enum

from portproxy.tunnel.packet import ipv4
from portproxy.tunnel.packet.checksum import checksum

PROTOCOL = 1

DESTINATION_UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM = 3, 4, 5, 11, 12
_ERRORS = {DESTINATION_UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM}
_MOST = 576
"""Bytes of an error that carries as much as it may (RFC 1812, 4.3.2.3)."""
_HEAD = ipv4.HEADER + 8


class Unreachable(enum.IntEnum):
    """Codes of destination unreachable (RFC 792; RFC 1812, 5.2.7.1)."""

    NETWORK = 0
    HOST = 1
    PROTOCOL = 2
    PORT = 3
    FRAGMENTATION_NEEDED = 4


def too_big(packet: bytes, sender: bytes, mtu: int) -> bytes | None:
    """The packet from ``sender`` that tells the source of ``packet`` of an ``mtu`` in bytes (RFC 1191, 4);
    None where no error may be sent about it."""
    return _error(Unreachable.FRAGMENTATION_NEEDED, mtu, packet, sender)


def unreachable(packet: bytes, sender: bytes, code: Unreachable) -> bytes | None:
    """The packet from ``sender`` that tells the source of ``packet`` that it did not arrive, or None."""
    return _error(code, 0, packet, sender)


def _error(code: int, value: int, packet: bytes, sender: bytes) -> bytes | None:
    if not _answerable(packet):
        return None
    body = value.to_bytes(4) + packet[: _MOST - _HEAD]
    sum_ = checksum(bytes((DESTINATION_UNREACHABLE, code, 0, 0)) + body)
    message = bytes((DESTINATION_UNREACHABLE, code)) + sum_.to_bytes(2) + body
    # RFC 1812, 4.3.2.5: errors go with precedence 6, internetwork control.
    return ipv4.build(sender, packet[12:16], PROTOCOL, message, tos=0xC0)


def _answerable(packet: bytes) -> bool:
    """RFC 1122, 3.2.2: no error about an error, a later fragment, or what came from nobody or is for many."""
    if len(packet) < ipv4.HEADER or packet[0] >> 4 != 4:
        return False
    if int.from_bytes(packet[6:8]) & ipv4.OFFSET or not single(packet[12:16]) or packet[16] >= 224:
        return False
    at = (packet[0] & 0xF) * 4
    return packet[9] != PROTOCOL or (at < len(packet) and packet[at] not in _ERRORS)


def single(address: bytes) -> bool:
    """Whether ``address``, packed, can be one host's on a network: not 0/8, loopback, multicast or beyond
    (RFC 1122, 3.2.1.3)."""
    return address[0] not in (0, 127) and address[0] < 224
