"""One running tunnel: device, interface, sender and endpoint, made as a Tunnel says."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Callable

import trio

from portproxy.tunnel.carrier import Protocol4Receiver, Protocol4Sender, Protocol41Receiver, Protocol41Sender
from portproxy.tunnel.device import NODE, Tun
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.interface import Interface, remove_left_behind
from portproxy.tunnel.model import AUTO, Tunnel, TunnelType
from portproxy.tunnel.model import Interface as InterfaceAddress
from portproxy.tunnel.modes import fourinsix
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.reception import Key, Reception, Receptions
from portproxy.tunnel.routing import Way, way_to
from portproxy.tunnel.traffic import Traffic

_LINK_LOCAL = 0xFE80 << 112
_DUMMY = ipaddress.IPv4Address("192.0.0.8").packed
"""RFC 7600, 4.8: what ICMPv4 errors come from that have no other address to come from."""

_RANKS = {type_: rank for rank, type_ in enumerate(TunnelType)}

Sender = Protocol41Sender | Protocol4Sender


class Device:
    """The TUN device and the interface that it is, as an endpoint wants them: one thing."""

    def __init__(self, name: str, carries: int) -> None:
        self._tun = Tun(name)
        try:
            self.interface = Interface(name, carries)
        except OSError:
            self._tun.close()
            raise
        self.wait, self.read, self.write = self._tun.wait, self._tun.read, self._tun.write
        self.set_mtu = self.interface.set_mtu

    def close(self) -> None:
        self._tun.close()


class RunningTunnel:
    """Runs ``spec``, which ``change`` may replace while connections through it go on.

    ``way`` is where it leaves from. ``on_error`` hears of what the kernel refuses. Raises OSError, which
    ``explain`` tells people.
    """

    def __init__(self, spec: Tunnel, on_error: Callable[[str, OSError], None]) -> None:
        self.spec = spec
        self.traffic = Traffic()
        self._on_error = on_error
        self.gone = trio.Event()
        self._changed = trio.CancelScope()
        self._mode: SixInFour | FourInSix
        self._sender: Sender | None = None
        self._sending: Sender | None = None
        self._receptions: Receptions
        self._reception: Reception
        self._held: Key | None = None
        remove_left_behind(spec.interface)
        self._device = Device(spec.interface, spec.type.inner)
        try:
            self._device.interface.take()
            self.way = self._find_way(spec)
            self._make(spec, self.way)
            self._arrange(spec)
        except OSError:
            self._close()
            raise

    @property
    def mtu(self) -> int:
        """Bytes of the largest packet that goes in, by now."""
        return self._mode.mtu

    def open(self, receptions: Receptions) -> None:
        """Begin to receive: before the first packet goes out, to which there may be an answer.

        Raises OSError, and then all that was made is taken back.
        """
        self._receptions = receptions
        try:
            self._receive()
        except OSError:
            self._close()
            raise

    async def run(self) -> None:
        """Carry packets until cancelled; then everything that it made is taken back, and it is ``gone``.

        Raises OSError when the kernel takes the interface or the address away.
        """
        try:
            while True:
                await self._carry()
                self._receive()
        finally:
            self._close()
            self.gone.set()

    def _receive(self) -> None:
        key = Key(self.spec.type.outer, self.way.local)
        self._reception = self._receptions.hold(key)
        if self._held:  # not before: what has arrived by now would be lost
            self._receptions.release(self._held)
        self._held = key

    async def _carry(self) -> None:
        """Until ``take_up``."""
        sender = self._sending = self._sender
        assert sender
        endpoint = Endpoint(self._device, self._mode, sender, self.traffic, self._on_error)
        self._reception.join(endpoint, _RANKS[self.spec.type])
        try:
            with trio.CancelScope() as self._changed:
                await endpoint.run()
        finally:
            self._reception.leave(endpoint)
        if sender is not self._sender:
            sender.close()

    def _close(self) -> None:
        if self._held:
            self._receptions.release(self._held)
        for sender in {self._sender, self._sending}:
            if sender:
                sender.close()
        self._device.close()

    def change(self, spec: Tunnel) -> None:
        """Make ready to go on as ``spec``, whose interface is the same; ``take_up`` does. May block.

        Raises OSError, and then the interface may have some of what ``spec`` says.
        """
        self.spec = spec
        self.way = self._find_way(spec)
        self._make(spec, self.way)
        self._arrange(spec)

    def follow(self) -> bool:
        """Look at the way to the peer again; whether it is another, for ``take_up``. Raises OSError."""
        way = self._find_way(self.spec)
        if way == self.way:
            return False
        self.way = way
        self._make(self.spec, way)
        self._arrange(self.spec)
        return True

    def take_up(self) -> None:
        """Go on by what ``change`` or ``follow`` has made; what waits in the device waits a moment longer."""
        self._changed.cancel()

    def _find_way(self, spec: Tunnel) -> Way:
        return way_to(spec.remoteaddress, None if spec.localaddress == AUTO else spec.localaddress)

    def _make(self, spec: Tunnel, way: Way) -> None:
        own = sender(spec, way.local)
        made = self._sender
        if spec.type is TunnelType.V6V4TUNNEL:
            self._sender = Protocol41Sender(way.local, spec.remoteaddress, spec.ttl)
            self._mode = SixInFour(spec.remoteaddress, own, mtu=spec.mtu, link=way.mtu, clamp_mss=spec.mss)
        else:
            overhead = fourinsix.OVERHEAD + (0 if spec.encaplimit is None else fourinsix.LIMIT_OPTION)
            self._sender = Protocol4Sender(way.local, spec.remoteaddress, spec.ttl, spec.encaplimit)
            self._mode = FourInSix(
                spec.remoteaddress, own, mtu=spec.mtu, link=way.mtu, overhead=overhead, clamp_mss=spec.mss
            )
        if made and made is not self._sending:  # nobody has taken it up
            made.close()

    def _arrange(self, spec: Tunnel) -> None:
        """Give the interface what ``spec`` says and take what it has beside that."""
        interface = self._device.interface
        addresses, routes = all_addresses(spec, self.way.local), spec.route
        interface.set_mtu(self._mode.mtu)
        if not set(interface.addresses) <= set(addresses):
            # With an IPv4 address the kernel takes others of its prefix, with the last one every route.
            interface.remove_routes(interface.routes)
            interface.remove_addresses(interface.addresses)
        interface.remove_routes(route for route in interface.routes if route not in routes)
        interface.add_addresses(one for one in addresses if one not in interface.addresses)
        interface.up()
        interface.add_routes(route for route in routes if route not in interface.routes)


def open_receiver(key: Key) -> Protocol41Receiver | Protocol4Receiver:
    """Where the packets of ``key`` arrive. Raises OSError."""
    return Protocol41Receiver(key.local) if key.outer == 4 else Protocol4Receiver(key.local)


def link_local(local: str) -> InterfaceAddress:
    """The tunnel's own link-local address, from the IPv4 address ``local`` (RFC 4213, 3.7)."""
    return ipaddress.IPv6Interface((_LINK_LOCAL | int(ipaddress.IPv4Address(local)), 64))


