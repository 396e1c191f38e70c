"""Counters that processes share: every writer has a row of its own, and a reader sums the rows."""

from __future__ import annotations

import fcntl
import mmap
import os

from portproxy import counters

BLOCKS = 1 << 16
"""Blocks in each row. A page that nobody has written to takes no memory, and to grow would take a descriptor,
of which a worker may have none left."""
OWN = 0
"""The number of the block that holds what concerns a process itself: see ``counters.PAUSES``."""

_ROW = 8 * counters.SLOTS * BLOCKS
_MAP_NORESERVE = 0x4000
"""From linux/mman.h: what is not used is not asked for (mmap(2))."""


class Tallies:
    """Numbered blocks of counters, each with ``rows`` rows: of this process alone, or mapped from ``fd``."""

    def __init__(self, rows: int, fd: int | None = None) -> None:
        """Raises OSError where there is no memory, or no descriptor, for it."""
        self.rows = rows
        if fd is None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            self._map = mmap.mmap(-1, _ROW * rows, flags=flags)
        else:
            self._map = mmap.mmap(fd, _ROW * rows)
        self._slots = memoryview(self._map).cast("Q")
        self._blocks = BLOCKS
        self._shared = fd is not None

    def block(self, number: int, row: int) -> memoryview:
        """The slots of one row."""
        first = counters.SLOTS * (row * self._blocks + number)
        return self._slots[first : first + counters.SLOTS]

    def blocks(self, number: int) -> list[memoryview]:
        """Every row's slots."""
        return [self.block(number, row) for row in range(self.rows)]

    def total(self, number: int) -> list[int]:
        """The sum of the rows, slot by slot."""
        first, *others = self.blocks(number)
        total = list(first)
        for other in others:
            counters.add(total, other)
        return total

    def clear(self, number: int) -> None:
        """Zero every row; nobody may be writing."""
        for block in self.blocks(number):
            block[:] = _ZEROES

    def close(self, blocks: int) -> None:
        """Let go of memory that is shared; the first ``blocks`` stay readable. Nobody may hold one."""
        if not self._shared:
            return
        length, stride = counters.SLOTS * blocks, counters.SLOTS * self._blocks
        kept = b"".join(self._slots[row * stride : row * stride + length] for row in range(self.rows))
        self._slots.release()
        self._map.close()
        self._slots = memoryview(bytearray(kept)).cast("Q")
        self._blocks = blocks


def shareable(rows: int) -> int:
    """A descriptor of zeroed memory for as many ``rows`` as other processes may map. Raises OSError."""
    fd = os.memfd_create("portproxy-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _ROW * rows)
        # A mapping of a file that somebody has made shorter ends its reader (SIGBUS).
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


_ZEROES = counters.new_block()
