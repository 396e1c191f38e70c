"""Several tunnels on one address: whose a packet is, and who counts the one that is nobody's."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from random import Random

import pytest
import trio
from trio.testing import MockClock

from portproxy.tunnel.carrier.raw import IPV6_IN_IPV4
from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet import ipv6
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.reception import Key, Reception, Receptions
from portproxy.tunnel.testing import Host, MemoryCarrier, MemoryDevice, Wire
from portproxy.tunnel.traffic import Traffic

OWN, HERE, THERE = (ip_address(one).packed for one in ("fe80::1", "2001:db8:1::1", "2001:db8:2::1"))
GOOD = ipv6.build(THERE, HERE, 17, bytes(8))
LOOPED = ipv6.build(ip_address("::1").packed, HERE, 17, bytes(8))


class Site:
    """A host with one receiver, at 192.0.2.1."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery, self.host = nursery, Host()
        self.host.attach(Wire(nursery, Random(1)), "192.0.2.1/24")
        self.carrier = MemoryCarrier(self.host, "192.0.2.1", IPV6_IN_IPV4)
        self.complaints: list[tuple[str, int | None]] = []
        self.reception = Reception(self.carrier, self.complain)
        nursery.start_soon(self.reception.run)

    def complain(self, what: str, error: OSError) -> None:
        self.complaints.append((what, error.errno))

    def tunnel(self, mode: SixInFour | All, rank: int = 0) -> Traffic:
        """What it counts."""
        device, traffic = MemoryDevice(1480), Traffic()
        self.host.attach(device)
        device.join(self.host, b"")
        endpoint = Endpoint(device, mode, self.carrier, traffic, self.complain)
        self.nursery.start_soon(endpoint.run)
        self.reception.join(endpoint, rank)
        return traffic

    async def arrive(self, data: bytes, host: str) -> None:
        self.carrier.put((data, Source(host)))
        await trio.sleep(1)


