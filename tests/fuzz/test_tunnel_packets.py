"""Bytes that nobody would send: a packet that keeps what holds of packets, or a PacketError of one line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import ParamSpec, TypeVar

from portproxy.tunnel.packet import PacketError, fragments, icmpv4, icmpv6, ipv4, ipv6, mss
from portproxy.tunnel.packet.checksum import checksum, upper_layer
from portproxy.tunnel.packet.fragments import GivenUp, Reassembler
from tests.fuzz.checks import one_line
from tests.fuzz.examples import binary, seeded

P = ParamSpec("P")
T = TypeVar("T")
A4, B4 = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2))
A6, B6 = bytes.fromhex("20010db8") + bytes(12), bytes.fromhex("20010db80002") + bytes(10)

SYN = bytes.fromhex("04d20050 00000001 00000000 9002ffff 00000000 01 02042328 030307 0402 0101 00000000")
"""A segment that opens a connection, with an MSS of 9,000 at an odd offset."""
HOP_BY_HOP, OPTIONS = bytes((60, 0, 5, 2, 0, 0, 1, 0)), bytes((43, 1, 1, 12)) + bytes(12)
ROUTING = bytes((44, 2, 0, 1)) + bytes(20)
FIRST, LATER = bytes((6, 0, 0, 1, 0, 0, 0, 7)), bytes((6, 0, 0, 8, 0, 0, 0, 7))


def _tcp6(segment: bytes) -> bytes:
    sum_ = upper_layer(A6, B6, 6, segment)
    return segment[:16] + sum_.to_bytes(2) + segment[18:]


def _tcp4(segment: bytes) -> bytes:
    sum_ = checksum(A4 + B4 + bytes((0, 6)) + len(segment).to_bytes(2) + segment)
    return segment[:16] + sum_.to_bytes(2) + segment[18:]


PACKETS4 = (
    ipv4.build(A4, B4, 6, _tcp4(SYN)),
    ipv4.build(A4, B4, 6, _tcp4(SYN), options=bytes.fromhex("940400000783040000000000"), tos=3),
    ipv4.build(A4, B4, 17, bytes(64), fragment=0x2000, identification=7),
    ipv4.build(A4, B4, 17, bytes(9), fragment=8, identification=7),
    ipv4.build(A4, B4, 17, bytes(8), fragment=0x2007, identification=7),
    ipv4.build(A4, B4, 1, bytes((8, 0, 0, 0)), fragment=0x4000),
    ipv4.build(A4, B4, 1, bytes((3, 4, 0, 0, 0, 0, 5, 0)) + bytes(28)),
)
PACKETS6 = (
    ipv6.build(A6, B6, 6, _tcp6(SYN)),
    ipv6.build(A6, B6, 0, HOP_BY_HOP + OPTIONS + ROUTING + FIRST + _tcp6(SYN)),
    ipv6.build(A6, B6, 44, FIRST + _tcp6(SYN)),
    ipv6.build(A6, B6, 44, LATER + bytes(11)),
    ipv6.build(A6, B6, 44, bytes((6, 0, 0, 0, 0, 0, 0, 7)) + _tcp6(SYN)),
    ipv6.build(A6, B6, 60, bytes((51, 0, 1, 4, 0, 0, 0, 0, 58, 4)) + bytes(22) + bytes((128, 0, 0, 0))),
    ipv6.build(A6, B6, 58, bytes((2, 0, 0, 0, 0, 0, 5, 0)) + bytes(48)),
    ipv6.build(A6, B6, 59, b"", traffic_class=0xB9, flow=0xFEDCB, hop_limit=255),
)
"""What the mutated packets were, and what a search may begin with."""


def mended(packet: bytes) -> bytes:
    """With the right checksum of an IPv4 header: else little would get past it."""
    length = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return packet
    head = packet[:10] + b"\0\0" + packet[12 : max(20, length)]
    return head[:10] + checksum(head).to_bytes(2) + packet[12:]


def fitted(packet: bytes) -> bytes:
    """With the length that it has."""
    if len(packet) < 40:
        return packet
    if packet[0] >> 4 == 4:
        return packet[:2] + len(packet).to_bytes(2) + packet[4:]
    return packet[:4] + (len(packet) - 40).to_bytes(2) + packet[6:]


def mutated(random: Random, packets: Sequence[bytes] = PACKETS4 + PACKETS6) -> bytes:
    """A packet of which some bytes were changed, left out, or put in; often its lengths are still right."""
    data = bytearray(random.choice(packets))
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        at = random.randrange(len(data) + 1)
        gone = random.choice((1, 1, 1, 0, 4, len(data)))
        new = random.randbytes(random.choice((gone, random.randrange(9))) if gone <= 4 else 0)
        data[at : at + gone] = new
    packet = fitted(bytes(data)) if random.random() < 0.6 else bytes(data)
    return mended(packet) if random.random() < 0.9 else packet


def anything(random: Random) -> bytes:
    """Any bytes, or a mutated packet."""
    return binary(random, 120) if random.random() < 0.2 else mutated(random)


def or_error(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """None where it is refused in the agreed way."""
    try:
        return make(*args, **kwargs)
    except PacketError as error:
        one_line([str(error)])
        return None


def parsed4(data: bytes) -> None:
    """What is read is built again; a sum of 0 may be written in two ways."""
    header = or_error(ipv4.parse, data)
    if header is None:
        return
    built = ipv4.build(
        header.source,
        header.destination,
        header.protocol,
        data[header.length : header.total_length],
        ttl=header.ttl,
        tos=header.tos,
        identification=header.identification,
        fragment=header.fragment,
        options=data[ipv4.HEADER : header.length],
    )
    same4(built, data[: header.total_length])


def same4(one: bytes, other: bytes) -> None:
    assert ipv4.parse(one) == ipv4.parse(other)
    assert one[:10] + one[12:] == other[:10] + other[12:]


def parsed6(data: bytes) -> None:
    """What is read is built again."""
    header = or_error(ipv6.parse, data)
    if header is None:
        return
    built = ipv6.build(
        header.source,
        header.destination,
        header.next_header,
        data[40 : 40 + header.payload_length],
        hop_limit=header.hop_limit,
        traffic_class=header.traffic_class,
        flow=header.flow,
    )
    assert built == data[: len(built)]


def looked_behind(data: bytes) -> None:
    """An upper layer is in what is here of the packet; more of it, or padding, does not change it."""
    if len(data) < ipv6.HEADER:
        return
    upper = or_error(ipv6.upper_layer, data)
    if upper is not None:
        assert 40 <= upper.offset <= min(len(data), 40 + int.from_bytes(data[4:6]))
        assert not upper.first or upper.protocol not in (0, 43, 44, 51, 60, 135, 139, 140)
        assert ipv6.upper_layer(data[: upper.offset]) == ipv6.upper_layer(data + b"\0") == upper


def clamped(data: bytes, mtu: int) -> bytes | None:
    """Two fields change, to what keeps the sum; None where there is no packet to clamp."""
    if data[:1] and data[0] >> 4 == 4:
        header = or_error(ipv4.parse, data)
        start, end, clamp = (header.length, header.total_length, mss.clamp4) if header else (0, 0, mss.clamp4)
    else:
        header6 = or_error(ipv6.parse, data)
        start, end, clamp = 40, 40 + header6.payload_length if header6 else 0, mss.clamp6
    if not end:
        return None
    packet = data[:end]
    made = clamp(packet, mtu)
    assert len(made) == len(packet)
    assert sum(a != b for a, b in zip(made, packet, strict=True)) <= 4
    assert made[:start] == packet[:start]
    assert checksum(made[start:]) == checksum(packet[start:])
    assert clamp(made, mtu) == made
    return made


def answered(data: bytes) -> None:
    """An ICMP error has right sums, fits, quotes the packet, goes to its source, and brings about none."""
    for error in (icmpv4.too_big(data, A4, 1300), icmpv4.unreachable(data, A4, icmpv4.Unreachable.PORT)):
        if error is not None:
            header = ipv4.parse(error)
            assert (header.source, header.destination) == (A4, data[12:16])
            assert header.total_length == len(error) <= 576
            assert checksum(error[20:]) == 0
            assert error[28:] == data[:548]
            assert icmpv4.too_big(error, B4, 1300) is None
    for error in (icmpv6.too_big(data, A6, 1300), icmpv6.unreachable(data, A6, icmpv6.Unreachable.PORT)):
        if error is not None:
            header6 = ipv6.parse(error)
            assert (header6.source, header6.destination) == (A6, data[8:24])
            assert 40 + header6.payload_length == len(error) <= 1280
            assert upper_layer(A6, data[8:24], 58, error[40:]) == 0
            assert error[48:] == data[:1232]
            assert icmpv6.too_big(error, B6, 1300) is None


def cut(data: bytes, mtu: int) -> int:
    """Fragments fit, and come together again where they were whole; how many there were."""
    is4 = bool(data) and data[0] >> 4 == 4
    pieces = or_error(fragments.fragment4, data, mtu) if is4 else or_error(fragments.fragment6, data, mtu, 9)
    if pieces is None or len(pieces) == 1:
        assert pieces is None or data.startswith(pieces[0])
        return len(pieces or ())
    assert max(map(len, pieces)) <= mtu
    into = Reassembler()
    came = [one for piece in reversed(pieces) for one in into.add(piece, 0)]
    if is4:
        headers = [ipv4.parse(piece) for piece in pieces]
        assert [header.total_length for header in headers] == [*map(len, pieces)]
        was = ipv4.parse(data)
        assert not was.fragment & ipv4.DONT_FRAGMENT
        bodies = [piece[header.length :] for piece, header in zip(pieces, headers, strict=True)]
        assert b"".join(bodies) == data[was.length : was.total_length]
        if was.fragment & 0x3FFF:
            assert came == []
            return len(pieces)
    (whole,) = came
    assert isinstance(whole, bytes)
    if is4:
        same4(whole, data[: len(whole)])
    else:
        assert whole == data[: 40 + int.from_bytes(data[4:6])]
    return len(pieces)


DATAGRAMS, SIZE, SECONDS = 3, 4 * fragments.FRAGMENT_COST + 150, 5


def put_together(packets: Sequence[bytes], steps: Sequence[float]) -> set[GivenUp]:
    """However they come: within bounds, and no datagram vanishes unless something is said of it."""
    reassembler, now, given_up = Reassembler(datagrams=DATAGRAMS, size=SIZE, seconds=SECONDS), 0.0, set()
    waiting = reassembler._waiting

    def live() -> int:
        return sum(not datagram.refused for datagram in waiting.values())

    for packet, step in zip(packets, itertools.cycle(steps), strict=False):
        now += step
        before = live()
        came = [*reassembler.tick(now), *(or_error(reassembler.add, packet, now) or [])]
        said = [one for one in came if one is not GivenUp.LATE]
        assert before <= live() + len(said) <= before + 1
        assert len(waiting) <= DATAGRAMS
        assert sum(datagram.size for datagram in waiting.values()) == reassembler._bytes <= SIZE
        assert now < reassembler.next_deadline()
        given_up |= {one for one in came if isinstance(one, GivenUp)}
        for one in came:
            if isinstance(one, bytes):
                (ipv4 if one[0] >> 4 == 4 else ipv6).parse(one)
    left = live()
    assert len(reassembler.tick(now + SECONDS)) == left
    assert (reassembler.next_deadline(), reassembler._bytes) == (math.inf, 0)
    return given_up


def flow(random: Random) -> list[bytes]:
    """Fragments of a few datagrams: out of order, some missing, some twice, some not as they were."""
    cuts = [
        fragments.fragment4(
            ipv4.build(A4, B4, 17, random.randbytes(40), identification=name, tos=random.choice((0, 2))),
            random.choice((28, 44)),
        )
        for name in range(3)
    ]
    body = bytes((17, 0, 1, 4, 0, 0, 0, 0)) + random.randbytes(40)
    packet = ipv6.build(A6, B6, 60, body)
    cuts += [fragments.fragment6(packet, random.choice((64, 72)), name) for name in range(3)]
    pieces = [piece for pieces in random.sample(cuts, 4) for piece in pieces]
    if random.random() < 0.7:
        pieces = random.choices(pieces, k=len(pieces))
    for _ in range(random.randrange(6)):
        pieces[random.randrange(len(pieces))] = mutated(random, random.choice((pieces, PACKETS4 + PACKETS6)))
    return [mended(marked(piece)) if random.random() < 0.05 else piece for piece in pieces]


def marked(packet: bytes) -> bytes:
    """Congestion was experienced on its way."""
    bits = 3 if packet[:1] == b"\x45" else 0x30
    return packet[:1] + bytes(octet | bits for octet in packet[1:2]) + packet[2:]


@seeded
def test_bytes_are_an_ipv4_packet_or_an_error(random: Random) -> None:
    parsed4(anything(random))


@seeded
def test_bytes_are_an_ipv6_packet_or_an_error(random: Random) -> None:
    parsed6(anything(random))


@seeded
def test_bytes_carry_an_upper_layer_or_an_error(random: Random) -> None:
    looked_behind(anything(random))


@seeded
def test_clamping_keeps_length_and_checksum(random: Random) -> None:
    clamped(anything(random), random.randint(68, 9000))


@seeded
def test_an_error_about_bytes_is_right_or_there_is_none(random: Random) -> None:
    answered(anything(random))


@seeded
def test_bytes_are_cut_or_an_error(random: Random) -> None:
    cut(anything(random), random.randint(0, 150))


@seeded
def test_no_datagram_vanishes(random: Random) -> None:
    put_together(flow(random), random.choices([0, 0.5, 2, 6], k=3))


def test_what_is_drawn_gets_far_enough() -> None:
    """Each law is put to use: packets are read, clamped, cut, and every reason comes up."""
    drawn = [mutated(Random(seed)) for seed in range(1000)]
    assert sum(or_error(ipv4.parse, data) is not None for data in drawn) > 100
    assert sum(or_error(ipv6.parse, data) is not None for data in drawn) > 100
    assert sum((made := clamped(data, 1280)) is not None and not data.startswith(made) for data in drawn) > 50
    assert sum(cut(data, 80) > 1 for data in drawn) > 50
    reasons = {why for seed in range(1000) for why in put_together(flow(Random(seed)), [0, 2, 0])}
    assert reasons == {*GivenUp} - {GivenUp.TOO_LONG}  # that takes 65,535 bytes
