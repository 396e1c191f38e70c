"""Whether one who moves much leaves time for the others: round trips beside bulk, a timer beside messages."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.processes import Address, Process, free_port, until_listening
from benchmarks.relays import Relay
from benchmarks.run import DIRECT, Run

P50 = Measure("p50 under bulk load", "us", False)
P99 = Measure("p99 under bulk load", "us", False)
"""Of 64 B round trips, one at a time, beside STREAMS that send as fast as the relay takes it."""
BESIDE = Measure("bulk beside the round trips", "Gb/s", True)
LATE = Measure("timer lateness, median", "ms", False)
LATEST = Measure("timer lateness, worst", "ms", False)
"""Of a 10 ms timer in the relay's own process, beside CLIENTS that each have a message on its way."""
ROUND_TRIPS = Measure("round trips beside the timer", "1/s", True)

STREAMS = 8
CLIENTS = 512
RAMP = 0.3
"""Seconds that bulk flows before a round trip counts."""
PATIENCE = 20.0
"""Seconds for a process to end that was told to."""
_BENCHMARKS = Path(__file__).parents[1]


def measure(run: Run) -> Iterator[str]:
    """One round; a line of progress before each step."""
    for relay in (None, *run.turn()):
        subject = relay.name if relay else DIRECT
        yield f"{subject}, round trips beside {STREAMS} bulk streams"
        with run.noting(P99.name, subject):
            _round_trips(run, relay, subject)
    clients = 32 if run.quick else CLIENTS
    yield f"portproxy, a timer beside {clients} busy clients"
    with run.noting(LATE.name, "portproxy"):
        _lateness(run, clients)


def _round_trips(run: Run, relay: Relay | None, subject: str) -> None:
    with service(run) as address, run.through(relay, address) as way, flows(run, way.address) as flowing:
        time.sleep(RAMP)
        ping = json.loads(run.load(*_load("ping", *way.address, run.seconds), name="ping"))
        run.figures.add(BESIDE, subject, gigabits(flowing))
    run.figures.add(P50, subject, ping["p50"])
    run.figures.add(P99, subject, ping["p99"])


@contextlib.contextmanager
def service(run: Run) -> Iterator[Address]:
    """A service that forgets bulk and echoes what else comes, every connection in a process of its own."""
    address = "127.0.0.1", free_port()
    with Process(_load("mixed", *address), run.directory / "mixed.log", run.pinning.load) as process:
        until_listening(process, *address)
        yield address


@contextlib.contextmanager
def flows(run: Run, address: Address) -> Iterator[Process]:
    """STREAMS that send to such a service."""
    words = _load("bulk", *address, STREAMS)
    with Process(words, run.directory / "bulk.log", run.pinning.load) as process:
        yield process


def gigabits(flowing: Process) -> float:
    """End ``flows``; how much they sent, in Gb/s. RuntimeError where one of them broke off."""
    flowing.end()
    told = json.loads(flowing.wait(PATIENCE))
    if not all(told["streams"]):
        raise RuntimeError(f"bulk: {told['streams'].count(0)} of {STREAMS} streams broke off or sent nothing")
    return float(sum(told["streams"]) * 8 / told["seconds"] / 1e9)


def _lateness(run: Run, clients: int) -> None:
    """One process relays and keeps time; the service and the clients have their own."""
    relay = "::1", free_port("::1")
    with services.sink(run) as address:
        words = [sys.executable, str(_BENCHMARKS / "lateness.py"), *map(str, (*relay, *address, clients))]
        with Process(words, run.directory / "lateness.log", run.pinning.relay) as process:
            until_listening(process, *relay)
            busy = json.loads(run.load(*_load("busy", *relay, clients, run.seconds), name="busy"))
            late = json.loads(process.wait(PATIENCE))
    run.figures.add(LATE, "portproxy", statistics.median(late))
    run.figures.add(LATEST, "portproxy", max(late))
    run.figures.add(ROUND_TRIPS, "portproxy", busy["round trips a second"])


def _load(role: str, *arguments: str | float) -> list[str]:
    return [sys.executable, str(_BENCHMARKS / "load.py"), role, *map(str, arguments)]
