"""One running tunnel: device, interface, sender and endpoint, made as a Tunnel says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Interface, IPv6Network
from threading import Lock

import trio

from portproxy.tunnel.advertising import Site
from portproxy.tunnel.device import NODE, Tun
from portproxy.tunnel.effects import Configure
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.interface import Interface, remove_left_behind
from portproxy.tunnel.making import (
    AutomaticMode,
    ConfiguredMode,
    Sender,
    all_addresses,
    all_routes,
    make_mode,
    make_sender,
    names_of,
)
from portproxy.tunnel.model import AUTO, Role, Tunnel, TunnelRoute, TunnelType
from portproxy.tunnel.modes.embedded import NOWHERE, Here, packed, public
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.modes.isatap_router import IsatapRouter
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.naming import Names
from portproxy.tunnel.reception import Key, Reception, Receptions
from portproxy.tunnel.routing import Way, check_own, forwards, way_to
from portproxy.tunnel.traffic import Traffic

_ANYWHERE = "192.0.2.1"
"""What the default route leads to; nothing is sent there."""
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
        self.configure: Callable[[Configure], None]

    def close(self) -> None:
        self._tun.close()


class RunningTunnel:
    """Runs ``spec``, which ``change`` may replace while connections through it go on.

    ``way`` is where it leaves from, ``problem`` what it goes on in spite of, of which ``on_problem`` hears.
    ``on_error`` hears of what the kernel refuses. Raises OSError, which ``explain`` tells people.
    """

    def __init__(
        self, spec: Tunnel, on_error: Callable[[str, OSError], None], on_problem: Callable[[str], None]
    ) -> None:
        self.spec = spec
        self._on_problem = on_problem
        self.traffic = Traffic()
        self._on_error = on_error
        self.gone = trio.Event()
        self._changed = trio.CancelScope()
        self._here = NOWHERE
        self._mode: ConfiguredMode | AutomaticMode
        self._endpoint: Endpoint | None = None
        self._learned = Configure((), ())
        self._learned_as: object = None
        self._arranging = Lock()
        self._names = Names(names_of(spec), self._know_routers, on_problem)
        self._site = Site(on_error)
        self._sender: Sender | None = None
        self._sending: Sender | None = None
        self._receptions: Receptions
        self._reception: Reception
        self._held: Key | None = None
        _check_forwarding(spec)
        remove_left_behind(spec.interface)
        self._device = Device(spec.interface, spec.type.inner)
        try:
            self._device.interface.take()
            self.way = _find_way(spec)
            self._make(spec, self.way)
            self._arrange(spec)
        except OSError:
            self._close()
            raise

    @property
    def mtu(self) -> int:
        """Bytes of the largest packet that goes in, by now."""
        return self._mode.mtu

    @property
    def problem(self) -> str:
        return self._names.problem

    def know(self, here: Here) -> None:
        """Of this host, which has changed."""
        self._here = here
        if not isinstance(self._mode, ConfiguredMode):
            self._mode.here = here

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
            async with trio.open_nursery() as nursery:
                await nursery.start(self._site.run)
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
        sender, mode = self._sender, self._mode
        self._sending = sender
        assert sender
        self._device.configure = partial(self._learn, mode)
        endpoint = self._endpoint = Endpoint(self._device, mode, sender, self.traffic, self._on_error)
        self.know(self._here)
        self._know_routers(self._names.addresses)
        self._site.arrange(self.way.local, self.spec.advertise, mode.mtu)
        self._reception.join(endpoint, _RANKS[self.spec.type])
        try:
            with trio.CancelScope() as self._changed:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._names.run)
                    nursery.start_soon(endpoint.run)
        finally:
            self._reception.leave(endpoint)
            if isinstance(mode, IsatapRouter):
                self._say_farewell(mode, endpoint)
        if sender is not self._sender:
            sender.close()

    def _know_routers(self, literals: tuple[str, ...]) -> None:
        assert self._endpoint
        if isinstance(self._mode, IsatapHost | IsatapRouter):
            self._endpoint.do(self._mode.know_routers(literals, trio.current_time()))
        elif isinstance(self._mode, SixToFour):
            self._mode.relay = next(iter(literals), None)

    def _say_farewell(self, mode: IsatapRouter, endpoint: Endpoint) -> None:
        """Hosts go on by what they were told until they are told otherwise."""
        now = trio.current_time()
        new = self._mode
        stays = self._held == Key(4, self.way.local) and new is not mode
        if stays and isinstance(new, IsatapRouter):
            endpoint.do(new.succeed(mode, now))
        else:
            endpoint.do(mode.retire(now))

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
        _check_forwarding(spec)
        if names_of(spec) != names_of(self.spec):
            self._names = Names(names_of(spec), self._know_routers, self._on_problem)
        self.spec = spec
        self.way = _find_way(spec)
        self._make(spec, self.way)
        self._arrange(spec)

    def follow(self) -> bool:
        """Look at the way to the peer again; whether it is another, for ``take_up``. Raises OSError."""
        way = _find_way(self.spec)
        if way == self.way:
            return False
        self.way = way
        self._make(self.spec, way)
        self._arrange(self.spec)
        return True

    def take_up(self) -> None:
        """Go on by what ``change`` or ``follow`` has made; what waits in the device waits a moment longer."""
        self._changed.cancel()

    def _make(self, spec: Tunnel, way: Way) -> None:
        made, self._sender = self._sender, make_sender(spec, way)
        self._mode = make_mode(spec, way)
        learned_as = (spec.type, spec.role, names_of(spec), way.local)
        if learned_as != self._learned_as:  # else it holds until its routers, which are asked, say it anew
            self._learned, self._learned_as = Configure((), ()), learned_as
        if made and made is not self._sending:  # nobody has taken it up
            made.close()

    def _learn(self, mode: ConfiguredMode | AutomaticMode, wanted: Configure) -> None:
        """Raises OSError."""
        if mode is self._mode:  # else a change in another thread has made its successor, which asks anew
            self._learned = wanted
            self._arrange(self.spec)

    def _arrange(self, spec: Tunnel) -> None:
        """Raises OSError."""
        with self._arranging:  # both a change in its thread and what routers say want it
            self._arrange_alone(spec)

    def _arrange_alone(self, spec: Tunnel) -> None:
        """Give the interface what ``spec`` and its routers say and take what it has beside that."""
        interface, said = self._device.interface, self._learned
        learned = [(IPv6Interface((address, length)), old) for address, length, old in said.addresses]
        addresses = (*all_addresses(spec, self.way.local), *(one for one, _ in learned))
        routes = dict.fromkeys((*all_routes(spec), *(TunnelRoute(IPv6Network(one)) for one in said.routes)))
        interface.set_mtu(self._mode.mtu)
        gone = [one for one in interface.addresses if one not in addresses]
        if gone and spec.type.inner == 4:
            # With an IPv4 address the kernel takes others of its prefix, with the last one every route.
            interface.remove_routes(interface.routes)
            gone = list(interface.addresses)
        interface.remove_addresses(gone)
        interface.remove_routes(route for route in interface.routes if route not in routes)
        interface.add_addresses(one for one in addresses if one not in interface.addresses)
        interface.deprecate(frozenset(one for one, old in learned if old))
        interface.up()
        interface.add_routes(route for route in routes if route not in interface.routes)


def _find_way(spec: Tunnel) -> Way:
    """Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL where localaddress is not this host's."""
    local = None if spec.localaddress == AUTO else spec.localaddress
    if not spec.type.automatic:
        return way_to(spec.remoteaddress, local)
    if local:
        check_own(local)
    else:
        local = way_to(next(filter(_is_literal, names_of(spec)), _ANYWHERE)).local
        if spec.type is not TunnelType.ISATAP and not spec.private and not public(packed(local)):
            raise NotPublicError(errno.EADDRNOTAVAIL, f"localaddress auto is {local}, which is not public")
    return Way(local, 0)  # with a fixed MTU, whatever the first hop to each of many peers takes


