"""Counters that processes share: every writer has a row of its own, and a reader sums the rows."""

from __future__ import annotations

import mmap
import os

from portproxy import counters

BLOCKS = 4096
"""Blocks of a segment, for each row. A page that nobody has written to takes no memory."""
OWN = 0
"""The number of the block that holds what concerns a process itself: see ``counters.PAUSES``."""

_ROW = 8 * counters.SLOTS * BLOCKS


class Tallies:
    """Numbered blocks of counters, each with ``rows`` rows, in segments that are added as need be.

    ``shared`` says whether other processes map the segments, by the descriptors that ``descriptors`` lists.
    There is none at first.
    """

    def __init__(self, rows: int, *, shared: bool = False) -> None:
        self.rows = rows
        self._shared = shared
        self._maps: list[mmap.mmap] = []
        self._segments: list[memoryview] = []
        self.descriptors: list[int] = []

    def grow(self) -> None:
        """Add a segment of zeroed blocks. Raises OSError where there is no memory or descriptor for it."""
        if not self._shared:
            self._map(-1)
            return
        fd = os.memfd_create("portproxy-counters", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, _ROW * self.rows)
            self._map(fd)
        except OSError:
            os.close(fd)
            raise
        self.descriptors.append(fd)

    def attach(self, fd: int) -> None:
        """Add the segment that another process has grown, and close ``fd``. Raises OSError."""
        try:
            self._map(fd)
        finally:
            os.close(fd)

    @property
    def size(self) -> int:
        """How many blocks there are."""
        return BLOCKS * len(self._segments)

    def block(self, number: int, row: int) -> memoryview:
        """The slots of one row."""
        segment, place = divmod(number, BLOCKS)
        first = counters.SLOTS * (row * BLOCKS + place)
        return self._segments[segment][first : first + counters.SLOTS]

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

    def close(self) -> None:
        """Let go of what is shared; the counters stay readable as they are. Nobody may hold a block."""
        while self.descriptors:
            os.close(self.descriptors.pop())
        while self._maps:  # each has a descriptor of its own
            shared, segment = self._maps.pop(), self._segments[len(self._maps)]
            self._segments[len(self._maps)] = memoryview(bytearray(shared)).cast("Q")
            segment.release()
            shared.close()

    def _map(self, fd: int) -> None:
        self._maps.append(mmap.mmap(fd, _ROW * self.rows))
        self._segments.append(memoryview(self._maps[-1]).cast("Q"))


_ZEROES = counters.new_block()
