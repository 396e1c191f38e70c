"""New connections: a request each, with wrk; once more with access logs where a relay writes one."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.measures.messages import wrk
from benchmarks.relays import Relay
from benchmarks.run import DIRECT, Run

NEW = Measure("new connections", "1/s", True)
CLIENTS = 32
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
    with (
        run.noting(NEW.name, subject),
        services.nginx(run) as address,
        run.through(relay, address, access_log=access_log) as there,
    ):
        rate = wrk(run, there, CLIENTS, "Connection: close")
        if access_log and not (run.directory / "access.log").stat().st_size:
            raise RuntimeError("the access log is empty")
        run.figures.add(NEW, subject, rate)
