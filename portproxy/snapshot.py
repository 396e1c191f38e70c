"""What a running relay looks like at one moment: values that metrics, health and status read."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portproxy.model import Rule
from portproxy.tunnel.model import Tunnel


class RuleState(enum.StrEnum):
    """Where a rule stands."""

    LISTENING = "listening"
    FAILED = "failed"
    SHADOWED = "shadowed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """One rule: its state, its last error for people (empty when there was none), its counters.

    ``block`` is laid out as ``portproxy.counters`` says, the bytes of live sessions included.
    """

    rule: Rule
    state: RuleState
    last_error: str
    block: Sequence[int]


class TunnelState(enum.StrEnum):
    """Where a tunnel stands."""

    UP = "up"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """One tunnel: its state, its last error for people (empty when there was none), and what it has done.

    ``local`` is the address that it leaves from, empty where there is none; one that fails may go on as
    before. ``mtu`` is in bytes of the inner packet. Packets and bytes are those of the inner packets,
    ``drops`` counts packets by reason.
    """

    tunnel: Tunnel
    state: TunnelState
    last_error: str
    local: str
    mtu: int
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int
    drops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole relay. ``lost_lines`` counts log lines dropped, by log; ``draining`` is set once
    the relay has been told to stop; ``uptime`` is in seconds; of ``workers``, some may be ``missing``,
    and some have died so far (``deaths``)."""

    rules: tuple[RuleStatus, ...]
    accept_pauses: int
    lost_lines: dict[str, int]
    draining: bool
    uptime: float = 0.0
    workers: int = 1
    missing: int = 0
    deaths: int = 0
    tunnels: tuple[TunnelStatus, ...] = ()

    @property
    def not_ready(self) -> str:
        """Why the relay is not ready, in one line; empty when every rule listens and every tunnel is up."""
        if self.draining:
            return "the relay is stopping"
        if self.missing == self.workers:
            return "no worker runs; the log says why"
        for status in self.rules:
            if status.state is RuleState.FAILED:
                return f"rule {status.rule.name}: {status.last_error}"
        for tunnel in self.tunnels:
            if tunnel.state is TunnelState.FAILED:
                return f"tunnel {tunnel.tunnel.name}: {tunnel.last_error}"
        return ""


class SessionState(enum.StrEnum):
    """Where a session stands; half-closed, it says which side has sent its end of stream."""

    DIALLING = "dialling"
    RELAYING = "relaying"
    CLIENT_FINISHED = "client-finished"
    UPSTREAM_FINISHED = "upstream-finished"


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One session. ``id`` is unique for as long as the relay runs, and no more is to be read into it.

    ``rule`` is the rule's name by now. ``upstream`` is the address connected to, or the one being
    tried, or empty before there is one. ``age``, and ``idle`` since bytes last moved, are seconds;
    while it dials ``idle`` is None and ``dataplane`` empty. Bytes that are accepted and not delivered
    are in flight.
    """

    id: str
    rule: str
    client: str
    upstream: str
    state: SessionState
    age: float
    idle: float | None
    up_accepted: int
    up_delivered: int
    down_accepted: int
    down_delivered: int
    dataplane: str
