"""Networks in memory, to try modes in: hosts, routers and wires that carry real packets.

They run in trio's time: on ``trio.testing.MockClock(autojump_threshold=0)`` ten minutes pass at once, and the
same seed is the same course of events. An ``Endpoint`` runs between a device and a carrier of one host, whose
``Reception`` it joins::

    wire, host, device = Wire(nursery, Random(1), loss=0.1), Host(), MemoryDevice(mtu=1480)
    host.attach(wire, "192.0.2.1/24")
    host.attach(device, "2001:db8::1/64")
    carrier = MemoryCarrier(host, "192.0.2.1", IPV6_IN_IPV4)
"""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from random import Random

import trio

from portproxy.tunnel.effects import Configure, SendWire, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.packet import PacketError, icmpv4, icmpv6, ipv4, ipv6
from portproxy.tunnel.packet.fragments import GivenUp, Reassembler, fragment4, fragment6
from portproxy.tunnel.testing.packets import Packet as Packet
from portproxy.tunnel.testing.packets import aged, checksum_of, control, destination

_APART = 1e-6
"""Seconds. No two packets arrive at once: the clock jumps when every task waits, so what the first sets off
is done before the second comes."""
_REMEMBERED = 600.0
"""Seconds for which a host goes by what it has heard of a path's MTU (RFC 8201, 4)."""
_MOST = 65535
_ECHO = {4: (8, 0), 16: (128, 129)}
"""Request and reply, by the length of an address (RFC 792; RFC 4443, 4)."""
_ERRORS = {4: {3, 11, 12}, 16: range(1, 128)}


class Wire:
    """A link between hosts, whose packets are tasks of ``nursery``; ``random`` decides what becomes of them.

    It loses the share ``loss``, and carries the share ``repeat`` twice; each packet takes ``delay`` seconds
    and up to ``jitter`` more, so that they overtake each other. It has room for ``room`` packets.
    """

    def __init__(
        self, nursery: trio.Nursery, random: Random, *, mtu: int = 1500, room: int = 1000,
        delay: float = 0.001, jitter: float = _APART, loss: float = 0.0, repeat: float = 0.0,
    ) -> None:  # fmt: skip
        self._nursery, self._random = nursery, random.random
        self.mtu, self.room, self.delay, self.jitter = mtu, room, delay, jitter
        self.loss, self.repeat = loss, repeat
        self.lost = self.repeated = self._held = 0
        self._hosts: dict[bytes, Host] = {}

    def join(self, host: Host, address: bytes) -> None:
        self._hosts[address] = host

    def carry(self, packet: bytes, next_hop: bytes) -> None:
        """Raises OSError: EHOSTUNREACH where nobody is ``next_hop``, ENOBUFS where it is full."""
        host = self._hosts.get(next_hop)
        if host is None:
            raise OSError(errno.EHOSTUNREACH, f"{ip_address(next_hop)} is not on the wire")
        if self._held >= self.room:
            raise OSError(errno.ENOBUFS, "the wire is full")
        lost, twice = self._random() < self.loss, self._random() < self.repeat
        self.lost += lost
        self.repeated += twice and not lost
        for _ in range(0 if lost else 1 + twice):
            self._held += 1
            self._nursery.start_soon(self._bring, host, packet, self.delay + self._random() * self.jitter)

    async def _bring(self, host: Host, packet: bytes, delay: float) -> None:
        await trio.sleep(delay)
        self._held -= 1
        host.receive(packet)


class MemoryDevice:
    """A tunnel's interface on the host that it is attached to; unless it is ``up``, writing to it fails."""

    configured = Configure((), ())
    """What routers have said."""

    def __init__(self, mtu: int) -> None:
        self.mtu, self.up = mtu, True
        self._host: Host | None = None
        self._packets: deque[bytes] = deque()
        self._filled = trio.Event()

    def join(self, host: Host, address: bytes) -> None:
        self._host = host

    def carry(self, packet: bytes, next_hop: bytes) -> None:
        self._packets.append(packet)
        self._filled.set()

    async def wait(self) -> None:
        if not self._packets:
            self._filled = trio.Event()
        await self._filled.wait()

    def read(self, most: int) -> list[bytes]:
        return [self._packets.popleft() for _ in range(min(most, len(self._packets)))]

    def write(self, packets: Sequence[bytes]) -> list[tuple[bytes, OSError]]:
        """Unless it is up, EIO for each."""
        if not self.up or self._host is None:
            return [(packet, OSError(errno.EIO, "the interface is down")) for packet in packets]
        for packet in packets:
            self._host.receive(packet)
        return []

    def set_mtu(self, mtu: int) -> None:
        """Raises OSError: EINVAL for what no interface takes."""
        if not ipv4.LEAST_MTU <= mtu <= _MOST:
            raise OSError(errno.EINVAL, f"an MTU of {mtu}")
        self.mtu = mtu

    def configure(self, wanted: Configure) -> None:
        self.configured = wanted


