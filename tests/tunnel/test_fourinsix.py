"""``v4v6tunnel``: every check with the packet that it stops and its neighbour that passes; what it tells."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.fourinsix import LIMIT_OPTION, OVERHEAD, FourInSix
from portproxy.tunnel.packet import PacketError, icmpv4, ipv4
from portproxy.tunnel.packet.checksum import checksum
from portproxy.tunnel.reasons import Dropped

PEER = str(IPv6Address("2001:db8::2"))
OWN = IPv4Address("192.0.2.1").packed
HERE, THERE = IPv4Address("10.1.0.1").packed, IPv4Address("10.2.0.1").packed
FROM_PEER = Source(PEER)
heard = partial(WireError, destination=PEER)
UDP, TCP = 17, 6


def inner(
    size: int = 48, source: bytes | str = THERE, *, to: bytes = HERE, ecn: int = 0, flags: int = 0
) -> bytes:
    """A packet of ``size`` bytes."""
    payload = bytes(at % 251 for at in range(size - 20))
    packed = IPv4Address(source).packed
    return ipv4.build(packed, to, UDP, payload, tos=0xB8 | ecn, identification=7, fragment=flags)


def guarded(size: int = 48) -> bytes:
    return inner(size, HERE, to=THERE, flags=ipv4.DONT_FRAGMENT)


def put(packet: bytes, at: int, value: int) -> bytes:
    """``packet`` with a byte changed, and the checksum of 20 bytes of header right again."""
    head = bytearray(packet[:20])
    head[at], head[10:12] = value, b"\0\0"
    head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + packet[20:]


def syn(mss: int) -> bytes:
    """A TCP segment that opens a connection, whose checksum is right."""
    segment = struct.pack(">HHIIBBHHHBBH", 1024, 80, 1, 0, 0x60, 0x02, 65535, 0, 0, 2, 4, mss)
    sum_ = checksum(HERE + THERE + struct.pack(">HH", TCP, len(segment)) + segment)
    return ipv4.build(HERE, THERE, TCP, segment[:16] + sum_.to_bytes(2) + segment[18:])


def mss_of(packet: bytes) -> int:
    assert checksum(packet[12:20] + struct.pack(">HH", TCP, len(packet) - 20) + packet[20:]) == 0
    return int.from_bytes(packet[42:44])


def checked(mode: FourInSix, effects: Sequence[Effect]) -> list[Effect]:
    """``effects``, none of which breaks a rule."""
    for effect in effects:
        if isinstance(effect, SendTun):
            length, total = (effect.packet[0] & 0xF) * 4, int.from_bytes(effect.packet[2:4])
            assert 20 <= length <= total == len(effect.packet)
            assert effect.packet[0] >> 4 == 4
            source = IPv4Address(effect.packet[12:16])
            assert not source.is_multicast
            assert not source.is_loopback
            assert int(source) >> 28 != 0xF
        elif isinstance(effect, SendWire):
            assert effect.destination == (PEER, 0)
            assert len(effect.data) <= mode.mtu or not effect.data[6] & 0x40
            assert effect.tos in range(4)
            assert not effect.dont_fragment
        elif isinstance(effect, SetMtu):
            assert effect.mtu == mode.mtu > 0
    kinds = [type(effect) for effect in effects]
    assert kinds.count(Drop) + kinds.count(SendWire) <= 1
    return list(effects)


def reported(effects: Sequence[Effect], code: int, value: int, about: bytes) -> None:
    """The one packet among ``effects`` tells the source of ``about``, and quotes as much of it as it may."""
    (error,) = [effect.packet for effect in effects if isinstance(effect, SendTun)]
    header = ipv4.parse(error)
    assert (header.source, header.destination, header.protocol) == (OWN, about[12:16], icmpv4.PROTOCOL)
    message = error[20:]
    assert checksum(message) == 0
    assert (message[0], message[1], int.from_bytes(message[4:8])) == (3, code, value)
    assert message[8:] == about[: 576 - 28]


CHECKS = {
    "the outer source is another": (
        Dropped.SOURCE,
        (inner(), Source("2001:db8::3")),
        (inner(), Source("2001:db8::2")),
    ),
    "the outer source is no address": (Dropped.SOURCE, (inner(), Source("")), (inner(), FROM_PEER)),
    "nothing": (Dropped.NOT_IP, (b"", FROM_PEER), (inner(20), FROM_PEER)),
    "less than a header": (Dropped.NOT_IP, (inner(20)[:19], FROM_PEER), (inner(20), FROM_PEER)),
    "version 6": (Dropped.NOT_IP, (put(inner(), 0, 0x65), FROM_PEER), (put(inner(), 0, 0x45), FROM_PEER)),
    "version 5": (Dropped.NOT_IP, (put(inner(), 0, 0x55), FROM_PEER), (inner(), FROM_PEER)),
    "it ends early": (Dropped.TRUNCATED, (inner()[:-1], FROM_PEER), (inner(), FROM_PEER)),
    "a header of four words": (
        Dropped.TRUNCATED,
        (put(inner(), 0, 0x44), FROM_PEER),
        (put(inner(), 0, 0x45), FROM_PEER),
    ),
    "a header longer than the packet": (
        Dropped.TRUNCATED,
        (put(inner(20), 0, 0x46), FROM_PEER),
        (put(inner(24), 0, 0x46), FROM_PEER),
    ),
    "a length less than the header's": (
        Dropped.TRUNCATED,
        (put(inner(), 3, 19), FROM_PEER),
        (put(inner(), 3, 20), FROM_PEER),
    ),
    "CE outside, Not-ECT inside": (
        Dropped.ECN,
        (inner(ecn=0), Source(PEER, 0, 3)),
        (inner(ecn=2), Source(PEER, 0, 3)),
    ),
    "CE and a DSCP outside": (
        Dropped.ECN,
        (inner(ecn=0), Source(PEER, 0, 0xBB)),
        (inner(ecn=0), Source(PEER, 0, 0xBA)),
    ),
}


@pytest.mark.parametrize(("reason", "stopped", "passes"), CHECKS.values(), ids=CHECKS)
def test_what_arrives_is_checked(
    reason: Dropped, stopped: tuple[bytes, Source], passes: tuple[bytes, Source]
) -> None:
    mode = FourInSix(PEER, OWN)
    assert mode.from_wire(*stopped, 0.0) == (Drop(reason),)
    (sent,) = checked(mode, mode.from_wire(*passes, 0.0))
    assert isinstance(sent, SendTun)


@pytest.mark.parametrize(
    ("stopped", "passes"),
    [
        ("0.0.0.1", "0.0.0.0"),
        ("0.255.255.255", "1.0.0.0"),
        ("127.0.0.1", "126.255.255.255"),
        ("127.255.255.255", "128.0.0.0"),
        ("224.0.0.1", "223.255.255.255"),
        ("240.0.0.1", "10.0.0.1"),
        ("255.255.255.255", "192.168.0.1"),
    ],
)
def test_sources_that_may_not_be_inside(stopped: str, passes: str) -> None:
    """RFC 1122, 3.2.1.3; private ones may, and DHCP's 0.0.0.0."""
    mode = FourInSix(PEER, OWN)
    assert mode.from_wire(inner(source=stopped), FROM_PEER, 0.0) == (Drop(Dropped.INNER_SOURCE),)
    assert mode.from_wire(inner(source=passes), FROM_PEER, 0.0) == (SendTun(inner(source=passes)),)


