"""``v6v4tunnel``: every check with the packet that it stops and its neighbour that passes; what it tells."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.protocol41 import LEAST, MOST
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet import icmpv6, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from portproxy.tunnel.reasons import Dropped

PEER = "198.51.100.2"
OWN = IPv6Address("fe80::c633:6401").packed
HERE, THERE = IPv6Address("2001:db8:1::1").packed, IPv6Address("2001:db8:2::1").packed
FROM_PEER, CONGESTED = Source(PEER), Source(PEER, 0, 3)
heard = partial(WireError, destination=PEER)
UDP, TCP = 17, 6


def inner(
    size: int = 48, source: bytes | str = THERE, *, to: bytes = HERE, ecn: int = 0, protocol: int = UDP
) -> bytes:
    """A packet of ``size`` bytes."""
    packed = IPv6Address(source).packed
    payload = bytes(at % 251 for at in range(size - 40))
    return ipv6.build(packed, to, protocol, payload, traffic_class=0xB8 | ecn, flow=0xABCDE)


def of_version(packet: bytes, version: int) -> bytes:
    return bytes((version << 4 | packet[0] & 0xF,)) + packet[1:]


def syn(mss: int) -> bytes:
    """A TCP segment that opens a connection, whose checksum is right."""
    segment = struct.pack(">HHIIBBHHHBBH", 1024, 80, 1, 0, 0x60, 0x02, 65535, 0, 0, 2, 4, mss)
    sum_ = upper_layer(HERE, THERE, TCP, segment)
    return ipv6.build(HERE, THERE, TCP, segment[:16] + sum_.to_bytes(2) + segment[18:])


def mss_of(packet: bytes) -> int:
    assert upper_layer(packet[8:24], packet[24:40], TCP, packet[40:]) == 0, "the checksum is wrong"
    return int.from_bytes(packet[62:64])


def checked(mode: SixInFour, effects: Sequence[Effect]) -> list[Effect]:
    """``effects``, none of which breaks a rule."""
    for effect in effects:
        if isinstance(effect, SendTun):
            header = ipv6.parse(effect.packet)
            assert len(effect.packet) == ipv6.HEADER + header.payload_length, "not trimmed"
            source = IPv6Address(header.source)
            assert not source.is_multicast
            assert source.ipv4_mapped is None
            assert int(source) >> 32 or int(source) == 0
        elif isinstance(effect, SendWire):
            assert effect.destination == (PEER, 0)
            assert len(effect.data) <= mode.mtu
            assert effect.tos in range(4)
        elif isinstance(effect, SetMtu):
            assert effect.mtu == mode.mtu
            assert LEAST <= effect.mtu <= MOST
    kinds = [type(effect) for effect in effects]
    assert kinds.count(Drop) + kinds.count(SendWire) <= 1
    return list(effects)


def reported(effects: Sequence[Effect], kind: int, code: int, value: int, about: bytes) -> None:
    """The last of ``effects`` tells the source of ``about``, and quotes as much of it as it may."""
    (error,) = [effect.packet for effect in effects if isinstance(effect, SendTun)]
    header = ipv6.parse(error)
    assert (header.source, header.destination, header.next_header) == (OWN, about[8:24], icmpv6.PROTOCOL)
    message = error[40:]
    assert upper_layer(OWN, about[8:24], icmpv6.PROTOCOL, message) == 0
    assert (message[0], message[1], int.from_bytes(message[4:8])) == (kind, code, value)
    assert message[8:] == about[: 1280 - 48]


CHECKS = {
    "the outer source is another": (Dropped.SOURCE, (inner(), Source("198.51.100.3")), (inner(), FROM_PEER)),
    "the outer source is no address": (Dropped.SOURCE, (inner(), Source("")), (inner(), FROM_PEER)),
    "nothing": (Dropped.NOT_IP, (b"", FROM_PEER), (inner(40), FROM_PEER)),
    "less than a header": (Dropped.NOT_IP, (inner(40)[:39], FROM_PEER), (inner(40), FROM_PEER)),
    "version 4": (Dropped.NOT_IP, (of_version(inner(), 4), FROM_PEER), (inner(), FROM_PEER)),
    "version 7": (Dropped.NOT_IP, (of_version(inner(), 7), FROM_PEER), (inner(), FROM_PEER)),
    "it ends early": (Dropped.TRUNCATED, (inner()[:-1], FROM_PEER), (inner(), FROM_PEER)),
    "a header that promises more": (Dropped.TRUNCATED, (inner(41)[:40], FROM_PEER), (inner(40), FROM_PEER)),
    "CE outside, Not-ECT inside": (Dropped.ECN, (inner(ecn=0), CONGESTED), (inner(ecn=2), CONGESTED)),
    "CE outside is not ECT(0)": (Dropped.ECN, (inner(), CONGESTED), (inner(), Source(PEER, 0, 2))),
}


@pytest.mark.parametrize(("reason", "stopped", "passes"), CHECKS.values(), ids=CHECKS)
def test_what_arrives_is_checked(
    reason: Dropped, stopped: tuple[bytes, Source], passes: tuple[bytes, Source]
) -> None:
    mode = SixInFour(PEER, OWN)
    assert mode.from_wire(*stopped, 0.0) == (Drop(reason),)
    (sent,) = checked(mode, mode.from_wire(*passes, 0.0))
    assert isinstance(sent, SendTun)


@pytest.mark.parametrize(
    ("stopped", "passes"),
    [
        ("ff00::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("ff02::1", "fe80::1"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "feff::1"),
        ("::1", "::"),
        ("::0.0.0.2", "::1:0:0"),
        ("::192.0.2.1", "::1:192.0.2.1"),
        ("::255.255.255.255", "0:0:0:0:0:1::"),
        ("::ffff:0.0.0.0", "::fffe:0:0"),
        ("::ffff:192.0.2.1", "::1:ffff:192.0.2.1"),
        ("::ffff:255.255.255.255", "::ffff:0:192.0.2.1"),
    ],
)
def test_sources_that_may_not_be_inside(stopped: str, passes: str) -> None:
    """RFC 4213, 3.6."""
    mode = SixInFour(PEER, OWN)
    assert mode.from_wire(inner(source=stopped), FROM_PEER, 0.0) == (Drop(Dropped.INNER_SOURCE),)
    assert mode.from_wire(inner(source=passes), FROM_PEER, 0.0) == (SendTun(inner(source=passes)),)


def test_the_peer_is_checked_before_anything_is_believed() -> None:
    """What is wrong in every way counts as somebody else's; then each check in its turn."""
    mode = SixInFour(PEER, OWN)
    stranger, wrong = Source("192.0.2.9", 0, 3), inner(source="::1")
    rows = [
        (of_version(wrong, 4)[:-1], stranger, Dropped.SOURCE),
        (of_version(wrong, 4)[:-1], CONGESTED, Dropped.NOT_IP),
        (wrong[:-1], CONGESTED, Dropped.TRUNCATED),
        (wrong, CONGESTED, Dropped.INNER_SOURCE),
        (inner(), CONGESTED, Dropped.ECN),
    ]
    for data, source, reason in rows:
        assert mode.from_wire(data, source, 0.0) == (Drop(reason),)


