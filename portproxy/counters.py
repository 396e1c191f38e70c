"""A rule's counters: one flat block of unsigned 64-bit slots.

The relay adds to them by index; readers (metrics, health) only read. A running rule has a block for each
process that counts, which alone writes to it; their sum is what the rule has done (``portproxy.tallies``).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from portproxy.reasons import ConnectFailed, Ended, Refused

CONNECTIONS = 0
"""Connections accepted from the listener, the refused ones included."""
ACTIVE = 1
"""Sessions dialling or relaying now."""
UP = 2
"""First of three slots for client to upstream: accepted, delivered, discarded (bytes)."""
DOWN = 5
"""The same three for upstream to client."""
SPLICED = 8
"""Ended sessions of which some bytes went through splice(2)."""
COPIED = 9
"""Ended sessions whose bytes all went by read and write."""
FALLBACKS = 10
"""Times splice or its pipe was refused and copy served instead."""
CONNECT_MICROSECONDS = 11
"""Sum over the connect histogram's observations."""

CONNECT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds of the connect histogram; one more slot counts what lies above the last."""

CONNECT_HISTOGRAM = 12
REFUSED = CONNECT_HISTOGRAM + len(CONNECT_BUCKETS) + 1
CONNECT_FAILED = REFUSED + len(Refused)
ENDED = CONNECT_FAILED + len(ConnectFailed)
SLOTS = ENDED + len(Ended)
"""How many slots a block has."""


PAUSES = 0
"""In a process's own block, which is laid out otherwise: times that accepting paused."""
LOST_EVENTS = 1
"""In the same: lines of the event log that were lost."""
LOST_RECORDS = 2
"""In the same: lines of the access log that were lost."""
WAITING = 3
"""In the same: lines of both logs that are queued, and lost where the process dies with them."""
STOPPING = 4
"""In the supervisor's: not 0 once it ends its workers. Without that, one that is left alone has lost it."""


def new_block() -> memoryview:
    """A zeroed block in this process's own memory."""
    return memoryview(bytearray(8 * SLOTS)).cast("Q")


def add(block: memoryview | list[int], other: Sequence[int] | memoryview) -> None:
    """Add to ``block`` what ``other`` counts, slot by slot."""
    for slot, count in enumerate(other):
        block[slot] += count


def write_off(block: memoryview) -> int:
    """Close the books of a writer that died: what it had in hand is lost. Returns how many sessions.

    Whatever it was about to count when it was killed, each connection has one fate afterwards, and bytes
    accepted are those delivered and those discarded.
    """
    dialled = sum(block[CONNECT_HISTOGRAM:REFUSED])
    refused, failed, ended = (
        sum(block[first:end])
        for first, end in ((REFUSED, CONNECT_FAILED), (CONNECT_FAILED, ENDED), (ENDED, SLOTS))
    )
    lost = max(0, block[CONNECTIONS] - refused - failed - ended)
    relaying = min(max(0, dialled - ended), lost)
    block[ENDED + Ended.WORKER_LOST.slot] += relaying
    block[CONNECT_FAILED + ConnectFailed.WORKER_LOST.slot] += lost - relaying
    block[ACTIVE] = 0
    for base in (UP, DOWN):
        block[base + 2] = max(0, block[base] - block[base + 1])
    return lost


def observe_connect(block: memoryview, seconds: float) -> None:
    """Count one successful dial that took ``seconds``."""
    block[CONNECT_HISTOGRAM + bisect.bisect_left(CONNECT_BUCKETS, seconds)] += 1
    block[CONNECT_MICROSECONDS] += int(seconds * 1e6)
