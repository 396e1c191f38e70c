"""Two 6to4 sites, a relay, native hosts and an attacker in a network of memory: what arrives, what does not,
and that nothing becomes more on its way."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
import trio
from trio.testing import MockClock

from portproxy.tunnel.carrier.raw import IPV6_IN_IPV4
from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.modes import Mode
from portproxy.tunnel.modes.automatic import Automatic
from portproxy.tunnel.modes.embedded import Here, literal
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.packet import icmpv6, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from portproxy.tunnel.reception import Reception
from portproxy.tunnel.testing import Host, MemoryCarrier, MemoryDevice, Packet, Wire
from portproxy.tunnel.traffic import Traffic
from tests.tunnel.test_sixtofour import site, v4

ONE, TWO, RELAY = "157.60.91.123", "131.107.210.49", "192.0.2.9"
ISATAP, ATTACKER, VICTIM = "203.0.113.77", "198.51.100.66", "198.18.5.5"
GATE, INSIDE, NATIVE = "2002:836b:d231:2::1", "2002:836b:d231:2::c", "2001:db8:5::1"
"""The second site's router and a host behind it, and a native host."""


class Node:
    """A host at ``address``, whose tunnels share that."""

    def __init__(self, net: Net, address: str, *, forwards: bool = False) -> None:
        self.net, self.address, self.host = net, address, Host(forwards=forwards)
        wire, gateway = (
            Wire(net.nursery, net.random),
            str(IPv4Address(int(IPv4Address(address)) & ~255 | 254)),
        )
        net.router.attach(wire, f"{gateway}/24")
        self.host.attach(wire, f"{address}/24")
        self.host.route("0.0.0.0/0", wire, gateway)
        self.carrier = MemoryCarrier(self.host, address, IPV6_IN_IPV4)
        self.reception = Reception(self.carrier, self.complain)
        self.complaints: list[tuple[str, OSError]] = []
        self._listens = False

    def complain(self, what: str, error: OSError) -> None:
        self.complaints.append((what, error))

    def tunnel(self, mode: Mode, inner: str, *routes: str, rank: int = 0) -> Traffic:
        """Runs ``mode``, whose interface has the address ``inner``; what it counts."""
        device, traffic = MemoryDevice(1480), Traffic()
        self.host.attach(device, inner)
        for route in routes:
            self.host.route(route, device)
        endpoint = Endpoint(device, mode, self.carrier, traffic, self.complain)
        self.net.nursery.start_soon(endpoint.run)
        self.reception.join(endpoint, rank)
        if not self._listens:
            self._listens = True
            self.net.nursery.start_soon(self.reception.run)
        return traffic

    def here(self, *own: str) -> Here:
        packed = frozenset(IPv6Address(one).packed for one in own)
        return Here(v4(self.address), v4(self.address.rpartition(".")[0] + ".255"), packed)

    def send(self, data: bytes, to: str, *, source: str = "") -> None:
        """``data`` goes into an outer packet, if need be from a ``source`` that is another's."""
        ends = IPv4Address(source or self.address).packed, IPv4Address(to).packed
        self.host.send(self.host.encode(Packet(*ends, IPV6_IN_IPV4, data)))


