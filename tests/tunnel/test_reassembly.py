"""Reassembly: what fits together comes out whole, what does not is given up and said so, within bounds."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Raw

from portproxy.tunnel.packet import PacketError, ipv4, ipv6
from portproxy.tunnel.packet.fragments import FRAGMENT_COST, GivenUp, Reassembler
from tests.tunnel.test_fragments import (
    A6,
    B6,
    DATA,
    DESTINATION4,
    DESTINATION6,
    SOURCE4,
    SOURCE6,
    part,
    seeds,
    together,
    whole,
)

FAMILIES = [4, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_fragment_comes_back(family: int) -> None:
    packet = whole(family, 100) + b"padding"
    assert together([packet]) == [packet]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        # From, to, and whether more follow; the one at ``fault`` does not go with those before it.
        ([(0, 16), (8, 24)], 1),
        ([(8, 24), (0, 16)], 1),
        ([(0, 24), (8, 16)], 1),
        ([(8, 16), (0, 24)], 1),
        ([(0, 16), (0, 8)], 1),
        ([(0, 8), (0, 16)], 1),
        ([(0, 8), (16, 24), (8, 24)], 2),
        ([(16, 20, "last"), (8, 24)], 1),
        ([(16, 24, "last"), (16, 24)], 1),
        ([(16, 24), (16, 24, "last")], 1),
        ([(16, 24, "last"), (24, 32)], 1),
        ([(16, 24, "last"), (24, 32, "last")], 1),
        ([(16, 24, "last"), (40, 48)], 1),
        ([(24, 32), (8, 16, "last")], 1),
        ([(24, 32, "last"), (8, 16, "last")], 1),
        ([(8, 16, "last"), (8, 13, "last")], 1),
    ],
)
def test_fragments_that_overlap_drop_the_datagram(
    family: int, pieces: list[tuple[int, int] | tuple[int, int, str]], fault: int
) -> None:
    """RFC 8200, 4.5; RFC 5722, 4: and whatever is still to come of it."""
    reassembler = Reassembler()
    packets = [part(family, piece[0], piece[1], more=len(piece) == 2) for piece in pieces]
    assert together(packets[:fault], reassembler) == []
    assert together(packets[fault:], reassembler) == [GivenUp.CONFLICT]
    complete = [part(family, 0, 8), part(family, 8, 16, more=False)]
    assert together(complete, reassembler) == [GivenUp.LATE, GivenUp.LATE]
    # Others are not concerned, and it is over with its time.
    others = [part(family, 0, 8, name=8), part(family, 8, 16, more=False, name=8)]
    assert len(together(others, reassembler)) == 1
    assert reassembler.tick(60) == []
    assert together(complete, reassembler) == [whole(family, 16)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repeated_fragment_with_other_contents_is_an_overlap(family: int) -> None:
    one, other = part(family, 0, 8), part(family, 0, 8, data=bytes(8))
    assert together([one, one, one]) == []
    assert together([one, other]) == [GivenUp.CONFLICT]


@given(st.sampled_from(FAMILIES), seeds)
def test_only_an_exact_cover_is_put_together(family: int, random: Random) -> None:
    """Against an oracle that knows every byte."""
    reassembler = Reassembler()
    seen: list[tuple[int, int]] = []
    came: list[bytes | GivenUp] = []
    while not came:
        first, end = sorted(random.sample(range(0, 56, 8), 2))
        if (first, end) == (0, 48):
            continue
        covered = {byte for piece in seen for byte in range(*piece)}
        expected: list[bytes | GivenUp] = []
        if (first, end) not in seen:
            if covered & set(range(first, end)):
                expected = [GivenUp.CONFLICT]
            elif covered | set(range(first, end)) == set(range(48)):
                expected = [whole(family, 48)]
            seen.append((first, end))
        came = reassembler.add(part(family, first, end, more=end < 48), 0)
        assert came == expected


@pytest.mark.parametrize("identification", [7, 8])
def test_an_atomic_fragment_is_by_itself(identification: int) -> None:
    """RFC 6946, 4: whatever else has its identification."""
    first, last = part(6, 0, 8), part(6, 8, 16, more=False)
    atomic = part(6, 0, 30, more=False, name=identification)
    assert together([first, atomic, last, atomic]) == [whole(6, 30), whole(6, 16), whole(6, 30)]
    assert together([part(6, 0, 0, more=False)]) == [whole(6, 0)]


OTHERS = [
    part(4, 8, 16, more=False, name=8),
    ipv4.build(DESTINATION4, DESTINATION4, 253, DATA[8:16], identification=7, fragment=1),
    ipv4.build(SOURCE4, SOURCE4, 253, DATA[8:16], identification=7, fragment=1),
    ipv4.build(SOURCE4, DESTINATION4, 254, DATA[8:16], identification=7, fragment=1),
    part(6, 8, 16, more=False, name=8),
    ipv6.build(DESTINATION6, DESTINATION6, 44, part(6, 8, 16, more=False)[40:]),
    ipv6.build(SOURCE6, SOURCE6, 44, part(6, 8, 16, more=False)[40:]),
]


def test_fragments_of_others_do_not_mix() -> None:
    """RFC 791, 3.2: addresses, protocol, identification; RFC 8200, 4.5: addresses, identification."""
    reassembler = Reassembler()
    assert together([part(4, 0, 8), part(6, 0, 8), *OTHERS], reassembler) == []
    assert together([part(4, 8, 16, more=False)], reassembler) == [whole(4, 16)]
    assert together([part(6, 8, 16, more=False)], reassembler) == [whole(6, 16)]
    assert reassembler.tick(60) == [GivenUp.EXPIRED] * len(OTHERS)


def test_the_headers_of_the_first_fragment_hold() -> None:
    """RFC 8200, 4.5: hop limit, flow and next header are those of the fragment whose offset is 0."""
    first = part(6, 0, 8)
    last = part(6, 8, 16, more=False)
    other = ipv6.build(SOURCE6, DESTINATION6, 44, b"\x11" + last[41:], hop_limit=3, flow=9)
    assert together([other, first]) == [whole(6, 16)]
    last4 = ipv4.build(SOURCE4, DESTINATION4, 253, DATA[8:16], identification=7, fragment=1, ttl=3)
    assert together([last4, part(4, 0, 8)]) == [whole(4, 16)]


def test_df_stays() -> None:
    pieces = [(0, 0x6000), (8, 0x4001)]
    made = [
        ipv4.build(SOURCE4, DESTINATION4, 253, DATA[at : at + 8], identification=7, fragment=place)
        for at, place in pieces
    ]
    expected = ipv4.build(SOURCE4, DESTINATION4, 253, DATA[:16], identification=7, fragment=0x4000)
    assert together(made) == [expected]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("marks", "left"),
    [
        ((0, 0, 0), 0),
        ((1, 1, 1), 1),
        ((2, 2, 2), 2),
        ((3, 3, 3), 3),
        ((2, 2, 3), 3),
        ((3, 2, 2), 3),
        ((1, 3, 1), 3),
        ((1, 2, 3), 3),
        ((0, 3, 0), None),
        ((3, 0, 3), None),
        ((2, 0, 3), None),
        ((2, 1, 1), 2),
        ((0, 2, 2), 0),
    ],
)
def test_congestion_is_not_lost(family: int, marks: tuple[int, ...], left: int | None) -> None:
    """RFC 3168, 5.3."""
    packets = [part(family, 8 * at, 8 * at + 8, more=at < 2, ecn=mark) for at, mark in enumerate(marks)]
    for order in (packets, packets[::-1]):
        assert together(order) == [GivenUp.ECN if left is None else whole(family, 24, ecn=left)]


@pytest.mark.parametrize(
    "packet",
    [
        *(part(family, 0, 7) for family in FAMILIES),
        *(part(family, 8, 21) for family in FAMILIES),
        *(part(family, 0, 0) for family in FAMILIES),
        *(part(family, 8, 8, more=False) for family in FAMILIES),
        part(4, 65512, 65516, more=False),
        part(6, 65528, 65536, more=False),
        # Headers up to the upper layer's have to be in the first (RFC 8200, 4.5).
        bytes(IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt(nh=17)),
        bytes(IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(nh=60, m=1) / Raw(b"\x11\x02" + bytes(14))),
        b"",
        b"\x60",
        bytes(100),
        whole(4, 100)[:-1],
        whole(6, 100)[:-1],
    ],
)
def test_what_nobody_can_have_cut(packet: bytes) -> None:
    reassembler = Reassembler()
    with pytest.raises(PacketError):
        reassembler.add(packet, 0)
    assert reassembler.next_deadline() == math.inf


def test_the_neighbours_of_what_nobody_can_have_cut() -> None:
    neighbours = [
        *(part(family, 0, 8) for family in FAMILIES),
        *(part(family, 8, 21, more=False) for family in FAMILIES),
        part(4, 65512, 65515, more=False, name=8),
        part(6, 65528, 65535, more=False, name=8),
        bytes(IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(m=1) / IPv6ExtHdrDestOpt() / UDP()),
    ]
    assert [*map(len, map(together, [[packet] for packet in neighbours]))] == [0] * len(neighbours)


@pytest.mark.parametrize(("family", "longest"), [(4, 65511), (6, 65527)])
def test_what_is_too_long_only_when_it_is_whole(family: int, longest: int) -> None:
    """The first fragment has headers that the others have not: 4 bytes of options, and 8."""
    if family == 4:
        options = bytes(4)
        first = ipv4.build(
            SOURCE4, DESTINATION4, 253, DATA[:8], identification=7, fragment=0x2000, options=options
        )
    else:
        first = ipv6.build(SOURCE6, DESTINATION6, 0, bytes((44, 0, 1, 4, 0, 0, 0, 0)) + part(6, 0, 8)[40:])
    at = 65504
    begun = [first, part(family, 8, at)]
    (made,) = together([*begun, part(family, at, longest, more=False)])
    assert isinstance(made, bytes)
    assert len(made) == 65535 + (40 if family == 6 else 0)
    assert together([*begun, part(family, at, longest + 1, more=False)]) == [GivenUp.TOO_LONG]


# Time and bounds.


def test_a_datagram_waits_a_minute_from_its_first_fragment_on() -> None:
    """RFC 8200, 4.5; RFC 1122, 3.3.2."""
    reassembler = Reassembler()
    assert (reassembler.next_deadline(), reassembler.tick(1e9)) == (math.inf, [])
    assert reassembler.add(part(6, 0, 8), 10) == []
    assert reassembler.add(part(4, 0, 8), 11) == []
    assert reassembler.add(part(6, 8, 16), 69) == []
    assert reassembler.next_deadline() == 70
    assert reassembler.tick(69.9) == []
    assert reassembler.tick(70) == [GivenUp.EXPIRED]
    assert reassembler.next_deadline() == 71
    assert reassembler.add(part(4, 8, 16, more=False), 70.9) == [whole(4, 16)]
    assert reassembler.next_deadline() == math.inf


def test_whoever_does_not_look_at_the_time_is_told_with_the_next_fragment() -> None:
    reassembler = Reassembler(seconds=5)
    reassembler.add(part(6, 0, 8), 0)
    assert reassembler.add(part(6, 8, 16, more=False), 5) == [GivenUp.EXPIRED]
    assert reassembler.add(part(6, 0, 8), 9) == [whole(6, 16)]


def test_the_one_that_waited_longest_makes_room_for_another() -> None:
    reassembler = Reassembler(datagrams=2)
    assert together([part(6, 0, 8, name=name) for name in (1, 2)], reassembler) == []
    assert together([part(6, 8, 16, name=1)], reassembler) == []
    assert together([part(6, 0, 8, name=3)], reassembler) == [GivenUp.CROWDED]
    assert len(together([part(6, 8, 16, more=False, name=2)], reassembler)) == 1
    assert together([part(6, 16, 24, more=False, name=1)], reassembler) == []


def test_room_in_bytes_is_counted_with_the_headers() -> None:
    """Else the smallest fragments would cost most: a header of 40 bytes, and 8 bytes of data."""
    reassembler = Reassembler(size=4 * (FRAGMENT_COST + 48))
    assert together([part(6, 8 * at, 8 * at + 8, name=1) for at in range(3)], reassembler) == []
    # What is repeated, whole, or given up takes none.
    assert together([part(6, 0, 8, name=1)] * 9, reassembler) == []
    assert len(together([whole(6, 999), part(6, 0, 999, more=False)], reassembler)) == 2
    assert together([part(6, 0, 8, name=2)], reassembler) == []
    # Nor does the last that is missing.
    assert len(together([part(6, 8, 16, name=2, more=False)], reassembler)) == 1
    assert together([part(6, 0, 8, name=3)], reassembler) == []
    assert together([part(6, 0, 8, name=4)], reassembler) == [GivenUp.CROWDED]
    assert reassembler.tick(60) == [GivenUp.EXPIRED] * 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [8, 1000])
def test_the_bound_is_of_memory(family: int, size: int) -> None:
    """However small the fragments are: that of a datagram itself is bounded by their number."""
    bound, datagrams, data = 1 << 20, 16, bytes(60_000)
    reassembler = Reassembler(datagrams=datagrams, size=bound)
    tracemalloc.start()
    try:
        for name, at in itertools.product(range(datagrams), range(0, min(400 * size, len(data)), size)):
            reassembler.add(part(family, at, at + size, name=name, data=data), 0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bound / 2 < taken < bound + datagrams * 1000


def test_a_datagram_that_alone_is_too_large_is_given_up() -> None:
    reassembler = Reassembler(size=FRAGMENT_COST + 99)
    assert together([part(4, 0, 80), part(4, 80, 160)], reassembler) == [GivenUp.CROWDED] * 2
    assert reassembler.next_deadline() == math.inf
    assert together([part(4, 0, 72)], reassembler) == []


def test_one_given_up_for_a_conflict_is_said_once() -> None:
    reassembler = Reassembler(datagrams=1)
    assert together([part(4, 0, 16), part(4, 8, 16)], reassembler) == [GivenUp.CONFLICT]
    assert together([part(4, 0, 8, name=8)], reassembler) == []
    assert reassembler.tick(60) == [GivenUp.EXPIRED]


def test_one_given_up_for_a_conflict_takes_no_room() -> None:
    reassembler = Reassembler(size=2 * (FRAGMENT_COST + 36))
    assert together([part(4, 0, 16), part(4, 8, 16)], reassembler) == [GivenUp.CONFLICT]
    assert together([part(4, 0, 16, name=8), part(4, 16, 32, name=8)], reassembler) == []
    assert together([part(4, 0, 8)], reassembler) == [GivenUp.LATE]
