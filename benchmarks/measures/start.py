"""How long until a relay listens, with one rule and with thousands, and until a change of one is there."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import rules, services
from benchmarks.figures import Measure
from benchmarks.processes import Address, Process
from benchmarks.relays import HAProxy, Nginx, Place, Portproxy, Relay
from benchmarks.run import Run

FIRST_PORT = 10_000
"""Of ::1, where rules listen one port after the other; the one below is free for a rule that moves."""
RULES = 10_000
PATIENCE = 120.0
"""Seconds for a start or a reload."""


def measure(run: Run) -> Iterator[str]:
    """One round; a line of progress before each step. Commands are measured in the first round only."""
    many = 100 if run.quick else RULES
    with services.sink(run) as sink:
        for relay in run.turn():
            yield f"{relay.name}, start with 1 rule"
            name = "start to listening, 1 rule"
            with run.noting(name, relay.name), started(relay, run.place(sink)) as (_, took):
                run.figures.add(Measure(name, "s", False), relay.name, took)
        for relay in run.turn():
            if knows_rules(relay):
                yield f"{relay.name}, start with {many:,} rules and reload"
                with run.noting(f"start and reload, {many:,} rules", relay.name):
                    _many(run, relay, ruled(run, sink, many))
    if run.round == 0:  # what takes a minute, and no peer is measured by it
        yield from _commands(run, many)


def _commands(run: Run, many: int) -> Iterator[str]:
    for workers in (1,) if run.quick else (1, 2):
        yield f"portproxy, commands with {many:,} rules, workers {workers}"
        with run.noting(f"commands, {many:,} rules", f"portproxy, workers {workers}"):
            rules.Commands(run, many, workers).measure()
    large = 1_000 if run.quick else rules.LARGE
    yield f"portproxy, check of {large:,} rules"
    with run.noting(f"check, {large:,} rules", "portproxy"):
        rules.check_large(run, large)


def knows_rules(relay: Relay) -> bool:
    """Whether one process of it may listen on many ports, and is told of changes."""
    return isinstance(relay, Portproxy | HAProxy | Nginx)


def ruled(run: Run, connect: Address, count: int) -> Place:
    """``count`` rules on neighbouring ports of ::1; for the peers, so many addresses of one proxy."""
    first, *others = (("::1", FIRST_PORT + number) for number in range(count))
    return replace(run.place(connect), listen=first, also=others)


def last(place: Place) -> Address:
    """Where the last rule listens."""
    return place.also[-1] if place.also else place.listen


@contextlib.contextmanager
def started(relay: Relay, place: Place) -> Iterator[tuple[Process, float]]:
    """A relay whose last rule listens, and the seconds that took from the start of its process."""
    if relay.file is not None:
        (place.directory / relay.file).write_text(relay.configuration(place))
    began = time.perf_counter()
    with Process(relay.words(place), place.directory / "started.log", place.cpus) as process:
        _until(process, last(place), accepts=True)
        yield process, time.perf_counter() - began


def _many(run: Run, relay: Relay, place: Place) -> None:
    count = len(place.also) + 1
    with started(relay, place) as (process, took):
        name = f"start to listening, {count:,} rules"
        run.figures.add(Measure(name, "s", False), relay.name, took)
        name = f"reload, the last of {count:,} rules moved"
        run.figures.add(Measure(name, "s", False), relay.name, _reload(relay, place, process))


def _reload(relay: Relay, place: Place, process: Process) -> float:
    """Move the last rule to another port: seconds until that listens and the old one does not."""
    assert relay.file is not None
    (host, old), new = last(place), FIRST_PORT - 1
    file = place.directory / relay.file
    file.write_text(file.read_text().replace(str(old), str(new)))
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if isinstance(relay, HAProxy):  # another process takes over
            words = [*relay.words(place), "-sf", str(process.pid)]
            process = stack.enter_context(Process(words, place.directory / "reloaded.log", place.cpus))
        else:
            process.signal(signal.SIGHUP)
        _until(process, (host, new), accepts=True)
        _until(process, (host, old), accepts=False)
        return time.perf_counter() - began


def _until(process: Process, address: Address, accepts: bool) -> None:
    """Until connections are accepted, or refused; asked by connecting, every millisecond."""
    until = time.monotonic() + PATIENCE
    while _accepts(address) != accepts:
        if not process.running():
            raise RuntimeError(f"ended: {process.tail()}")
        if time.monotonic() > until:
            raise RuntimeError(f"{'refuses' if accepts else 'accepts'} connections after {PATIENCE:.0f} s")
        time.sleep(0.001)


def _accepts(address: Address) -> bool:
    try:
        with socket.create_connection(address, PATIENCE):
            return True
    except ConnectionRefusedError:
        return False
