"""Whatever comes to a host or a router of an ISATAP link, from either side: it keeps to its rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Configure, Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.embedded import isatap
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.modes.isatap_router import IsatapRouter
from portproxy.tunnel.packet import PacketError, icmpv6, ipv6
from portproxy.tunnel.packet.discovery import Mtu, Preference, PrefixInformation, RouteInformation
from tests.fuzz.examples import fuzz, seeded
from tests.fuzz.test_discovery import summed
from tests.fuzz.test_tunnel_packets import mutated
from tests.tunnel import test_isatap_host as hosts
from tests.tunnel import test_isatap_router as routers
from tests.tunnel.test_isatap_host import (
    FAR,
    HOST,
    OTHER,
    ROUTER,
    SECOND,
    advert,
    at,
    checked,
    inner,
    ip,
    link,
    v4,
)
from tests.tunnel.test_isatap_router import NEW, solicit

OUTER = (ROUTER, ROUTER, SECOND, OTHER, OTHER, HOST, "127.0.0.1", "192.168.255.255")
ADDRESSES = tuple(
    map(
        ip,
        (
            FAR,
            at(OTHER),
            at(ROUTER),
            link(OTHER),
            link(ROUTER),
            link(HOST),
            "::",
            "ff02::1",
            "2002:c0a8:c09::1",
        ),
    )
)
LIFETIMES = (0, 1, 120, 1800, 7200, 7201, 86400, math.inf)
HEADERS = (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.DESTINATION_OPTIONS, 51)
ROUTERS_BUSINESS = (133, 134)

Kind = Callable[[Random], IsatapHost | IsatapRouter]


def host(random: Random) -> IsatapHost:
    mode = IsatapHost(HOST, ip(link(HOST)), mtu=random.choice((1280, 1480)), here=hosts.HERE, clamp_mss=True)
    mode.know_routers((ROUTER, SECOND), 0.0)
    if random.random() < 0.7:
        hosts.hear(mode, advert(hosts.prefix()))
    return mode


def router(random: Random) -> IsatapRouter:
    mode = routers.router()
    mode.know_routers((SECOND,), 0.0)
    if random.random() < 0.3:
        mode.renumber([NEW], 0.0)
    return mode


each = pytest.mark.parametrize("kind", [host, router])


def options(random: Random) -> list[PrefixInformation | RouteInformation | Mtu]:
    """Some that are seldom sent together."""
    made: list[PrefixInformation | RouteInformation | Mtu] = []
    for _ in range(random.randrange(6)):
        net, length = random.choice(ADDRESSES)[:8] + bytes(8), random.choice((0, 48, 64, 64, 64, 128))
        valid, preferred = random.choice(LIFETIMES), random.choice(LIFETIMES)
        flags = random.random() < 0.8, random.random() < 0.8
        made.append(
            random.choice(
                (
                    PrefixInformation(net, length, *flags, valid, preferred),
                    RouteInformation(net, length, random.choice(list(Preference)), valid),
                    Mtu(random.choice((0, 1279, 1280, 1400, 1480, 2**32 - 1))),
                )
            )
        )
    return made


def said(random: Random) -> bytes:
    """A router's advertisement; a host on the link sends some in its own name."""
    source = random.choice((link(ROUTER), link(ROUTER), link(SECOND), link(OTHER)))
    return advert(*options(random), lifetime=random.choice((0, 1, 1800, 65535)), source=source)


def hidden(random: Random) -> bytes:
    """One behind an extension header."""
    data = said(random)
    header = b"\x3a" + bytes(7)
    return ipv6.build(data[8:24], data[24:40], random.choice(HEADERS), header + data[40:], hop_limit=255)


OTHERS = (
    *(solicit(), solicit(link(OTHER), link(ROUTER)), inner(), inner(at(OTHER), at(HOST))),
    inner(link(OTHER), link(HOST), 1300),
)
"""Packets that pass."""


def packet(random: Random) -> bytes:
    """Any bytes, or a packet of which some are others, or an address is another; often its sum is right."""
    data = random.choice((said, said, hidden, lambda random: random.choice(OTHERS)))(random)
    if random.random() < 0.5:
        data = mutated(random, [data])
    if len(data) >= ipv6.HEADER and random.random() < 0.3:
        at_ = random.choice((8, 24))
        data = data[:at_] + random.choice(ADDRESSES) + data[at_ + 16 :]
    return summed(data) if random.random() < 0.9 else data


def told(mode: IsatapHost | IsatapRouter, effects: Sequence[Effect]) -> None:
    """What comes back to this host, though it arrived from nobody, is an ICMP error from here."""
    for effect in effects:
        if isinstance(effect, SendTun):
            own = ip(link(HOST if isinstance(mode, IsatapHost) else ROUTER))
            assert (effect.packet[8:24], effect.packet[6]) == (own, icmpv6.PROTOCOL)
            assert len(effect.packet) <= 1280


