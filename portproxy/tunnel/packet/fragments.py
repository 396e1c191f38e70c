"""Fragments of IPv4 (RFC 791, 3.2) and IPv6 (RFC 8200, 4.5): packets cut up, and put together again."""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from portproxy.reasons import Reason
from portproxy.tunnel.packet import PacketError, ipv4, ipv6
from portproxy.tunnel.packet.checksum import checksum
from portproxy.tunnel.packet.ecn import CE, NOT_ECT

_UNIT = 8
"""Bytes: every fragment but the last holds a multiple of them."""
_MOST = 0xFFFF
_FIELDS = struct.Struct(">BxHI")
"""The fragment header of IPv6."""
_OFFSET6, _MORE6 = 0xFFF8, 1
_REPEATED = (ipv6.HOP_BY_HOP, ipv6.ROUTING)
"""Up to the last of these, every fragment has the headers of the whole."""
_COPIED = 0x80
"""Options of IPv4 with this bit go into every fragment (RFC 791, 3.1)."""
_END, _NOTHING = 0, 1
FRAGMENT_COST = 300
"""Bytes that Python takes at most to keep a fragment, beside those of the fragment: five objects."""


class GivenUp(Reason):
    """Why a datagram was not put together: said once for each, LATE for each fragment."""

    CONFLICT = "fragments-conflict", "its fragments overlap, or differ about its end (RFC 5722, 4)"
    LATE = "fragments-late", "a fragment of a datagram that was given up for a conflict"
    EXPIRED = "fragments-expired", "not all of its fragments came in time"
    CROWDED = "fragments-crowded", "it had waited longest for its fragments, and room was needed"
    ECN = "fragments-ecn", "a part was marked as congested, its sender knows nothing of that (RFC 3168, 5.3)"
    TOO_LONG = "fragments-too-long", "put together it is over 65,535 bytes"


class _Fragment(NamedTuple):
    """``head`` goes before the data of the whole, once its lengths are right; ``offset`` is in bytes."""

    key: bytes
    head: bytes
    offset: int
    more: bool
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    @property
    def size(self) -> int:
        return FRAGMENT_COST + len(self.head) + len(self.data)


def fragment4(packet: bytes, mtu: int) -> list[bytes]:
    """``packet``, an IPv4 one, in fragments of at most ``mtu`` bytes; one that fits stays as it is.

    Raises PacketError: it is no packet, DF is set, its options are malformed, or ``mtu`` leaves no room.
    """
    header = ipv4.parse(packet)
    if header.total_length <= mtu:
        return [packet[: header.total_length]]
    if header.fragment & ipv4.DONT_FRAGMENT:
        raise PacketError(f"{header.total_length} bytes with DF set, the MTU is {mtu}")
    _read4(packet)  # a fragment may be cut again, but one that cannot be may not
    options = packet[ipv4.HEADER : header.length]
    later = _copied(options)
    fragments = []
    for at, data, more in _cut(packet[header.length : header.total_length], mtu - header.length):
        fragment = ipv4.build(
            header.source,
            header.destination,
            header.protocol,
            data,
            ttl=header.ttl,
            tos=header.tos,
            identification=header.identification,
            fragment=header.fragment + at // _UNIT | (ipv4.MORE_FRAGMENTS if more else 0),
            options=later if at else options,
        )
        fragments.append(fragment)
    return fragments


