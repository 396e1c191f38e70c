"""One client's way: dialling, relaying, closed. The engine drives it; no task of its own."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from portproxy.dataplane.base import NOTHING, Ledger, Outcome
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.leg import Leg, pending_error
from portproxy.dataplane.loop import Accountable
from portproxy.dataplane.transfer import RESETS, Transfer, reset
from portproxy.dataplane.wheel import NOWHERE
from portproxy.model import Rule, literal
from portproxy.net.dial import begin_connect, connected_to_itself
from portproxy.net.resolver import ResolveError, Resolver
from portproxy.net.tcp import endpoint_text
from portproxy.reasons import SHORTAGE, ConnectFailed, Ended, connect_failed
from portproxy.relay.shortage import Shortage
from portproxy.snapshot import SessionState, SessionStatus

_NOTHING_COUNTED: tuple[Ledger, Ledger] = (NOTHING, NOTHING)

_WHILE_DIALLING = {Ended.KILLED: ConnectFailed.KILLED, Ended.WORKER_LOST: ConnectFailed.WORKER_LOST}
"""What ends a session that dials is called otherwise."""

Spawn = Callable[[Callable[[], Awaitable[object]], Accountable], None]
"""Starts a task, for somebody, that outlives the caller."""


class Running(Protocol):
    """The running rule that a session belongs to."""

    rule: Rule
    engine: Engine
    resolver: Resolver
    shortage: Shortage
    spawn: Spawn

    def known_addresses(self, rule: Rule) -> tuple[str, ...] | None:
        """The addresses of the upstream's name where they need no waiting, else None. Raises ResolveError."""

    def leads_back(self, address: str, rule: Rule) -> bool:
        """Whether ``address``, which the upstream's name gave, leads back to this rule."""

    def count(self, session: Session, up: Ledger, down: Ledger) -> None:
        """Count what a session has moved since it was counted last."""

    def connected(self, seconds: float) -> None:
        """A session's upstream answered, ``seconds`` after its client was accepted."""

    def failed(self, session: Session, reason: ConnectFailed, error: int | str) -> None:
        """A session got no upstream; ``error`` is the errno, or what the resolver said."""

    def ended(self, session: Session, outcome: Outcome) -> None:
        """A session's relaying has ended."""


