"""A rule that runs: its door, its sessions, its counters."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from portproxy import counters
from portproxy.accesslog import Record
from portproxy.admission import Admission, source_of
from portproxy.dataplane.base import NOTHING, Ledger, Outcome
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.transfer import reset
from portproxy.model import Rule, literal
from portproxy.net.resolver import Resolver
from portproxy.net.tcp import SockAddr, endpoint_text, normalised, set_options
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.relay.session import Session, Spawn
from portproxy.relay.shortage import Shortage


class Moved(NamedTuple):
    """Both directions of a session, and how its bytes went."""

    up: Ledger
    down: Ledger
    dataplane: str


_NOTHING_MOVED = Moved(NOTHING, NOTHING, "")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every instance of one worker shares. ``report`` takes access-log records, if any are wanted.

    ``leads_back(rule, address)`` says whether dialling ``address`` for the rule would come back to it;
    ``on_idle(instance)`` hears of one without sessions, ``on_fallback(rule, legs)`` of splice refused;
    ``numbers`` gives each session its own.
    """

    engine: Engine
    resolver: Resolver
    shortage: Shortage
    spawn: Spawn
    leads_back: Callable[[Rule, str], bool]
    report: Callable[[Record], None] | None
    on_idle: Callable[[Instance], None]
    on_fallback: Callable[[Rule, int], None]
    numbers: Iterator[int]