def test_the_peer_is_checked_before_anything_is_believed() -> None:
    """What is wrong in every way counts as somebody else's; then each check in its turn."""
    mode = FourInSix(PEER, OWN)
    stranger, congested = Source("2001:db8::9", 0, 3), Source(PEER, 0, 3)
    wrong = inner(source="127.0.0.1")
    rows = [
        (put(wrong, 0, 0x65)[:-1], stranger, Dropped.SOURCE),
        (put(wrong, 0, 0x65)[:-1], congested, Dropped.NOT_IP),
        (wrong[:-1], congested, Dropped.TRUNCATED),
        (wrong, congested, Dropped.INNER_SOURCE),
        (inner(), congested, Dropped.ECN),
    ]
    for data, source, reason in rows:
        assert mode.from_wire(data, source, 0.0) == (Drop(reason),)


@pytest.mark.parametrize("padding", [1, 7, 1400])
def test_padding_is_trimmed(padding: int) -> None:
    assert FourInSix(PEER, OWN).from_wire(inner() + bytes(padding), FROM_PEER, 0.0) == (SendTun(inner()),)


def test_more_than_the_mtu_is_received() -> None:
    mode = FourInSix(PEER, OWN, mtu=1280)
    for size in (1281, 1500, 65535):
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
def test_congestion_is_told_on(within: int, outer: int, leaves: int | None) -> None:
    effects = FourInSix(PEER, OWN).from_wire(inner(ecn=within), Source(PEER, 0, 0xFC | outer), 0.0)
    expected = Drop(Dropped.ECN) if leaves is None else SendTun(inner(ecn=leaves))
    assert effects == (expected,)


