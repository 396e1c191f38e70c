"""Fragments: what is cut here scapy puts together, and the other way round."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, defragment, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    defragment6,
    fragment6,
)
from scapy.packet import Packet, Raw

from portproxy.tunnel.packet import PacketError, fragments, ipv4, ipv6
from portproxy.tunnel.packet.fragments import GivenUp, Reassembler

A4, B4 = "192.0.2.1", "198.51.100.2"
A6, B6 = "2001:db8:1::1", "2001:db8:2::2"
SOURCE4, DESTINATION4 = socket.inet_aton(A4), socket.inet_aton(B4)
SOURCE6, DESTINATION6 = (socket.inet_pton(socket.AF_INET6, address) for address in (A6, B6))
DATA = bytes(range(256)) * 256
sizes = st.integers(1, 4000)
seeds = st.integers(0, 2**64 - 1).map(Random)


def part(
    family: int, first: int, end: int, *, more: bool = True, name: int = 7, ecn: int = 0, data: bytes = DATA
) -> bytes:
    """The fragment of ``data`` from ``first`` to ``end``."""
    if family == 4:
        place = first // 8 | (0x2000 if more else 0)
        return ipv4.build(
            SOURCE4, DESTINATION4, 253, data[first:end], identification=name, fragment=place, tos=ecn
        )
    head = bytes((253, 0)) + (first | more).to_bytes(2) + name.to_bytes(4)
    return ipv6.build(SOURCE6, DESTINATION6, 44, head + data[first:end], traffic_class=ecn)


def whole(family: int, end: int, *, ecn: int = 0) -> bytes:
    if family == 4:
        return ipv4.build(SOURCE4, DESTINATION4, 253, DATA[:end], identification=7, tos=ecn)
    return ipv6.build(SOURCE6, DESTINATION6, 253, DATA[:end], traffic_class=ecn)


def together(packets: Sequence[bytes], into: Reassembler | None = None) -> list[bytes | GivenUp]:
    into = into or Reassembler()
    return [came for packet in packets for came in into.add(packet, 0)]


def mixed(packets: Sequence[bytes], random: Random) -> list[bytes]:
    """In any order, some of them twice; the one that completes them comes last, and once."""
    *some, last = random.sample(packets, len(packets))
    repeated = some + random.choices(some, k=random.randrange(4)) if some else []
    return [*random.sample(repeated, len(repeated)), last]


# Cut.


@given(sizes, st.integers(28, 2000), seeds)
def test_cut_ipv4_is_put_together_by_scapy_and_here(size: int, mtu: int, random: Random) -> None:
    packet = bytes(IP(src=A4, dst=B4, id=7, tos=2, ttl=9, proto=253) / Raw(DATA[:size]))
    cut = fragments.fragment4(packet, mtu)
    assert max(map(len, cut)) <= mtu
    if len(cut) > 1:
        assert min(map(len, cut[:-1])) > mtu - 8
    (read,) = defragment([IP(data) for data in cut])  # type: ignore[no-untyped-call]
    assert bytes(read) == packet
    assert together(mixed(cut, random)) == [packet]


@given(sizes, st.integers(56, 2000), seeds)
def test_cut_ipv6_is_put_together_by_scapy_and_here(size: int, mtu: int, random: Random) -> None:
    packet = bytes(IPv6(src=A6, dst=B6, tc=2, fl=5, hlim=9, nh=253) / Raw(DATA[:size]))
    cut = fragments.fragment6(packet, mtu, 0xFFFFFFFF)
    assert max(map(len, cut)) <= mtu
    if len(cut) > 1:
        assert min(map(len, cut[:-1])) > mtu - 8
        assert {IPv6(data)[IPv6ExtHdrFragment].id for data in cut} == {0xFFFFFFFF}
        assert bytes(defragment6([IPv6(data) for data in cut])) == packet  # type: ignore[no-untyped-call]
    assert together(mixed(cut, random)) == [packet]


@given(sizes, st.integers(8, 2000), seeds)
def test_ipv4_that_scapy_cut_is_put_together(size: int, most: int, random: Random) -> None:
    packet = IP(src=A4, dst=B4, id=7, ttl=9, tos=1) / UDP(sport=1, dport=2) / Raw(DATA[:size])
    cut = [bytes(data) for data in fragment(packet, most)]  # type: ignore[no-untyped-call]
    assert together(mixed(cut, random)) == [bytes(packet)]


@given(sizes, st.integers(1280, 2000), seeds)
def test_ipv6_that_scapy_cut_is_put_together(size: int, mtu: int, random: Random) -> None:
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    base, upper = IPv6(src=A6, dst=B6, tc=1, fl=5), UDP(sport=1, dport=2) / Raw(DATA[:size])
    packet = base / IPv6ExtHdrFragment(id=7) / options / upper
    cut = [bytes(data) for data in fragment6(packet, mtu)]  # type: ignore[no-untyped-call]
    assert together(mixed(cut, random)) == [bytes(base / options / upper)]


@given(sizes, st.integers(48, 2000), st.integers(48, 2000), seeds)
def test_ipv4_fragments_may_be_cut_again(size: int, first: int, second: int, random: Random) -> None:
    packet = whole(4, size)
    once = fragments.fragment4(packet, first)
    cut = [data for piece in once for data in fragments.fragment4(piece, second)]
    assert max(map(len, cut)) <= second
    assert together(mixed(cut, random)) == [packet]


@pytest.mark.parametrize(("size", "place"), [(100, 0x1FFF), (101, 0x2000)])
def test_an_ipv4_fragment_that_cannot_be_is_not_cut_again(size: int, place: int) -> None:
    """It ends beyond 65,535 bytes; others are to follow, and it is no multiple of 8."""
    packet = ipv4.build(SOURCE4, DESTINATION4, 253, DATA[:size], fragment=place)
    with pytest.raises(PacketError, match="a fragment"):
        fragments.fragment4(packet, 60)


def test_an_ipv4_packet_that_fits_stays_as_it_is() -> None:
    for packet in (whole(4, 100), bytes(IP(src=A4, dst=B4, flags="DF") / Raw(DATA[:100]))):
        assert fragments.fragment4(packet + b"padding", 120) == [packet]
    with pytest.raises(PacketError, match="DF"):
        fragments.fragment4(packet, 119)


def test_an_ipv6_packet_that_fits_stays_as_it_is() -> None:
    assert fragments.fragment6(whole(6, 100) + b"padding", 140, 7) == [whole(6, 100)]
    assert len(fragments.fragment6(whole(6, 100), 139, 7)) == 2


@pytest.mark.parametrize(
    ("options", "copied"),
    [
        ("", ""),
        ("94040000", "94040000"),  # router alert, copied
        ("07070400000000 00", ""),  # record route, not
        ("01 94040000 070704 00000000", "94040000"),
        ("82 0b 0000000000000000 00 88 04 0001 00", "820b000000000000000000" + "88040001" + "00"),
        ("01010100", ""),
        ("00 94040000 000000", ""),  # behind the end
    ],
)
def test_options_that_every_ipv4_fragment_has(options: str, copied: str) -> None:
    """RFC 791, 3.1: the copied flag."""
    given_options = bytes.fromhex(options)
    packet = ipv4.build(SOURCE4, DESTINATION4, 253, DATA[:200], identification=7, options=given_options)
    first, *later = fragments.fragment4(packet, 100)
    assert first[20 : (first[0] & 15) * 4] == given_options
    assert [data[20 : (data[0] & 15) * 4] for data in later] == [bytes.fromhex(copied)] * len(later)
    assert together([*later, first]) == [packet]


@pytest.mark.parametrize("options", ["07000000", "07010000", "07050000", "01010107", "94050000"])
def test_malformed_options_are_not_cut(options: str) -> None:
    packet = ipv4.build(SOURCE4, DESTINATION4, 253, DATA[:200], options=bytes.fromhex(options))
    with pytest.raises(PacketError, match="an option"):
        fragments.fragment4(packet, 100)
    assert fragments.fragment4(packet, 224) == [packet]


HOP = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])
ROUTING = IPv6ExtHdrRouting(addresses=[A6])
OPTIONS = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])


@pytest.mark.parametrize(
    ("repeated", "rest"),
    [
        ([], []),
        ([], [OPTIONS]),
        ([HOP], []),
        ([HOP], [OPTIONS]),
        ([ROUTING], []),
        ([HOP, OPTIONS, ROUTING], [OPTIONS]),
        ([OPTIONS, ROUTING], []),
    ],
)
def test_headers_that_every_ipv6_fragment_has(repeated: list[Packet], rest: list[Packet]) -> None:
    """RFC 8200, 4.5: up to the routing header, else the hop-by-hop options, else none."""

    def made(headers: Sequence[Packet]) -> Packet:
        packet = IPv6(src=A6, dst=B6)
        for header in headers:
            packet /= header.copy()
        return packet

    upper = UDP(sport=1, dport=2) / Raw(DATA[:300])
    packet = bytes(made([*repeated, *rest]) / upper)
    cut = fragments.fragment6(packet, 240, 9)
    assert len(cut) > 1
    before = len(made(repeated))
    for data in cut:
        place = IPv6(data)[IPv6ExtHdrFragment]
        head = made([*repeated, IPv6ExtHdrFragment(nh=place.nh, id=9, offset=place.offset, m=place.m)])
        head.plen = len(data) - 40
        assert data[: before + 8] == bytes(head)
    # What is repeated does not count for the first: with all that stands behind it is in one piece.
    assert ipv6.upper_layer(cut[0]) == (17, len(packet) - 308 + 8, True)
    assert together(cut[::-1]) == [packet]


@pytest.mark.parametrize(("mtu", "fits"), [(95, False), (96, True)])
def test_all_headers_are_in_the_first_fragment(mtu: int, fits: bool) -> None:
    """RFC 8200, 4.5: 40 bytes of the fixed header, 8 of the fragment header, 40 of options, and 8 of data."""
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(36))])
    packet = bytes(IPv6(src=A6, dst=B6) / options / UDP() / Raw(DATA[:200]))
    if fits:
        assert together(fragments.fragment6(packet, mtu, 7)) == [packet]
    else:
        with pytest.raises(PacketError, match="its headers are 80 bytes"):
            fragments.fragment6(packet, mtu, 7)


@pytest.mark.parametrize("headers", [[], [HOP], [HOP, OPTIONS]])
def test_a_fragment_of_ipv6_is_not_cut_again(headers: list[Packet]) -> None:
    packet = IPv6(src=A6, dst=B6)
    for header in [*headers, IPv6ExtHdrFragment(m=1)]:
        packet /= header.copy()
    with pytest.raises(PacketError, match="only its source"):
        fragments.fragment6(bytes(packet / UDP() / Raw(bytes(1000))), 500, 7)


@pytest.mark.parametrize("mtu", [-1, 0, 20, 27])
def test_no_room_for_eight_bytes_of_ipv4(mtu: int) -> None:
    with pytest.raises(PacketError, match="no room"):
        fragments.fragment4(whole(4, 16), mtu)
    assert len(fragments.fragment4(whole(4, 16), 28)) == 2


@pytest.mark.parametrize("mtu", [-1, 0, 40, 55])
def test_no_room_for_eight_bytes_of_ipv6(mtu: int) -> None:
    with pytest.raises(PacketError):
        fragments.fragment6(whole(6, 100), mtu, 7)
    assert len(fragments.fragment6(whole(6, 100), 56, 7)) == 13


def test_the_longest_packets_are_cut_and_put_together() -> None:
    for packet, cut in (
        (longest := whole(4, 65515), fragments.fragment4(longest, 1500)),
        (longest := whole(6, 65535), fragments.fragment6(longest, 1500, 7)),
    ):
        assert together(cut[::-1]) == [packet]
