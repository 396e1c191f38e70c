"""New connections: a request each, with wrk; once more with access logs where a relay writes one."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.measures.messages import costing
from benchmarks.relays import Relay
from benchmarks.run import DIRECT, Run

NEW = Measure("new connections", "1/s", True)
COST = Measure("CPU per new connection", "us", False)
CLIENTS = 32
LOSS = 0.01
"""The part of the connections that an access log may be without: those at the end of a step."""
LOGGED = ("portproxy", "HAProxy", "nginx")


def measure(run: Run) -> Iterator[str]:
    """One round without access logs, then one with."""
    for relay in (None, *run.turn()):
        yield from _step(run, relay, relay.name if relay else DIRECT)
    for relay in run.turn():
        if relay.name in LOGGED:
            yield from _step(run, relay, f"{relay.name}, access log", access_log=True)


def _step(run: Run, relay: Relay | None, subject: str, access_log: bool = False) -> Iterator[str]:
    yield f"{NEW.name}: {subject}"
    with run.noting(NEW.name, subject), services.nginx(run) as address:
        with run.through(relay, address, access_log=access_log) as there:
            answered = costing(run, there, CLIENTS, COST, subject, "Connection: close")
        if access_log:  # which is whole once the relay has ended
            check_log((run.directory / "access.log").read_bytes().count(b"\n"), answered.requests)
        run.figures.add(NEW, subject, answered.rate)


def check_log(lines: int, connections: int) -> None:
    """RuntimeError where an access log misses more of the connections than LOSS."""
    if lines < connections * (1 - LOSS):
        raise RuntimeError(f"the access log has {lines:,} lines for {connections:,} connections")
