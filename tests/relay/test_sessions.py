"""Thousands of sessions at random, and every byte accounted for."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest
import trio

from portproxy.accesslog import Record
from portproxy.model import DataPlaneChoice, Limits, RuleType
from portproxy.reasons import ConnectFailed, Ended
from tests.conftest import open_descriptors
from tests.relay.rig import Relay, adds_up, dial, eventually, relaying, reset, to, upstream

SESSIONS = 2000
AT_ONCE = 200
LARGEST = 16 << 20
NOISE = memoryview(random.Random(0).randbytes(2 * LARGEST))
"""Every stream is a slice of this."""

KINDS = [(type, plane) for type in RuleType for plane in (DataPlaneChoice.SPLICE, DataPlaneChoice.COPY)]
UNLIMITED = Limits(idletimeout=None, halfclosetimeout=None)


@dataclass
class Side:
    """One far end: what it sends and how it behaves; then how much it received."""

    data: memoryview
    largest_chunk: int
    waits_for_end: bool  # sends only after the other side has ended
    resets_after: int | None  # bytes sent
    stops_after: int  # bytes received, to be away for a while
    stops_for: int  # turns of the event loop
    received: int = 0

    async def run(self, sock: trio.socket.SocketType, other: Side, random_: random.Random) -> None:
        """Send and receive until both directions have ended, or either end resets.

        What comes is the beginning of what the ``other`` side has to send.
        """
        with sock:
            ended = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, sock, other.data, ended)
                try:
                    await self._send(sock, random_, ended)
                except OSError:
                    nursery.cancel_scope.cancel()
                if self.resets_after is not None:
                    nursery.cancel_scope.cancel()
            if self.resets_after is not None:
                reset(sock)

    async def _send(self, sock: trio.socket.SocketType, random_: random.Random, ended: trio.Event) -> None:
        if self.waits_for_end:
            await ended.wait()
        rest = self.data[: self.resets_after]
        while rest:
            rest = rest[await sock.send(rest[: random_.randint(1, self.largest_chunk)]) :]
        if self.resets_after is None:
            sock.shutdown(socket.SHUT_WR)

    async def _receive(self, sock: trio.socket.SocketType, sent: memoryview, ended: trio.Event) -> None:
        with suppress(OSError):
            while chunk := await sock.recv(1 << 18):
                before, self.received = self.received, self.received + len(chunk)
                same = chunk == bytes(sent[before : self.received])
                assert same, f"others than were sent among bytes {before} to {self.received}"
                if before < self.stops_after <= self.received:
                    for _ in range(self.stops_for):
                        await trio.lowlevel.checkpoint()
        ended.set()


def random_side(random_: random.Random) -> Side:
    size = min(int((LARGEST + 1) ** random_.random()) - 1, LARGEST)
    start = random_.randrange(LARGEST)
    return Side(
        data=NOISE[start : start + size],
        largest_chunk=max(int((1 << 18) ** random_.random()), size // 32),
        waits_for_end=False,
        resets_after=random_.randint(0, size) if random_.random() < 0.1 else None,
        stops_after=random_.randint(1, size + 1),
        stops_for=random_.choice((0, 0, 50, 200)),
    )


def random_sides(random_: random.Random) -> tuple[Side, Side]:
    """A client and a server. One of them may wait for the other's end, in either order, but not both."""
    client, server = random_side(random_), random_side(random_)
    patient = random_.choice((client, server, None))
    if patient:
        patient.waits_for_end = True
    return client, server


def check(record: Record, client: Side, server: Side) -> None:
    """The record tells what the two ends saw."""
    adds_up(record)
    assert server.received <= record.up_delivered <= record.up_accepted <= len(client.data)
    assert client.received <= record.down_delivered <= record.down_accepted <= len(server.data)
    if client.resets_after is None and server.resets_after is None:
        assert record.reason == Ended.FINISHED
    if record.reason == Ended.FINISHED:
        assert record[7:10] == (server.received, server.received, 0)
        assert record[10:13] == (client.received, client.received, 0)
        assert (server.received, client.received) == (len(client.data), len(server.data))
    elif record.reason == ConnectFailed.CLIENT_GONE:
        assert client.resets_after is not None
    else:
        assert record.reason in (Ended.CLIENT_RESET, Ended.UPSTREAM_RESET)


class Slot:
    """One rule with its own upstream: its sessions come one by one, so it is clear whose each record is."""

    def __init__(self, number: int, service: trio.socket.SocketType, sessions: int) -> None:
        type, plane = KINDS[number % len(KINDS)]
        self.service = service
        self.sessions = sessions
        self.random = random.Random(number)
        self.rule = to(service, type=type, name=f"slot {number}", dataplane=plane, limits=UNLIMITED)

    async def run(self, relay: Relay) -> None:
        records = relay.records_of[self.rule.name]
        for number in range(self.sessions):
            client, server = random_sides(self.random)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run, dial(self.rule), server, random.Random(number))
                far, _ = await self.service.accept()
                nursery.start_soon(server.run, far, client, random.Random(number))
            await eventually(lambda: len(records) > number)  # noqa: B023
            check(records[number], client, server)


@pytest.mark.timeout(300)
async def test_two_thousand_sessions(workers: int) -> None:
    """With two workers half of them, for time's sake."""
    sessions = SESSIONS // workers
    with ExitStack() as stack:
        slots = []
        for number in range(AT_ONCE):
            address = KINDS[number % len(KINDS)][0].connect_family.loopback
            slots.append(Slot(number, stack.enter_context(upstream(address)), sessions // AT_ONCE))
        descriptors = open_descriptors()
        async with relaying(*(slot.rule for slot in slots), patience=280) as relay:
            # trio keeps idle threads for a while, of the start and of earlier tests.
            threads = threading.active_count()
            tasks = trio.lowlevel.current_statistics().tasks_living
            async with trio.open_nursery() as nursery:
                for slot in slots:
                    nursery.start_soon(slot.run, relay)
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert relay.supervisor.sessions == 0
            assert threading.active_count() <= threads
        assert open_descriptors() == descriptors
    assert len(relay.records) == sessions
    totals = Counter(record.reason for record in relay.records)
    assert totals.keys() >= {Ended.FINISHED, Ended.CLIENT_RESET, Ended.UPSTREAM_RESET}
    planes = Counter(record.dataplane for record in relay.records)
    assert planes.keys() >= {"splice", "copy"}