def fragment6(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """``packet``, an IPv6 one, in fragments of at most ``mtu`` bytes; one that fits stays as it is.

    ``identification`` is of 32 bits, and new between its source and its destination. Raises PacketError: it
    is no packet, or a fragment, or ``mtu`` leaves no room for its headers in the first.
    """
    header = ipv6.parse(packet)
    end = ipv6.HEADER + header.payload_length
    if end <= mtu:
        return [packet[:end]]
    upper = ipv6.upper_layer(packet)
    chain = _chain(packet)
    if packet[chain[-1][0]] == ipv6.FRAGMENT:
        raise PacketError("it is a fragment; only its source may cut it smaller")
    passed = [behind for here, behind in pairwise(chain) if packet[here[0]] in _REPEATED]
    link, repeated = passed[-1] if passed else chain[0]
    room = mtu - repeated - _FIELDS.size
    if upper.offset >= repeated + room // _UNIT * _UNIT:
        raise PacketError(f"its headers are {upper.offset} bytes, over what the first of {mtu} bytes holds")
    head = bytearray(packet[:repeated])
    follows, head[link] = head[link], ipv6.FRAGMENT
    fragments = []
    for at, data, more in _cut(packet[repeated:end], room):
        head[4:6] = (_counted(head) + _FIELDS.size + len(data)).to_bytes(2)
        fragments.append(bytes(head) + _FIELDS.pack(follows, at | more, identification) + data)
    return fragments


def _cut(data: bytes, room: int) -> Iterator[tuple[int, bytes, bool]]:
    """Pieces of ``data`` that fit into ``room``: where each begins, and whether more follow."""
    size = room // _UNIT * _UNIT
    if size <= 0:
        raise PacketError("the MTU leaves no room for data")
    for at in range(0, len(data), size):
        yield at, data[at : at + size], at + size < len(data)


def _copied(options: bytes) -> bytes:
    """Those options that all fragments have, in whole words."""
    copied, at = b"", 0
    while at < len(options) and options[at] != _END:
        if options[at] == _NOTHING:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            raise PacketError(f"an option of {length} bytes, of which {len(options) - at} are here")
        if options[at] & _COPIED:
            copied += options[at : at + length]
        at += length
    return copied + bytes(-len(copied) % 4)


class Reassembler:
    """Puts packets of both families together.

    At most ``datagrams`` wait for fragments, which take ``size`` bytes of memory together, each for
    ``seconds`` (RFC 8200, 4.5; RFC 1122, 3.3.2); who has waited longest makes room. ``now`` is in seconds of
    a clock that never goes back.
    """

    def __init__(self, *, datagrams: int = 256, size: int = 4 << 20, seconds: float = 60.0) -> None:
        self._most = datagrams
        self._most_bytes = size
        self._seconds = seconds
        self._bytes = 0
        # All wait equally long: who came first is first, and the first to go.
        self._waiting: dict[bytes, _Datagram] = {}

    def add(self, packet: bytes, now: float) -> list[bytes | GivenUp]:
        """What came of ``packet``: itself where it is no fragment, the whole where it was the last that was
        missing, nothing yet; and what was given up meanwhile.

        Raises PacketError, and changes nothing, where it is no packet, or a fragment that cannot be.
        """
        fragment = _read6(packet) if packet and packet[0] >> 4 == 6 else _read4(packet)
        if fragment is None:
            return [packet]
        if not fragment.offset and not fragment.more:
            # RFC 6946, 4: by itself, whatever else has its identification.
            return [_whole([fragment])]
        return [*self.tick(now), *self._add(fragment, now)]

    def next_deadline(self) -> float:
        """When ``tick`` has something to do; infinity where nothing waits."""
        return next((datagram.deadline for datagram in self._waiting.values()), math.inf)

    def tick(self, now: float) -> list[GivenUp]:
        """The deadline has come: what is given up."""
        lost: list[GivenUp] = []
        while self.next_deadline() <= now:
            lost += self._give_up_oldest(GivenUp.EXPIRED)
        return lost

    def _add(self, fragment: _Fragment, now: float) -> list[bytes | GivenUp]:
        datagram = self._waiting.setdefault(fragment.key, _Datagram(now + self._seconds))
        if datagram.refused:
            return [GivenUp.LATE]
        self._bytes -= datagram.size
        datagram.add(fragment)
        self._bytes += datagram.size
        if datagram.refused:
            return [GivenUp.CONFLICT]
        if datagram.is_complete():
            self._forget(fragment.key)
            return [_whole(datagram.fragments)]
        lost: list[bytes | GivenUp] = []
        while len(self._waiting) > self._most or self._bytes > self._most_bytes:
            lost += self._give_up_oldest(GivenUp.CROWDED)
        return lost

    def _give_up_oldest(self, why: GivenUp) -> list[GivenUp]:
        """What there is to say: nothing of one that was given up for a conflict before."""
        datagram = self._forget(next(iter(self._waiting)))
        return [] if datagram.refused else [why]

    def _forget(self, key: bytes) -> _Datagram:
        datagram = self._waiting.pop(key)
        self._bytes -= datagram.size
        return datagram


class _Datagram:
    """What came of one until its ``deadline``. One that is ``refused`` is kept, without its bytes, so that
    what is still to come of it is refused as well (RFC 5722, 4)."""

    __slots__ = ("_length", "deadline", "fragments", "refused", "size")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.fragments: list[_Fragment] = []
        self.refused = False
        self.size = 0
        self._length = 0

    def add(self, new: _Fragment) -> None:
        """In its place. The network may repeat one; that changes nothing (RFC 8200, 4.5)."""
        at = bisect_left(self.fragments, new.offset, key=attrgetter("offset"))
        for before in self.fragments[max(at - 1, 0) : at]:
            self.refused |= before.end > new.offset or not before.more
        for after in self.fragments[at : at + 1]:
            if (after.offset, after.more, after.data) == (new.offset, new.more, new.data):
                return
            self.refused |= new.end > after.offset or not new.more
        if self.refused:
            self.fragments.clear()
            self.size = 0
        else:
            self.fragments.insert(at, new)
            self.size += new.size
            self._length += len(new.data)

    def is_complete(self) -> bool:
        last = self.fragments[-1]
        return not last.more and last.end == self._length


def _whole(fragments: list[_Fragment]) -> bytes | GivenUp:
    """All ``fragments``, in their order, as one packet, with the header of the first."""
    head = bytearray(fragments[0].head)
    marks = {_ecn(fragment.head) for fragment in fragments}
    if {CE, NOT_ECT} <= marks:
        return GivenUp.ECN
    ecn = CE if CE in marks else _ecn(head)
    length = _counted(head) + fragments[-1].end
    if length > _MOST:
        return GivenUp.TOO_LONG
    if head[0] >> 4 == 6:
        head[1] = head[1] & 0xCF | ecn << 4
        head[4:6] = length.to_bytes(2)
    else:
        head[1] = head[1] & 0xFC | ecn
        head[2:4] = length.to_bytes(2)
        head[6:8] = (int.from_bytes(head[6:8]) & ~(ipv4.OFFSET | ipv4.MORE_FRAGMENTS)).to_bytes(2)
        head[10:12] = b"\0\0"
        head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + b"".join(fragment.data for fragment in fragments)


def _ecn(head: bytes | bytearray) -> int:
    return head[1] >> 4 & 3 if head[0] >> 4 == 6 else head[1] & 3


def _counted(head: bytes | bytearray) -> int:
    """The bytes of ``head`` that its own length field counts."""
    return len(head) - ipv6.HEADER if head[0] >> 4 == 6 else len(head)


def _read4(packet: bytes) -> _Fragment | None:
    """None where it is whole. Raises PacketError."""
    header = ipv4.parse(packet)
    offset, more = header.fragment & ipv4.OFFSET, bool(header.fragment & ipv4.MORE_FRAGMENTS)
    if not offset and not more:
        return None
    # RFC 791, 3.2: what tells one datagram's fragments from another's.
    key = packet[12:20] + packet[9:10] + packet[4:6]
    data = packet[header.length : header.total_length]
    return _checked(_Fragment(key, packet[: header.length], offset * _UNIT, more, data))


def _read6(packet: bytes) -> _Fragment | None:
    """None where there is no fragment header. Raises PacketError."""
    header = ipv6.parse(packet)
    end = ipv6.HEADER + header.payload_length
    upper = ipv6.upper_layer(packet)
    link, at = _chain(packet)[-1]
    if packet[link] != ipv6.FRAGMENT:
        return None
    follows, place, _ = _FIELDS.unpack_from(packet, at)
    head = bytearray(packet[:at])
    head[link] = follows
    # RFC 8200, 4.5: what tells one packet's fragments from another's.
    key = packet[8:40] + packet[at + 4 : at + 8]
    data = packet[at + _FIELDS.size : end]
    fragment = _Fragment(key, bytes(head), place & _OFFSET6, bool(place & _MORE6), data)
    if not fragment.offset and not fragment.more:
        return fragment
    if upper.first and upper.offset >= end:
        raise PacketError("a first fragment without all the headers (RFC 8200, 4.5)")
    return _checked(fragment)


def _chain(packet: bytes) -> list[tuple[int, int]]:
    """For each header behind the fixed one: where the one before names it, and where it begins. The last one
    is the first that no fragment header may stand behind. ``ipv6.upper_layer`` has to take ``packet``."""
    chain = [(6, ipv6.HEADER)]
    while packet[chain[-1][0]] in (*_REPEATED, ipv6.DESTINATION_OPTIONS):
        at = chain[-1][1]
        chain.append((at, at + packet[at + 1] * 8 + 8))
    return chain


def _checked(fragment: _Fragment) -> _Fragment:
    """Raises PacketError where nobody can have cut it so."""
    if not fragment.data or (fragment.more and len(fragment.data) % _UNIT):
        raise PacketError(f"a fragment of {len(fragment.data)} bytes")
    if _counted(fragment.head) + fragment.end > _MOST:
        raise PacketError(f"a fragment that ends at {fragment.end} bytes")
    return fragment
