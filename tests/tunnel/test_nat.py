"""A tunnel's end behind a NAT, in a network of memory."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import trio
from trio.testing import MockClock

from portproxy.tunnel.carrier.raw import IPV6_IN_IPV4
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.reception import Reception
from portproxy.tunnel.testing import Host, MemoryCarrier, MemoryDevice, Packet, Wire
from portproxy.tunnel.traffic import Traffic

INSIDE, NAT, FAR = "10.0.0.2", "198.51.100.1", "203.0.113.1"


class Nat(Host):
    """Basic NAT (RFC 3022, 2.1): one address inside, and one outside in its place."""

    def __init__(self, inside: str, outside: str) -> None:
        super().__init__(forwards=True)
        self._inside, self._outside = (ip_address(one).packed for one in (inside, outside))

    def receive(self, data: bytes) -> None:
        packet = Packet.read(data)
        if packet.destination == self._outside:
            data = packet._replace(destination=self._inside).encode(0)
        super().receive(data)

    def translate(self, packet: bytes) -> bytes:
        read = Packet.read(packet)
        if read.source != self._inside:
            return packet
        return read._replace(source=self._outside).encode(0)


def end(nursery: trio.Nursery, host: Host, local: str, remote: str, inner: str, far: str) -> Traffic:
    """One of a tunnel; what it counts."""
    device, traffic = MemoryDevice(1480), Traffic()
    carrier = MemoryCarrier(host, local, IPV6_IN_IPV4)
    mode = SixInFour(remote, ip_address(inner).packed)
    endpoint = Endpoint(device, mode, carrier, traffic, print)
    reception = Reception(carrier, print)
    reception.join(endpoint)
    nursery.start_soon(endpoint.run)
    nursery.start_soon(reception.run)
    host.attach(device, inner)
    host.route(far, device)
    return traffic


async def test_a_tunnel_goes_through_a_nat(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """To the far end, the near one is where the NAT is; by its own address it would be nobody's."""
    inside, outside = Wire(nursery, Random(1)), Wire(nursery, Random(2))
    here, nat, there = Host(), Nat(INSIDE, NAT), Host()
    here.attach(inside, f"{INSIDE}/24")
    here.route("0.0.0.0/0", inside, "10.0.0.1")
    nat.attach(inside, "10.0.0.1/24")
    nat.attach(outside, f"{NAT}/24")
    nat.route("203.0.113.0/24", outside)
    there.attach(outside, f"{FAR}/24")
    there.route("198.51.100.0/24", outside)
    near = end(nursery, here, INSIDE, FAR, "2001:db8::1", "2001:db8::2")
    far = end(nursery, there, FAR, NAT, "2001:db8::2", "2001:db8::1")
    assert await here.ping("2001:db8::2")
    assert await there.ping("2001:db8::1", 3000)
    assert near.packets_in == far.packets_in == 4
    there.carriers.clear()
    unaware = end(nursery, there, FAR, INSIDE, "2001:db8::2", "2001:db8::1")
    assert not await here.ping("2001:db8::2")
    assert unaware.drops[Dropped.SOURCE] == 1
