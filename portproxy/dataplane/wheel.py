"""Coarse deadlines: one bucket for many sessions, instead of one timer each."""

from __future__ import annotations

import heapq
import math
from typing import Protocol

FINEST = 1 / 64
"""Seconds: no deadline is told apart from another more finely than this."""

_FRACTION = 64
"""A deadline comes late by at most this part of the time it was away when it was set."""


class Timed(Protocol):
    """What sits in the wheel. ``bucket`` is the wheel's own note of where."""

    bucket: float

    def on_deadline(self, now: float) -> None:
        """The deadline passed; the item is no longer in the wheel."""

    def on_fault(self) -> None:
        """``on_deadline`` raised: a fault of portproxy's own, already reported."""


NOWHERE = -math.inf
"""``bucket`` of what is not in the wheel."""


class Wheel:
    """Items by deadline. Pure: the caller says what time it is, in seconds of any one clock.

    A deadline is rounded up to a power-of-two grain of about a 64th of its distance, so an hour's
    limit shares its bucket with all that were set in the same minute, and their number stays small.
    """

    def __init__(self) -> None:
        self._buckets: dict[float, set[Timed]] = {}
        self._order: list[float] = []

    def schedule(self, item: Timed, deadline: float, now: float) -> None:
        """Put ``item`` where it will come up soon after ``deadline``, wherever it was before."""
        _, exponent = math.frexp(max(deadline - now, FINEST) / _FRACTION)
        grain = max(FINEST, math.ldexp(0.5, exponent))
        key = (math.floor(deadline / grain) + 1) * grain
        if key == item.bucket:
            return
        self.cancel(item)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = set()
            heapq.heappush(self._order, key)
        bucket.add(item)
        item.bucket = key

    def cancel(self, item: Timed) -> None:
        """Take ``item`` out, if it is in."""
        if item.bucket != NOWHERE:
            self._buckets[item.bucket].discard(item)
            item.bucket = NOWHERE

    def hand_over(self, item: Timed, heir: Timed) -> None:
        """Put ``heir``, which is nowhere, in the place of ``item``, if that has one."""
        if item.bucket != NOWHERE:
            bucket = self._buckets[item.bucket]
            bucket.discard(item)
            bucket.add(heir)
            heir.bucket, item.bucket = item.bucket, NOWHERE

    def next_deadline(self) -> float:
        """When to call ``expired`` next; infinity when there is nothing to wait for."""
        return self._order[0] if self._order else math.inf

    def expired(self, now: float) -> list[Timed]:
        """Take out and return what is due at ``now``."""
        due: list[Timed] = []
        while self._order and self._order[0] <= now:
            bucket = self._buckets.pop(heapq.heappop(self._order))
            for item in bucket:
                item.bucket = NOWHERE
            due += bucket
        return due
