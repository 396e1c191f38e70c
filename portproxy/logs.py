"""A process's two logs: what happens, on standard error, and a line a session, where wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import trio

from portproxy.accesslog import Record, encode_json, encode_text
from portproxy.log import Event, Log, encoder
from portproxy.model import Server
from portproxy.sink import LineSink


class Logs:
    """The logs that ``server`` asks for; a ``worker`` puts its number into what it says."""

    def __init__(
        self, server: Server, worker: int | None = None, count: Callable[[int], None] = lambda lines: None
    ) -> None:
        """``count`` hears of lines that wait to be written. Raises StartError where the access log cannot be
        opened.
        """
        stderr = sys.stderr
        shared = server.workers > 1
        encode_event = encoder(server.log, stderr, os.environ.get("NO_COLOR"))
        self._events: LineSink[Event] = LineSink(2, encode_event, shared=shared, count=count)
        self.log = Log(self._events.put, always={} if worker is None else {"worker": worker})
        self._sessions: LineSink[Record] | None = None
        if server.accesslog is not None:
            target = 1 if server.accesslog == "-" else server.accesslog
            encode = encode_json if server.log == "json" else encode_text
            self._sessions = LineSink(target, encode, self.log.error, shared=shared, count=count)

    @property
    def report(self) -> Callable[[Record], None] | None:
        """Takes access-log records; None where none are wanted."""
        return self._sessions.put if self._sessions else None

    @property
    def lost(self) -> dict[str, int]:
        """Lines lost so far, by log."""
        access = {"access": self._sessions.lost} if self._sessions else {}
        return {"events": self._events.lost, **access}

    def reopen(self) -> None:
        """Go on in new files, after logrotate(8) has moved the old ones away."""
        if self._sessions:
            self._sessions.reopen()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, and then what is left."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._events.run)
            if self._sessions:
                await nursery.start(self._sessions.run)
            task_status.started()
