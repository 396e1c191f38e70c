"""What becomes of speed and cost as connections, rules and workers grow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.measures import isolation, rest
from benchmarks.measures.messages import wrk
from benchmarks.measures.start import knows_rules, last, ruled, started
from benchmarks.pinning import Pinning
from benchmarks.processes import Address, until_idle
from benchmarks.relays import Relay, ours
from benchmarks.run import Run, Way

CONNECTIONS = (10, 100, 1_000, 4_000)
RULES = (1, 100, 1_000, 10_000)
WORKERS = (1, 2)
HEADERS = {"keep-alive requests": (), "new connections": ("Connection: close",)}
"""Of the requests that workers are measured with."""
CONNECTED = 2_000
"""Connections a second that every relay makes at least."""
CLIENTS = 32
"""Where it is not their number that grows."""


def measure(run: Run) -> Iterator[str]:
    """One round; a line of progress before each step."""
    yield from _by_connections(run)
    yield from _by_rules(run)
    # Two workers on the relay's CPU alone would be in each other's way: all have all CPUs here.
    yield from _by_workers(replace(run, pinning=Pinning()))


def _growing(run: Run) -> list[Relay]:
    """Who grows: in quick mode this relay alone."""
    return list(run.relays[:1]) if run.quick else list(filter(knows_rules, run.turn()))


def _by_connections(run: Run) -> Iterator[str]:
    for count in CONNECTIONS[: 2 if run.quick else None]:
        growing = f"at {count:,} connections"
        requests = Measure(f"keep-alive requests {growing}", "1/s", True)
        memory = Measure(f"memory per idle connection {growing}", "KiB", False)
        for relay in _growing(run):
            yield f"{relay.name}, {count:,} connections"
            with (
                run.noting(requests.name, relay.name),
                services.nginx(run) as address,
                run.through(relay, address) as way,
            ):
                run.figures.add(requests, relay.name, _once_connected(run, way, count))
            with run.noting(memory.name, relay.name), services.sink(run) as address:
                run.figures.add(memory, relay.name, rest.per_connection(run, relay, count, address))


def _once_connected(run: Run, way: Way, clients: int) -> float:
    """Requests a second, the time that thousands take to connect left out.

    That is what a longer run has more than a shorter one. RuntimeError where one of them failed.
    """
    assert way.process is not None
    shorter = min(0.2, run.seconds / 2) + clients / CONNECTED
    longer = shorter + run.seconds
    early = wrk(replace(run, seconds=shorter), way, clients).requests
    until_idle(way.process)
    late = wrk(replace(run, seconds=longer), way, clients).requests
    if late <= early:
        raise RuntimeError("wrk: a longer run had no more answers than a shorter one")
    return (late - early) / run.seconds


def _by_rules(run: Run) -> Iterator[str]:
    for count in RULES[: 2 if run.quick else None]:
        for relay in _growing(run):
            yield f"{relay.name}, {count:,} {_plural('rule', count)}"
            with run.noting(f"growth to {count:,} rules", relay.name), services.nginx(run) as address:
                _rules(run, relay, count, address)


def _rules(run: Run, relay: Relay, count: int, address: Address) -> None:
    """Start time, memory, and requests through the last rule."""
    growing = f"{count:,} {_plural('rule', count)}"
    place = ruled(run, address, count)
    with started(relay, place) as (process, took):
        run.figures.add(Measure(f"start to listening with {growing}", "s", False), relay.name, took)
        until_idle(process)
        memory = process.pss() * (1 << 20) / 1e6
        run.figures.add(Measure(f"PSS with {growing}", "MB", False), relay.name, memory)
        rate = wrk(run, Way(last(place), process), CLIENTS).rate
        requests = Measure(f"keep-alive requests through the last of {growing}", "1/s", True)
        run.figures.add(requests, relay.name, rate)


def _by_workers(run: Run) -> Iterator[str]:
    for count in WORKERS:
        relay = ours(workers=count)
        growing = f"with {count} {_plural('worker', count)}"
        yield f"{relay.name}, {growing}"
        with (
            run.noting(f"requests {growing}", relay.name),
            services.nginx(run) as address,
            run.through(relay, address) as way,
        ):
            for name, headers in HEADERS.items():
                rate = wrk(run, way, CLIENTS, *headers).rate
                run.figures.add(Measure(f"{name} {growing}", "1/s", True), relay.name, rate)
        measure = Measure(f"bulk of {isolation.STREAMS} streams {growing}", "Gb/s", True)
        with run.noting(measure.name, relay.name):
            run.figures.add(measure, relay.name, _bulk(run, relay))


def _bulk(run: Run, relay: Relay) -> float:
    with (
        isolation.service(run) as address,
        run.through(relay, address) as way,
        isolation.flows(run, address, way.address) as flow,
    ):
        time.sleep(run.seconds)
        return isolation.gigabits(flow)


def _plural(what: str, count: int) -> str:
    return what if count == 1 else f"{what}s"
