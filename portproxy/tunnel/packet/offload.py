"""TCP segments to and from a TUN device many at a time (IFF_VNET_HDR).

Each packet stands behind a ``struct virtio_net_hdr`` (Linux, include/uapi/linux/virtio_net.h), which says how
one that is larger than any link takes is to be cut into segments, and which checksum is still to be finished.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from portproxy.tunnel.packet import PacketError
from portproxy.tunnel.packet.checksum import checksum

HEADER = 10
PLAIN = bytes(HEADER)
"""The header of a packet that is whole: nothing to cut, nothing to finish."""

_VIRTIO = struct.Struct("=BBHHHH")
"""Flags, what to cut, bytes of headers, bytes of payload in a segment, where the checksum's data begin, and
from there its field; in the host's byte order."""
_NEEDS_CHECKSUM = 1
_NOT_CUT, _TCP4, _TCP6, _ECN = 0, 1, 4, 0x80

_MOST = 0xFFFF
_SEGMENTS = 64
_TCP = 6
_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_SUM, _UDP_SUM = 16, 6
"""Where the checksum's field is in TCP, and in UDP."""
_DONT_FRAGMENT = b"\x40\0"

# Little endian is the faster way to read a long number, and the one in which an odd byte at the end is padded
# as RFC 1071 wants. Divided by 65535 it leaves the sum with its bytes swapped. Division is slow: before it,
# what is above this many bits is added to what is below. They are whole words, so that the rest is the same.
_FOLD = 2944
_FOLDED = (1 << _FOLD) - 1


class _Family(NamedTuple):
    """TCP behind a header of ``tcp`` bytes, whose last are two addresses from ``addresses`` on.

    ``length`` is where the packet's length stands, which leaves out ``uncounted`` bytes; ``fields`` reads it
    and the sequence number; ``same`` masks, little endian, what merged segments' headers have in common.
    """

    gso: int
    tcp: int
    addresses: int
    length: int
    uncounted: int
    fields: struct.Struct
    same: int


def _same(tcp: int, *others: tuple[int, int]) -> int:
    """The mask of all but TCP's sequence number, PSH and checksum, and ``others``, each from byte to byte."""
    mask = (1 << 8 * (tcp + 60)) - 1 - (_PSH << 8 * (tcp + 13))
    for begin, end in ((tcp + 4, tcp + 8), (tcp + _SUM, tcp + _SUM + 2), *others):
        mask &= ~((1 << 8 * end) - (1 << 8 * begin))
    return mask


# IPv4's length, identification (RFC 6864, 4.1) and checksum; IPv6's length.
_V4 = _Family(_TCP4, 20, 12, 2, 0, struct.Struct(">2xH20xI"), _same(20, (2, 6), (10, 12)))
_V6 = _Family(_TCP6, 40, 8, 4, 40, struct.Struct(">4xH38xI"), _same(40, (4, 6)))


def merge(packets: Sequence[bytes]) -> list[bytes]:
    """What to write to the device for ``packets``, of IPv4 or IPv6, in their order.

    Each is a virtio header and a packet. Consecutive segments of a TCP connection become one packet where
    cutting it gives the same segments again, but for IPv4's identification, which with DF set has no meaning.
    That takes right checksums: a damaged segment goes unchanged, for the kernel to drop and count.
    """
    written: list[bytes] = []
    at, last = 0, len(packets) - 1
    while at <= last:
        first = packets[at]
        if at < last and (family := _family(first)):
            payloads = _run(packets, at, family)
            if len(payloads) > 1:
                at += len(payloads)
                written.append(_merged(first, packets[at - 1], payloads, family))
                continue
        written.append(PLAIN + first)
        at += 1
    return written


