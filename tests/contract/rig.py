"""Sessions over real sockets around one engine, turned by hand or running: what the contract's tests share.

The test holds the two far ends, ``client`` and ``server``; the engine holds the near ones.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import lru_cache

import trio

from portproxy.dataplane.base import TURN_BYTES, Outcome
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.leg import Leg
from portproxy.dataplane.transfer import Transfer
from portproxy.model import DataPlaneChoice, Limits
from portproxy.reasons import Ended

UNLIMITED = Limits(idletimeout=None, halfclosetimeout=None)

PATIENCE = 20.0
"""Seconds until a test is told that it stalled; any that works needs a small part of them."""

Families = tuple[socket.AddressFamily, socket.AddressFamily]
V4_TO_V4: Families = (socket.AF_INET, socket.AF_INET)


class Nobody:
    """Owns a leg until a transfer does."""

    def on_ready(self, leg: Leg) -> None:
        """The flags on the leg are enough."""

    def on_error(self, leg: Leg) -> None:
        raise AssertionError("a socket failed before its session began")

    def on_fault(self) -> None:
        raise AssertionError("a fault before the session began")

    def turn(self, leg: Leg) -> None:
        raise AssertionError("a turn before the session began")


def tcp_pair(family: socket.AddressFamily, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection, set as portproxy sets its own; ``buffers`` bytes for each queue."""

    def make() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if buffers is not None:
            # Before connect and listen: the window is settled there.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    with make() as listener:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        one = make()
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