def test_a_wrong_checksum_stays_wrong_when_congestion_is_told_on() -> None:
    """The outer header has no checksum: only the inner one guards the inner header."""
    for at in range(12, 20):
        packet = inner(ecn=2)
        broken = packet[:at] + bytes((packet[at] ^ 0x10,)) + packet[at + 1 :]
        (sent,) = FourInSix(PEER, OWN).from_wire(broken, Source(PEER, 0, 3), 0.0)
        assert isinstance(sent, SendTun)
        with pytest.raises(PacketError, match="checksum"):
            ipv4.parse(sent.packet)


@pytest.mark.parametrize("ecn", range(4))
def test_congestion_bits_are_copied_outside_and_the_dscp_is_not(ecn: int) -> None:
    assert FourInSix(PEER, OWN).from_tun(inner(ecn=ecn), 0.0) == (SendWire(inner(ecn=ecn), (PEER, 0), ecn),)


@pytest.mark.parametrize(
    ("stopped", "passes"),
    [(b"", inner(20)), (inner(20)[:19], inner(20)), (put(inner(), 0, 0x65), put(inner(), 0, 0x45))],
)
def test_only_ipv4_goes_out(stopped: bytes, passes: bytes) -> None:
    mode = FourInSix(PEER, OWN)
    assert mode.from_tun(stopped, 0.0) == (Drop(Dropped.NOT_IP),)
    assert mode.from_tun(passes, 0.0) == (SendWire(passes, (PEER, 0)),)


@pytest.mark.parametrize(
    ("mode", "mtu"),
    [
        (FourInSix(PEER, OWN, mtu=1280), 1280),
        (FourInSix(PEER, OWN), 1460),
        (FourInSix(PEER, OWN, overhead=OVERHEAD + LIMIT_OPTION), 1452),
        (FourInSix(PEER, OWN, link=9000), 8960),
    ],
)
def test_what_is_too_big_is_fragmented_outside_unless_it_forbids_that(mode: FourInSix, mtu: int) -> None:
    """RFC 2473, 7.2."""
    assert mode.mtu == mtu
    assert mode.from_tun(guarded(mtu), 0.0) == (SendWire(guarded(mtu), (PEER, 0)),)
    assert mode.from_tun(inner(mtu + 1), 0.0) == (SendWire(inner(mtu + 1), (PEER, 0)),)
    effects = checked(mode, mode.from_tun(guarded(mtu + 1), 0.0))
    assert effects[0] == Drop(Dropped.TOO_BIG)
    reported(effects, icmpv4.Unreachable.FRAGMENTATION_NEEDED, mtu, guarded(mtu + 1))


