"""Endpoints in networks of memory: what they carry, what they find out, and what they count."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from random import Random
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock

from portproxy.tunnel.carrier.raw import IPV4_IN_IPV6, IPV6_IN_IPV4
from portproxy.tunnel.effects import Source
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.reception import Reception
from portproxy.tunnel.testing import Host, MemoryCarrier, MemoryDevice, Packet, Wire
from portproxy.tunnel.traffic import Traffic


class Family(NamedTuple):
    """What a tunnel is made of: number 1, 2, 3 of ``nets`` and of ``inners`` are those of hosts 1, 2, 3."""

    mode: type[SixInFour | FourInSix]
    protocol: int
    nets: tuple[str, ...]
    length: int
    inners: tuple[str, ...]
    head: int
    """Bytes around the data of an inner ping."""

    def outer(self, number: int, host: int) -> str:
        return f"{self.nets[number - 1]}{host}"

    def inner(self, number: int) -> str:
        return self.inners[number - 1]


SIX = Family(
    SixInFour, IPV6_IN_IPV4, ("192.0.2.", "198.51.100.", "203.0.113."), 24,
    ("2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"), 48,
)  # fmt: skip
FOUR = Family(
    FourInSix, IPV4_IN_IPV6, ("2001:db8:a::", "2001:db8:b::", "2001:db8:c::"), 64,
    ("10.1.0.1", "10.2.0.1", "10.3.0.1"), 28,
)  # fmt: skip
both = pytest.mark.parametrize("family", [SIX, FOUR], ids=["6in4", "4in6"])


class End:
    """One end of a tunnel, on host ``own`` of ``star``: what it has counted and complained of."""

    def __init__(self, star: Star, own: int, far: int, *, at: int = 1, link: int = 0) -> None:
        family, host = star.family, star.hosts[own]
        inner = ip_address(family.inner(own)).packed
        self.mode = family.mode(family.outer(far, at), inner, link=link or star.wires[own].mtu)
        self.device = MemoryDevice(self.mode.mtu)
        self.carrier = MemoryCarrier(host, family.outer(own, 1), family.protocol)
        self.traffic = Traffic()
        self.complaints: list[tuple[str, int | None]] = []
        host.attach(self.device, family.inner(own))
        host.route(family.inner(far), self.device)

    def run(self, nursery: trio.Nursery) -> None:
        def complain(what: str, error: OSError) -> None:
            self.complaints.append((what, error.errno))

        endpoint = Endpoint(self.device, self.mode, self.carrier, self.traffic, complain)
        reception = Reception(self.carrier, complain)
        reception.join(endpoint)
        nursery.start_soon(endpoint.run)
        nursery.start_soon(reception.run)

    def drops(self) -> dict[Dropped, int]:
        return {reason: count for reason, count in self.traffic.drops.items() if count}


class Star:
    """Hosts 1, 2 and 3, each on a wire of its own to a router; that of host 2 takes ``far`` bytes."""

    def __init__(self, nursery: trio.Nursery, family: Family, random: Random, far: int = 1500) -> None:
        self.family, self.nursery = family, nursery
        self.router = Host(forwards=True)
        self.hosts, self.wires = {number: Host() for number in (1, 2, 3)}, {}
        for number, host in self.hosts.items():
            wire = self.wires[number] = Wire(nursery, random, mtu=far if number == 2 else 1500)
            self.router.attach(wire, f"{family.outer(number, 254)}/{family.length}")
            host.attach(wire, f"{family.outer(number, 1)}/{family.length}")
            host.route("0.0.0.0/0" if family is SIX else "::/0", wire, family.outer(number, 254))

    def tunnel(self, one: int, other: int) -> tuple[End, End]:
        ends = End(self, one, other), End(self, other, one)
        for end in ends:
            end.run(self.nursery)
        return ends

    def deliver(self, data: bytes, *, source: int = 2, tos: int = 0) -> None:
        """``data`` goes from host ``source`` to host 1, in an outer packet."""
        far, own = (ip_address(self.family.outer(number, 1)).packed for number in (source, 1))
        host = self.hosts[source]
        host.send(host.encode(Packet(far, own, self.family.protocol, data, tos=tos)))

    def inner(self, source: str = "") -> bytes:
        """From ``source``, or else host 2, to host 1."""
        far = ip_address(source or self.family.inner(2)).packed
        return Packet(far, ip_address(self.family.inner(1)).packed, 17, bytes(20)).encode(1)


@pytest.fixture
def star(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Star:
    return Star(nursery, request.param, Random(1))


stars = pytest.mark.parametrize("star", [SIX, FOUR], ids=["6in4", "4in6"], indirect=True)


@stars
async def test_pings_go_through_both_ways(star: Star, autojump_clock: MockClock) -> None:
    here, there = star.tunnel(1, 2)
    assert await star.hosts[1].ping(star.family.inner(2))
    assert await star.hosts[2].ping(star.family.inner(1), 1000)
    assert await star.hosts[1].ping(star.family.inner(2), 3000)  # in three fragments within the tunnel
    for end in (here, there):
        traffic = end.traffic
        assert (traffic.packets_in, traffic.packets_out) == (5, 5)
        # Two fragments have a header more than the whole has; in IPv6 each of the three has 8 bytes besides.
        cut = 2 * 40 + 3 * 8 if star.family is SIX else 2 * 20
        assert traffic.bytes_in == traffic.bytes_out == 56 + 1000 + 3000 + 3 * star.family.head + cut
        assert (end.drops(), end.complaints) == ({}, [])


@stars
async def test_three_ends_reach_each_other(star: Star, autojump_clock: MockClock) -> None:
    spokes = {number: star.tunnel(number, 3) for number in (1, 2)}
    one, two, hub = star.hosts[1], star.hosts[2], star.hosts[3]
    hub.forwards = True
    one.route(star.family.inner(2), spokes[1][0].device)
    two.route(star.family.inner(1), spokes[2][0].device)
    assert await one.ping(star.family.inner(3))
    assert await one.ping(star.family.inner(2))
    assert await two.ping(star.family.inner(1), 4000)
    # A tunnel is one hop: only who forwards takes one away (RFC 4213, 3.3).
    assert await one.ping(star.family.inner(3), hops=1)
    assert await one.ping(star.family.inner(2), hops=2)
    assert not await one.ping(star.family.inner(2), hops=1)
    assert hub.dropped == {"hops": 1}
    one.forwards, nowhere = True, "2001:db8:9::1" if star.family is SIX else "10.9.0.1"
    for host, end in ((one, spokes[1][0]), (hub, spokes[1][1])):
        host.route(nowhere, end.device)
    assert not await one.ping(nowhere, hops=4)
    assert (one.dropped, hub.dropped) == ({"hops": 1}, {"hops": 1})
    for spoke, inward in spokes.values():
        assert (spoke.drops(), spoke.complaints) == ({}, [])
        # Each of the hub's sockets sees what comes from either spoke.
        assert set(inward.drops()) == {Dropped.SOURCE}
        assert inward.traffic.packets_in == spoke.traffic.packets_out > 0


async def rough(family: Family, seed: int) -> tuple[list[bool], list[int]]:
    """Which of 60 pings came back over bad wires, and what was counted."""
    async with trio.open_nursery() as nursery:
        star = Star(nursery, family, Random(seed))
        for wire in star.wires.values():
            wire.loss, wire.repeat, wire.jitter = 0.05, 0.2, 0.1
        here, there = star.tunnel(1, 2)
        came = [False] * 60

        async def ping(number: int) -> None:
            await trio.sleep(number * 0.01)
            came[number] = await star.hosts[1].ping(family.inner(2), number * 50)

        async with trio.open_nursery() as pings:
            for number in range(60):
                pings.start_soon(ping, number)
        await trio.sleep(2)
        assert (here.drops(), there.drops(), here.complaints, there.complaints) == ({}, {}, [], [])
        assert not star.hosts[1].dropped + star.hosts[2].dropped + star.router.dropped
        nursery.cancel_scope.cancel()
    lost = sum(wire.lost for wire in star.wires.values())
    repeated = sum(wire.repeated for wire in star.wires.values())
    sent = here.traffic.packets_out + there.traffic.packets_out
    assert here.traffic.packets_in + there.traffic.packets_in == sent - lost + repeated
    return came, [sent, lost, repeated]


@both
async def test_a_bad_wire_loses_only_what_it_loses(family: Family, autojump_clock: MockClock) -> None:
    """What is lost, comes twice or late is so for the pings too, and nothing else is."""
    came, counted = await rough(family, 7)
    _, lost, repeated = counted
    assert min(lost, repeated) > 5
    assert 0 < came.count(False) <= lost
    assert came.count(True) > 20
    assert (came, counted) == await rough(family, 7), "the same seed is the same course of events"
    assert (came, counted) != await rough(family, 8)


@pytest.mark.parametrize(
    ("family", "path", "mtu"),
    [(SIX, 1400, 1380), (SIX, 1300, 1280), (SIX, 1299, 1280), (SIX, 576, 1280), (FOUR, 1400, 1360),
     (FOUR, 1280, 1240)],
)  # fmt: skip
async def test_a_narrow_link_in_the_middle_is_found_and_forgotten(
    family: Family, path: int, mtu: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    star = Star(nursery, family, Random(1), far=path)
    here, there = star.tunnel(1, 2)
    one, far, full = star.hosts[1], family.inner(2), here.mode.mtu
    assert (full, there.mode.mtu) == (1480 if family is SIX else 1460, mtu)
    assert not await one.ping(far, full - family.head, dont_fragment=True)
    assert here.device.mtu == mtu
    # Below 1280 the outer packet is fragmented by the router.
    assert await one.ping(far, mtu - family.head, dont_fragment=True)
    assert await one.ping(far, 3000)
    await trio.sleep(595)
    assert here.device.mtu == mtu
    await trio.sleep(5)
    assert here.device.mtu == full
    assert not await one.ping(far, full - family.head, dont_fragment=True)
    assert here.device.mtu == mtu
    assert (here.drops(), there.drops(), here.complaints, there.complaints) == ({}, {}, [], [])


@stars
async def test_hosts_behind_an_end_are_told_of_the_narrow_link(star: Star, autojump_clock: MockClock) -> None:
    family, star.wires[2].mtu = star.family, 1400
    here, there = star.tunnel(1, 2)
    site, lan, gate, near = Host(), Wire(star.nursery, Random(3)), star.hosts[1], family.inner(1)[:-1]
    every, bits, mtu, told = ("::/0", 120, 1380, (2, 0)) if family is SIX else ("0.0.0.0/0", 29, 1360, (3, 4))
    gate.forwards = True
    gate.attach(lan, f"{near}2/{bits}")
    site.attach(lan, f"{near}3/{bits}")
    site.route(every, lan, f"{near}2")
    star.hosts[2].route(f"{near}0/{bits}", there.device)
    full = here.mode.mtu - family.head
    for _ in range(2):
        assert not await site.ping(family.inner(2), full, dont_fragment=True)
    assert site.errors[-1][:3] == (*told, mtu)
    assert await site.ping(family.inner(2), mtu - family.head, dont_fragment=True)
    # In IPv6 the host goes by what it was told; in IPv4 the outer packet is fragmented.
    assert await site.ping(family.inner(2), full)


@stars
async def test_the_inner_source_is_told_of_no_peer(star: Star, autojump_clock: MockClock) -> None:
    end = End(star, 1, 2, at=77)
    end.run(star.nursery)
    assert not await star.hosts[1].ping(star.family.inner(2))
    assert star.router.dropped == {"No route to host": 1}
    told = [(error.type, error.code) for error in star.hosts[1].errors]
    # The router's, about the outer packet, and the mode's, about the inner one.
    assert told == ([(3, 0), (1, 3)] if star.family is SIX else [(1, 0), (3, 1)])
    assert (end.drops(), end.traffic.packets_in) == ({}, 0)


# Every reason.


async def not_ip(star: Star, end: End) -> None:
    end.device.carry(b"\x50" + bytes(60), b"")
    star.deliver(b"\x50" + bytes(60))


async def truncated(star: Star, end: End) -> None:
    star.deliver(star.inner()[:-1])


async def source(star: Star, end: End) -> None:
    star.deliver(star.inner(), source=3)


async def inner_source(star: Star, end: End) -> None:
    star.deliver(star.inner("::1" if star.family is SIX else "127.0.0.1"))


async def congested(star: Star, end: End) -> None:
    star.deliver(star.inner(), tos=3)


async def too_big(star: Star, end: End) -> None:
    end.device.mtu = 9000
    await star.hosts[1].ping(star.family.inner(2), 2000, dont_fragment=True)
    assert star.hosts[1].errors[-1].mtu == end.mode.mtu


async def no_route(star: Star, end: End) -> None:
    star.hosts[1].route(star.family.outer(2, 1), star.wires[1], star.family.outer(1, 77))
    await star.hosts[1].ping(star.family.inner(2))


async def refused(star: Star, end: End) -> None:
    end.device.up = False
    star.deliver(star.inner())


async def busy(star: Star, end: End) -> None:
    star.wires[1].room = 0
    await star.hosts[1].ping(star.family.inner(2))


Provoke = Callable[[Star, End], Awaitable[None]]
PROVOKED: dict[Dropped, tuple[Provoke, int, list[tuple[str, int]]]] = {
    Dropped.NOT_IP: (not_ip, 2, []),
    Dropped.TRUNCATED: (truncated, 1, []),
    Dropped.SOURCE: (source, 1, []),
    Dropped.INNER_SOURCE: (inner_source, 1, []),
    Dropped.ECN: (congested, 1, []),
    Dropped.TOO_BIG: (too_big, 1, []),
    Dropped.NO_ROUTE: (no_route, 1, [("send", errno.EHOSTUNREACH)]),
    Dropped.REFUSED: (refused, 1, [("deliver", errno.EIO)]),
    Dropped.BUSY: (busy, 1, []),
}
"""How, how often, and what of it is for the log."""


@stars
@pytest.mark.parametrize("reason", PROVOKED, ids=str)
async def test_every_reason_is_counted(star: Star, autojump_clock: MockClock, reason: Dropped) -> None:
    provoke, times, complaints = PROVOKED[reason]
    end = End(star, 1, 2)
    end.run(star.nursery)
    await provoke(star, end)
    await trio.sleep(1)
    assert end.drops() == {reason: times}
    assert end.complaints == complaints


def test_there_is_no_other_reason() -> None:
    """The rest is for automatic tunnels, which find the other end by themselves (test_automatic_tunnels), and
    the kernel's alone (test_raw_sockets)."""
    automatic = {
        Dropped.INNER_DESTINATION,
        Dropped.DISCOVERY,
        Dropped.MULTICAST,
        Dropped.LOOP,
        Dropped.NO_ROUTER,
    }
    assert PROVOKED.keys() == set(Dropped) - automatic - {Dropped.QUEUE}