def arrives(mode: IsatapHost | IsatapRouter, data: bytes, outer: str, tos: int, now: float) -> list[Effect]:
    """One packet is given on, and its sender may send it; or it is business between hosts and routers, which
    the kernel never sees; or there is a reason."""
    known = {v4(SECOND)} | ({v4(ROUTER)} if isinstance(mode, IsatapHost) else set())
    effects = checked(mode, mode.from_wire(data, Source(outer, 0, tos), now))
    kinds = [type(effect) for effect in effects]
    assert kinds in ([SendTun], [Drop], [], [Configure], [SetMtu], [Configure, SetMtu], [SendWire])
    assert v4(outer) not in mode.here.addresses | mode.here.broadcasts or kinds == [Drop]
    for effect in effects:
        if isinstance(effect, SendTun):
            assert v4(outer) in known or isatap(effect.packet[8:24]) == v4(outer)
            assert not business(effect.packet)
        elif isinstance(effect, SendWire):
            assert isinstance(mode, IsatapRouter)
            assert effect.destination == (outer, 0)
            assert (isatap(data[8:24]), effect.data[24:40]) == (v4(outer), data[8:24])
        elif isinstance(effect, Configure | SetMtu):
            assert isinstance(mode, IsatapHost)
            assert v4(outer) in known
            assert (isatap(data[8:24]), data[8:16]) == (v4(outer), ip(link(outer))[:8])
    return effects


def business(data: bytes) -> bool:
    """Whether it is a router's advertisement, or a solicitation of one, be it hidden."""
    try:
        upper = ipv6.upper_layer(data)
    except PacketError:
        return True
    first = upper.protocol == icmpv6.PROTOCOL and upper.first and upper.offset < len(data)
    return first and data[upper.offset] in ROUTERS_BUSINESS


def is_sent(mode: IsatapHost | IsatapRouter, data: bytes, now: float) -> list[Effect]:
    """One packet is carried, or there is a reason, which may be told."""
    effects = checked(mode, mode.from_tun(data, now))
    told(mode, effects)
    assert [type(effect) for effect in effects] in ([SendWire], [Drop], [Drop, SendTun])
    return effects


def error(random: Random) -> WireError:
    """Of a type that means something, most often."""
    type_ = random.choice((3, 3, 3, 11, random.randrange(256)))
    return WireError(type_, random.choice((0, 1, 4)), 1400, "", packet(random), random.choice(OUTER))


def is_reported(mode: IsatapHost | IsatapRouter, heard: WireError, now: float) -> list[Effect]:
    """An error is told, or ignored."""
    effects = checked(mode, mode.from_error(heard, now))
    told(mode, effects)
    assert [type(effect) for effect in effects] in ([], [SendTun])
    return effects


def time_passes(mode: IsatapHost | IsatapRouter, until: float) -> None:
    """Deadlines come one after another, and each is met."""
    for _ in range(20):
        now = mode.next_deadline()
        if now > until:
            return
        effects = checked(mode, mode.tick(now))
        assert all(isinstance(effect, SendWire | Configure | SetMtu) for effect in effects)
        assert mode.next_deadline() > now


def drawn(kind: Kind, random: Random) -> set[type]:
    """A course of events; the kinds of effects that it had."""
    mode, now, seen = kind(random), 0.0, set[type]()
    for _ in range(random.choice((1, 1, 2, 5))):
        data = packet(random)
        for effects in (
            arrives(mode, data, random.choice(OUTER), random.randrange(256), now),
            is_sent(mode, data, now),
            is_reported(mode, error(random), now),
        ):
            seen |= {type(effect) for effect in effects}
        if random.random() < 0.5:
            now += random.choice((1.0, 130.0, 2000.0))
            time_passes(mode, now)
    return seen


@each
@seeded
def test_whatever_happens_goes_by_the_rules(random: Random, kind: Kind) -> None:
    drawn(kind, random)


@each
@fuzz(500)
@given(data=st.binary(max_size=100), tos=st.integers(0, 255))
def test_any_bytes_at_all(kind: Kind, data: bytes, tos: int) -> None:
    mode = kind(Random(1))
    arrives(mode, data, ROUTER if kind is host else SECOND, tos, 0.0)
    is_sent(mode, data, 0.0)


def test_what_is_drawn_gets_far_enough() -> None:
    """Every effect comes about."""
    assert set.union(*(drawn(host, Random(seed)) for seed in range(200))) == {
        *(SendTun, SendWire, Drop, Configure, SetMtu)
    }
    assert set.union(*(drawn(router, Random(seed)) for seed in range(200))) == {SendTun, SendWire, Drop}
