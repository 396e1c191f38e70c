"""What the relay costs while nothing moves: memory, memory per idle connection, CPU."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.processes import Address, Process, memory
from benchmarks.relays import Portproxy, Relay
from benchmarks.run import Run

AT_REST = Measure("PSS at rest", "MB", False)
"""Of all processes once a first connection has come and gone; portproxy without its status endpoint.
Counted as if a relay had the machine to itself: Process.pss says how."""
PER_CONNECTION = Measure("memory per idle connection", "KiB", False)
"""What all processes have more of than before, pages of files left out: a relay's share of those changes
with whoever else maps them. What the kernel holds for sockets is not in it."""
IDLE_CPU = Measure("CPU while connections idle", "% of a CPU", False)
PATIENCE = 10.0
"""Seconds for one connection and its byte."""
SETTLING = 0.2
"""Seconds between what happened and what is read: sessions end, allocators give back."""

CONNECTIONS = 4_000
"""What HAProxy's limits allow with 20,000 descriptors."""
FEWER = {"systemd-socket-proxyd": 3_000, "socat": 200, "6tunnel": 200}
"""Who cannot, for six descriptors a connection, or need not, for a process a connection."""
_SPARE = 200
"""Descriptors that are not for connections."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that leaves no TIME_WAIT behind."""


def measure(run: Run) -> Iterator[str]:
    """One round; a line of progress before each step."""
    most = 20 if run.quick else CONNECTIONS
    with services.sink(run) as sink:
        for relay in run.turn():
            yield f"{relay.name}, memory at rest"
            with run.noting(AT_REST.name, relay.name):
                run.figures.add(AT_REST, relay.name, _at_rest(run, relay, sink))
        for relay in run.turn():
            count = min(most, FEWER.get(relay.name, most))
            yield f"{relay.name}, {count:,} idle connections"
            with run.noting(PER_CONNECTION.name, relay.name):
                _idle(run, relay, count, sink)
        for relay in run.turn():
            if isinstance(relay, Portproxy):
                yield f"{relay.name}, as many idle connections as it has descriptors for"
                with run.noting(f"{PER_CONNECTION.name}, most", relay.name):
                    _most(run, relay, sink)


def per_connection(run: Run, relay: Relay, count: int, sink: Address) -> float:
    """KiB that each of ``count`` idle connections costs. RuntimeError where not all got through."""
    with run.through(relay, sink) as (address, process):
        assert process is not None
        before = _warm(run, process, address)
        with held(address, count):
            return _kib(run, process, before, count)


def _most(run: Run, relay: Relay, sink: Address) -> None:
    with run.through(relay, sink) as (address, process):
        assert process is not None
        limit, _ = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        count = 40 if run.quick else (limit - _SPARE) // 2
        before = _warm(run, process, address)
        with held(address, count):
            measure = PER_CONNECTION._replace(name=f"{PER_CONNECTION.name}, {count:,} of them")
            run.figures.add(measure, relay.name, _kib(run, process, before, count))


def _idle(run: Run, relay: Relay, count: int, sink: Address) -> None:
    with run.through(relay, sink) as (address, process):
        assert process is not None
        before = _warm(run, process, address)
        with held(address, count):
            run.figures.add(PER_CONNECTION, relay.name, _kib(run, process, before, count))
            spent = process.cpu_seconds()
            time.sleep(run.seconds)
            spent = process.cpu_seconds() - spent
            run.figures.add(IDLE_CPU, relay.name, spent / run.seconds * 100)


def _at_rest(run: Run, relay: Relay, sink: Address) -> float:
    """MB."""
    bare = replace(relay, status=False) if isinstance(relay, Portproxy) else relay
    with run.through(bare, sink) as (address, process):
        assert process is not None
        _warm(run, process, address)
        return process.pss() * (1 << 20) / 1e6


def _warm(run: Run, process: Process, address: Address) -> int:
    """KiB once a first connection has come and gone, and what is needed but once is there."""
    with held(address, 1):
        pass
    time.sleep(min(SETTLING, run.seconds / 2))
    return _memory(process)


def _kib(run: Run, process: Process, before: int, count: int) -> float:
    time.sleep(min(SETTLING, run.seconds / 2))
    return (_memory(process) - before) / count


def _memory(process: Process) -> int:
    """KiB of all its processes, pages of files left out, what they share counted once."""
    return sum(memory(pid, "Pss_Anon:", "Pss_Shmem:") for pid in process.family())


@contextlib.contextmanager
def held(address: Address, count: int) -> Iterator[None]:
    """``count`` connections, each of which has had a byte returned. RuntimeError where one has not."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        for number in range(count):
            try:
                sock = stack.enter_context(socket.create_connection(address, PATIENCE))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                sock.sendall(b"x")
                returned = sock.recv(1)
            except OSError as error:
                raise RuntimeError(f"connection {number + 1:,} of {count:,}: {error}") from None
            if returned != b"x":
                raise RuntimeError(f"connection {number + 1:,} of {count:,} was closed")
        yield