def _is_literal(name: str) -> bool:
    return name.replace(".", "").isdigit()


class NotForwardingError(OSError):
    """What others send, this host does not forward."""


class NotPublicError(OSError):
    """The address that the default route leaves from is nobody's in the Internet."""


def _check_forwarding(spec: Tunnel) -> None:
    """Raises NotForwardingError."""
    if spec.role is not Role.HOST and not forwards():
        raise NotForwardingError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def explain(spec: Tunnel, error: OSError, dropped_to: str | None = None) -> str:
    """Why ``spec`` cannot be, and what would be right, in one line.

    ``dropped_to`` is the user that this process became when it was root no longer, if it was.
    """
    code = error.errno
    if isinstance(error, NotForwardingError):
        return (
            f"a {spec.role} forwards packets, and this host does not: sysctl net.ipv6.conf.all.forwarding=1"
        )
    if isinstance(error, NotPublicError):
        return f"{error.strerror}; {spec.type} is for public addresses, unless private = true"
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
        if spec.type.automatic:
            return "there is no route that would say which address is this host's; set localaddress"
        return f"there is no route to remoteaddress {spec.remoteaddress}"
    if code in (errno.EBADFD, errno.ENODEV):
        return f"the interface {spec.interface} was removed"
    if code == errno.EEXIST:
        return "one of its addresses or routes is there already; a tunnel displaces none"
    return os.strerror(code or errno.EIO)
