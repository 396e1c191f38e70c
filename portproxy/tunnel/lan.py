"""A network that this host is a router of: what an advertiser says there, and hosts ask, by a raw socket."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from portproxy.tunnel.interface import Interface, remove_strays
from portproxy.tunnel.model import Interface as Address
from portproxy.tunnel.modes.advertiser import Advertiser
from portproxy.tunnel.packet import discovery, icmpv6, ipv6
from portproxy.tunnel.routing import Changes

_ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
_SOLICITATION = 133
_PACKET = 65535

# From linux/icmpv6.h, which the socket module leaves out: a bit for each type that does not pass.
_ICMPV6_FILTER = 1
_ONLY_SOLICITATIONS = struct.pack(
    "=8I", *(0xFFFFFFFF & ~(1 << _SOLICITATION >> first) for first in range(0, 256, 32))
)
_PKTINFO = struct.Struct("=16sI")
"""struct in6_pktinfo (ipv6(7)): address and interface; struct ipv6_mreq, which joins a group, is alike."""
_INT = struct.Struct("=i")
_ANCILLARY = socket.CMSG_SPACE(_PKTINFO.size) + socket.CMSG_SPACE(_INT.size)

# From linux/sockios.h, linux/if.h and linux/if_arp.h.
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8913, 0x8927, 0x8933
_REQUEST = struct.Struct("16s24x")
"""struct ifreq (netdevice(7)); the answer stands where the zeros are."""
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_ARPHRD_ETHER = 1
_ETHERNET = struct.Struct("=H6s")

_ADDRESSES = "/proc/net/if_inet6"
"""proc(5): address, index, prefix length, scope, flags, name; all numbers in hexadecimal."""
_LINK = 0x20
"""The scope there (linux/ipv6.h, IPV6_ADDR_LINKLOCAL)."""
_DUPLICATE = 0x08
_NOT_OURS = 0x40 | _DUPLICATE
"""IFA_F_TENTATIVE and IFA_F_DADFAILED: not yet, and never (RFC 4862, 5.4)."""

_RETRY = 10.0
"""Seconds until an address that could not be had is asked for again, where nothing happens before."""


class _Source(NamedTuple):
    """The interface, by its index, its link-local address, packed, and the one on Ethernet, if it has one."""

    interface: int
    link_local: bytes
    link_layer: bytes | None


class Lan:
    """The interface ``interface``, which may go and come back, under the same name also as another.

    Addresses that a process left behind there which was killed are removed. ``on_error`` hears of what the
    kernel refuses; ``on_problem`` hears why the interface lacks an address whenever that was tried to mend,
    and an empty string when it lacks none. Raises OSError: ENODEV where there is no such interface, EPERM
    without CAP_NET_RAW, EAFNOSUPPORT without IPv6.
    """

    def __init__(
        self, interface: str, on_error: Callable[[str, OSError], None], on_problem: Callable[[str], None]
    ) -> None:
        self.interface = interface
        self._on_error, self._on_problem = on_error, on_problem
        self._wanted: tuple[Address, ...] = ()
        self._given = set[Address]()
        self._refusal: OSError | None = None
        self._arranging = trio.Lock()
        self._duplicates: frozenset[bytes] = frozenset()
        self._source: _Source | None = None
        self._timer = trio.CancelScope()
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_INET6, kind, icmpv6.PROTOCOL)
        try:
            self._sock.setsockopt(icmpv6.PROTOCOL, _ICMPV6_FILTER, _ONLY_SOLICITATIONS)
            for option, value in (
                (socket.IPV6_RECVHOPLIMIT, 1),
                (socket.IPV6_RECVPKTINFO, 1),
                (socket.IPV6_MULTICAST_HOPS, discovery.HOP_LIMIT),
                # What hosts are told is not for this one.
                (socket.IPV6_MULTICAST_LOOP, 0),
            ):
                self._sock.setsockopt(socket.IPPROTO_IPV6, option, value)
            self._index()
            remove_strays(interface)
            # Once: later the relay's connections may have left no descriptor to look with.
            self._table = Path(_ADDRESSES).open()  # noqa: SIM115
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        """The addresses that it has given go too. May block. Raises OSError where they do not."""
        try:
            self._take_back(self._given)
        finally:
            self._table.close()
            self._sock.close()

    # Addresses. With each comes the route to its prefix.

    async def arrange(self, addresses: Iterable[Address]) -> None:
        """Have the interface have ``addresses``, and of those given before no others; and again, while this
        runs, whenever it has lost one. What somebody else gives it is left to them."""
        self._wanted = tuple(addresses)
        await self._tend()

    async def _tend(self) -> bool:
        """Whether the interface lacked an address, and has it now."""
        async with self._arranging:
            present = {address for address, _, _ in self._present()}
            lacking = [one for one in self._wanted if one.ip.packed not in present]
            self._given.difference_update(lacking)
            if not lacking or not self._denied:
                self._refusal = await trio.to_thread.run_sync(self._give, lacking) if lacking else None
                why = self._refusal and os.strerror(self._refusal.errno or errno.EIO)
                self._on_problem(f"advertise on {self.interface}: {why}" if why else "")
            # Last: hosts that hear of a new one may send to it at once.
            if surplus := self._given.difference(self._wanted):
                try:
                    await trio.to_thread.run_sync(self._take_back, surplus)
                except OSError as error:
                    self._on_error(f"take back the addresses of {self.interface}", error)
            return bool(lacking) and not self._refusal

    @property
    def _denied(self) -> bool:
        """Root was dropped, and does not come back."""
        return self._refusal is not None and self._refusal.errno == errno.EPERM

    def _give(self, addresses: Iterable[Address]) -> OSError | None:
        """What the kernel says where it refuses one."""
        refusal = None
        for one in addresses:
            try:
                self._device().add_addresses((one,))
                self._given.add(one)
            except OSError as error:
                if error.errno != errno.EEXIST:  # somebody else was faster
                    refusal = error
        return refusal

    def _take_back(self, addresses: Collection[Address]) -> None:
        """Raises OSError; it is not tried a second time."""
        self._given = self._given.difference(addresses)
        try:
            device = self._device()
        except OSError:  # the interface is gone, and they with it
            return
        device.remove_addresses(addresses)

    # Advertising.

    async def run(self, advertiser: Advertiser) -> None:
        """Be a router of the network, as ``advertiser`` has it, until cancelled; then say that it is none."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, advertiser)
                nursery.start_soon(self._listen, advertiser)
                nursery.start_soon(self._keep_time, advertiser)
        finally:
            # It does not wait: nothing for a cancellation to cut short.
            self.send(advertiser.retire(trio.current_time()))

    def send(self, packets: Sequence[bytes]) -> None:
        """Send what the advertiser has returned to somebody else, where the interface can at present; and
        look anew when it has something to do."""
        if self._source:
            for packet in packets:
                self._send(packet, self._source.interface)
        self._timer.cancel()

    def _send(self, packet: bytes, index: int) -> None:
        source, destination = packet[8:24], socket.inet_ntop(socket.AF_INET6, packet[24:40])
        # Of itself the kernel might take a global address, while the link-local one is gone.
        info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(source, index))
        try:
            self._sock.sendmsg((packet[ipv6.HEADER :],), (info,), 0, (destination, 0, 0, index))
        except OSError as error:
            self._on_error(f"advertise on {self.interface}", error)

    async def _keep_time(self, advertiser: Advertiser) -> None:
        while True:
            with trio.CancelScope(deadline=advertiser.next_deadline()) as self._timer:
                await trio.sleep_forever()
            self.send(advertiser.tick(trio.current_time()))

    async def _listen(self, advertiser: Advertiser) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            packet = self._receive()
            if packet and advertiser.solicited(packet, trio.current_time()):
                self._timer.cancel()

    def _receive(self) -> bytes | None:
        """A packet as it arrived at the interface, but for extension headers, which the kernel leaves out."""
        try:
            data, ancillary, _, sender = self._sock.recvmsg(_PACKET, _ANCILLARY)
        except BlockingIOError:
            return None
        except OSError as error:
            self._on_error(f"listen on {self.interface}", error)
            return None
        said = {kind: value for level, kind, value in ancillary if level == socket.IPPROTO_IPV6}
        (hop_limit,) = _INT.unpack(said[socket.IPV6_HOPLIMIT])
        destination, index = _PKTINFO.unpack(said[socket.IPV6_PKTINFO])
        if not self._source or index != self._source.interface:
            return None
        source = socket.inet_pton(socket.AF_INET6, sender[0])
        return ipv6.build(source, destination, icmpv6.PROTOCOL, data, hop_limit=hop_limit)

    # The interface.

    async def _follow(self, advertiser: Advertiser) -> None:
        changes = Changes()
        try:
            while True:
                await self._look(advertiser)
                again = self._refusal and not self._denied
                with trio.move_on_after(_RETRY if again else math.inf):
                    await changes.wait()
        finally:
            changes.close()

    async def _look(self, advertiser: Advertiser) -> None:
        """Begin, if the interface can be sent from, and could not before or not so."""
        mended = await self._tend()
        present = self._present()
        source = self._find_source(present)
        self._report({address for address, _, flags in present if flags & _DUPLICATE})
        if not source or (source == self._source and not mended):
            self._source = source
            return
        try:
            self._join(source.interface)
        except OSError as error:
            self._on_error(f"be a router on {self.interface}", error)
        self._source = source
        self.send(advertiser.begin(source.link_local, source.link_layer, trio.current_time()))

    def _report(self, duplicates: Collection[bytes]) -> None:
        """Somebody else on the link has an address of ours, and goes on to have it."""
        own = frozenset(one.ip.packed for one in self._wanted).intersection(duplicates)
        for one in own - self._duplicates:
            what = f"use {socket.inet_ntop(socket.AF_INET6, one)} on {self.interface}"
            self._on_error(what, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)))
        self._duplicates = own

    def _find_source(self, present: Sequence[tuple[bytes, int, int]]) -> _Source | None:
        """None while there is none: the interface is down or gone, or still making sure of its address."""
        usable = [address for address, scope, flags in present if scope == _LINK and not flags & _NOT_OURS]
        try:
            (flags,) = struct.unpack_from("=H", self._ask(_SIOCGIFFLAGS))
            kind, link_layer = _ETHERNET.unpack_from(self._ask(_SIOCGIFHWADDR))
            index = self._index()
        except OSError:
            return None
        if not usable or not flags & _IFF_UP or not flags & _IFF_RUNNING:
            return None
        return _Source(index, min(usable), link_layer if kind == _ARPHRD_ETHER else None)

    def _present(self) -> list[tuple[bytes, int, int]]:
        """Its IPv6 addresses, packed, with their scopes and flags."""
        self._table.seek(0)
        lines = (line.split() for line in self._table)
        return [
            (bytes.fromhex(address), int(scope, 16), int(flags, 16))
            for address, _, _, scope, flags, name in lines
            if name == self.interface
        ]

    def _join(self, index: int) -> None:
        """Hear what is for all routers. Raises OSError."""
        group = _PKTINFO.pack(_ALL_ROUTERS, index)
        with suppress(OSError):  # one of before, of which the interface may know no more
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, group)
        self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

    def _device(self) -> Interface:
        self._index()  # which says why, unlike if_nametoindex(3)
        return Interface(self.interface, 6, shared=True)

    def _index(self) -> int:
        (index,) = _INT.unpack_from(self._ask(_SIOCGIFINDEX))
        return int(index)

    def _ask(self, request: int) -> bytes:
        """netdevice(7). Raises OSError (ENODEV)."""
        return fcntl.ioctl(self._sock, request, _REQUEST.pack(self.interface.encode()))[16:]
