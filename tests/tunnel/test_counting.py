"""What a tunnel counts as carried, and how often it complains of what it could not carry."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from random import Random

import trio
from trio.testing import MockClock

from portproxy.tunnel.carrier.raw import IPV6_IN_IPV4
from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.reception import Reception
from portproxy.tunnel.testing import Host, MemoryCarrier, MemoryDevice, Wire
from portproxy.tunnel.traffic import Traffic


class Post:
    """A mode that sends each packet to the host that its first byte says, or tells its source that it is too
    big; and takes what anybody sends."""

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        if len(packet) > 1000:
            return Drop(Dropped.TOO_BIG), SendTun(bytes(5))
        return (SendWire(packet, (f"192.0.2.{packet[0]}", 0)),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        return (SendTun(data),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        return (SendTun(error.quoted),)

    def next_deadline(self) -> float:
        return float("inf")

    def tick(self, now: float) -> Sequence[Effect]:
        return ()


class Choosy(MemoryDevice):
    """Takes no packet that begins with an errno."""

    def __init__(self) -> None:
        super().__init__(1480)
        self.taken: list[bytes] = []

    def write(self, packets: Sequence[bytes]) -> list[tuple[bytes, OSError]]:
        self.taken += [packet for packet in packets if not packet[0]]
        return [(packet, OSError(packet[0], "not this one")) for packet in packets if packet[0]]


class End:
    """Host 1, which reaches host 2 by a wire, and nobody else there."""

    def __init__(self, nursery: trio.Nursery) -> None:
        host, wire = Host(), Wire(nursery, Random(1))
        host.attach(wire, "192.0.2.1/24")
        Host().attach(wire, "192.0.2.2/24")
        self.device, self.traffic = Choosy(), Traffic()
        self.carrier = MemoryCarrier(host, "192.0.2.1", IPV6_IN_IPV4)
        self.complaints: list[tuple[str, int | None]] = []
        endpoint = Endpoint(self.device, Post(), self.carrier, self.traffic, self.complain)
        reception = Reception(self.carrier, self.complain)
        reception.join(endpoint)
        nursery.start_soon(endpoint.run)
        nursery.start_soon(reception.run)

    def complain(self, what: str, error: OSError) -> None:
        self.complaints.append((what, error.errno))

    async def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.device.carry(packet, b"")
        await trio.sleep(0.01)

    async def arrive(self, *packets: bytes) -> None:
        for packet in packets:
            self.carrier.put((packet, Source("192.0.2.2")))
        await trio.sleep(0.01)

    def drops(self) -> dict[str, int]:
        return {reason.value: count for reason, count in self.traffic.drops.items() if count}


async def test_out_is_what_has_left_by_the_wire(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    end = End(nursery)
    await end.send(b"\2" * 10, b"\x09" * 200, b"\2" * 30, bytes(1001))
    assert (end.traffic.packets_out, end.traffic.bytes_out) == (2, 40)
    assert end.drops() == {"no-route": 1, "too-big": 1}


async def test_in_is_what_came_by_the_wire_and_arrived(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Errors that are made here do not come from there."""
    end = End(nursery)
    await end.arrive(bytes(10), bytes((errno.EIO,)) * 200, bytes(30))
    assert (end.traffic.packets_in, end.traffic.bytes_in) == (2, 40)
    end.carrier.put(WireError(3, 1, 0, "192.0.2.9", bytes(7), "192.0.2.2"))
    await trio.sleep(0.01)
    await end.send(bytes(1001))
    assert end.device.taken == [bytes(10), bytes(30), bytes(7), bytes(5)]
    assert (end.traffic.packets_in, end.traffic.bytes_in) == (2, 40)
    assert end.drops() == {"refused": 1, "too-big": 1}


async def test_every_packet_is_counted_and_one_a_minute_complained_of(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    end, unreachable = End(nursery), ("send", errno.EHOSTUNREACH)
    for number in range(500):
        # One that arrives in between does not make the next a new one.
        await end.send(b"\x09" * 40, b"\2" * 40)
        assert end.complaints == [unreachable], number
    await end.arrive(*(bytes((one,)) for one in (errno.EIO, errno.EINVAL, errno.EIO, errno.EHOSTUNREACH)))
    of_others = [("deliver", one) for one in (errno.EIO, errno.EINVAL, errno.EHOSTUNREACH)]
    assert end.complaints == [unreachable, *of_others]
    await trio.sleep(50)
    await end.send(b"\x09" * 40)
    assert end.complaints == [unreachable, *of_others]
    await trio.sleep(10)
    await end.send(b"\x09" * 40, b"\x09" * 40)
    assert end.complaints == [unreachable, *of_others, unreachable]
    assert end.drops() == {"no-route": 504, "refused": 3}
    assert end.traffic.packets_out == 500


async def test_of_a_full_queue_nobody_complains(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    end = End(nursery)
    await end.arrive(*(bytes((one,)) for one in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)))
    assert (end.drops(), end.complaints) == ({"busy": 3}, [])
