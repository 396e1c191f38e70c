"""Days on an ISATAP link: a host, which loses three packets of ten, and two routers."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from itertools import pairwise
from random import Random

import pytest
import trio
from trio.testing import MockClock

from portproxy.tunnel.carrier.raw import IPV6_IN_IPV4
from portproxy.tunnel.effects import Configure, Effect, SendWire, Source
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.embedded import Here
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.modes.isatap_router import IsatapRouter
from portproxy.tunnel.packet import ipv6
from portproxy.tunnel.reception import Reception
from portproxy.tunnel.testing import Host, MemoryCarrier, MemoryDevice, Wire
from portproxy.tunnel.traffic import Traffic

HOST, ONE, TWO = "10.1.0.9", "10.2.0.1", "10.3.0.1"
OLD, NEW, FAR = "2001:db8:1:1", "2001:db8:2:2", "2001:db8:f::1"
LOSS = 0.3
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
ROUTER, PREFERRED, VALID, TWO_HOURS = 1800.0, 14400.0, 86400.0, 7200.0
"""Lifetimes."""
IN_TIME = 900.0 + 7 * 120.0
"""After an answer, when the last solicitation goes out that may renew a router before it ends."""


def ip(text: str) -> bytes:
    return ip_address(text).packed


def at(address: str, net: str) -> str:
    return f"{net}:0:5efe:{address}"


class Kept:
    """A mode, what it ``wanted`` since when, and whom it ``asked`` when."""

    def __init__(self, mode: IsatapHost | IsatapRouter) -> None:
        self.mode = mode
        self.wanted: list[tuple[float, Configure]] = [(0.0, Configure((), ()))]
        self.asked: list[tuple[float, str]] = []

    def keep(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        now = trio.current_time()
        self.wanted += [(now, effect) for effect in effects if isinstance(effect, Configure)]
        return effects

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        return self.keep(self.mode.from_tun(packet, now))

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        return self.keep(self.mode.from_wire(data, source, now))

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        return self.keep(self.mode.from_error(error, now))

    def next_deadline(self) -> float:
        return self.mode.next_deadline()

    def tick(self, now: float) -> Sequence[Effect]:
        return self.by_itself(self.mode.tick(now))

    def by_itself(self, effects: Sequence[Effect]) -> Sequence[Effect]:
        now = trio.current_time()
        self.asked += [(now, one.destination[0]) for one in effects if isinstance(one, SendWire)]
        return self.keep(effects)


class End:
    """One end of the link, which runs ``mode`` at ``local``; its one wire goes to ``gate``."""

    def __init__(
        self, nursery: trio.Nursery, gate: Host, mode: IsatapHost | IsatapRouter, local: str, random: Random
    ) -> None:
        self.host, self.kept, net = Host(), Kept(mode), local.rpartition(".")[0]
        self.wire, self.device = Wire(nursery, random), MemoryDevice(mode.mtu)
        gate.attach(self.wire, f"{net}.254/24")
        self.host.attach(self.wire, f"{local}/24")
        self.host.route("0.0.0.0/0", self.wire, f"{net}.254")
        self.host.attach(self.device, f"{at(local, OLD)}/64")
        carrier = MemoryCarrier(self.host, local, IPV6_IN_IPV4)
        self._endpoint = Endpoint(self.device, self.kept, carrier, Traffic(), self._complain)
        reception = Reception(carrier, self._complain)
        reception.join(self._endpoint)
        nursery.start_soon(self._endpoint.run)
        nursery.start_soon(reception.run)

    def _complain(self, what: str, error: OSError) -> None:
        raise AssertionError(what) from error

    def perform(self, effects: Sequence[Effect]) -> None:
        """As whoever drives the mode does with what it is told besides packets and the time."""
        self._endpoint.do(self.kept.by_itself(effects))


class Site:
    """A host, two routers that both lead to FAR, and IPv4 between them. The host knows the routers from the
    first second on, and nobody tells it of them again: whoever resolves their names has failed ever since."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        gate, random = Host(forwards=True), Random(seed)
        self.mode = IsatapHost(HOST, ip(f"fe80::5efe:{HOST}"), mtu=1480)
        self.end = End(nursery, gate, self.mode, HOST, random)
        self.end.wire.loss = LOSS
        self.end.host.route("::/0", self.end.device)
        self.routers, self.ends = {}, {}
        for local in (ONE, TWO):
            here = Here(own=frozenset({ip(at(local, OLD)), ip(at(local, NEW))}))
            prefix, own = (ip(f"{OLD}::"), 64), ip(f"fe80::5efe:{local}")
            router = self.routers[local] = IsatapRouter(local, own, mtu=1480, prefixes=[prefix], here=here)
            end = self.ends[local] = End(nursery, gate, router, local, random)
            end.host.attach(MemoryDevice(1500), f"{FAR}/128")
        self.end.perform(self.mode.know_routers((ONE, TWO), trio.current_time()))

    def way(self) -> str | None:
        """The router that a packet to FAR leaves by."""
        packet = ipv6.build(ip(at(HOST, OLD)), ip(FAR), 59, b"")
        (first, *_) = self.mode.from_tun(packet, trio.current_time())
        return first.destination[0] if isinstance(first, SendWire) else None

    def other(self) -> str:
        return TWO if self.way() == ONE else ONE

    @property
    def wanted(self) -> list[tuple[float, Configure]]:
        return self.end.kept.wanted

    def since(self, time: float) -> list[tuple[float, list[tuple[str, bool]], list[str]]]:
        """What is wanted since when, after ``time``: addresses, whether they are deprecated, and routes."""
        return [
            (
                when,
                [(str(IPv6Address(address)), deprecated) for address, _, deprecated in one.addresses],
                [str(IPv6Address(prefix)) for prefix, _ in one.routes],
            )
            for when, one in self.wanted
            if when > time
        ]


