"""Pipes that splice(2) fills and drains, pooled while empty."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from portproxy.dataplane.base import BUFFER_BYTES

POOLED: Final = 64
"""Empty pipes kept: as many as are busy in one batch of events, a few descriptors of the limit."""


class Pipe:
    """A non-blocking pipe and how many bytes fit into it."""

    __slots__ = ("capacity", "reader", "writer")

    def __init__(self, reader: int, writer: int, capacity: int) -> None:
        self.reader = reader
        self.writer = writer
        self.capacity = capacity

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Empty pipes of about ``size`` bytes.

    The kernel rounds the size up, and gives less to a user who is over ``pipe-user-pages-soft``
    (pipe(7)); what it gave is read back. A pipe that cannot take one whole read of ``copy`` is of no use
    here and counts as refused.
    """

    def __init__(self, size: int) -> None:
        self.size = max(size, BUFFER_BYTES)
        self._empty: list[Pipe] = []
        self._most = POOLED

    def take(self) -> Pipe | None:
        """An empty pipe, or None where the kernel refuses one (descriptors, quota)."""
        if self._empty:
            return self._empty.pop()
        try:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            capacity = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, self.size)
        except OSError:
            capacity = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        pipe = Pipe(reader, writer, capacity)
        if capacity < BUFFER_BYTES:
            pipe.close()
            return None
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Pool ``pipe``, which must be empty: a byte left in it would reach another session."""
        if len(self._empty) < self._most:
            self._empty.append(pipe)
        else:
            pipe.close()

    def retire(self) -> None:
        """Keep no pipe from here on; what is out still comes back to be closed."""
        self._most = 0
        self.close()

    def close(self) -> None:
        """Close every pooled pipe, to free descriptors; the pool stays usable."""
        while self._empty:
            self._empty.pop().close()