def too_big(mtu: int, quoted: bytes = guarded(1460)) -> WireError:
    """ICMPv6: packet too big."""
    return heard(2, 0, mtu, "2001:db8::fe", quoted)


def test_a_static_mtu_follows_nothing() -> None:
    mode = FourInSix(PEER, OWN, mtu=1460)
    assert mode.from_error(too_big(1300, guarded(1460)), 0.0) == ()
    assert (mode.mtu, mode.next_deadline(), mode.tick(1e9)) == (1460, math.inf, ())


@pytest.mark.parametrize(("path", "mtu"), [(1499, 1459), (1400, 1360), (1280, 1240)])
@pytest.mark.parametrize("option", [0, LIMIT_OPTION])
def test_a_dynamic_mtu_follows_the_path(path: int, mtu: int, option: int) -> None:
    mode = FourInSix(PEER, OWN, overhead=OVERHEAD + option)
    lost, mtu = guarded(mode.mtu), mtu - option
    effects = checked(mode, mode.from_error(too_big(path, lost), 1.0))
    assert effects[0] == SetMtu(mtu)
    reported(effects, icmpv4.Unreachable.FRAGMENTATION_NEEDED, mtu, lost)
    assert mode.from_tun(guarded(mtu), 1.0) == (SendWire(guarded(mtu), (PEER, 0)),)
    assert checked(mode, mode.from_tun(guarded(mtu + 1), 1.0))[0] == Drop(Dropped.TOO_BIG)


@pytest.mark.parametrize("quoted", [guarded(1460)[:8], guarded(1460)[:19], inner(1460)])
def test_a_narrow_path_is_told_to_whoever_forbids_fragments_only(quoted: bytes) -> None:
    assert FourInSix(PEER, OWN).from_error(too_big(1400, quoted), 0.0) == (SetMtu(1360),)


@pytest.mark.parametrize("path", [0, 68, 1279, 1400, 1401, 1500, 2**32 - 1])
def test_a_path_that_cannot_be_so_or_is_no_news_changes_nothing(path: int) -> None:
    mode = FourInSix(PEER, OWN)
    assert mode.from_error(too_big(1400), 0.0)[0] == SetMtu(1360)
    assert mode.from_error(too_big(path), 300.0) == ()
    assert (mode.mtu, mode.next_deadline()) == (1360, 600.0)


def test_a_narrow_path_is_forgotten_after_ten_minutes() -> None:
    mode = FourInSix(PEER, OWN)
    assert mode.next_deadline() == math.inf
    mode.from_error(too_big(1400), 100.0)
    assert (mode.next_deadline(), mode.tick(699.99), mode.mtu) == (700.0, (), 1360)
    assert checked(mode, mode.tick(700.0)) == [SetMtu(1460)]
    assert (mode.next_deadline(), mode.mtu) == (math.inf, 1460)


@pytest.mark.parametrize(("kind", "code"), [(1, 0), (1, 1), (1, 3), (1, 4), (3, 0), (4, 1)])
@pytest.mark.parametrize("quoted", [20, 48, 1000])
def test_errors_of_the_outer_network_are_told_to_the_inner_source(kind: int, code: int, quoted: int) -> None:
    """RFC 2473, 8.2: host unreachable."""
    mode, about = FourInSix(PEER, OWN), inner(quoted)
    effects = checked(mode, mode.from_error(heard(kind, code, 0, "2001:db8::fe", about), 0.0))
    reported(effects, icmpv4.Unreachable.HOST, 0, about)


