"""One running tunnel: device, interface, sender and endpoint, made as a Tunnel says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock

import trio

from portproxy.tunnel.advertising import Site
from portproxy.tunnel.causes import NotForwardingError
from portproxy.tunnel.course import Course, arrange, find_way, make_course
from portproxy.tunnel.device import Tun
from portproxy.tunnel.effects import Configure
from portproxy.tunnel.endpoint import Endpoint
from portproxy.tunnel.interface import Interface, remove_left_behind
from portproxy.tunnel.making import all_routes, names_of
from portproxy.tunnel.model import Role, Tunnel, TunnelType
from portproxy.tunnel.modes import Mode
from portproxy.tunnel.modes.blocked import Blocked
from portproxy.tunnel.modes.embedded import NOWHERE, Here
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.modes.isatap_router import IsatapRouter
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.naming import Names
from portproxy.tunnel.reception import Key, Reception, Receptions
from portproxy.tunnel.routing import Others, Way, forwards
from portproxy.tunnel.traffic import Traffic

_NOTHING = Configure((), ())
_SILENT = "no router has answered, or what it said has ended"
_RANKS = {type_: rank for rank, type_ in enumerate(TunnelType)}
_APART = 1.0
"""Seconds at least from one time that routers have the interface set otherwise to the next: each takes some
milliseconds, and anybody may forge what they say."""


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
        self.set_mtu: Callable[[int], None]
        self.configure: Callable[[Configure], None]

    def close(self) -> None:
        self._tun.close()


class RunningTunnel:
    """Runs ``spec``, which ``change`` may replace while connections through it go on.

    ``others`` knows of those that run besides. ``problem`` is what it goes on in spite of, of which
    ``on_problem`` hears; ``on_error`` hears of what the kernel refuses. Raises OSError, which
    portproxy.tunnel.causes tells people.
    """

    def __init__(
        self,
        spec: Tunnel,
        others: Others,
        on_error: Callable[[str, OSError], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._others = others
        self._on_error, self._on_problem = on_error, on_problem
        self.traffic = Traffic()
        self.gone = trio.Event()
        self._changed = trio.CancelScope()
        self._here = NOWHERE
        self._endpoint: Endpoint | None = None
        self._said = _NOTHING
        self._said_on: object = None
        self._refused = self._unset = ""
        self._told = trio.Event()
        self._arranging = Lock()
        self._looking_up = trio.CancelScope()
        self._looked_up: object = None
        self._lost: OSError | None = None
        self._site = Site(on_error, on_problem)
        self._receptions: Receptions
        self._reception: Reception
        self._held: Key | None = None
        remove_left_behind(spec.interface)
        self._device = Device(spec.interface, spec.type.inner)
        self._begin(spec)

    def _begin(self, spec: Tunnel) -> None:
        """Raises OSError, and then all that was made is taken back."""
        try:
            self._device.interface.take()
            self._course = self._next = make_course(spec, self._look(spec), self._names(spec))
        except OSError:
            self._close_device()
            raise
        try:
            self._device.interface.set_mtu(self.mtu)
            self._device.interface.up()
            self._arrange()
        except OSError:
            self._close()
            raise

    @property
    def spec(self) -> Tunnel:
        return self._next.spec

    @property
    def way(self) -> Way:
        """Where it leaves from."""
        return self._next.way

    @property
    def index(self) -> int:
        """Its interface's."""
        return self._device.interface.index

    @property
    def mtu(self) -> int:
        """Bytes of the largest packet that goes in, by now."""
        return self._next.mode.mtu

    @property
    def is_lost(self) -> bool:
        return self._lost is not None

    @property
    def problem(self) -> str:
        mode = self._course.mode
        silent = isinstance(mode, IsatapHost) and mode.unanswered
        told = [self._next.names.problem, self._site.problem, self._refused, self._unset]
        return "; ".join(filter(None, (*told, _SILENT if silent else "")))

    def know(self, here: Here) -> None:
        """Of this host, which has changed."""
        self._here = here
        if not isinstance(self._course.mode, FourInSix):
            self._course.mode.here = here

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
                    await self._carry(nursery)
                    try:
                        self._receive()
                    except OSError as error:
                        self._lost = error  # the address has gone again, of which the kernel tells
        finally:
            self._close()
            self.gone.set()

    def _receive(self) -> None:
        key = Key(self.spec.type.outer, self.way.local)
        self._reception = self._receptions.hold(key)
        if self._held:  # not before: what has arrived by now would be lost
            self._receptions.release(self._held)
        self._held = key

    async def _carry(self, nursery: trio.Nursery) -> None:
        """Until ``take_up``. Names are looked up in ``nursery``: that goes on."""
        before, course = self._course, self._next
        self._course = course
        self._device.configure = partial(self._hear, course)
        self._device.set_mtu = lambda mtu: self._told.set()
        mode: Mode = course.mode
        if self._lost and self._lost.errno == errno.ELOOP:
            mode = Blocked(mode)
        endpoint = self._endpoint = Endpoint(self._device, mode, course.sender, self.traffic, self._on_error)
        self.know(self._here)
        if course is not before and course.link == before.link:
            self._succeed(course.mode, before.mode)
        self._know_routers(course.names.addresses)
        if self._looked_up is not course.names:
            self._looking_up.cancel()
            self._looking_up, self._looked_up = trio.CancelScope(), course.names
            nursery.start_soon(self._look_up, course.names, self._looking_up)
        local = None if self._lost else course.way.local
        self._site.arrange(local, course.spec.advertise, course.mode.mtu)
        self._reception.join(endpoint, _RANKS[course.spec.type])
        try:
            with trio.CancelScope() as self._changed:
                async with trio.open_nursery() as carrying:
                    carrying.start_soon(endpoint.run)
                    carrying.start_soon(self._keep_told)
        finally:
            self._reception.leave(endpoint)
            if isinstance(course.mode, IsatapRouter):
                self._say_farewell(course.mode, endpoint)
        if self._next is not course:
            course.sender.close()

    async def _look_up(self, names: Names, scope: trio.CancelScope) -> None:
        with scope:
            await names.run()

    def _succeed(self, new: Mode, old: Mode) -> None:
        if isinstance(new, IsatapHost) and isinstance(old, IsatapHost):
            new.succeed(old)

    async def _keep_told(self) -> None:
        """Have the interface as the mode says, whenever that is otherwise."""
        while True:
            await self._told.wait()
            self._told = trio.Event()
            before = self._refused, self._unset
            try:
                await trio.to_thread.run_sync(self._arrange)
                self._unset = ""
            except OSError as error:
                self._unset = f"configure the interface: {error.strerror}"
            if (self._refused, self._unset) != before and (problem := self._refused or self._unset):
                self._on_problem(problem)
            await trio.sleep(_APART)

    def _hear(self, course: Course, wanted: Configure) -> None:
        self._said, self._said_on = wanted, course.link
        self._told.set()

    def _know_routers(self, literals: tuple[str, ...]) -> None:
        assert self._endpoint
        mode = self._course.mode
        if isinstance(mode, IsatapHost | IsatapRouter):
            self._endpoint.do(mode.know_routers(literals, trio.current_time()))
        elif isinstance(mode, SixToFour):
            mode.relay = next(iter(literals), None)

    def _say_farewell(self, mode: IsatapRouter, endpoint: Endpoint) -> None:
        """Hosts go on by what they were told until they are told otherwise."""
        now = trio.current_time()
        new = self._next.mode
        stays = self._held == Key(4, self.way.local) and new is not mode
        if stays and isinstance(new, IsatapRouter):
            endpoint.do(new.succeed(mode, now))
        else:
            endpoint.do(mode.retire(now))

    def _close(self) -> None:
        if self._held:
            self._receptions.release(self._held)
        for course in (self._course, self._next):
            course.sender.close()
        self._close_device()

    def _close_device(self) -> None:
        self._others.forget(self.index)
        self._device.close()

    # Changing. All of this may block, and is called by one at a time.

    def change(self, spec: Tunnel) -> None:
        """Make ready to go on as ``spec``, whose interface is the same; ``take_up`` does.

        Raises OSError, and then it goes on as before.
        """
        if self._lost:
            self.restore()
        elif spec == self.spec:  # back to what it was before a change that failed
            return
        same = names_of(spec) == names_of(self.spec)
        try:
            self._adopt(make_course(spec, self._look(spec), self._next.names if same else self._names(spec)))
        except OSError:
            with suppress(OSError):
                self._look(self.spec)  # the others are to know of what it goes on as
            raise

    def give_up(self, spec: Tunnel, wanted: Sequence[Tunnel]) -> None:
        """Take now what goes with ``change`` to ``spec``, and is ``wanted`` by others."""
        self._others.forget(self.index)
        interface, addresses = self._device.interface, {one.ip for other in wanted for one in other.address}
        prefixes = {route.prefix for other in wanted for route in all_routes(other)}
        with self._arranging, suppress(OSError):  # then they are refused it, and say so
            interface.remove_addresses(
                one for one in interface.addresses if one.ip in addresses and one not in spec.address
            )
            interface.remove_routes(
                one for one in interface.routes if one.prefix in prefixes and one not in all_routes(spec)
            )

    def restore(self) -> bool:
        """Give the interface again what somebody else has taken; whether it was so. Raises OSError."""
        with self._arranging:
            return self._device.interface.restore()

    def follow(self) -> bool:
        """Look at this host again; whether there is something to ``take_up``. Raises OSError where it can go
        on no longer, for ``lose``."""
        if self._lost:
            self.restore()
        way = self._look(self.spec)
        if self._lost or way[:2] != self.way[:2]:
            self._adopt(make_course(self.spec, way, self._next.names))
            return True
        if self._refused:
            self._arrange()
        return False

    def lose(self, error: OSError) -> None:
        """Be no router, and send nothing that comes back, until ``change`` or ``follow`` succeeds."""
        if not self._lost or self._lost.errno != error.errno:
            self._lost = error
            self.take_up()

    def take_up(self) -> None:
        """Go on by what ``change`` or ``follow`` has made; what waits in the device waits a moment longer."""
        self._changed.cancel()

    def _look(self, spec: Tunnel) -> Way:
        """Raises OSError."""
        if spec.role is not Role.HOST and not forwards():
            raise NotForwardingError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        way = find_way(spec)
        self._others.lead(self.index, way.through)
        self._others.stand(self.index, (spec.type, way.local, spec.remoteaddress))
        return way

    def _adopt(self, course: Course) -> None:
        """Raises OSError, and then nothing is changed."""
        before, self._next = self._next, course
        try:
            self._arrange()
        except OSError:
            self._next = before
            course.sender.close()
            with suppress(OSError):
                self._arrange()
            raise
        self._lost = None
        if before is not self._course:  # nobody has taken it up
            before.sender.close()

    def _arrange(self) -> None:
        """Give the interface what the tunnel and its routers say, and take what it has beside that. Raises
        OSError, but for what routers say."""
        with self._arranging:  # both a change and what routers say want it
            said = self._said if self._said_on == self._next.link else _NOTHING
            self._refused = arrange(self._device.interface, self._next, said)

    def _names(self, spec: Tunnel) -> Names:
        return Names(names_of(spec), self._know_routers, self._on_problem)
