"""What relays: an engine, the running rules, and what listens for them. A supervisor says what to run."""

from __future__ import annotations

import errno
import itertools
import math
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from portproxy import counters
from portproxy.accesslog import Record
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.loop import Accountable
from portproxy.log import Log
from portproxy.model import Rule
from portproxy.net.descriptors import sessions_within
from portproxy.net.resolver import Resolver
from portproxy.net.tcp import AddressKey, address_key
from portproxy.reasons import SHORTAGE, Ended
from portproxy.reconcile import PortKey
from portproxy.relay import ways
from portproxy.relay.acceptor import Acceptor
from portproxy.relay.census import by_turns, session_by_id, session_statuses
from portproxy.relay.instance import Instance, Surroundings
from portproxy.relay.session import Session
from portproxy.relay.shortage import Shortage
from portproxy.tallies import OWN, Tallies
from portproxy.wire import worker_frames as wire

_SAY_FALLBACKS_EVERY = 60.0
_AT_ONCE = 256
"""Sessions that are looked at between two turns of those that relay."""


class Worker:
    """Relays for as long as it runs, as ``handle`` is asked to. Its counters are row ``row`` of ``tallies``.

    ``report`` takes access-log records, or is None where none are wanted; ``on_idle`` hears the numbers of
    retired rules that have no session any more.
    """

    def __init__(
        self,
        log: Log,
        report: Callable[[Record], None] | None,
        tallies: Tallies,
        row: int,
        on_idle: Callable[[int], None],
    ) -> None:
        self.engine = Engine(self._fault)
        self.instances: dict[int, Instance] = {}
        self._log = log
        self._report = report
        self._tallies = tallies
        self._row = row
        self._tell_idle = on_idle
        self._acceptors: dict[int, Acceptor] = {}
        self._places: dict[PortKey, dict[AddressKey, Acceptor]] = {}
        self._shortage = Shortage(self.engine, self._on_pause)
        self._fallbacks = 0
        self._fallback_said = -math.inf
        self._nursery: trio.Nursery
        self._around: Surroundings

    async def run(
        self, resolver: Resolver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Relay until cancelled; what is left of sessions then is reset."""
        self._around = Surroundings(
            self.engine,
            resolver,
            self._shortage,
            self._spawn,
            lambda rule, address: ways.leads_back(self._places, rule, address),
            self._report,
            self._on_idle,
            self._on_fallback,
            itertools.count(1),
        )
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self.engine.run)
                task_status.started()
        finally:
            for acceptor in self._acceptors.values():
                acceptor.abandon()
            self._end(wire.End(Ended.SHUTDOWN))
            self._shortage.close()
            self.engine.shut()

    @property
    def sessions(self) -> int:
        """How many sessions dial or relay here now."""
        return sum(len(instance.sessions) for instance in self.instances.values())

    async def handle(self, request: wire.Request, sockets: Sequence[socket.socket] = ()) -> wire.Reply:
        """Do what a supervisor asks; ``sockets`` come with it, and are taken over."""
        match request:
            case wire.Run():
                self._run(request)
            case wire.Serve():
                return await self._serve(request, sockets)
            case wire.Release():
                await self._release(request)
            case wire.Adopt():
                self._adopt(request, sockets)
            case wire.Retire():
                self._retire(request)
            case wire.End():
                self._end(request)
            case wire.Publish():
                await self._publish()
            case wire.Sessions():
                statuses = session_statuses(self.instances.values(), request.rule, request.now)
                return wire.Found(list(await by_turns(statuses)))
            case wire.Kill():
                return self._kill(request)
            case wire.Room():
                return await self._room(request)
            case wire.Ways():
                return self._ways(request)
            case _:
                raise TypeError(f"no worker's business: {request}")
        return wire.Done()

    async def finish(self) -> None:
        """Accept what is queued, stop listening for good, and let every session end by itself."""
        await self.handle(wire.Release(tuple(self._acceptors)))
        await self.handle(wire.Retire(tuple(self.instances)))

    # Rules and what listens for them.

    def _run(self, request: wire.Run) -> None:
        for number, rule in request.begin:
            blocks = self._tallies.blocks(number)
            # The first row is no worker's.
            self.instances[number] = Instance(number, rule, blocks[self._row], blocks[1:], self._around)
        for number, rule in request.change:
            self.instances[number].change(rule)
        self._keep_pools()

    async def _serve(self, request: wire.Serve, sockets: Sequence[socket.socket]) -> wire.Served:
        for listening in request.known:
            acceptor = self._acceptors.get(listening.number)
            if acceptor:
                # What is queued goes to whom it was meant for when it was queued.
                await acceptor.accept_queued()
                acceptor.serve(*self._rules_on(listening))
        missing, error = [], 0
        for listening, sock in itertools.zip_longest(request.new, sockets):
            try:
                if sock is None:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._accept_on(listening, sock)
            except OSError as failure:  # recvmsg(2), epoll_ctl(2): no descriptor or watch is left
                self._shortage.begin(failure)
                missing.append(listening.number)
                error = failure.errno or errno.EIO
        return wire.Served(missing, error)

    def _accept_on(self, listening: wire.Listening, sock: socket.socket) -> None:
        try:
            acceptor = Acceptor(self.engine, sock, *self._rules_on(listening), self._shortage)
        except OSError:
            sock.close()
            raise
        self._acceptors[listening.number] = acceptor
        self._places.setdefault(acceptor.port_key, {})[acceptor.key] = acceptor

    def _rules_on(self, listening: wire.Listening) -> tuple[Instance, dict[AddressKey, Instance]]:
        specific = {address: self.instances[number] for address, number in listening.specific}
        return self.instances[listening.default], specific

    async def _release(self, request: wire.Release) -> None:
        for number in request.numbers:
            acceptor = self._acceptors.get(number)
            if acceptor is None:
                continue
            port_key, key = acceptor.port_key, acceptor.key
            await acceptor.close()
            del self._acceptors[number], self._places[port_key][key]
            if not self._places[port_key]:
                del self._places[port_key]

    def _adopt(self, request: wire.Adopt, sockets: Sequence[socket.socket]) -> None:
        default, specific = self._rules_on(request.listening)
        for sock in sockets:
            sock.setblocking(False)
            try:
                here, peer = sock.getsockname(), sock.getpeername()
            except OSError:  # reset meanwhile; nobody is left to be told
                sock.close()
                continue
            specific.get(address_key(here), default).admit(sock, peer, set_tcp_options=True)

    def _retire(self, request: wire.Retire) -> None:
        for number in request.numbers:
            instance = self.instances.get(number)
            if instance:
                instance.retired = True
                if not instance.sessions:
                    del self.instances[number]
        self._keep_pools()

    def _keep_pools(self) -> None:
        instances = self.instances.values()
        self.engine.keep_pools({instance.rule.pipesize for instance in instances if not instance.retired})

    # Sessions.

    def _end(self, request: wire.End) -> None:
        numbers = list(self.instances) if request.numbers is None else request.numbers
        for number in numbers:
            if instance := self.instances.get(number):
                instance.end_sessions(request.reason)

    async def _publish(self) -> None:
        for published, session in enumerate(list(self._all_sessions()), 1):
            if not session.ended:
                session.publish()
            if published % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _all_sessions(self) -> Iterator[Session]:
        for instance in self.instances.values():
            yield from instance.sessions

    def _kill(self, request: wire.Kill) -> wire.Found:
        session = session_by_id(self.instances.values(), request.id)
        if session is None:
            return wire.Found([])
        status = session.status(self.engine.clock())
        session.abort(Ended.KILLED)
        return wire.Found([status])

    # What explains a connection.

    async def _room(self, request: wire.Room) -> wire.RoomLeft:
        instance = self.instances.get(request.number)
        from_source = instance.from_source(request.source) if instance and request.source else 0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            # In a thread: it lists every descriptor of the process.
            left = await trio.to_thread.run_sync(sessions_within, soft, abandon_on_cancel=True)
            socket.socket().close()
        except OSError as failure:
            if failure.errno not in SHORTAGE:
                raise
            return wire.RoomLeft(0, failure.errno, from_source, self._shortage.on)
        return wire.RoomLeft(left, 0, from_source, self._shortage.on)

    def _ways(self, request: wire.Ways) -> wire.WaysFound:
        found = []
        rule = request.rule
        for address in request.addresses:
            reached = ways.serving(self._places, rule, address)
            back = ways.leads_back(self._places, rule, address)
            found.append(wire.Way(back, reached.rule.name if reached else None))
        return wire.WaysFound(found)

    # What instances and acceptors tell and ask.

    def _spawn(self, task: Callable[[], Awaitable[object]], who: Accountable) -> None:
        async def guarded() -> None:
            try:
                await task()
            except Exception:
                self._fault("a task")
                who.on_fault()

        self._nursery.start_soon(guarded)

    def _on_idle(self, instance: Instance) -> None:
        if instance.retired:
            self.instances.pop(instance.number, None)
            self._tell_idle(instance.number)

    def _on_pause(self, error: OSError | None) -> None:
        if error is None:
            self._log.info("accepting again")
        else:
            self._tallies.block(OWN, self._row)[counters.PAUSES] += 1
            self._log.warning(
                "accepting paused; sessions go on", error=error.strerror, sessions=self.sessions
            )

    def _on_fallback(self, rule: Rule, legs: int) -> None:
        """Say that sessions are copied: once in a while, because it comes by the thousand."""
        self._fallbacks += legs
        now = self.engine.clock()
        if now >= self._fallback_said + _SAY_FALLBACKS_EVERY:
            self._log.warning(
                "splice or its pipe was refused; sessions are copied instead",
                rule=rule.name,
                legs=self._fallbacks,
            )
            self._fallbacks, self._fallback_said = 0, now

    def _fault(self, what: str) -> None:
        error = sys.exception()
        assert error
        self._log.fault(f"a fault of portproxy in {what}", error)
