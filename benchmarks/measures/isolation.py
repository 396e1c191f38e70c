"""Whether one who moves much leaves time for the others: round trips beside bulk, a timer beside messages."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import load, services
from benchmarks.figures import Measure
from benchmarks.processes import Address, Process, free_port, until_listening
from benchmarks.relays import Relay
from benchmarks.run import DIRECT, Run

P50 = Measure("p50 under bulk load", "us", False)
P99 = Measure("p99 under bulk load", "us", False)
"""Of 64 B round trips, one at a time, beside STREAMS that send as fast as the relay takes it."""
BESIDE = Measure("bulk beside the round trips", "Gb/s", True)
"""What arrived at the service meanwhile."""
LATE = Measure("timer lateness, median", "ms", False)
LATEST = Measure("timer lateness, worst", "ms", False)
"""Of a 10 ms timer in the relay's own process, beside CLIENTS that each have a message on its way."""
ROUND_TRIPS = Measure("round trips beside the timer", "1/s", True)

STREAMS = 8
CLIENTS = 512
RAMP = 0.3
"""Seconds that bulk flows before anything counts."""
PATIENCE = 20.0
"""Seconds for a process to end that was told to."""
_BENCHMARKS = Path(__file__).parents[1]


class Flow(NamedTuple):
    """Bulk on its way to a service, and what had arrived there ``before`` anything counted."""

    process: Process
    service: Address
    before: dict[str, Any]


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
    with (
        service(run) as address,
        run.through(relay, address) as way,
        flows(run, address, way.address) as flow,
    ):
        ping = json.loads(run.load(*_load("ping", *way.address, run.seconds), name="ping"))
        run.figures.add(BESIDE, subject, gigabits(flow))
    given = "ran first, by SCHED_FIFO" if ping["first"] else "waited for bulk's: SCHED_FIFO was not given"
    run.figures.note(f"Round trips beside bulk: their client and service {given}.")
    run.figures.add(P50, subject, ping["p50"])
    run.figures.add(P99, subject, ping["p99"])


@contextlib.contextmanager
def service(run: Run) -> Iterator[Address]:
    """A service that counts bulk and echoes what else comes, every connection in a process of its own."""
    address = "127.0.0.1", free_port()
    with Process(_load("mixed", *address), run.directory / "mixed.log", run.pinning.load) as process:
        until_listening(process, *address)
        yield address


@contextlib.contextmanager
def flows(run: Run, address: Address, way: Address) -> Iterator[Flow]:
    """STREAMS that send to such a service, which listens on ``address``, by a way to it."""
    words = _load("bulk", *way, STREAMS)
    with Process(words, run.directory / "bulk.log", run.pinning.load) as process:
        time.sleep(min(RAMP, run.seconds))
        yield Flow(process, address, _arrived(address))


def gigabits(flow: Flow) -> float:
    """End ``flows``; how much arrived since they began, in Gb/s. RuntimeError where a stream broke off."""
    before, now = flow.before, _arrived(flow.service)
    flow.process.end()
    broken = json.loads(flow.process.wait(PATIENCE))["broken off"]
    silent = STREAMS - len(now["streams"])
    if broken or silent:
        raise RuntimeError(f"bulk: of {STREAMS} streams {broken} broke off, of {silent} nothing arrived")
    moved = sum(now["streams"]) - sum(before["streams"])
    return float(moved * 8 / (now["seconds"] - before["seconds"]) / 1e9)


def _arrived(service: Address) -> dict[str, Any]:
    """``streams``: the bytes of each so far, and ``seconds``: when that was."""
    with socket.create_connection(service, PATIENCE) as sock, sock.makefile("rb") as told:
        sock.sendall(load.COUNT)
        return dict(json.load(told))


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
