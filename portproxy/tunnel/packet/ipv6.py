"""IPv6 headers (RFC 8200)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from portproxy.tunnel.packet import PacketError

HEADER = 40
LEAST_MTU = 1280
"""Bytes that every link takes (RFC 8200, 5)."""

HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION_OPTIONS = 0, 43, 44, 59, 60
_AUTHENTICATION = 51
_CHAIN = {HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, 135, 139, 140}
"""Extension headers that begin alike (RFC 6564, 4)."""
_MOST_HEADERS = 16
"""A chain of more is nobody's: each costs whoever walks it."""

_FIXED = struct.Struct(">IHBB16s16s")


class Header(NamedTuple):
    """The fixed header; addresses are packed."""

    traffic_class: int
    flow: int
    payload_length: int
    next_header: int
    hop_limit: int
    source: bytes
    destination: bytes


class Upper(NamedTuple):
    """Where the upper layer begins, and what it is; ``first`` is False behind a fragment header whose offset
    is not 0, where no header of the upper layer follows."""

    protocol: int
    offset: int
    first: bool


def parse(packet: bytes) -> Header:
    """The fixed header of ``packet``, which has to hold all that its header says. Raises PacketError."""
    if len(packet) < HEADER:
        raise PacketError(f"{len(packet)} bytes, an IPv6 header is {HEADER}")
    word, length, next_header, hop_limit, source, destination = _FIXED.unpack_from(packet)
    if word >> 28 != 6:
        raise PacketError(f"IP version {word >> 28}, not 6")
    if HEADER + length > len(packet):
        raise PacketError(f"{len(packet)} bytes, its header says {HEADER + length}")
    return Header(word >> 20 & 0xFF, word & 0xFFFFF, length, next_header, hop_limit, source, destination)


def build(
    source: bytes,
    destination: bytes,
    next_header: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow: int = 0,
) -> bytes:
    """A packet. Raises PacketError where ``payload`` is over 65,535 bytes."""
    if len(payload) > 0xFFFF:
        raise PacketError(f"a payload of {len(payload)} bytes; IPv6 takes 65535")
    word = 6 << 28 | traffic_class << 20 | flow
    return _FIXED.pack(word, len(payload), next_header, hop_limit, source, destination) + payload


def upper_layer(packet: bytes) -> Upper:
    """What ``packet``, from its fixed header on, carries behind its extension headers; an ICMP error may have
    cut it short. Raises PacketError."""
    protocol, offset, first = packet[6], HEADER, True
    end = min(len(packet), HEADER + int.from_bytes(packet[4:6]))
    for _ in range(_MOST_HEADERS + 1):
        if protocol in _CHAIN:
            length = _octet(packet, offset + 1, end) * 8 + 8
        elif protocol == FRAGMENT:
            length = 8
            if end < offset + length:
                raise PacketError("it ends within its fragment header")
            first = first and int.from_bytes(packet[offset + 2 : offset + 4]) >> 3 == 0
        elif protocol == _AUTHENTICATION:  # RFC 4302, 2.2: counted otherwise
            length = (_octet(packet, offset + 1, end) + 2) * 4
        else:
            return Upper(protocol, offset, first)
        if offset + length > end:
            raise PacketError("it ends within its extension headers")
        protocol = packet[offset]
        offset += length
        if not first:
            return Upper(protocol, offset, first)
    raise PacketError(f"more than {_MOST_HEADERS} extension headers")


def _octet(packet: bytes, offset: int, end: int) -> int:
    if offset >= end:
        raise PacketError("it ends within its extension headers")
    return packet[offset]