def mine(net: str, deprecated: bool = False) -> tuple[str, bool]:
    return str(IPv6Address(at(HOST, net))), deprecated


@pytest.fixture
def site(nursery: trio.Nursery) -> Site:
    return Site(nursery, 1)


async def test_a_day_in_which_nothing_ends(site: Site, autojump_clock: MockClock) -> None:
    """Solicitations and answers are lost, pings too, and names resolve no more: all of it stays."""
    answered = 0
    for _ in range(24):
        await trio.sleep(HOUR)
        answered += await site.end.host.ping(FAR)
    assert 6 < answered < 20
    assert [(addresses, routes) for _, addresses, routes in site.since(0.0)] == [
        ([mine(OLD)], ["::", f"{OLD}::"])
    ]
    for router in (ONE, TWO):
        times = [time for time, one in site.end.kept.asked if one == router]
        gaps = [round(later - earlier, 3) for earlier, later in pairwise(times)]
        soon = gaps.count(4.0)
        assert soon <= 2
        assert min(gaps[soon:]) >= 120.0
        # Answered or not: about one each half of the router's lifetime, and those that were lost.
        assert DAY / IN_TIME < len(times) < 2.5 * DAY / 900.0


async def test_the_same_seed_is_the_same_course(autojump_clock: MockClock) -> None:
    courses = []
    for seed in (5, 5, 6):
        async with trio.open_nursery() as nursery:
            start, site = trio.current_time(), Site(nursery, seed)
            await trio.sleep(6 * HOUR)
            courses.append([(round(time - start, 3), one) for time, one in site.end.kept.asked])
            nursery.cancel_scope.cancel()
    assert courses[0] == courses[1] != courses[2]