@pytest.mark.parametrize("padding", [1, 7, 1400])
def test_padding_is_trimmed(padding: int) -> None:
    mode = SixInFour(PEER, OWN)
    assert mode.from_wire(inner() + bytes(padding), FROM_PEER, 0.0) == (SendTun(inner()),)


def test_more_than_the_mtu_is_received() -> None:
    """RFC 4213, 3.6: at least 1500 bytes, and here whatever the outer protocol could carry."""
    mode = SixInFour(PEER, OWN, mtu=1280)
    for size in (1281, 1500, MOST):
        assert mode.from_wire(inner(size), FROM_PEER, 0.0) == (SendTun(inner(size)),)


NOT_ECT, ECT_1, ECT_0, CE = range(4)


@pytest.mark.parametrize(
    ("within", "outer", "leaves"),
    [
        # RFC 6040, figure 4.
        *((NOT_ECT, NOT_ECT, NOT_ECT), (NOT_ECT, ECT_0, NOT_ECT), (NOT_ECT, ECT_1, NOT_ECT)),
        (NOT_ECT, CE, None),
        *((ECT_0, NOT_ECT, ECT_0), (ECT_0, ECT_0, ECT_0), (ECT_0, ECT_1, ECT_1), (ECT_0, CE, CE)),
        *((ECT_1, NOT_ECT, ECT_1), (ECT_1, ECT_0, ECT_1), (ECT_1, ECT_1, ECT_1), (ECT_1, CE, CE)),
        *((CE, NOT_ECT, CE), (CE, ECT_0, CE), (CE, ECT_1, CE), (CE, CE, CE)),
    ],
)
@pytest.mark.parametrize("dscp", [0, 0xFC])
def test_congestion_is_told_on(within: int, outer: int, leaves: int | None, dscp: int) -> None:
    effects = SixInFour(PEER, OWN).from_wire(inner(ecn=within), Source(PEER, 0, dscp | outer), 0.0)
    if leaves is None:
        assert effects == (Drop(Dropped.ECN),)
    else:
        # The inner DSCP and flow label stay what they were.
        assert effects == (SendTun(inner(ecn=leaves)),)


