"""IPv4 headers (RFC 791)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from portproxy.tunnel.packet import PacketError
from portproxy.tunnel.packet.checksum import checksum

HEADER = 20
LEAST_MTU = 68
"""Bytes that every link takes (RFC 791, 3.2)."""
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET = 0x1FFF
"""The fragment's place, in units of 8 bytes."""

_FIXED = struct.Struct(">BBHHHBBH4s4s")


class Header(NamedTuple):
    """The header, whose ``length`` with its options and ``total_length`` are in bytes; addresses are packed.

    ``fragment`` holds the flags and the offset as they are on the wire.
    """

    length: int
    tos: int
    total_length: int
    identification: int
    fragment: int
    ttl: int
    protocol: int
    source: bytes
    destination: bytes


def parse(packet: bytes) -> Header:
    """The header of ``packet``, which has to hold all that its header says. Raises PacketError."""
    if len(packet) < HEADER:
        raise PacketError(f"{len(packet)} bytes, an IPv4 header is {HEADER}")
    first, tos, total, identification, fragment, ttl, protocol, _, source, destination = _FIXED.unpack_from(
        packet
    )
    length = (first & 0xF) * 4
    if first >> 4 != 4:
        raise PacketError(f"IP version {first >> 4}, not 4")
    if not HEADER <= length <= total <= len(packet):
        raise PacketError(f"a header of {length} bytes, a packet of {total}, of which {len(packet)} are here")
    if checksum(packet[:length]):
        raise PacketError("the header's checksum is wrong")
    return Header(length, tos, total, identification, fragment, ttl, protocol, source, destination)


def build(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """A packet. Raises PacketError where it would be over 65,535 bytes, or ``options`` are no words."""
    length = HEADER + len(options)
    if length + len(payload) > 0xFFFF:
        raise PacketError(f"a packet of {length + len(payload)} bytes; IPv4 takes 65535")
    if len(options) % 4 or length > 60:
        raise PacketError(f"{len(options)} bytes of options; IPv4 takes whole words, 40 bytes of them")
    head = bytearray(
        _FIXED.pack(
            0x40 | length // 4, tos, length + len(payload), identification, fragment, ttl, protocol, 0,
            source, destination,
        )
    )  # fmt: skip
    head += options
    head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + payload
