"""The internet checksum (RFC 1071)."""

from __future__ import annotations


def checksum(data: bytes) -> int:
    """What goes into a checksum field that is 0 in ``data``: 16 bits, most significant byte first."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 65535, so a number is, modulo that, the sum of its 16-bit digits: what carries around.
    total = int.from_bytes(data) % 0xFFFF
    # A sum of 0 comes of zeros alone; any other that the modulus makes 0 was 65535.
    return 0xFFFF - total if total or not any(data) else 0


def upper_layer(source: bytes, destination: bytes, protocol: int, payload: bytes) -> int:
    """The checksum of an upper layer's ``payload`` in IPv6, its field 0 in there (RFC 8200, 8.1)."""
    head = len(payload).to_bytes(4) + protocol.to_bytes(4)
    return checksum(source + destination + head + payload)
