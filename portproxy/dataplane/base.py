"""The data plane's contract: what is moved, how much at once, and the account of it.

A session has two legs. A leg is one socket *and* the bytes on their way from that socket to the
other. What holds for every leg, whichever mover serves it:

- it is filled only when nothing is in flight, drained whole, and its end passed on only when drained;
- its end leaves the other leg open; the session ends when both have ended;
- the first error seen on a socket ends the session and is never asked for twice, because reading it
  consumes it: later reads would say "end of stream";
- accepted = delivered + discarded.
"""

from __future__ import annotations

import enum
import select
from typing import NamedTuple

from portproxy.reasons import Ended

TURN_BYTES = 1 << 18
"""What one leg may move before the others get their turn; by splice what its pipe is asked to hold, beside
what is in there already."""

BUFFER_BYTES = 1 << 16
"""What ``copy`` reads at once: a read that comes back full calls for splice."""

EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET


class Ledger(NamedTuple):
    """One direction's account in bytes: accepted = delivered + discarded.

    ``delivered`` is what the destination's kernel took.
    """

    accepted: int
    delivered: int
    discarded: int


NOTHING = Ledger(0, 0, 0)


class Outcome(NamedTuple):
    """How a session's relaying ended. ``error`` is the errno behind ``reason``, or 0.

    ``dataplane`` is "splice" once any byte went through splice(2), else "copy"; ``fallbacks`` counts
    the legs for which splice, or a pipe, was refused.
    """

    up: Ledger
    down: Ledger
    reason: Ended
    dataplane: str
    fallbacks: int
    error: int


class Progress(enum.Enum):
    """What a mover says when it returns."""

    WAIT = enum.auto()
    """Nothing can be done before the next event."""
    TURN_OVER = enum.auto()
    """The turn's bytes are used up; there is more."""
    TO_SPLICE = enum.auto()
    """splice serves better from here on."""
    TO_COPY = enum.auto()
    """copy serves better from here on, or must."""


# An enum's member takes four times as long to look up as a global, and every message asks for this one.
WAIT = Progress.WAIT
