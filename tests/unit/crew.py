"""Processes that work, without a supervisor around them."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio
import trio.testing

from portproxy import counters
from portproxy.log import Event, Log
from portproxy.model import Family, Rule, Server
from portproxy.net.listeners import listen
from portproxy.tallies import Tallies, shareable
from portproxy.wire import worker_frames as wire
from portproxy.workers.processes import Processes


class Crew:
    """Processes, all they say, and what is counted."""

    def __init__(self, workers: int) -> None:
        self.events: list[Event] = []
        self.idle: list[int] = []
        self.numbers: set[int] = set()
        rows = 1 + workers
        shared = shareable(rows)
        self.tallies = Tallies(rows, shared)
        self.processes = Processes(
            Server(workers=workers, accesslog=None),
            None,
            self.tallies,
            shared,
            Log(self.events.append),
            self.idle.append,
            self.write_off,
        )

    def write_off(self, row: int) -> int:
        """Count what a dead worker had in hand as lost."""
        return sum(counters.write_off(self.tallies.block(number, row)) for number in self.numbers)

    def heard(self, words: str) -> list[Event]:
        return [event for event in self.events if words in event.event]

    async def serve(self, rule: Rule, number: int) -> dict[int, int]:
        """Have ``rule`` run and listen, both as ``number``; the errno where no worker could."""
        self.numbers.add(number)
        sock = listen(Family.V4, rule.bind_address, rule)
        await self.processes.tell(wire.Run(((number, rule),)))
        return dict(await self.processes.serve((), [(wire.Listening(number, number), sock)]))

    def connections(self, number: int) -> list[int]:
        """How many connections each worker has accepted."""
        return [block[counters.CONNECTIONS] for block in self.tallies.blocks(number)[1:]]

    async def obeyed(self, row: int) -> None:
        """Wait until the worker has answered all that it was sent."""
        await until(lambda: not self.processes._members[row]._asked)


@asynccontextmanager
async def crew(workers: int = 2) -> AsyncIterator[Crew]:
    made = Crew(workers)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.processes.run)
        yield made
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nobody tells of, by the real clock, also where trio's stands still."""
    while not condition():
        await trio.to_thread.run_sync(time.sleep, 0.002)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They stand still meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):  # it may have been killed and replaced
                os.kill(pid, signal.SIGCONT)


@contextmanager
def descriptors(pid: int, number: int) -> Iterator[None]:
    """A process may have no descriptor from ``number`` on."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
