"""Lines on their way out: a queue the relay never waits for, and a thread that does."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar, TypeVarTuple

import trio

from portproxy.errors import StartError

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

QUEUE = 16_384
"""Items that may wait; at 10,000 sessions a second that is a stall of more than a second and a half."""
BATCH = 512
"""Items that end the wait for more."""
LINGER = 0.1
"""Seconds a first item waits for others, so that a busy relay does not pay a thread's wake-up a line."""
SLICE = 256
"""Items encoded in one go between two turns of the event loop: under a millisecond."""
LAST_WORDS = 1.0
"""Seconds a stopping sink has for what is still queued."""


def open_log(path: str) -> int:
    """A descriptor that appends to ``path``; OSError where it cannot be opened.

    O_NONBLOCK, so that a FIFO without a reader is an error (ENXIO, fifo(7)) and not a wait.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags, 0o640)


def _write(fd: int, data: bytes, at_once: int) -> tuple[int, OSError | None]:
    """Write ``data``, waiting as long as it takes: how many bytes went, and what stopped the rest.

    A write(2) has whole lines, ``at_once`` bytes at most, but for a line that is longer.
    """
    sent = 0
    while sent < len(data):
        end = len(data)
        if end - sent > at_once:
            end = data.rfind(b"\n", sent, sent + at_once) + 1 or data.find(b"\n", sent) + 1
        try:
            sent += os.write(fd, data[sent:end])
        except BlockingIOError:
            # Whoever shares an inherited descriptor may have set O_NONBLOCK on it.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError as error:
            return sent, error
    return sent, None


def _close(fd: int) -> None:
    # close(2) may report what an earlier write to a network file system could not do; the descriptor is gone.
    with contextlib.suppress(OSError):
        os.close(fd)


class LineSink(Generic[T]):
    """Writes items, one line each, to a path or to a descriptor that is not its own.

    ``put`` never waits. What the queue has no room for, and what cannot be written, is counted in
    ``lost``. The descriptor's flags are left alone: stdout and stderr are shared with other processes.
    """

    def __init__(
        self,
        target: str | int,
        encode: Callable[[T], bytes],
        on_error: Callable[[str], None] = lambda text: None,
        *,
        shared: bool = False,
        count: Callable[[int], None] = lambda lines: None,
    ) -> None:
        """``encode`` makes the line, ending in its only newline, and may not raise. ``on_error`` gets one
        sentence when writing begins to fail; ``shared`` says that other processes write to ``target`` too.
        ``count`` hears how many lines came to wait, and with a minus sign how many wait no more. Raises
        StartError where the path ``target`` cannot be opened.
        """
        self.lost = 0
        self._count = count
        self._encode = encode
        self._on_error = on_error
        # What a pipe takes whole is not torn by what others write (pipe(7), PIPE_BUF).
        self._at_once = select.PIPE_BUF if shared else sys.maxsize
        self._path = target if isinstance(target, str) else None
        try:
            self._fd = open_log(target) if isinstance(target, str) else target
        except OSError as error:
            raise StartError(f"log file {target}: {error.strerror}") from None
        self._queue: deque[T] = deque()
        self._wake = trio.Event()
        self._many = trio.Event()
        self._thread = trio.CapacityLimiter(1)
        self._stopping = False
        self._reopen = False
        self._failing = False
        self._torn = b""

    def put(self, item: T) -> None:
        """Queue ``item``, or count it as lost. For the event loop's thread only."""
        queued = len(self._queue)
        if queued >= QUEUE:
            self.lost += 1
            return
        self._queue.append(item)
        self._count(1)
        if not queued:
            self._wake.set()
        elif queued == BATCH:
            self._many.set()

    def reopen(self) -> None:
        """Go on in a new file of the same name, when what is being written is done (logrotate(8))."""
        self._reopen = self._path is not None
        self._wake.set()
        self._many.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, then what is queued, for LAST_WORDS at most; a path is closed."""
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope(shield=True)
            nursery.start_soon(self._run_writer, scope)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._stopping = True
                scope.deadline = trio.current_time() + LAST_WORDS
                self._wake.set()
                self._many.set()

    async def _run_writer(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await self._wake.wait()
                with trio.move_on_after(LINGER):
                    await self._many.wait()
                self._wake, self._many = trio.Event(), trio.Event()
                await self._flush()
                if self._stopping:
                    break
        self.lost += len(self._queue) + bool(self._torn)
        self._queue.clear()
        self._torn = b""
        # A thread that is still stuck in write(2) must not find another file under its descriptor.
        if self._path is not None and not scope.cancelled_caught:
            _close(self._fd)

    async def _flush(self) -> None:
        if self._reopen:
            self._reopen = False
            await self._swap_file()
        while self._queue:
            lines = [self._encode(self._queue.popleft()) for _ in range(min(SLICE, len(self._queue)))]
            data = self._torn + b"".join(lines)
            try:
                sent, error = await self._in_thread(_write, self._fd, data, self._at_once)
            except trio.Cancelled:
                self.lost += len(lines)
                raise
            except OSError as no_thread:
                sent, error = 0, no_thread
            self._account(data, sent, error)
            self._count(-len(lines))

    async def _in_thread(self, work: Callable[[*Ts], R], *args: *Ts) -> R:
        """What ``work`` returns. Raises what it does, and OSError where no thread can be had for it."""
        try:
            return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True, limiter=self._thread)
        except (RuntimeError, MemoryError):
            # What Python makes of pthread_create(3)'s EAGAIN. A log that cannot be written ends no session.
            raise OSError(errno.EAGAIN, "no thread can be started") from None

    async def _swap_file(self) -> None:
        assert self._path is not None
        try:
            fresh = await self._in_thread(open_log, self._path)
        except OSError as error:
            self._on_error(f"log file {self._path}: not reopened, the old one goes on: {error.strerror}")
            return
        _close(self._fd)
        self._fd = fresh
        self.lost += bool(self._torn)
        self._torn = b""

    def _account(self, data: bytes, sent: int, error: OSError | None) -> None:
        """Count the lines that did not go; keep the rest of one that went in part, to finish it later."""
        if error is None:
            self._torn = b""
            self._failing = False
            return
        mid_line = data[sent - 1 : sent] != b"\n" if sent else bool(self._torn)
        end = data.index(b"\n", sent) + 1 if mid_line else sent
        self._torn = data[sent:end]
        self.lost += data.count(b"\n", end)
        if not self._failing:
            self._failing = True
            self._on_error(f"log {self._path or 'output'}: lines are being lost: {error.strerror}")
