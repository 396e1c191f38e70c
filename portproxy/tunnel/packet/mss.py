"""TCP's maximum segment size, kept below a tunnel's MTU (RFC 9293, 3.7.1)."""

from __future__ import annotations

from portproxy.tunnel.packet import PacketError, ipv6

_TCP = 6
_SYN = 0x02
_HEADER = 20
_END, _NOTHING, _MSS = 0, 1, 2


def clamp6(packet: bytes, mtu: int) -> bytes:
    """``packet``, an IPv6 one; where it opens a connection, with an MSS of at most what ``mtu`` takes."""
    if packet[6] == _TCP:
        return _clamp(packet, ipv6.HEADER, mtu - ipv6.HEADER - _HEADER)
    if packet[6] in (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.DESTINATION_OPTIONS):
        try:
            upper = ipv6.upper_layer(packet)
        except PacketError:
            return packet
        if upper.protocol == _TCP and upper.first:
            return _clamp(packet, upper.offset, mtu - ipv6.HEADER - _HEADER)
    return packet


def clamp4(packet: bytes, mtu: int) -> bytes:
    """``packet``, an IPv4 one, likewise."""
    if packet[9] != _TCP or int.from_bytes(packet[6:8]) & 0x1FFF:
        return packet
    return _clamp(packet, (packet[0] & 0xF) * 4, mtu - 20 - _HEADER)


def _clamp(packet: bytes, tcp: int, most: int) -> bytes:
    if len(packet) < tcp + _HEADER or not packet[tcp + 13] & _SYN:
        return packet
    end = min(len(packet), tcp + (packet[tcp + 12] >> 4) * 4)
    at = tcp + _HEADER
    while at < end and packet[at] != _END:
        if packet[at] == _NOTHING:
            at += 1
            continue
        length = packet[at + 1] if at + 1 < end else 0
        if length < 2 or at + length > end:
            return packet
        if packet[at] == _MSS and length == 4:  # there may be several; Linux goes by the last one
            packet = _lower(packet, tcp, at + 2, most)
        at += length
    return packet


def _lower(packet: bytes, tcp: int, at: int, most: int) -> bytes:
    was = int.from_bytes(packet[at : at + 2])
    if was <= most:
        return packet
    changed = bytearray(packet)
    changed[at : at + 2] = most.to_bytes(2)
    # RFC 1624, 3: a checksum follows its data by the difference, whatever else it covers. At an odd offset
    # the option's bytes belong to two of the summed words.
    old, new = (was, most) if (at - tcp) % 2 == 0 else (_swapped(was), _swapped(most))
    sum_ = int.from_bytes(packet[tcp + 16 : tcp + 18])
    total = (0xFFFF - sum_) + (0xFFFF - old) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[tcp + 16 : tcp + 18] = (0xFFFF - total).to_bytes(2)
    return bytes(changed)


def _swapped(word: int) -> int:
    return word >> 8 | (word & 0xFF) << 8
