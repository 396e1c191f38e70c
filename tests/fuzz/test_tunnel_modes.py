"""Whatever comes to a tunnel's mode, from either side or as an error: it keeps to its rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet import icmpv4, icmpv6, ipv4, ipv6
from tests.fuzz.examples import fuzz, seeded
from tests.tunnel import test_fourinsix as four
from tests.tunnel import test_sixinfour as six

EXTENSIONS = (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.DESTINATION_OPTIONS, 51)
SIX_SOURCES = ("2001:db8::1", "::", "::1", "ff02::1", "::ffff:192.0.2.1")
FOUR_SOURCES = ("192.0.2.1", "0.0.0.0", "127.0.0.1", "224.0.0.1")
PACKETS = {
    SixInFour: [
        *(six.inner(size, source) for size in (40, 60, 1280, 1281, 1500) for source in SIX_SOURCES),
        *(ipv6.build(six.HERE, six.THERE, kind, bytes((6, 0)) * 40) for kind in EXTENSIONS),
        *(ipv6.build(six.HERE, six.THERE, 58, bytes((kind, 0)) + bytes(1400)) for kind in (1, 128)),
        six.syn(1440),
    ],
    FourInSix: [
        *(four.inner(size, source) for size in (20, 60, 1500) for source in FOUR_SOURCES),
        *map(four.guarded, (1280, 1460, 1500)),
        *(ipv4.build(four.HERE, four.THERE, 1, bytes((kind, 0)) + bytes(30)) for kind in (3, 8)),
        *(four.syn(1460), ipv4.build(four.HERE, four.THERE, 6, four.syn(1460)[20:], options=bytes(8))),
    ],
}
"""What is mutated: packets that pass, and others that a check stops."""
PEERS = {SixInFour: six.PEER, FourInSix: four.PEER}
OWN = {SixInFour: six.OWN, FourInSix: four.OWN}
RULES: dict[type, Callable[..., list[Effect]]] = {SixInFour: six.checked, FourInSix: four.checked}

Kind = type[SixInFour | FourInSix]
each = pytest.mark.parametrize("kind", [SixInFour, FourInSix], ids=["6in4", "4in6"])


def packet(kind: Kind, random: Random) -> bytes:
    """Any bytes, or a valid packet of which some were changed, left out or put in, most in its headers."""
    if random.random() < 0.2:
        return random.randbytes(random.choice((0, 1, 19, 20, 39, 40, 41, 60, 1300)))
    data = bytearray(random.choice(PACKETS[kind]))
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        at = random.randrange(min(len(data), 80) + 1)
        data[at : at + random.choice((0, 1, 1, 1, 2))] = random.randbytes(random.choice((0, 1, 1, 1, 2)))
    if random.random() < 0.3:
        del data[random.randrange(len(data) + 1) :]
    return bytes(data)


def mode(kind: Kind, random: Random) -> SixInFour | FourInSix:
    mtu, link = random.choice((None, None, 1280, 1480)), random.choice((1280, 1500))
    return kind(PEERS[kind], OWN[kind], mtu=mtu, link=link, clamp_mss=random.random() < 0.5)


def error(kind: Kind, random: Random) -> WireError:
    """Of a type that means something, most often."""
    type_ = random.choice((1, 2, 3, 3, 3, 4, 11, 12, random.randrange(256)))
    path = random.choice((0, 68, 1279, 1280, 1299, 1300, 1400, 1500, random.randrange(2**32)))
    destination = random.choice((*[PEERS[kind]] * 5, "192.0.2.9"))
    return WireError(type_, random.choice((0, 1, 4, 4)), path, "", packet(kind, random), destination)


def told(kind: Kind, effects: Sequence[Effect]) -> None:
    """What comes back to this host, though it arrived from nobody, is an ICMP error from here."""
    for effect in effects:
        if isinstance(effect, SendTun):
            from_here = effect.packet[8:24] if kind is SixInFour else effect.packet[12:16]
            protocol = effect.packet[6] if kind is SixInFour else effect.packet[9]
            assert from_here == OWN[kind]
            assert protocol == (icmpv6 if kind is SixInFour else icmpv4).PROTOCOL
            assert len(effect.packet) <= (1280 if kind is SixInFour else 576)


def arrives(kind: Kind, tested: SixInFour | FourInSix, data: bytes, source: Source, now: float) -> None:
    """One packet is given on by the rules, and none of a stranger's, or there is a reason."""
    effects = RULES[kind](tested, tested.from_wire(data, source, now))
    assert [type(effect) for effect in effects] in ([SendTun], [Drop])
    if source.host != PEERS[kind]:
        assert isinstance(effects[0], Drop)


def is_sent(kind: Kind, tested: SixInFour | FourInSix, data: bytes, now: float) -> None:
    """One packet is carried by the rules, or there is a reason, which may be told."""
    effects = RULES[kind](tested, tested.from_tun(data, now))
    told(kind, effects)
    assert [type(effect) for effect in effects] in ([SendWire], [Drop], [Drop, SendTun])


def is_reported(kind: Kind, tested: SixInFour | FourInSix, heard: WireError, now: float) -> None:
    """An error is told by the rules, or narrows the path for a while, or neither."""
    effects = RULES[kind](tested, tested.from_error(heard, now))
    told(kind, effects)
    assert [type(effect) for effect in effects] in ([], [SetMtu], [SendTun], [SetMtu, SendTun])
    assert tested.next_deadline() >= now + 500


@each
@seeded
def test_whatever_arrives_is_given_on_by_the_rules_or_dropped(random: Random, kind: Kind) -> None:
    source = Source(random.choice((*[PEERS[kind]] * 3, "192.0.2.9")), 0, random.randrange(256))
    arrives(kind, mode(kind, random), packet(kind, random), source, 0.0)


@each
@seeded
def test_whatever_is_sent_is_carried_by_the_rules_or_dropped(random: Random, kind: Kind) -> None:
    is_sent(kind, mode(kind, random), packet(kind, random), 0.0)


@each
@seeded
def test_whatever_is_reported_is_told_by_the_rules_or_ignored(random: Random, kind: Kind) -> None:
    tested = mode(kind, random)
    for now in (0.0, 100.0):
        is_reported(kind, tested, error(kind, random), now)
    is_sent(kind, tested, packet(kind, random), 100.0)
    arrives(kind, tested, packet(kind, random), Source(PEERS[kind]), 100.0)
    RULES[kind](tested, tested.tick(1000.0))
    assert tested.next_deadline() == float("inf")


@each
@fuzz(500)
@given(data=st.binary(max_size=100), tos=st.integers(0, 255))
def test_any_bytes_at_all(kind: Kind, data: bytes, tos: int) -> None:
    tested = kind(PEERS[kind], OWN[kind], clamp_mss=True)
    RULES[kind](tested, tested.from_wire(data, Source(PEERS[kind], 0, tos), 0.0))
    RULES[kind](tested, tested.from_tun(data, 0.0))
    RULES[kind](tested, tested.from_error(WireError(3, 4, 1400, "", data, PEERS[kind]), 0.0))
    RULES[kind](tested, tested.from_error(WireError(3, 1, 0, "", data, PEERS[kind]), 0.0))