@pytest.mark.parametrize("ecn", range(4))
def test_congestion_bits_are_copied_outside_and_the_dscp_is_not(ecn: int) -> None:
    packet = inner(ecn=ecn)
    assert SixInFour(PEER, OWN, mtu=1480).from_tun(packet, 0.0) == (SendWire(packet, (PEER, 0), ecn, False),)


@pytest.mark.parametrize(
    ("stopped", "passes"),
    [
        (b"", inner(40)),
        (inner(40)[:39], inner(40)),
        (of_version(inner(), 4), inner()),
        (of_version(inner(), 0), inner()),
    ],
)
def test_only_ipv6_goes_out(stopped: bytes, passes: bytes) -> None:
    mode = SixInFour(PEER, OWN)
    assert mode.from_tun(stopped, 0.0) == (Drop(Dropped.NOT_IP),)
    assert mode.from_tun(passes, 0.0) == (SendWire(passes, (PEER, 0), 0, True),)


@pytest.mark.parametrize("mtu", [1280, 1480, 4000])
def test_with_a_static_mtu_the_outer_packet_may_be_fragmented(mtu: int) -> None:
    """RFC 4213, 3.2.1."""
    mode = SixInFour(PEER, OWN, mtu=mtu)
    assert mode.mtu == mtu
    assert mode.from_tun(inner(mtu), 0.0) == (SendWire(inner(mtu), (PEER, 0), 0, False),)
    over = inner(mtu + 1)
    effects = checked(mode, mode.from_tun(over, 0.0))
    assert effects[0] == Drop(Dropped.TOO_BIG)
    reported(effects, icmpv6.PACKET_TOO_BIG, 0, mtu, over)
    assert mode.from_error(heard(3, 4, 1200, "", inner(mtu)), 0.0) == ()
    assert (mode.mtu, mode.next_deadline(), mode.tick(1e9)) == (mtu, math.inf, ())


@pytest.mark.parametrize(
    ("kind", "code"), [(3, 0), (3, 1), (3, 2), (3, 3), (3, 5), (3, 13), (11, 0), (11, 1)]
)
@pytest.mark.parametrize("quoted", [40, 48, 520, 2000])
def test_errors_of_the_outer_network_are_told_to_the_inner_source(kind: int, code: int, quoted: int) -> None:
    """RFC 4213, 3.4."""
    about = inner(quoted, HERE, to=THERE)
    mode = SixInFour(PEER, OWN)
    effects = checked(mode, mode.from_error(heard(kind, code, 0, "192.0.2.254", about), 0.0))
    reported(effects, icmpv6.DESTINATION_UNREACHABLE, icmpv6.Unreachable.ADDRESS, 0, about)


@pytest.mark.parametrize(
    "error",
    [
        heard(3, 1, 0, "", inner(1400)[:8]),  # as much as RFC 792 asks for: not enough
        heard(3, 1, 0, "", inner(48)[:39]),
        heard(3, 1, 0, "", of_version(inner(), 4)),
        heard(3, 1, 0, "", inner(source="::")),
        heard(3, 1, 0, "", inner(source="ff02::1")),
        heard(3, 1, 0, "", inner(to=IPv6Address("ff02::1").packed)),
        heard(3, 1, 0, "", ipv6.build(HERE, THERE, 58, bytes((1, 0, 0, 0)) + bytes(44))),
        heard(4, 0, 0, "", inner()),  # source quench
        heard(5, 0, 0, "", inner()),  # redirect
        heard(0, 0, 0, "", inner()),
        heard(8, 0, 0, "", inner()),
    ],
)
def test_errors_of_the_outer_network_that_nobody_is_told(error: WireError) -> None:
    assert SixInFour(PEER, OWN).from_error(error, 0.0) == ()


@pytest.mark.parametrize("next_header", [ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, 51])
@pytest.mark.parametrize("quoted", range(40, 58))
def test_a_quote_may_end_within_extension_headers(next_header: int, quoted: int) -> None:
    """What is quoted is less than the header in it says."""
    packet = ipv6.build(HERE, THERE, next_header, bytes((next_header, 0)) * 100)[:quoted]
    mode = SixInFour(PEER, OWN)
    effects = checked(mode, mode.from_error(heard(3, 1, 0, "", packet), 0.0))
    reported(effects, icmpv6.DESTINATION_UNREACHABLE, icmpv6.Unreachable.ADDRESS, 0, packet)