class Session:
    """An admitted client, from accept to account.

    While it dials it owns both legs; once connected it hands them to a ``Transfer`` and waits for the
    ``Outcome``. Either way it tells its instance exactly once how it ended. ``number`` is unique, and
    greater the later it came; ``counted`` is what its instance has counted of each direction by now.
    """

    __slots__ = (
        "_address",
        "_addresses",
        "_deadline",
        "_error",
        "_over",
        "_upstream",
        "accepted_at",
        "bucket",
        "client",
        "connect_seconds",
        "counted",
        "instance",
        "number",
        "peer",
        "rule",
        "transfer",
    )

    def __init__(
        self, instance: Running, number: int, sock: socket.SocketType, peer: tuple[str, int]
    ) -> None:
        self.instance = instance
        self.number = number
        self.rule = instance.rule  # the values that held when it began hold for its whole life
        self.peer = peer
        self.bucket = NOWHERE
        self.accepted_at = instance.engine.clock()
        self.connect_seconds: float | None = None
        self.transfer: Transfer | None = None
        self.counted = _NOTHING_COUNTED
        self.client = instance.engine.leg(sock, self)
        self._upstream: Leg | None = None
        self._addresses: tuple[str, ...] = ()
        self._address = ""
        self._error = 0
        self._over = False  # gave up before it was connected
        self._deadline = self.accepted_at + self.rule.limits.connecttimeout

    @property
    def upstream_address(self) -> tuple[str, int] | None:
        """The address connected to, or tried last."""
        return (self._address, self.rule.connect.port) if self._address else None

    @property
    def id(self) -> str:
        """``number``, for those outside."""
        return str(self.number)

    @property
    def ended(self) -> bool:
        """Whether it has told its instance how it ended."""
        return self._over or (self.transfer is not None and self.transfer.ended)

    def status(self, now: float) -> SessionStatus:
        """What it is doing, at ``now`` by the engine's clock, or since."""
        transfer, upstream = self.transfer, self.upstream_address
        up, down = (transfer.up.ledger, transfer.down.ledger) if transfer else (NOTHING, NOTHING)
        return SessionStatus(
            self.id,
            self.instance.rule.name,
            endpoint_text(*self.peer),
            endpoint_text(*upstream) if upstream else "",
            self._state(),
            max(0.0, now - self.accepted_at),
            max(0.0, now - transfer.active_at) if transfer else None,
            up.accepted,
            up.delivered,
            down.accepted,
            down.delivered,
            transfer.dataplane if transfer else "",
        )

    def publish(self) -> None:
        """Have its instance count what has moved by now."""
        if self.transfer:
            # What is in flight may be delivered yet, or discarded.
            up, down = (leg.ledger._replace(discarded=0) for leg in (self.transfer.up, self.transfer.down))
            self.instance.count(self, up, down)

    def _state(self) -> SessionState:
        if not self.transfer:
            return SessionState.DIALLING
        if self.transfer.up.ended:
            return SessionState.CLIENT_FINISHED
        return SessionState.UPSTREAM_FINISHED if self.transfer.down.ended else SessionState.RELAYING

    # Dialling.

    def dial(self) -> None:
        """Begin with the upstream's addresses, at once where they are known without waiting."""
        address = self.rule.connect.address
        if literal(address):
            # That it does not lead back was checked with the configuration.
            self._addresses = (address,)
            self._dial_next()
            return
        try:
            addresses = self.instance.known_addresses(self.rule)
        except ResolveError as error:
            self._give_up(ConnectFailed.RESOLVE, str(error))
            return
        if addresses is None:
            self.instance.spawn(self._resolve, self)
        else:
            self._dial_each(addresses)

    async def _resolve(self) -> None:
        rule = self.rule
        try:
            addresses = await self.instance.resolver.resolve(
                rule.connect.address, rule.type.connect_family, rule.limits.connecttimeout
            )
        except ResolveError as error:
            self._give_up(ConnectFailed.RESOLVE, str(error))
        else:
            self._dial_each(addresses)

    def _dial_each(self, addresses: tuple[str, ...]) -> None:
        leads_back, rule = self.instance.leads_back, self.rule
        self._addresses = tuple([address for address in addresses if not leads_back(address, rule)])
        if self._addresses:
            self._dial_next()
        else:
            self._give_up(ConnectFailed.LOOP)

    def _dial_next(self) -> None:
        """Try the next address; each may take its share of what is left of connecttimeout."""
        if self._over:
            return
        engine = self.instance.engine
        while self._addresses:
            now = engine.clock()
            if now >= self._deadline:
                self._error = errno.ETIMEDOUT
                break
            share = (self._deadline - now) / len(self._addresses)
            self._address, self._addresses = self._addresses[0], self._addresses[1:]
            try:
                self._upstream = self._begin_connect()
            except OSError as error:
                self._error = error.errno or errno.EIO
                if self._error in SHORTAGE:
                    break
                continue
            engine.schedule(self, now + share)
            return
        self._give_up(connect_failed(self._error))

    def _begin_connect(self) -> Leg:
        """The leg of a connection that is under way. Raises OSError."""
        shortage = self.instance.shortage
        try:
            sock = begin_connect(self._address, self.rule)
        except OSError as error:
            if error.errno not in SHORTAGE:
                raise
            shortage.begin(error)
            if not shortage.lend_spare():
                raise
            sock = begin_connect(self._address, self.rule)
        try:
            return self.instance.engine.leg(sock, self)
        except OSError as error:  # epoll_ctl(2): no watch is left
            sock.close()
            shortage.begin(error)
            raise

    def _next_address(self, error: int) -> None:
        """The address being tried has failed; sockets are opened after the batch only."""
        self._error = error
        self._drop_upstream()
        self.instance.engine.wheel.cancel(self)
        self.instance.engine.defer(self._dial_next, self)

    def _drop_upstream(self) -> None:
        if self._upstream:
            # By RST: TIME_WAIT after a connection to itself would keep the real upstream from binding.
            reset(self._upstream.sock)
            self._upstream.disown()
            self.instance.engine.close(self._upstream)
            self._upstream = None

    # What the engine calls while it dials.

    def on_ready(self, leg: Leg) -> None:
        """The client's bytes wait for their time; the upstream's socket is writable once connected."""
        if leg is self._upstream and leg.writable:
            if connected_to_itself(leg.sock, self.rule.connect.port):
                self._next_address(errno.ECONNREFUSED)
            else:
                self._connected(leg)

    def on_error(self, leg: Leg) -> None:
        """The client is gone, or this upstream address has failed."""
        code = pending_error(leg.sock)
        if leg is self.client:
            self._error = code
            self._give_up(ConnectFailed.CLIENT_GONE)
        elif code in RESETS:
            # Before the handshake it would be ECONNREFUSED: this upstream accepted, and reset since.
            self._connected(leg)
            if self.transfer:
                self.transfer.fail(leg, code)
        else:
            self._next_address(code)

    def on_deadline(self, now: float) -> None:
        """The address being tried has had its share of connecttimeout."""
        self._next_address(errno.ETIMEDOUT)

    def on_fault(self) -> None:
        """An event of this session met a fault of portproxy's own: end it."""
        self._give_up(ConnectFailed.OTHER)

    def turn(self, leg: Leg) -> None:
        """Nothing is queued before the transfer has begun."""

    # The end.

    def abort(self, reason: Ended) -> None:
        """End it now with RST on both sides, in whatever state it is."""
        if self.transfer:
            self.transfer.end(reason)
        else:
            self._give_up(_WHILE_DIALLING.get(reason, ConnectFailed.DRAINED))

    def _connected(self, upstream: Leg) -> None:
        engine = self.instance.engine
        self.connect_seconds = engine.clock() - self.accepted_at
        self.instance.connected(self.connect_seconds)
        rule = self.rule
        self.transfer = engine.start(
            self.client,
            upstream,
            rule.limits,
            b"",
            self._finished,
            dataplane=rule.dataplane,
            pipesize=rule.pipesize,
            after=self,
        )

    def _finished(self, outcome: Outcome) -> None:
        self.instance.ended(self, outcome)

    def _give_up(self, reason: ConnectFailed, why: str = "") -> None:
        if self._over:
            return
        self._over = True
        engine = self.instance.engine
        engine.wheel.cancel(self)
        self._drop_upstream()
        reset(self.client.sock)
        self.client.disown()
        engine.close(self.client)
        self.instance.failed(self, reason, why or self._error)
