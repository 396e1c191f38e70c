"""Rules and sessions reported, and how many tunnels are up: as data for programs, as tables for people.

The relay makes the data; whoever asked it makes the tables, and the rates from two samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NotRequired, TypedDict

from portproxy import __version__, counters
from portproxy.columns import columns
from portproxy.errors import printable
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.snapshot import RuleStatus, SessionStatus, Snapshot, TunnelState

_REFUSED, _CONNECT_FAILED, _ENDED = ([str(why) for why in kind] for kind in (Refused, ConnectFailed, Ended))
_UNKNOWN = "-"
_RULE_HEAD = ("rule", "state", "sessions", "conn/s", "up/s", "down/s", "up", "down")
_SESSION_HEAD = ("id", "rule", "client", "upstream", "state", "age", "idle", "up", "down")


class Counters(TypedDict):
    """A rule's counts since it began; bytes are delivered ones, and a reason is there once it occurred."""

    connections: int
    bytes_up: int
    bytes_down: int
    refused: dict[str, int]
    connect_failed: dict[str, int]
    ended: dict[str, int]


class Rates(TypedDict):
    """The same a second."""

    connections: float
    bytes_up: float
    bytes_down: float


class RuleData(TypedDict):
    """One rule; ``rates`` are None where they cannot be known."""

    name: str
    type: str
    listen: str
    connect: str
    state: str
    last_error: str
    sessions: int
    counters: Counters
    rates: NotRequired[Rates | None]


class TunnelCounts(TypedDict):
    """How many tunnels are up, and how many are not."""

    up: int
    failed: int


class StatusData(TypedDict):
    """The whole relay; ``uptime`` in seconds; of ``workers``, so many relay now, and have died so far."""

    version: str
    workers: int
    workers_relaying: int
    worker_deaths: int
    uptime: float
    draining: bool
    accept_pauses: int
    lost_lines: dict[str, int]
    rules: list[RuleData]
    tunnels: TunnelCounts


class SessionData(TypedDict):
    """One session, as ``SessionStatus`` says; times in seconds."""

    id: str
    rule: str
    client: str
    upstream: str
    state: str
    age: float
    idle: float | None
    up_accepted: int
    up_delivered: int
    down_accepted: int
    down_delivered: int
    dataplane: str


class SessionsData(TypedDict):
    """Sessions, the oldest first."""

    sessions: list[SessionData]


class ChangeData(TypedDict):
    """What came of a change beside its plan: the commands left out, by their numbers, with the reasons; new
    warnings; the rules that do not listen, and the tunnels that are not up, by name, with the reasons."""

    refused: dict[int, list[str]]
    warnings: list[str]
    not_listening: dict[str, str]
    not_up: dict[str, str]


# What the relay says.


def status_data(snapshot: Snapshot) -> StatusData:
    """``snapshot`` as JSON can carry it."""
    return {
        "version": __version__,
        "workers": snapshot.workers,
        "workers_relaying": snapshot.workers - snapshot.missing,
        "worker_deaths": snapshot.deaths,
        "uptime": round(snapshot.uptime, 3),
        "draining": snapshot.draining,
        "accept_pauses": snapshot.accept_pauses,
        "lost_lines": dict(snapshot.lost_lines),
        "rules": [_rule_data(status) for status in snapshot.rules],
        "tunnels": {
            "up": sum(status.state is TunnelState.UP for status in snapshot.tunnels),
            "failed": sum(status.state is TunnelState.FAILED for status in snapshot.tunnels),
        },
    }


def _rule_data(status: RuleStatus) -> RuleData:
    rule, block = status.rule, status.block
    return {
        # JSON is UTF-8, and what comes from the environment need not be.
        "name": printable(rule.name),
        "type": str(rule.type),
        "listen": printable(str(rule.listen)),
        "connect": printable(str(rule.connect)),
        "state": str(status.state),
        "last_error": printable(status.last_error),
        "sessions": block[counters.ACTIVE],
        "counters": {
            "connections": block[counters.CONNECTIONS],
            "bytes_up": block[counters.UP + 1],
            "bytes_down": block[counters.DOWN + 1],
            "refused": _occurred(_REFUSED, block, counters.REFUSED),
            "connect_failed": _occurred(_CONNECT_FAILED, block, counters.CONNECT_FAILED),
            "ended": _occurred(_ENDED, block, counters.ENDED),
        },
    }


def _occurred(reasons: Sequence[str], block: Sequence[int], first: int) -> dict[str, int]:
    counts = block[first : first + len(reasons)]
    # With 10,000 rules this is most of the work, and most rules have none.
    return dict(itertools.compress(zip(reasons, counts, strict=True), counts)) if any(counts) else {}


def sessions_data(statuses: Iterable[SessionStatus]) -> SessionsData:
    """``statuses`` as JSON can carry them."""
    return {"sessions": [session_data(status) for status in statuses]}


