"""One running tunnel: device, interface, sender and endpoint, made as a Tunnel says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import trio

from portproxy.tunnel.device import NODE, Tun
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.interface import Interface, remove_left_behind
from portproxy.tunnel.making import Sender, TunnelMode, all_addresses, make_mode, make_sender
from portproxy.tunnel.model import AUTO, Tunnel, TunnelType
from portproxy.tunnel.reception import Key, Reception, Receptions
from portproxy.tunnel.routing import Way, way_to
from portproxy.tunnel.traffic import Traffic

_RANKS = {type_: rank for rank, type_ in enumerate(TunnelType)}


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
        self._mode: TunnelMode
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
        made, self._sender = self._sender, make_sender(spec, way)
        self._mode = make_mode(spec, way)
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