def test_no_error_is_sent_about_an_error() -> None:
    """RFC 4443, 2.4 (e): too large is dropped all the same."""
    mode = SixInFour(PEER, OWN, mtu=1280)
    for kind, told in ((1, False), (3, False), (127, False), (128, True), (137, False)):
        over = ipv6.build(HERE, THERE, icmpv6.PROTOCOL, bytes((kind, 0)) + bytes(1300))
        first, *rest = mode.from_tun(over, 0.0)
        assert first == Drop(Dropped.TOO_BIG)
        assert bool(rest) is told


def test_errors_are_sent_at_a_limited_rate() -> None:
    mode = SixInFour(PEER, OWN, mtu=1280)
    over, unreachable = inner(1281), heard(3, 1, 0, "", inner())
    for _ in range(25):
        assert len(mode.from_tun(over, 5.0)) == 2
        assert len(mode.from_error(unreachable, 5.0)) == 1
    assert mode.from_tun(over, 5.0) == (Drop(Dropped.TOO_BIG),)
    assert mode.from_error(unreachable, 5.005) == ()
    assert len(mode.from_tun(over, 5.015)) == 2
    assert mode.from_tun(over, 5.015) == (Drop(Dropped.TOO_BIG),)
    # However long it waited, fifty at once.
    assert [len(mode.from_error(unreachable, 1000.0)) for _ in range(51)] == [1] * 50 + [0]


@pytest.mark.parametrize(
    ("clamp", "offered", "taken"),
    [(True, 1440, 1320), (True, 1321, 1320), (True, 1320, 1320), (True, 536, 536), (False, 1440, 1440)],
)
def test_tcp_segments_are_kept_below_the_mtu_if_asked_for(clamp: bool, offered: int, taken: int) -> None:
    mode = SixInFour(PEER, OWN, clamp_mss=clamp)
    mode.from_error(heard(3, 4, 1400, "", inner(1480)), 0.0)
    (out,) = mode.from_tun(syn(offered), 0.0)
    (back,) = mode.from_wire(syn(offered), FROM_PEER, 0.0)
    assert isinstance(out, SendWire)
    assert isinstance(back, SendTun)
    assert mss_of(out.data) == mss_of(back.packet) == taken


packets = st.builds(
    lambda size, source, ecn, padding: inner(size, source, ecn=ecn) + bytes(padding),
    st.integers(40, 1600),
    st.sampled_from(["2001:db8::1", "::", "::1", "ff02::1", "::ffff:192.0.2.1", "::192.0.2.1", "::1:0:0"]),
    st.integers(0, 3),
    st.integers(0, 20),
)
happenings = st.lists(
    st.tuples(st.just("out"), packets, st.just(0))
    | st.tuples(st.just("in"), packets, st.integers(0, 255))
    | st.tuples(st.just("narrow"), packets, st.integers(0, 2000))
    | st.tuples(st.just("unreachable"), packets, st.sampled_from([0, 1, 2, 3]))
    | st.tuples(st.just("time"), packets, st.integers(1, 1000)),
    max_size=12,
)


modes = st.builds(
    lambda mtu, link, clamp: SixInFour(PEER, OWN, mtu=mtu, link=link, clamp_mss=clamp),
    st.none() | st.integers(1280, 1600),
    st.integers(1280, 9000),
    st.booleans(),
)


@given(mode=modes, what=happenings)
def test_no_effect_breaks_a_rule(mode: SixInFour, what: list[tuple[str, bytes, int]]) -> None:
    now, widest = 0.0, mode.mtu
    for event, packet, value in what:
        if event == "out":
            checked(mode, mode.from_tun(packet, now))
        elif event == "in":
            effects = checked(mode, mode.from_wire(packet, Source(PEER, 0, value), now))
            assert [type(effect) for effect in effects] in ([SendTun], [Drop])
        elif event == "narrow":
            checked(mode, mode.from_error(heard(3, 4, value, "", packet), now))
        elif event == "unreachable":
            checked(mode, mode.from_error(heard(3, value, 0, "", packet), now))
        else:
            now += value
            if now >= mode.next_deadline():
                checked(mode, mode.tick(now))
        assert mode.next_deadline() > now
        assert LEAST <= mode.mtu <= widest
