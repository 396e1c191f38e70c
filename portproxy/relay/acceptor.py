"""A listening socket in the engine: accepts, finds the rule, gives the socket away."""

from __future__ import annotations

import socket

import trio

from portproxy.dataplane.engine import Engine
from portproxy.dataplane.wheel import NOWHERE
from portproxy.model import Family
from portproxy.net.listeners import PASSING, accept
from portproxy.net.tcp import AddressKey, address_key, same_options, set_options
from portproxy.reconcile import PortKey
from portproxy.relay.instance import Instance
from portproxy.relay.shortage import Shortage

_AT_ONCE = 16
"""Connections accepted a wake, so that a flood of them does not hold up those that relay."""


class Acceptor:
    """One listening socket and the rules that share it.

    ``default`` takes the connections, but for those made to an address in ``specific``: a rule on
    ``*`` and rules on specific addresses of one port share the wildcard's socket. Whatever accept
    fails by is taken for a ``shortage``.
    """

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        default: Instance,
        specific: dict[AddressKey, Instance],
        shortage: Shortage,
    ) -> None:
        self._engine = engine
        self._sock = sock
        self._shortage = shortage
        self._options = default.rule
        self._due = False  # accepting is deferred already
        self.bucket = NOWHERE
        self.default = default
        self.specific = specific
        engine.watch(sock.fileno(), self)

    @property
    def key(self) -> AddressKey:
        """The address that the socket is bound to."""
        return address_key(self._sock.getsockname())

    @property
    def port_key(self) -> PortKey:
        """The family and port that the socket is bound to."""
        return Family.V6 if self._sock.family == socket.AF_INET6 else Family.V4, self._sock.getsockname()[1]

    def serve(self, default: Instance, specific: dict[AddressKey, Instance]) -> None:
        """Take over for these rules, whose values may have changed."""
        self.default = default
        self.specific = specific
        self._options = default.rule
        set_options(self._sock, default.rule)
        self._sock.listen(default.rule.backlog)

    def serving(self, key: AddressKey) -> Instance:
        """The instance that takes connections made to the address of ``key``."""
        return self.specific.get(key, self.default)

    async def accept_queued(self) -> None:
        """Accept all that the kernel has queued by now: the next step would reset or misdirect it.

        Those who relay get their turns meanwhile; after the last there is none.
        """
        for accepted in range(1, self.default.rule.backlog + 2):
            if not self._accept_one():
                return
            if accepted % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Stop listening; what is queued is accepted first, because closing resets it."""
        await self.accept_queued()
        self.abandon()

    def abandon(self) -> None:
        """Stop listening; the kernel resets what is queued."""
        self._engine.wheel.cancel(self)
        self._engine.unwatch(self._sock.fileno())
        self._sock.close()

    # What the engine calls.

    def on_events(self, mask: int) -> None:
        """Connections are queued; they are accepted once the batch is done."""
        self._accept_later()

    def on_fault(self) -> None:
        """A fault of portproxy's own, already reported, concerns one connection; go on with the others."""
        self._accept_later()

    def on_deadline(self, now: float) -> None:
        """The pause is over. An edge-triggered listener gets no second edge for what is queued."""
        self._accept_later()

    def _accept_later(self) -> None:
        # Once: in a storm every batch brings an edge, and more would be accepted in each than in the last.
        if not self._due:
            self._due = True
            self._engine.defer(self._accept_some, self)

    def _accept_some(self) -> None:
        self._due = False
        if self._sock.fileno() < 0:
            return
        for _ in range(_AT_ONCE):
            if self._shortage.lasts:
                self._engine.schedule(self, self._shortage.until)
                return
            if not self._accept_one():
                return
        self._accept_later()

    def _accept_one(self) -> bool:
        """Accept one connection; False when there is none, or none can be taken now."""
        try:
            sock, sockaddr = accept(self._sock)
        except BlockingIOError:
            self._shortage.end()
            return False
        except OSError as error:
            if error.errno in PASSING:
                return True
            self._shortage.begin(error)
            self._engine.schedule(self, self._shortage.until)
            return False
        instance = self._instance_for(sock)
        instance.admit(sock, sockaddr, set_tcp_options=not same_options(instance.rule, self._options))
        return True

    def _instance_for(self, sock: socket.SocketType) -> Instance:
        if not self.specific:
            return self.default
        return self.serving(address_key(sock.getsockname()))