def _family(packet: bytes) -> _Family | None:
    """The family of a TCP segment that others can follow; None for any other packet."""
    size = len(packet)
    if size > 40 and packet[0] == 0x45:
        family = _V4
        if packet[9] != _TCP or packet[6:8] != _DONT_FRAGMENT:
            return None
    elif size > 60 and packet[0] >> 4 == 6:
        family = _V6
        if packet[6] != _TCP:
            return None
    else:
        return None
    offset = packet[family.tcp + 12]
    # The offset's lower bits are AE (RFC 9768), and others without a name yet.
    return family if packet[family.tcp + 13] == _ACK and offset >= 0x50 and not offset & 0xF else None


def _run(packets: Sequence[bytes], at: int, family: _Family) -> list[bytes]:
    """The payloads of the segments from ``at`` on that can be one; none or one where they cannot."""
    _, tcp, addresses, _, uncounted, fields, same = family
    first, number = packets[at], int.from_bytes
    size, header = len(first), tcp + (first[tcp + 12] >> 4) * 4
    key = number(first[:header], "little") & same
    payloads: list[bytes] = []
    # Sums cost the most, and are for those that another follows.
    if size <= header or number(packets[at + 1][:header], "little") & same != key:
        return payloads
    payload, half, read = size - header, size // 2 & ~1, fields.unpack_from
    _, expected = read(first)
    for packet in packets[at : at + min(_SEGMENTS, (_MOST - header) // payload)]:
        here = len(packet)
        if not header < here <= size or number(packet[:header], "little") & same != key:
            break
        length, sequence = read(packet)
        if sequence != expected or length != here - uncounted:
            break
        if family is _V4 and number(packet[:20], "little") % 0xFFFF:
            break
        total = number(packet[addresses:half], "little") + number(packet[half:], "little")
        if ((total >> _FOLD) + (total & _FOLDED) + (here - tcp + _TCP << 8)) % 0xFFFF:
            break
        payloads.append(packet[header:])
        if here < size or packet[tcp + 13] & _PSH:
            break
        expected = expected + payload & 0xFFFFFFFF
    return payloads


def _merged(first: bytes, last: bytes, payloads: list[bytes], family: _Family) -> bytes:
    """One packet, behind its virtio header, for the segments from ``first`` to ``last``."""
    gso, tcp, addresses, length, uncounted, _, _ = family
    cut = len(payloads[0])
    header = len(first) - cut
    size = header + cut * (len(payloads) - 1) + len(payloads[-1])
    head = bytearray(first[:header])
    head[length : length + 2] = (size - uncounted).to_bytes(2)
    head[tcp + 13] = last[tcp + 13]
    # The sum of the pseudo-header, not complemented; the kernel adds the rest.
    pseudo = (int.from_bytes(first[addresses:tcp]) + _TCP + size - tcp) % 0xFFFF
    head[tcp + _SUM : tcp + _SUM + 2] = pseudo.to_bytes(2)
    if family is _V4:
        head[10:12] = b"\0\0"
        head[10:12] = checksum(bytes(head[:20])).to_bytes(2)
    return b"".join((_VIRTIO.pack(_NEEDS_CHECKSUM, gso, header, cut, tcp, _SUM), head, *payloads))


def split(data: bytes) -> list[bytes]:
    """The packets, ready to send, of ``data`` as read from the device: a virtio header and a packet.

    Raises PacketError for what asks for no cut and no checksum that there are.
    """
    if len(data) <= HEADER:
        raise PacketError(f"{len(data)} bytes, a virtio header is {HEADER} and a packet follows")
    flags, gso, _, cut, start, offset = _VIRTIO.unpack_from(data)
    packet = data[HEADER:]
    if gso == _NOT_CUT:
        return [_finished(packet, start, offset) if flags & _NEEDS_CHECKSUM else packet]
    family = {_TCP4: _V4, _TCP6: _V6}.get(gso & ~_ECN)
    if family is None:
        raise PacketError(f"segments of type {gso}, which were not asked for")
    if not flags & _NEEDS_CHECKSUM or offset != _SUM:
        raise PacketError("TCP to cut, and not its checksum to finish")
    _check(packet, family, cut, start)
    return _segments(packet, family, cut, start)


def _finished(packet: bytes, start: int, offset: int) -> bytes:
    """With its checksum, whose field holds the pseudo-header's sum."""
    at = start + offset
    if at + 2 > len(packet):
        raise PacketError(f"a checksum at {at} in a packet of {len(packet)} bytes")
    result = checksum(packet[start:])
    if offset == _UDP_SUM and not result:
        result = 0xFFFF  # 0 says that there is none (RFC 768)
    return packet[:at] + result.to_bytes(2) + packet[at + 2 :]


def _check(packet: bytes, family: _Family, cut: int, tcp: int) -> None:
    """Raises PacketError unless ``packet`` has a header of ``family``, TCP's at ``tcp``, and a payload."""
    size = len(packet)
    if size < tcp + 20 or tcp < family.tcp:
        raise PacketError(f"TCP at {tcp} in a packet of {size} bytes")
    if size - family.uncounted > _MOST:
        raise PacketError(f"{size} bytes, which no header can say")
    if family is _V4 and (packet[0] != 0x40 | tcp >> 2 or tcp % 4 or packet[9] != _TCP):
        raise PacketError(f"no IPv4 header of {tcp} bytes before TCP")
    if family is _V6 and packet[0] >> 4 != 6:
        raise PacketError(f"IP version {packet[0] >> 4}, not 6")
    header = (packet[tcp + 12] >> 4) * 4
    if not cut or header < 20 or tcp + header >= size:
        raise PacketError(f"a TCP header of {header} bytes, payloads of {cut}, in {size - tcp}")


_LENGTH = struct.Struct(">H")
_IPV4 = struct.Struct(">HHIH")
"""Total length, identification, what does not change, checksum; from byte 2 on."""
_NUMBERED = struct.Struct(">IQH")
"""Sequence number, acknowledgment to window, checksum; from byte 4 of TCP on."""


def _segments(packet: bytes, family: _Family, cut: int, tcp: int) -> list[bytes]:
    """``packet`` in segments of ``cut`` bytes of payload, as Linux's tcp_gso_segment makes them."""
    number, size = int.from_bytes, len(packet)
    header, half = tcp + (packet[tcp + 12] >> 4) * 4, cut // 2 & ~1
    head = bytearray(packet[:header])
    sequence, word, pseudo = _NUMBERED.unpack_from(packet, tcp + 4)
    _NUMBERED.pack_into(head, tcp + 4, 0, 0, 0)
    # What all share. The pseudo-header is that in the checksum's field: behind a routing header, or with a
    # source route, the destination in it is not the header's.
    shared = (pseudo - (size - tcp) + number(head[tcp:])) % 0xFFFF
    _, identification, fixed, _ = _IPV4.unpack_from(packet, 2)
    if family is _V4:
        _IPV4.pack_into(head, 2, 0, 0, fixed, 0)
    above = number(head[:tcp])
    final = word & ~(_CWR << 16)
    word = word & ~((_FIN | _PSH) << 16) if header + cut < size else word
    segments: list[bytes] = []
    for at in range(header, size, cut):
        end = at + cut
        if end >= size:
            end = size
            word = final if segments else word
        one, two = packet[at : at + half], packet[at + half : end]
        length = header + end - at
        total = number(one, "little") + number(two, "little")
        total = ((total >> _FOLD) + (total & _FOLDED)) % 0xFFFF << 8
        result = -(shared + sequence + word + length - tcp + total) % 0xFFFF
        _NUMBERED.pack_into(head, tcp + 4, sequence, word, result)
        if family is _V4:
            result = -(above + length + identification) % 0xFFFF
            _IPV4.pack_into(head, 2, length, identification, fixed, result)
            identification = identification + 1 & 0xFFFF
        else:
            _LENGTH.pack_into(head, 4, length - 40)
        segments.append(b"".join((head, one, two)))
        sequence = sequence + cut & 0xFFFFFFFF
        word &= ~(_CWR << 16)
    return segments
