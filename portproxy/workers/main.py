"""The process of one worker."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import trio

from portproxy import counters
from portproxy.errors import PortproxyError
from portproxy.log import LibraryHandler
from portproxy.logs import Logs
from portproxy.net.channel import Channel
from portproxy.net.resolver import Resolver
from portproxy.reasons import Ended
from portproxy.relay.worker import Worker
from portproxy.tallies import OWN, Tallies
from portproxy.wire import worker_frames as wire

_REQUEST_LIMIT = 1 << 30
"""Bytes of a request: more than a configuration makes."""
_PUBLISH_EVERY = 1.0
"""Seconds."""


def main() -> None:
    """Work for the supervisor: the first argument is the descriptor of a socket whose other end it holds."""
    # A terminal and an init send these to every process of a service: the supervisor says what follows.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    with suppress(OSError):  # for ps(1) alone
        Path("/proc/self/comm").write_text("portproxy-work")
    try:
        sys.exit(trio.run(_work, sock))
    except PortproxyError as error:
        sys.exit("\n".join(f"portproxy: worker: {line}" for line in error.lines))


async def _work(sock: socket.socket) -> int:
    """Returns the exit code."""
    channel = Channel(sock, _REQUEST_LIMIT, takes_descriptors=True)
    first = await channel.receive()
    if first is None:
        return 0
    setup, tallies = _set_up(*first)
    own = tallies.block(OWN, setup.row)

    def count(lines: int) -> None:
        own[counters.WAITING] += lines

    logs = Logs(setup.server, setup.row, count)
    logging.getLogger().addHandler(LibraryHandler(logs.log))
    async with trio.open_nursery() as nursery:
        await nursery.start(logs.run)
        code = await _Process(setup, tallies, channel, logs).run()
        nursery.cancel_scope.cancel()
    return code


def _set_up(payload: bytes, descriptors: list[int]) -> tuple[wire.Setup, Tallies]:
    setup = wire.decode_request(payload)
    assert isinstance(setup, wire.Setup)
    (fd,) = descriptors
    try:
        return setup, Tallies(setup.rows, fd)
    finally:
        os.close(fd)


class _Process:
    """A worker, and what it needs where it is alone."""

    def __init__(self, setup: wire.Setup, tallies: Tallies, channel: Channel, logs: Logs) -> None:
        self._setup = setup
        self._channel = channel
        self._logs = logs
        self._lost = (0, 0)
        self._tallies = tallies
        self._idle = trio.Event()
        self._worker = Worker(logs.log, logs.report, tallies, setup.row, self._on_idle)

    async def run(self) -> int:
        """Work until the supervisor is gone; where it did not say that it would be, finish the sessions.

        Returns the exit code.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.run)
            await nursery.start(self._worker.run, Resolver(nursery))
            nursery.start_soon(self._publish)
            self._reply(wire.Done())
            while received := await self._channel.receive():
                try:
                    await self._handle(*received)
                except Exception as error:
                    # Whatever it was to do is done by halves: a successor does it whole.
                    self._logs.log.fault("a fault of portproxy in a worker, which ends", error)
                    await self._worker.handle(wire.End(Ended.WORKER_LOST))
                    nursery.cancel_scope.cancel()
                    return os.EX_SOFTWARE
            if not self._tallies.block(OWN, 0)[counters.STOPPING]:
                await self._finish()
            await self._worker.handle(wire.End(Ended.SHUTDOWN))
            self._count_lost_lines()
            nursery.cancel_scope.cancel()
        self._channel.close()
        return 0

    async def _handle(self, payload: bytes, descriptors: list[int]) -> None:
        request = wire.decode_request(payload)
        match request:
            case wire.Reopen():
                self._logs.reopen()
            case wire.Serve() | wire.Adopt():
                sockets = [socket.socket(fileno=fd) for fd in descriptors]
                self._reply(await self._worker.handle(request, sockets))
                return
            case _:
                if isinstance(request, wire.Publish):
                    self._count_lost_lines()
                self._reply(await self._worker.handle(request))
                return
        self._reply(wire.Done())

    async def _publish(self) -> None:
        """Count what live sessions move, so that little of it goes uncounted when this process is killed."""
        published = 0.0
        while True:
            await trio.sleep(_PUBLISH_EVERY)
            if self._worker.engine.now != published:
                published = self._worker.engine.now
                await self._worker.handle(wire.Publish())

    def _reply(self, reply: wire.Reply) -> None:
        self._channel.send(wire.encode_reply(reply))

    def _count_lost_lines(self) -> None:
        lost = self._logs.lost
        now = (lost["events"], lost.get("access", 0))
        own = self._tallies.block(OWN, self._setup.row)
        for slot, count, before in zip(
            (counters.LOST_EVENTS, counters.LOST_RECORDS), now, self._lost, strict=True
        ):
            own[slot] += count - before
        self._lost = now

    def _on_idle(self, number: int) -> None:
        self._reply(wire.Idle(number))
        self._idle.set()

    async def _finish(self) -> None:
        server, worker = self._setup.server, self._worker
        # Nobody else is left to heed it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._logs.log.error(
            "the supervisor died; the sessions end, and so does this worker",
            sessions=worker.sessions,
            draintimeout=f"{server.draintimeout:g}s",
        )
        await worker.finish()
        with trio.move_on_after(server.draintimeout):
            while worker.sessions:
                self._idle = trio.Event()
                await self._idle.wait()
        await worker.handle(wire.End(Ended.DRAIN))