def all_addresses(spec: Tunnel, local: str) -> tuple[InterfaceAddress, ...]:
    """What the interface of ``spec`` is to have, which leaves from ``local``."""
    own = (link_local(local),) if spec.type is TunnelType.V6V4TUNNEL else ()
    return (*spec.address, *own)


def sender(spec: Tunnel, local: str) -> bytes:
    """The address, packed, that errors about packets are sent from."""
    if spec.type.inner == 4:
        return _DUMMY  # this host takes no IPv4 packet for real that comes in from an address of its own
    addresses = [one.ip for one in all_addresses(spec, local)]
    # No router forwards what a link-local address sends (RFC 4291, 2.5.6).
    return next((ip for ip in addresses if not ip.is_link_local), addresses[0]).packed


def explain(spec: Tunnel, error: OSError, dropped_to: str | None = None) -> str:
    """Why ``spec`` cannot be, and what would be right, in one line.

    ``dropped_to`` is the user that this process became when it was root no longer, if it was.
    """
    code = error.errno
    if code in (errno.EPERM, errno.EACCES):
        needed = f"making the interface {spec.interface} and its socket needs CAP_NET_ADMIN and CAP_NET_RAW"
        if not dropped_to:
            return needed
        dropped = f"root was dropped to user {dropped_to} after the start"
        return f"{needed}; {dropped}, so a tunnel can be made or changed at a start only"
    if code == errno.ENOENT:
        return f"there is no {NODE} here: load the module tun, or give the container the device"
    if code == errno.EBUSY:
        return f"there is an interface {spec.interface} already; set another name with interface ="
    if code == errno.EADDRNOTAVAIL:
        return f"localaddress {spec.localaddress} is no address of this host"
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"there is no route to remoteaddress {spec.remoteaddress}"
    if code in (errno.EBADFD, errno.ENODEV):
        return f"the interface {spec.interface} was removed"
    if code == errno.EEXIST:
        return "one of its addresses or routes is there already; a tunnel displaces none"
    return os.strerror(code or errno.EIO)