class Session:
    """One session under test."""

    def __init__(self, client: socket.socket, a: Leg, b: Leg, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.a = a
        self.b = b
        self.outcomes: list[Outcome] = []
        self.transfer: Transfer

    def end(self, side: str) -> socket.socket:
        """The far end that ``side`` names."""
        return self.client if side == "client" else self.server

    def other(self, side: str) -> socket.socket:
        """The far end that ``side`` does not name."""
        return self.server if side == "client" else self.client

    def leg(self, side: str) -> Leg:
        """The near end that ``side``'s bytes come in by."""
        return self.a if side == "client" else self.b

    @property
    def ended(self) -> bool:
        return bool(self.outcomes)

    @property
    def outcome(self) -> Outcome:
        """How the session ended, which was said exactly once; its ledgers are found to add up."""
        (outcome,) = self.outcomes
        for ledger in outcome.up, outcome.down:
            assert ledger.accepted == ledger.delivered + ledger.discarded
            assert min(ledger) >= 0
        if outcome.reason is Ended.FINISHED:
            assert outcome.up.discarded == outcome.down.discarded == outcome.error == 0
        return outcome


class Rig:
    """An engine, the sessions in it, and every socket to close at the end."""

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self.faults: list[str] = []
        self.engine = Engine(self._on_fault, clock)
        self._begun: list[Session] = []
        self._sockets = ExitStack()
        self._give_up = time.monotonic() + PATIENCE

    def _on_fault(self, what: str) -> None:
        self.faults.append(f"{what}: {traceback.format_exc()}")

    def pair(
        self, family: socket.AddressFamily = socket.AF_INET, buffers: int | None = None
    ) -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection, which the rig closes at the end where nobody did."""
        one, other = tcp_pair(family, buffers)
        self._sockets.enter_context(one)
        self._sockets.enter_context(other)
        return one, other

    def open(self, *, families: Families = V4_TO_V4, buffers: int | None = None) -> Session:
        """A session's four ends, connected and watched, not begun."""
        client, near_client = self.pair(families[0], buffers)
        near_server, server = self.pair(families[1], buffers)
        nobody = Nobody()
        a, b = self.engine.leg(near_client, nobody), self.engine.leg(near_server, nobody)
        return Session(client, a, b, server)

    def begin(
        self,
        session: Session,
        dataplane: DataPlaneChoice,
        *,
        prefix: bytes = b"",
        limits: Limits = UNLIMITED,
        pipesize: int = TURN_BYTES,
        on_end: Callable[[Outcome], None] = lambda _: None,
    ) -> Session:
        """Start ``session``; ``on_end`` is called after the outcome was noted."""

        self._begun.append(session)

        def ended(outcome: Outcome) -> None:
            session.outcomes.append(outcome)
            on_end(outcome)

        session.transfer = self.engine.start(
            session.a, session.b, limits, prefix, ended, dataplane=dataplane, pipesize=pipesize
        )
        return session

    def start(
        self,
        dataplane: DataPlaneChoice,
        *,
        families: Families = V4_TO_V4,
        buffers: int | None = None,
        prefix: bytes = b"",
        limits: Limits = UNLIMITED,
        pipesize: int = TURN_BYTES,
    ) -> Session:
        """A session that has begun."""
        session = self.open(families=families, buffers=buffers)
        return self.begin(session, dataplane, prefix=prefix, limits=limits, pipesize=pipesize)

    # By hand: the test is the loop.

    async def step(self) -> None:
        """One turn, and a chance for the kernel to deliver."""
        self.engine.turn()
        await self.pause()

    async def pause(self) -> None:
        """Let the kernel deliver. A test that waits for what never comes ends here."""
        assert time.monotonic() < self._give_up, "stalled: nothing that the test waits for comes anymore"
        await trio.lowlevel.checkpoint()

    async def settle(self) -> None:
        """Turn until there is nothing left to do."""
        while self.engine.turn():
            await self.pause()

    async def shown(self, leg: Leg, event: int) -> None:
        """Wait until the kernel shows ``event`` of poll(2) on a near end; the engine stands still."""
        poll = select.poll()
        poll.register(leg.sock, event)
        while not any(mask & event for _, mask in poll.poll(0)):
            await self.pause()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Turn until ``condition`` holds."""
        while not condition():
            await self.step()

    async def send(self, sock: socket.socket, data: bytes) -> None:
        """Send all of ``data``."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[sock.send(rest) :]
            except BlockingIOError:
                await self.step()

    async def send_unturned(self, sock: socket.socket, data: bytes) -> None:
        """Send all of ``data`` while the engine stands still."""
        rest = memoryview(data)
        while rest:
            with suppress(BlockingIOError):
                rest = rest[sock.send(rest) :]
            await self.pause()

    async def receive(self, sock: socket.socket, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        got = bytearray()
        while len(got) < size:
            try:
                chunk = sock.recv(min(size - len(got), 1 << 18))
            except BlockingIOError:
                await self.step()
                continue
            assert chunk, f"end of stream after {len(got)} of {size} bytes"
            got += chunk
        return bytes(got)

    async def receive_end(self, sock: socket.socket) -> bytes:
        """All that comes before the end of stream."""
        got = bytearray()
        while True:
            try:
                chunk = sock.recv(1 << 18)
            except BlockingIOError:
                await self.step()
                continue
            if not chunk:
                return bytes(got)
            got += chunk

    async def receive_reset(self, sock: socket.socket) -> bytes:
        """All that comes before a reset; an end of stream instead of it is a failure."""
        got = bytearray()
        while True:
            try:
                chunk = sock.recv(1 << 18)
            except BlockingIOError:
                await self.step()
                continue
            except ConnectionResetError:
                return bytes(got)
            assert chunk, f"end of stream, not a reset, after {len(got)} bytes"
            got += chunk

    async def stall(self, session: Session, side: str, data: bytes) -> int:
        """Push ``data`` from ``side`` until both the relay and the kernel are full; how much went."""
        sock, leg, sent = session.end(side), session.leg(side), 0
        idle = 0
        while idle < 50:
            try:
                sent += sock.send(data[sent : sent + (1 << 18)])
                assert sent < len(data), "not enough data to stall"
                idle = 0
            except BlockingIOError:
                # The kernel may still be moving what was sent, so once is not enough.
                idle = 0 if self.engine.turn() or not leg.pending else idle + 1
                await self.pause()
        return sent

    # Running: the engine is a task.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engine runs meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.engine.run)
            yield
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """End every session, close the engine and every socket; a fault no test asked for is a failure."""
        for session in self._begun:
            session.transfer.end(Ended.SHUTDOWN)
        self.engine.shut()
        self._sockets.close()
        assert self.faults == []


def reset(sock: socket.socket) -> None:
    """Close ``sock`` by RST (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def error_of(sock: socket.socket) -> int:
    """The errno a far end has pending, which this consumes; 0 for none."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@lru_cache(maxsize=4)
def noise(size: int, seed: int = 0) -> bytes:
    """``size`` bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


def chunks(data: bytes, random_: random.Random, largest: int) -> Iterator[bytes]:
    """``data`` in pieces of 1 to ``largest`` bytes."""
    at = 0
    while at < len(data):
        size = random_.randint(1, largest)
        yield data[at : at + size]
        at += size