class Careless:
    """An ISATAP router that checks nothing (RFC 6324, 2)."""

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        return (SendWire(packet, (literal(packet[36:40]), 0)),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        return (SendTun(data),)

    def from_error(self, error: object, now: float) -> Sequence[Effect]:
        return ()

    def next_deadline(self) -> float:
        return float("inf")

    def tick(self, now: float) -> Sequence[Effect]:
        return ()


class Net:
    """A host that is a site, a router with a site behind it, and a relay with a native network behind it, on
    which there is a careless ISATAP router too; a tunnel is known by what it counts."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery, self.random, self.router = nursery, Random(1), Host(forwards=True)
        self.node_one, self.node_two = Node(self, ONE), Node(self, TWO, forwards=True)
        self.node_relay, self.node_isatap = (Node(self, one, forwards=True) for one in (RELAY, ISATAP))
        self.attacker, self.victim = Node(self, ATTACKER), Node(self, VICTIM)
        self.native, self.inside = Host(), Host()

        lan, gate = Wire(nursery, self.random), self.node_two.host
        gate.attach(lan, f"{GATE}/64")
        self.inside.attach(lan, f"{INSIDE}/64")
        self.inside.route("::/0", lan, GATE)

        outside = Wire(nursery, self.random)
        relay, isatap, behind = self.node_relay.host, self.node_isatap.host, "2001:db8:5::fe"
        for host, address in ((relay, behind), (self.native, NATIVE), (isatap, "2001:db8:5::77")):
            host.attach(outside, f"{address}/64")
            if host is not relay:
                host.route("2002::/16", outside, behind)
        self.attacker.host.attach(outside, "2001:db8:5::66/64")
        self.attacker.host.route("2001:db8:15a::/64", outside, "2001:db8:5::77")
        relay.route("2001:db8:15a::/64", outside, "2001:db8:5::77")

        self.one = self._six_to_four(self.node_one, site(ONE), "::/0")
        self.two = self._six_to_four(self.node_two, site(TWO), "::/0", more=GATE)
        self.relay = self._six_to_four(self.node_relay, site(RELAY), more=behind, is_relay=True)
        self.isatap = self.node_isatap.tunnel(Careless(), f"2001:db8:15a::5efe:{ISATAP}/64")

    def _six_to_four(
        self, node: Node, own: str, *routes: str, more: str = "", is_relay: bool = False
    ) -> Traffic:
        here = node.here(own, more or own)
        mode = SixToFour(node.address, IPv6Address(own).packed, mtu=1480, is_relay=is_relay, here=here)
        if not is_relay:
            mode.relay = RELAY
        return node.tunnel(mode, f"{own}/16", *routes, rank=2)

    def at_victim(self) -> int:
        """Packets that arrived there since this was asked."""
        return len(self.victim.carrier.receive(1000))


@pytest.fixture
def net(nursery: trio.Nursery) -> Net:
    return Net(nursery)


def counted(traffic: Traffic) -> tuple[int, int, dict[str, int]]:
    """Packets in, packets out, drops."""
    drops = {reason.value: count for reason, count in traffic.drops.items() if count}
    return traffic.packets_in, traffic.packets_out, drops


def echo(source: str, destination: str, *, hops: int = 64) -> bytes:
    """A request, which whoever takes it answers."""
    ends = IPv6Address(source).packed, IPv6Address(destination).packed
    body = bytes((128, 0)) + bytes(2) + bytes(8)
    sum_ = upper_layer(*ends, icmpv6.PROTOCOL, body)
    return ipv6.build(*ends, icmpv6.PROTOCOL, body[:2] + sum_.to_bytes(2) + body[4:], hop_limit=hops)


async def test_sites_reach_each_other_and_the_rest_of_ipv6(net: Net, autojump_clock: MockClock) -> None:
    one, two = net.node_one.host, net.node_two.host
    assert await one.ping(site(TWO))
    assert await two.ping(site(ONE), 1000)
    assert (counted(net.one), counted(net.two), counted(net.relay)) == ((2, 2, {}), (2, 2, {}), (0, 0, {}))
    assert await one.ping(INSIDE)
    assert await net.inside.ping(site(ONE), 1000)
    assert counted(net.relay) == (0, 0, {})
    assert await one.ping(NATIVE)
    assert await net.inside.ping(NATIVE)
    assert await net.native.ping(site(ONE), 1432, dont_fragment=True)
    assert await net.native.ping(INSIDE)
    assert counted(net.relay) == (4, 4, {})
    # A tunnel is one hop, and only routers take one away.
    assert await one.ping(site(TWO), hops=1)
    assert await one.ping(INSIDE, hops=2)
    assert not await one.ping(INSIDE, hops=1)
    for traffic in (net.one, net.two, net.relay):
        assert counted(traffic)[2] == {}
    assert not net.router.dropped


async def test_a_site_that_is_not_there_is_told(net: Net, autojump_clock: MockClock) -> None:
    net.router.route("198.51.100.250/32", Wire(net.nursery, net.random))
    assert not await net.node_one.host.ping(site("198.51.100.250"))
    assert [error[:2] for error in net.node_one.host.errors] == [(3, 0), (1, 3)]
    assert not await net.native.ping(site("198.51.100.250"))
    assert [error[:2] for error in net.native.errors] == [(1, 3)]


async def test_who_has_no_relay_learns_it_at_once(net: Net, autojump_clock: MockClock) -> None:
    node = Node(net, "198.18.6.3")
    own = site(node.address)
    traffic = node.tunnel(SixToFour(node.address, IPv6Address(own).packed, mtu=1480), f"{own}/16", "::/0")
    assert await node.host.ping(site(ONE))
    assert not await node.host.ping(NATIVE)
    assert [error[:2] for error in node.host.errors] == [(1, 0)]
    assert counted(traffic)[2] == {"no-router": 1}


REFLECTED = [
    # Where it is sent to; from and to which inner addresses; which tunnel drops it, why.
    (ONE, site(VICTIM), site(ONE), "one", "inner-source"),
    (TWO, site(VICTIM), INSIDE, "two", "inner-source"),
    (RELAY, site(VICTIM), NATIVE, "relay", "inner-source"),
    (RELAY, site(VICTIM), site(RELAY), "relay", "inner-source"),
    # Laundering: the victim would see the relay's, or a site's, IPv4 address.
    (RELAY, site(ATTACKER), site(VICTIM), "relay", "inner-destination"),
    (RELAY, NATIVE, site(VICTIM), "relay", "inner-destination"),
    (ONE, site(ATTACKER), site(VICTIM), "one", "inner-destination"),
    (TWO, site(ATTACKER), site(VICTIM), "two", "inner-destination"),
    (TWO, site(ATTACKER), NATIVE, "two", "inner-destination"),
    (RELAY, NATIVE, "2001:db8:5::2", "relay", "inner-source"),
    (RELAY, f"::{VICTIM}", NATIVE, "relay", "inner-source"),
    (RELAY, site(ATTACKER), f"::{VICTIM}", "relay", "inner-destination"),
    (RELAY, site(ATTACKER), "ff0e::1", "relay", "inner-destination"),
    # Loops: the relay would send it to itself.
    (RELAY, site(ATTACKER), f"2001:db8:15a::5efe:{RELAY}", "relay", "loop"),
    (RELAY, site(ATTACKER), f"2001:db8:15a::200:5efe:{RELAY}", "relay", "loop"),
    (RELAY, site(ATTACKER), f"2002:c000:209:1:0:5efe:{RELAY}", "relay", "loop"),
    (RELAY, f"2001:db8:15a::5efe:{RELAY}", site(RELAY), "relay", "loop"),
    (TWO, f"2001:db8:15a::5efe:{TWO}", INSIDE, "two", "loop"),
]


@pytest.mark.parametrize(("at", "source", "destination", "name", "reason"), REFLECTED)
async def test_nothing_comes_of_an_attack(
    net: Net, autojump_clock: MockClock, at: str, source: str, destination: str, name: str, reason: str
) -> None:
    for _ in range(5):
        net.attacker.send(echo(source, destination), at)
        await trio.sleep(1)
    for tunnel in ("one", "two", "relay", "isatap"):
        assert counted(getattr(net, tunnel)) == (0, 0, {reason: 5} if tunnel == name else {})
    assert net.at_victim() == 0
    for host in (net.attacker.host, net.native, net.inside):
        assert (host.dropped, host.errors) == ({}, [])


async def test_who_forges_both_sources_has_one_packet_for_one(net: Net, autojump_clock: MockClock) -> None:
    """What no check at an end finds out (RFC 3964, 4): yet no more comes of it than was put in."""
    for _ in range(5):
        net.attacker.send(echo(site(VICTIM), site(ONE)), ONE, source=VICTIM)
        await trio.sleep(1)
    assert (counted(net.one), net.at_victim()) == ((5, 5, {}), 5)
    for _ in range(5):
        net.attacker.send(echo(NATIVE, site(ONE)), ONE)
        await trio.sleep(1)
    assert (counted(net.one), counted(net.relay)) == ((10, 10, {}), (5, 0, {}))


async def test_a_loop_by_way_of_a_careless_router_ends_at_the_relay(
    net: Net, autojump_clock: MockClock
) -> None:
    """RFC 6324, 2: the ISATAP router sends it to the relay by IPv4, and the relay would send it back by IPv6,
    until its hops are used up."""
    loop = echo(site(ISATAP), f"2001:db8:15a::200:5efe:{RELAY}", hops=255)
    net.attacker.host.send(loop)
    await trio.sleep(10)
    assert (counted(net.isatap), counted(net.relay)) == ((0, 1, {}), (0, 0, {"loop": 1}))
    # The other way round the relay would begin it.
    net.node_relay.host.receive(echo(f"2001:db8:15a::200:5efe:{RELAY}", site(ISATAP), hops=255))
    await trio.sleep(10)
    assert (counted(net.isatap), counted(net.relay)) == ((0, 1, {}), (0, 0, {"loop": 2}))
    assert not net.node_isatap.host.dropped


async def test_tunnels_that_share_an_address(net: Net, autojump_clock: MockClock) -> None:
    """Configured ones are asked first, then 6to4, then automatic tunnelling; nothing goes from one to another
    in a stranger's name."""
    one, two, relay = net.node_one, net.node_two, net.node_relay
    there = SixInFour(RELAY, IPv6Address("fe80::1").packed, mtu=1480)
    back = SixInFour(TWO, IPv6Address("fe80::2").packed, mtu=1480)
    configured = two.tunnel(there, "2001:db8:c::1/64"), relay.tunnel(back, "2001:db8:c::2/64")
    compatible = [
        node.tunnel(Automatic(node.address, mtu=1480, here=node.here()), f"::{node.address}/96", rank=3)
        for node in (one, relay)
    ]
    assert await two.host.ping("2001:db8:c::2")
    assert await one.host.ping(f"::{RELAY}", 1000)
    assert await relay.host.ping(f"::{ONE}")
    assert await relay.host.ping(site(ONE))
    for traffic, packets in ((net.one, 1), (net.relay, 1), *((one, 1) for one in configured)):
        assert counted(traffic) == (packets, packets, {})
    for traffic in compatible:
        assert counted(traffic) == (2, 2, {})
    for source, destination in (
        (f"::{ATTACKER}", site(VICTIM)),
        (f"::{ATTACKER}", NATIVE),
        (site(ATTACKER), f"::{VICTIM}"),
        (f"::{VICTIM}", f"::{RELAY}"),
        (f"::{ATTACKER}", f"::{VICTIM}"),
    ):
        net.attacker.send(echo(source, destination), RELAY)
        await trio.sleep(1)
    # Each is counted once, by the first that knew who sent it.
    assert counted(configured[1]) == (1, 1, {})
    assert counted(net.relay) == (1, 1, {"inner-source": 4, "inner-destination": 1})
    assert counted(compatible[1]) == (2, 2, {})
    assert net.at_victim() == 0
    net.attacker.send(echo(f"::{ATTACKER}", f"::{RELAY}"), RELAY)
    await trio.sleep(1)
    assert counted(compatible[1]) == (3, 3, {})


def test_a_careless_router_would_have_carried_it() -> None:
    """Without which the loop above would prove nothing."""
    packet = echo(site(ISATAP), f"2001:db8:15a::200:5efe:{RELAY}")
    assert Careless().from_tun(packet, 0.0) == (SendWire(packet, (RELAY, 0)),)
    mode = SixToFour(RELAY, IPv6Address(site(RELAY)).packed, mtu=1480, is_relay=True)
    assert [type(effect) for effect in mode.from_wire(packet, Source(ISATAP), 0.0)] == [Drop]
    allowed = echo(site(ISATAP), f"2001:db8:15a::200:5efe:{ONE}")
    assert mode.from_wire(allowed, Source(ISATAP), 0.0) == (SendTun(allowed),)