@pytest.mark.parametrize(
    "error",
    [
        heard(1, 3, 0, "", inner(20)[:19]),
        heard(1, 3, 0, "", put(inner(), 0, 0x65)),
        heard(1, 3, 0, "", inner(source="0.0.0.0")),
        heard(1, 3, 0, "", inner(source="224.0.0.1")),
        heard(1, 3, 0, "", inner(to=IPv4Address("224.0.0.1").packed)),
        heard(1, 3, 0, "", inner(flags=1)),  # a later fragment
        heard(1, 3, 0, "", ipv4.build(HERE, THERE, 1, bytes((3, 1)) + bytes(30))),
        heard(127, 0, 0, "", inner()),
        heard(128, 0, 0, "", inner()),
    ],
)
def test_errors_of_the_outer_network_that_nobody_is_told(error: WireError) -> None:
    assert FourInSix(PEER, OWN).from_error(error, 0.0) == ()


def test_errors_are_sent_at_a_limited_rate() -> None:
    mode = FourInSix(PEER, OWN, mtu=1280)
    over, unreachable = guarded(1281), heard(1, 3, 0, "", inner())
    for _ in range(25):
        assert len(mode.from_tun(over, 5.0)) == 2
        assert len(mode.from_error(unreachable, 5.0)) == 1
    assert mode.from_tun(over, 5.0) == (Drop(Dropped.TOO_BIG),)
    assert mode.from_error(unreachable, 5.005) == ()
    assert len(mode.from_tun(over, 5.015)) == 2
    assert mode.from_tun(over, 5.015) == (Drop(Dropped.TOO_BIG),)


@pytest.mark.parametrize(
    ("clamp", "offered", "taken"),
    [(True, 1460, 1320), (True, 1321, 1320), (True, 1320, 1320), (True, 536, 536), (False, 1460, 1460)],
)
def test_tcp_segments_are_kept_below_the_mtu_if_asked_for(clamp: bool, offered: int, taken: int) -> None:
    mode = FourInSix(PEER, OWN, clamp_mss=clamp)
    mode.from_error(too_big(1400), 0.0)
    (out,) = mode.from_tun(syn(offered), 0.0)
    (back,) = mode.from_wire(syn(offered), FROM_PEER, 0.0)
    assert isinstance(out, SendWire)
    assert isinstance(back, SendTun)
    assert mss_of(out.data) == mss_of(back.packet) == taken


packets = st.builds(
    lambda size, source, ecn, flags, padding: inner(size, source, ecn=ecn, flags=flags) + bytes(padding),
    st.integers(20, 1600),
    st.sampled_from(["192.0.2.9", "0.0.0.0", "0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255"]),
    st.integers(0, 3),
    st.sampled_from([0, ipv4.DONT_FRAGMENT, ipv4.MORE_FRAGMENTS, 5]),
    st.integers(0, 20),
)
happenings = st.lists(
    st.tuples(st.just("out"), packets, st.just(0))
    | st.tuples(st.just("in"), packets, st.integers(0, 255))
    | st.tuples(st.just("error"), packets, st.integers(0, 2000))
    | st.tuples(st.just("time"), packets, st.integers(1, 1000)),
    max_size=12,
)
modes = st.builds(
    lambda mtu, link, clamp: FourInSix(PEER, OWN, mtu=mtu, link=link, clamp_mss=clamp),
    st.none() | st.integers(1280, 1600),
    st.integers(1280, 9000),
    st.booleans(),
)


@given(mode=modes, what=happenings)
def test_no_effect_breaks_a_rule(mode: FourInSix, what: list[tuple[str, bytes, int]]) -> None:
    now, widest = 0.0, mode.mtu
    for event, packet, value in what:
        if event == "out":
            checked(mode, mode.from_tun(packet, now))
        elif event == "in":
            effects = checked(mode, mode.from_wire(packet, Source(PEER, 0, value), now))
            assert [type(effect) for effect in effects] in ([SendTun], [Drop])
        elif event == "error":
            checked(mode, mode.from_error(heard(value % 5, 0, value, "", packet), now))
        else:
            now += value
            if now >= mode.next_deadline():
                checked(mode, mode.tick(now))
        assert mode.next_deadline() > now
        assert 1240 <= mode.mtu <= widest