async def test_a_router_dies_and_the_other_takes_over(site: Site, autojump_clock: MockClock) -> None:
    await trio.sleep(HOUR)
    dead, other = site.way(), site.other()
    assert dead in (ONE, TWO)
    site.ends[dead].wire.loss = 1.0
    died = trio.current_time()
    while site.way() == dead:
        assert trio.current_time() < died + ROUTER
        await trio.sleep(MINUTE)
    assert site.way() == other
    await trio.sleep(HOUR)
    assert any([await site.end.host.ping(FAR) for _ in range(9)])
    # The other is still there, so nothing else has changed, and stays so when the dead one is back.
    site.ends[dead].wire.loss = 0.0
    await trio.sleep(HOUR)
    assert site.way() == other
    assert len(site.since(HOUR)) == 0
    # It is a router again: when the other dies in its turn, it takes over.
    site.ends[other].wire.loss = 1.0
    await trio.sleep(ROUTER)
    assert site.way() == dead


async def test_everything_expires_and_comes_back(site: Site, autojump_clock: MockClock) -> None:
    await trio.sleep(HOUR)
    last = trio.current_time()
    for end in site.ends.values():
        end.wire.loss = 1.0
    await trio.sleep(VALID)
    (no_router, *routed), (deprecated, *old), (off, *gone) = site.since(last)
    assert (routed, old, gone) == (
        [[mine(OLD)], [f"{OLD}::"]], [[mine(OLD, True)], [f"{OLD}::"]], [[], []],
    )  # fmt: skip
    # From one and the same answer, if it was the last of all, each in its time.
    assert last < no_router < last + ROUTER
    assert last + PREFERRED - IN_TIME < deprecated < last + PREFERRED
    assert round(off - deprecated, 3) == VALID - PREFERRED
    assert site.way() is None
    asked = [time for time, router in site.end.kept.asked if router == ONE and time > off - HOUR]
    assert {round(later - earlier, 3) for earlier, later in pairwise(asked)} == {120.0}
    back = trio.current_time()
    for end in site.ends.values():
        end.wire.loss = 0.0
    await trio.sleep(20 * MINUTE)
    ((_, *everything),) = site.since(back)
    assert everything == [[mine(OLD)], ["::", f"{OLD}::"]]
    site.end.wire.loss = 0.0
    assert await site.end.host.ping(FAR)


async def test_the_site_is_renumbered(site: Site, autojump_clock: MockClock) -> None:
    await trio.sleep(HOUR)
    changed = trio.current_time()
    for local, router in site.routers.items():
        site.ends[local].perform(router.renumber([(ip(f"{NEW}::"), 64)], changed))
    await trio.sleep(DAY)
    (heard, *both), (off, *without), (gone, *new) = site.since(changed)
    assert both == [[mine(OLD, True), mine(NEW)], ["::", f"{OLD}::", f"{NEW}::"]]
    assert without == [[mine(OLD, True), mine(NEW)], ["::", f"{NEW}::"]]
    assert new == [[mine(NEW)], ["::", f"{NEW}::"]]
    assert changed < heard < changed + IN_TIME
    # The address lives two hours from when that was heard (RFC 4862, 5.5.3 (e)); its prefix is on the link
    # for two hours from the change, as far as whole seconds say that.
    assert round(gone - heard, 3) == TWO_HOURS
    assert changed + TWO_HOURS - 1 < off <= gone


async def test_a_router_that_stops_says_so(site: Site, autojump_clock: MockClock) -> None:
    await trio.sleep(HOUR)
    stops, other = site.way(), site.other()
    assert stops in (ONE, TWO)
    site.end.wire.loss = 0.0
    site.ends[stops].perform(site.routers[stops].retire(trio.current_time()))
    await trio.sleep(1)
    assert site.way() == other
    assert [(addresses, routes) for _, addresses, routes in site.since(HOUR)] == [
        ([mine(OLD, True)], ["::", f"{OLD}::"])
    ]
    # The prefix is the other router's too, which says that it goes on.
    site.ends[stops].wire.loss = 1.0
    await trio.sleep(20 * MINUTE)
    assert site.wanted[-1][1].addresses == ((ip(at(HOST, OLD)), 64, False),)