class MemoryCarrier:
    """A raw socket of ``protocol`` on ``host``, bound to its address ``local``; ``ttl`` is the outer one."""

    def __init__(self, host: Host, local: str, protocol: int, *, ttl: int = 64) -> None:
        self._host, self._ttl = host, ttl
        self._protocol, self._local = protocol, ip_address(local).packed
        self._arrived: deque[tuple[bytes, Source]] = deque()
        self._reported: deque[WireError] = deque()
        self._filled = trio.Event()
        host.carriers.append(self)

    def takes(self, protocol: int, local: bytes) -> bool:
        """Whether a packet of ``protocol`` to ``local``, or an error about one from there, is its own."""
        return (protocol, local) == (self._protocol, self._local)

    def put(self, arrived: tuple[bytes, Source] | WireError) -> None:
        """A packet has arrived, without its outer header, or an error."""
        if isinstance(arrived, WireError):
            self._reported.append(arrived)
        else:
            self._arrived.append(arrived)
        self._filled.set()

    async def wait(self) -> None:
        if not self._arrived and not self._reported:
            self._filled = trio.Event()
        await self._filled.wait()

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    def errors(self) -> Iterator[WireError]:
        while self._reported:
            yield self._reported.popleft()

    def send(self, packets: Sequence[SendWire]) -> list[tuple[SendWire, OSError]]:
        """With what ``Host.send`` raises."""
        lost = []
        for packet in packets:
            try:
                self._send(packet)
            except OSError as error:
                lost.append((packet, error))
        return lost

    def _send(self, packet: SendWire) -> None:
        outer = Packet(self._local, ip_address(packet.destination[0]).packed, self._protocol, packet.data)
        outer = outer._replace(hops=self._ttl, tos=packet.tos, dont_fragment=packet.dont_fragment)
        self._host.send(self._host.encode(outer))


Link = Wire | MemoryDevice
"""Where a host sends packets."""