class Instance:
    """One running rule, in one worker. ``block`` holds what it counts, as ``portproxy.counters`` says.

    It is known by its ``number``. ``blocks`` are those of the same rule in every worker, ``block``
    included: this instance writes to its own alone. ``retired`` says that no more sessions come.
    """

    def __init__(
        self,
        number: int,
        rule: Rule,
        block: memoryview,
        blocks: Sequence[memoryview],
        surroundings: Surroundings,
    ) -> None:
        self.number = number
        self.rule = rule
        self.block = block
        self.retired = False
        self._blocks = blocks
        self.sessions: set[Session] = set()
        self.engine = surroundings.engine
        self.resolver = surroundings.resolver
        self.shortage = surroundings.shortage
        self.spawn = surroundings.spawn
        self._around = surroundings
        self._admission = Admission(rule.acl, rule.limits)

    def change(self, rule: Rule) -> None:
        """Take new values, which hold for sessions yet to come; those that run are not disturbed."""
        self.rule = rule
        self._admission = Admission(rule.acl, rule.limits)
        for session in self.sessions:
            self._admission.enter(session.peer[0])

    # A connection's way through.

    def admit(self, sock: socket.SocketType, sockaddr: SockAddr, *, set_tcp_options: bool) -> None:
        """Take over an accepted socket: begin a session, or reset it with a counted reason."""
        rule, block = self.rule, self.block
        peer = (normalised(sockaddr), sockaddr[1])
        block[counters.CONNECTIONS] += 1
        refusal = self._admission.judge(peer[0], self._active if rule.limits.maxconn else 0)
        if refusal is not None:
            self._refuse(sock, peer, refusal)
            return
        if set_tcp_options:
            set_options(sock, rule)
        try:
            session = Session(self, next(self._around.numbers), sock, peer)
        except OSError as error:  # epoll_ctl(2): no watch is left
            self.shortage.begin(error)
            self._refuse(sock, peer, ConnectFailed.DESCRIPTORS)
            return
        self._admission.enter(peer[0])
        block[counters.ACTIVE] += 1
        self.sessions.add(session)
        self.engine.guard(session.dial, session)

    @property
    def _active(self) -> int:
        """Sessions of all workers; while this one begins a session, each of the others may begin one too."""
        return sum(block[counters.ACTIVE] for block in self._blocks)

    def from_source(self, address: str) -> int:
        """How many sessions there are here from what maxconnpersource counts as one with ``address``."""
        source = source_of(address)
        return sum(source_of(session.peer[0]) == source for session in self.sessions)

    def known_addresses(self, rule: Rule) -> tuple[str, ...] | None:
        """The addresses of the upstream's name where they need no waiting, else None. Raises ResolveError."""
        return self.resolver.fresh(rule.connect.address, rule.type.connect_family)

    def last_addresses(self) -> tuple[str, ...]:
        """Where the upstream was when it was last looked up, or is, for a literal."""
        connect = self.rule.connect
        if literal(connect.address):
            return (connect.address,)
        return self.resolver.last(connect.address, self.rule.type.connect_family)

    def leads_back(self, address: str, rule: Rule) -> bool:
        """Whether ``address``, which the upstream's name gave, leads back to this rule."""
        return self._around.leads_back(rule, address)

    def connected(self, seconds: float) -> None:
        """A session's upstream answered, ``seconds`` after its client was accepted."""
        counters.observe_connect(self.block, seconds)

    def failed(self, session: Session, reason: ConnectFailed, error: int | str) -> None:
        """A session got no upstream."""
        self.block[counters.CONNECT_FAILED + reason.slot] += 1
        self._leave(session)
        self._report(session, _NOTHING_MOVED, reason, error)

    def ended(self, session: Session, outcome: Outcome) -> None:
        """A session's relaying has ended."""
        block, up, down = self.block, outcome.up, outcome.down
        block[counters.ENDED + outcome.reason.slot] += 1
        block[counters.SPLICED if outcome.dataplane == "splice" else counters.COPIED] += 1
        if outcome.fallbacks:
            block[counters.FALLBACKS] += outcome.fallbacks
            self._around.on_fallback(session.rule, outcome.fallbacks)
        self.count(session, up, down)
        self._leave(session)
        self._report(session, Moved(up, down, outcome.dataplane), outcome.reason, outcome.error)

    def end_sessions(self, reason: Ended) -> None:
        """Reset every session now."""
        for session in list(self.sessions):
            session.abort(reason)

    def count(self, session: Session, up: Ledger, down: Ledger) -> None:
        """Count what a session has moved since it was counted last."""
        block, (up_then, down_then) = self.block, session.counted
        for first, (accepted, delivered, discarded), then in (
            (counters.UP, up, up_then),
            (counters.DOWN, down, down_then),
        ):
            block[first] += accepted - then.accepted
            block[first + 1] += delivered - then.delivered
            block[first + 2] += discarded - then.discarded
        session.counted = (up, down)

    # What is noted.

    def _refuse(
        self, sock: socket.SocketType, peer: tuple[str, int], refusal: Refused | ConnectFailed
    ) -> None:
        kind = counters.REFUSED if isinstance(refusal, Refused) else counters.CONNECT_FAILED
        self.block[kind + refusal.slot] += 1
        if self._around.report:
            listen = _local_endpoint(sock)
            who = (time.time(), self.rule.name, endpoint_text(*peer), listen)
            self._around.report(Record(*who, "", None, 0.0, *NOTHING, *NOTHING, "", refusal, ""))
        reset(sock)
        sock.close()

    def _leave(self, session: Session) -> None:
        self.sessions.discard(session)
        self.block[counters.ACTIVE] -= 1
        self._admission.leave(session.peer[0])
        if not self.sessions:
            self._around.on_idle(self)

    def _report(
        self, session: Session, moved: Moved, reason: ConnectFailed | Ended, error: int | str
    ) -> None:
        if not self._around.report:
            return
        upstream = session.upstream_address
        self._around.report(
            Record(
                time.time(),
                session.rule.name,
                endpoint_text(*session.peer),
                _local_endpoint(session.client.sock),
                endpoint_text(*upstream) if upstream else "",
                session.connect_seconds,
                self.engine.clock() - session.accepted_at,
                *moved.up,
                *moved.down,
                moved.dataplane,
                reason,
                _error_text(error),
            )
        )


def _error_text(error: int | str) -> str:
    if isinstance(error, str) or not error:
        return error or ""
    return f"{errno.errorcode.get(error, error)}: {os.strerror(error)}"


def _local_endpoint(sock: socket.SocketType) -> str:
    sockaddr = sock.getsockname()
    return endpoint_text(normalised(sockaddr), sockaddr[1])