class All:
    """A mode that takes what anybody sends, and what is said of anybody; but not what begins with 0."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        return (SendWire(packet, ("192.0.2.9", 0)),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        return (SendTun(data),) if data[0] else (Drop(Dropped.NOT_IP),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        self.heard.append(error.destination)
        return (SetMtu(1300),)

    def next_deadline(self) -> float:
        return float("inf")

    def tick(self, now: float) -> Sequence[Effect]:
        return ()


def counted(traffic: Traffic) -> tuple[int, dict[str, int]]:
    return traffic.packets_in, {reason.value: count for reason, count in traffic.drops.items() if count}


async def test_each_has_what_its_peer_sends(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    site = Site(nursery)
    one, other = (site.tunnel(SixInFour(f"192.0.2.{host}", OWN)) for host in (2, 3))
    await site.arrive(GOOD, "192.0.2.2")
    await site.arrive(GOOD, "192.0.2.3")
    await site.arrive(GOOD, "192.0.2.3")
    assert (counted(one), counted(other)) == ((1, {}), (2, {}))


async def test_what_is_nobodys_is_counted_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """By the tunnel that knows its sender, or else by the first."""
    site = Site(nursery)
    one, other = (site.tunnel(SixInFour(f"192.0.2.{host}", OWN)) for host in (2, 3))
    await site.arrive(LOOPED, "192.0.2.3")
    assert (counted(one), counted(other)) == ((0, {}), (0, {"inner-source": 1}))
    await site.arrive(GOOD, "192.0.2.4")
    assert (counted(one), counted(other)) == ((0, {"source": 1}), (0, {"inner-source": 1}))
    await site.arrive(LOOPED, "192.0.2.2")
    assert counted(one) == (0, {"source": 1, "inner-source": 1})


async def test_a_failed_check_means_the_next(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """In the order of their ranks, whichever came first."""
    site = Site(nursery)
    last = site.tunnel(All(), rank=1)
    first = site.tunnel(SixInFour("192.0.2.2", OWN), rank=0)
    await site.arrive(GOOD, "192.0.2.2")
    assert (counted(first), counted(last)) == ((1, {}), (0, {}))
    await site.arrive(LOOPED, "192.0.2.2")
    await site.arrive(GOOD, "192.0.2.4")
    assert (counted(first), counted(last)) == ((1, {}), (2, {}))
    await site.arrive(bytes(40), "192.0.2.4")
    assert (counted(first), counted(last)) == ((1, {}), (2, {"not-ip": 1}))


async def test_who_left_is_not_asked(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    site = Site(nursery)
    endpoint = Endpoint(MemoryDevice(1480), All(), site.carrier, Traffic(), site.complain)
    site.reception.join(endpoint)
    there = site.tunnel(SixInFour("192.0.2.2", OWN))
    site.reception.leave(endpoint)
    await site.arrive(GOOD, "192.0.2.2")
    assert counted(there) == (1, {})


async def test_an_error_is_of_one_tunnels_packet(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    site, everything = Site(nursery), All()
    mode = SixInFour("192.0.2.2", OWN)
    site.tunnel(mode)
    site.tunnel(everything, rank=1)
    about = ipv6.build(HERE, THERE, 17, bytes(1440))
    for destination in ("192.0.2.2", "192.0.2.3"):
        site.carrier.put(WireError(3, 4, 1400, "192.0.2.9", about, destination))
    await trio.sleep(1)
    assert (mode.mtu, everything.heard) == (1380, ["192.0.2.3"])
    await trio.sleep(600)
    assert mode.mtu == 1480, "what was learned is forgotten in time"


class Failing(MemoryCarrier):
    """The first packet that it receives is an error. It has had no room for ``lost``."""

    failed = closed = False
    lost = 0

    def missed(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        if self.failed:
            return super().receive(most)
        self.failed = True
        raise OSError(errno.ENOMEM, "said once")

    def close(self) -> None:
        self.closed = True


async def test_errors_while_receiving_are_survived(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    site = Site(nursery)
    carrier = Failing(site.host, "192.0.2.1", IPV6_IN_IPV4)
    reception = Reception(carrier, site.complain)
    traffic = Traffic()
    device = MemoryDevice(1480)
    device.join(site.host, b"")
    reception.join(Endpoint(device, SixInFour("192.0.2.2", OWN), carrier, traffic, site.complain))
    nursery.start_soon(reception.run)
    carrier.put((GOOD, Source("192.0.2.2")))
    await trio.sleep(1)
    assert site.complaints == [("receive", errno.ENOMEM)]
    assert counted(traffic) == (1, {})


class Flooded(MemoryCarrier):
    """ICMP errors come without end, always when one would hear that there are no more."""

    def errors(self) -> Iterator[WireError]:
        for _ in range(10_000):
            yield WireError(3, 1, 0, "192.0.2.9", b"", "192.0.2.77")
        raise AssertionError("nobody else gets a turn")


async def test_errors_without_end_leave_everybody_a_turn(nursery: trio.Nursery) -> None:
    site = Site(nursery)
    carrier, traffic, device = Flooded(site.host, "192.0.2.1", IPV6_IN_IPV4), Traffic(), MemoryDevice(1480)
    device.join(site.host, b"")
    reception = Reception(carrier, site.complain)
    reception.join(Endpoint(device, SixInFour("192.0.2.2", OWN), carrier, traffic, site.complain))
    for _ in range(100):
        carrier.put((GOOD, Source("192.0.2.2")))
    nursery.start_soon(reception.run)
    while traffic.packets_in < 100:
        await trio.lowlevel.checkpoint()
    assert traffic.packets_in == 100


async def test_what_the_kernel_had_no_room_for_the_first_counts(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    site = Site(nursery)
    carrier = Failing(site.host, "192.0.2.1", IPV6_IN_IPV4)
    receptions = Receptions(nursery, lambda key: carrier, site.complain)
    reception = receptions.hold(Key(4, "192.0.2.1"))
    counts = []
    for rank, peer in ((1, "192.0.2.3"), (0, "192.0.2.2")):
        device, traffic = MemoryDevice(1480), Traffic()
        device.join(site.host, b"")
        reception.join(Endpoint(device, SixInFour(peer, OWN), carrier, traffic, site.complain), rank)
        counts.append(traffic)
    for lost in (7, 5):
        carrier.lost = lost
        carrier.put((GOOD, Source("192.0.2.3")))
        await trio.sleep(1)
    assert [counted(traffic) for traffic in counts] == [(2, {}), (0, {"queue": 12})]


async def test_a_receiver_is_open_while_anybody_holds_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    site = Site(nursery)
    opened: list[Failing] = []

    def open(key: Key) -> Failing:
        if key.local == "192.0.2.99":
            raise OSError(errno.EADDRNOTAVAIL, "nobody's")
        opened.append(Failing(site.host, key.local, IPV6_IN_IPV4))
        return opened[-1]

    receptions, key = Receptions(nursery, open, site.complain), Key(4, "192.0.2.1")
    first, second = receptions.hold(key), receptions.hold(key)
    assert first is second
    receptions.release(key)
    await trio.sleep(1)
    assert [carrier.closed for carrier in opened] == [False]
    receptions.release(key)
    await trio.sleep(1)
    assert [carrier.closed for carrier in opened] == [True]
    assert receptions.hold(key) is not first
    assert receptions.hold(Key(4, "192.0.2.7")) is not first
    assert len(opened) == 3
    with pytest.raises(OSError, match="nobody's"):
        receptions.hold(Key(4, "192.0.2.99"))