def session_data(status: SessionStatus) -> SessionData:
    """``status`` as JSON can carry it."""
    return {
        "id": status.id,
        "rule": printable(status.rule),
        "client": status.client,
        "upstream": status.upstream,
        "state": str(status.state),
        "age": round(status.age, 3),
        "idle": None if status.idle is None else round(status.idle, 3),
        "up_accepted": status.up_accepted,
        "up_delivered": status.up_delivered,
        "down_accepted": status.down_accepted,
        "down_delivered": status.down_delivered,
        "dataplane": status.dataplane,
    }


# What is made of it.


def with_rates(now: StatusData, before: StatusData | None, seconds: float) -> StatusData:
    """``now`` with the rates of every rule since ``before``, which was ``seconds`` earlier.

    A rule that was not there, or began anew, has none.
    """
    # A relay that was started meanwhile counts from 0.
    same = before is not None and before["uptime"] <= now["uptime"] and seconds > 0
    earlier = {rule["name"]: rule for rule in before["rules"]} if before and same else {}
    rules = [_rated(rule, earlier.get(rule["name"]), seconds) for rule in now["rules"]]
    return {**now, "rules": rules}


def _rated(rule: RuleData, before: RuleData | None, seconds: float) -> RuleData:
    if before is None:
        return {**rule, "rates": None}
    new, old = rule["counters"], before["counters"]
    connections = new["connections"] - old["connections"]
    up, down = new["bytes_up"] - old["bytes_up"], new["bytes_down"] - old["bytes_down"]
    if min(connections, up, down) < 0:
        return {**rule, "rates": None}
    rates: Rates = {
        "connections": connections / seconds,
        "bytes_up": up / seconds,
        "bytes_down": down / seconds,
    }
    return {**rule, "rates": rates}


def status_text(now: StatusData, before: StatusData | None, seconds: float, width: int | None = None) -> str:
    """The relay for people, with rates as ``with_rates`` says; folded to ``width`` characters where given."""
    rules = with_rates(now, before, seconds)["rules"]
    tunnels = [f"{number} {state}" for state, number in now["tunnels"].items() if number]
    sessions = sum(rule["sessions"] for rule in rules)
    head = f"portproxy {printable(now['version'])}, up {_time(now['uptime'])}"
    if rules or not tunnels:
        head += f": {count(len(rules), 'rule')}, {count(sessions, 'session')}"
    notes = [f"tunnels: {', '.join(tunnels)}; see `portproxy tunnel status`"] if tunnels else []
    if now["draining"]:
        notes.append("the relay is stopping")
    if now["workers"] > 1:
        deaths = f", {count(now['worker_deaths'], 'death')} so far" if now["worker_deaths"] else ""
        notes.append(f"{now['workers_relaying']} of {now['workers']} workers relay{deaths}")
    if now["accept_pauses"]:
        notes.append(f"accepting was paused {count(now['accept_pauses'], 'time')}")
    for log, lines in now["lost_lines"].items():
        if lines:
            notes.append(f"{count(lines, 'line')} of the {printable(log)} log lost")
    table = ["", *columns([_RULE_HEAD, *map(_rule_row, rules)], width)] if rules else []
    errors = [
        f"{printable(rule['name'])}: {printable(rule['last_error'])}" for rule in rules if rule["last_error"]
    ]
    return "\n".join([head, *notes, *table, *([""] if errors else []), *errors])


def _rule_row(rule: RuleData) -> tuple[str, ...]:
    counted, rates = rule["counters"], rule.get("rates")
    return (
        printable(rule["name"]),
        printable(rule["state"]),
        str(rule["sessions"]),
        f"{rates['connections']:.1f}" if rates else _UNKNOWN,
        f"{in_bytes(rates['bytes_up'])}/s" if rates else _UNKNOWN,
        f"{in_bytes(rates['bytes_down'])}/s" if rates else _UNKNOWN,
        in_bytes(counted["bytes_up"]),
        in_bytes(counted["bytes_down"]),
    )


def sessions_text(data: SessionsData, width: int | None = None) -> str:
    """The sessions for people, folded to ``width`` characters where given."""
    if not data["sessions"]:
        return "no sessions"
    return "\n".join(columns([_SESSION_HEAD, *map(_session_row, data["sessions"])], width))


def _session_row(session: SessionData) -> tuple[str, ...]:
    return (
        printable(session["id"]),
        printable(session["rule"]),
        printable(session["client"]),
        printable(session["upstream"]) or _UNKNOWN,
        printable(session["state"]),
        _time(session["age"]),
        _UNKNOWN if session["idle"] is None else _time(session["idle"]),
        in_bytes(session["up_delivered"]),
        in_bytes(session["down_delivered"]),
    )


def count(number: int, noun: str) -> str:
    """``number`` of ``noun``, in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_bytes(number: float) -> str:
    """A number of bytes in decimal units."""
    if number < 999.5:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} TB"


def _time(seconds: float) -> str:
    """A length of time by its two largest units, or in seconds and tenths."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"