class Host:
    """Answers pings, and puts fragments together; a router if it ``forwards``."""

    def __init__(self, *, forwards: bool = False) -> None:
        self.forwards = forwards
        self.carriers: list[MemoryCarrier] = []
        self.dropped: Counter[str] = Counter()
        """Why packets went no further than here."""
        self.errors: list[WireError] = []
        """What the network has reported of packets from here."""
        self._own: dict[bytes, Link] = {}
        self._routes: list[tuple[IPv4Network | IPv6Network, Link, bytes | None]] = []
        self._numbers = itertools.count(1)
        self._echoes: dict[bytes, trio.Event] = {}
        self._paths: dict[bytes, tuple[int, float]] = {}
        self._reassembler = Reassembler()

    def attach(self, link: Link, *addresses: str) -> None:
        """Join ``link`` with ``addresses`` as in 192.0.2.1/24, whose networks are then reached there."""
        for interface in map(ip_interface, addresses):
            link.join(self, interface.packed)
            self._own[interface.packed] = link
            self.route(str(interface.network), link)

    def route(self, prefix: str, link: Link, via: str | None = None) -> None:
        """Send what goes to ``prefix`` to the router ``via`` on ``link``, or straight to its destination."""
        self._routes.append((ip_network(prefix), link, ip_address(via).packed if via else None))
        self._routes.sort(key=lambda route: -route[0].prefixlen)

    async def ping(self, to: str, size: int = 56, *, hops: int = 64, dont_fragment: bool = False) -> bool:
        """Whether an echo of ``size`` bytes of data came back within a second. Raises OSError as ``send``."""
        far = ip_address(to).packed
        link, _ = self._find(far)
        mine = (own for own in self._own if len(own) == len(far))
        own = min(mine, key=lambda own: self._own[own] is not link)
        # What comes back is known by its identifier and data: all of it has to be as it was.
        body = next(self._numbers).to_bytes(4) + bytes(at % 251 for at in range(size))
        echo = control(own, far, _ECHO[len(far)][0], body)
        self.send(self.encode(echo._replace(hops=hops, dont_fragment=dont_fragment)))
        answered = self._echoes[body] = trio.Event()
        with trio.move_on_after(1):
            await answered.wait()
        return self._echoes.pop(body).is_set()

    def encode(self, packet: Packet) -> bytes:
        """``packet`` as this host sends it. Raises OSError: EMSGSIZE where none is so large."""
        try:
            return packet.encode(next(self._numbers))
        except PacketError as error:
            raise OSError(errno.EMSGSIZE, str(error)) from None

    def send(self, packet: bytes) -> None:
        """Raises OSError: ENETUNREACH without a route, EMSGSIZE for what is too large and may not be
        fragmented, and what the link raises."""
        far = destination(packet)
        link, _ = self._find(far)
        mtu, until = self._paths.get(far, (link.mtu, math.inf))
        mtu = min(mtu, link.mtu) if trio.current_time() < until else link.mtu
        self._carry(packet, mtu)

    def receive(self, data: bytes) -> None:
        """``data`` has come over a link."""
        try:
            packet = Packet.read(data)
            if packet.destination in self._own:
                self._take(data)
                return
        except PacketError:
            self.dropped["malformed"] += 1
            return
        if not self.forwards:
            self.dropped["not for us"] += 1
        elif packet.hops <= 1:
            self.dropped["hops"] += 1
        else:
            self._forward(self.translate(aged(data)))

    def translate(self, packet: bytes) -> bytes:
        """What a router sends on in the place of ``packet``: a NAT changes it here."""
        return packet

    def _carry(self, packet: bytes, mtu: int) -> None:
        """Raises OSError."""
        far = destination(packet)
        link, next_hop = self._find(far)
        try:
            pieces = fragment4(packet, mtu) if len(far) == 4 else fragment6(packet, mtu, next(self._numbers))
        except PacketError as error:
            raise OSError(errno.EMSGSIZE, str(error)) from None
        for piece in pieces:
            link.carry(piece, next_hop)

    def _find(self, far: bytes) -> tuple[Link, bytes]:
        """The link and the next hop to ``far``. Raises OSError: ENETUNREACH."""
        for prefix, link, via in self._routes:
            if ip_address(far) in prefix:
                return link, via or far
        raise OSError(errno.ENETUNREACH, f"no route to {ip_address(far)}")

    def _forward(self, packet: bytes) -> None:
        far, icmp, mtu = destination(packet), icmpv4 if packet[0] >> 4 == 4 else icmpv6, 0
        own = next((own for own in self._own if len(own) == len(far)), None)
        try:
            mtu = self._find(far)[0].mtu
            if len(packet) > mtu and len(far) == 16:
                raise OSError(errno.EMSGSIZE, "in IPv6 its source fragments it, and nobody else")
            self._carry(packet, mtu)
        except OSError as error:
            self.dropped[os.strerror(error.errno or 0)] += 1
            if own is None or error.errno == errno.ENOBUFS:
                return
            if error.errno == errno.EMSGSIZE:
                self._answer(icmp.too_big(packet, own, mtu))
            else:
                self._answer(icmp.unreachable(packet, own, icmp.Unreachable(0)))

    def _answer(self, packet: bytes | None) -> None:
        with suppress(OSError):
            if packet:
                self.send(packet)

    def _take(self, data: bytes) -> None:
        """``data`` is for this host. Raises PacketError."""
        for whole in self._reassembler.add(data, trio.current_time()):
            if isinstance(whole, GivenUp):
                self.dropped[whole] += 1
            else:
                self._deliver(Packet.read(whole))

    def _deliver(self, packet: Packet) -> None:
        if packet.protocol in (icmpv4.PROTOCOL, icmpv6.PROTOCOL):
            self._hear(packet)
            return
        takers = [carrier for carrier in self.carriers if carrier.takes(packet.protocol, packet.destination)]
        for carrier in takers:
            carrier.put((packet.payload, Source(str(ip_address(packet.source)), 0, packet.tos)))
        if not takers:
            self.dropped["nobody takes it"] += 1

    def _hear(self, packet: Packet) -> None:
        source, far, message = packet.source, packet.destination, packet.payload
        request, reply = _ECHO[len(far)]
        if len(message) < 8 or checksum_of(source, far, message):
            self.dropped["malformed"] += 1
        elif message[0] == request:
            self._answer(self.encode(control(far, source, reply, message[4:])))
        elif message[0] == reply:
            if message[4:] in self._echoes:
                self._echoes[message[4:]].set()
        elif message[0] in _ERRORS[len(far)]:
            self._heed(message, str(ip_address(source)))

    def _heed(self, message: bytes, sender: str) -> None:
        """An ICMP error about a packet from here, of which it quotes at least the header."""
        kind, code, about = message[0], message[1], message[8:]
        if about[:1] and about[0] >> 4 == 4:
            length, protocol, own, far = (about[0] & 0xF) * 4, about[9:10], about[12:16], about[16:20]
            mtu = int.from_bytes(message[6:8])
        else:
            length, protocol, own, far = ipv6.HEADER, about[6:7], about[8:24], about[24:40]
            mtu = int.from_bytes(message[4:8]) if kind == icmpv6.PACKET_TOO_BIG else 0
            if mtu:
                self._paths[far] = (mtu, trio.current_time() + _REMEMBERED)
        error = WireError(kind, code, mtu, sender, about[length:], str(ip_address(far)))
        self.errors.append(error)
        for carrier in self.carriers:
            if carrier.takes(int.from_bytes(protocol), own):
                carrier.put(error)