async def test_too_large_for_the_link_is_refused(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    star = Star(nursery, SIX, Random(1))
    end = End(star, 1, 2, link=9000)
    end.run(nursery)
    assert not await star.hosts[1].ping(SIX.inner(2), 1500, dont_fragment=True)
    assert end.drops() == {Dropped.REFUSED: 1}
    assert end.complaints == [("send", errno.EMSGSIZE)]


async def test_a_refused_mtu_is_survived(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    end = End(Star(nursery, FOUR, Random(1)), 1, 2, link=70_000)
    end.run(nursery)
    own, far = (ip_address(FOUR.inner(number)).packed for number in (1, 2))
    about = Packet(own, far, 17, bytes(1440)).encode(1)
    end.carrier.put(WireError(2, 0, 1400, "2001:db8:a::254", about, FOUR.outer(2, 1)))
    await trio.sleep(599)
    assert (end.device.mtu, end.complaints) == (1360, [])
    await trio.sleep(2)
    assert (end.device.mtu, end.complaints) == (1360, [("set the MTU", errno.EINVAL)])


@stars
async def test_neither_side_keeps_the_other_from_its_turn(star: Star, autojump_clock: MockClock) -> None:
    """At most 64 packets at a time come from one side while the other has some."""
    end, order = End(star, 1, 2), list[str]()
    read, receive, number = end.device.read, end.carrier.receive, 300

    def reading(most: int) -> list[bytes]:
        packets = read(most)
        order.extend("o" * len(packets))
        return packets

    def receiving(most: int) -> list[tuple[bytes, Source]]:
        packets = receive(most)
        order.extend("i" * len(packets))
        return packets

    end.device.read, end.carrier.receive = reading, receiving  # type: ignore[method-assign]
    for _ in range(number):
        end.device.carry(star.inner(), b"")
        end.carrier.put((star.inner(), Source(star.family.outer(2, 1))))
    end.run(star.nursery)
    await trio.sleep(1)
    traffic = end.traffic
    assert (traffic.packets_in, traffic.packets_out, end.drops()) == (number, number, {})
    turns = "".join(order)
    assert turns.count("i") == turns.count("o") == number
    assert max(map(len, (*turns.split("i"), *turns.split("o")))) <= 128
