"""The loop: one edge-triggered epoll that holds every socket of the relay, awaited by one task.

Order within one turn: all events of the batch, then the first of the ready queue, which is where bulk
waits, then what was deferred. So a small message waits for one turn of one busy connection, not of all; and
beside many small ones each busy connection has a turn in as many batches as there are busy ones.
Descriptors are accepted, dialled and closed only in that last part, so that no number can come back
within the batch that still has events for its former owner.
"""

from __future__ import annotations

import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from portproxy.dataplane.base import EVENTS
from portproxy.dataplane.leg import Leg
from portproxy.dataplane.wheel import Timed, Wheel

_BATCH = 256
"""Events a poll."""
_BURST_TURNS = 64
_BURST_SECONDS = 0.002
"""After so many turns, or so long, the other tasks of the process get theirs. Measured: without this a 10 ms
sleeper waited a second beside 512 clients."""
_SPINS = 20
"""Polls that may find nothing after a small message: they take the wake-up out of a round trip. Beside bulk
it is the better the more has come."""
_REST = 0.0005
"""Seconds between turns while there is bulk and nothing else: what comes meanwhile is moved in one turn, not
in five, and a turn costs as much as to splice 100 KiB."""
_QUIET = 0.010
"""Seconds without a small message until there is nothing else, or without bulk until there is none."""
_LINGER = 0.001
"""Seconds of waiting for more bulk here, in epoll_wait(2), before the engine parks in trio, whose wake-up is
dear. All other tasks wait as well."""


class Accountable(Protocol):
    """Who suffers from a fault of portproxy's own."""

    def on_fault(self) -> None:
        """What was done for it raised an exception, which has been reported: give up."""


class Handler(Accountable, Protocol):
    """Who takes a descriptor's events."""

    def on_events(self, mask: int) -> None:
        """One edge: the bits of epoll_ctl(2)."""


class Loop:
    """Descriptors, turns and deadlines. ``on_fault(what)`` is called within the except clause of a fault of
    our own."""

    def __init__(self, on_fault: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._ready: deque[Leg] = deque()
        self._deferred: list[tuple[Callable[[], None], Accountable]] = []
        self._closing: list[socket.SocketType] = []
        self._on_fault = on_fault
        self._kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._parked = False
        self._sleep = trio.CancelScope()
        self._wake_at = math.inf
        self.clock = clock
        self.now = clock()
        self.turns = 0
        self.small_at = -math.inf
        self._bulk_at = -math.inf
        self.wheel = Wheel()
        self._epoll.register(self._kick, select.EPOLLIN | select.EPOLLET)

    # Descriptors.

    def watch(self, fd: int, handler: Handler, events: int = EVENTS) -> None:
        """Have ``handler`` told of the edges on ``fd``, from the state it is in now."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Stop telling; also where another process holds the same open file description."""
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    def close(self, leg: Leg) -> None:
        """Close the leg's socket once the current batch of events is done; no event reaches it anymore."""
        del self._handlers[leg.fd]
        self._closing.append(leg.sock)
        self._unpark()

    # What transfers and sessions ask for.

    def again(self, leg: Leg) -> None:
        """Give ``leg`` another turn after all that is ready now."""
        leg.queued = True
        self._ready.append(leg)
        self._unpark()

    def defer(self, action: Callable[[], None], who: Accountable) -> None:
        """Call ``action``, which concerns ``who``, once the current batch of events is done."""
        self._deferred.append((action, who))
        self._unpark()

    def guard(self, action: Callable[[], None], who: Accountable) -> None:
        """Call ``action`` now; a fault of ours in it is reported, and ``who`` gives up."""
        try:
            action()
        except Exception:
            self._fault("an action", who)

    def schedule(self, item: Timed, deadline: float) -> None:
        """Have ``item.on_deadline`` called soon after ``deadline`` (seconds of the engine's clock)."""
        now = self.clock()
        self.wheel.schedule(item, deadline, now)
        next_deadline = self.wheel.next_deadline()
        if next_deadline < self._wake_at:
            self._wake_at = next_deadline
            self._sleep.deadline = trio.current_time() + next_deadline - now

    # Running.

    async def run(self) -> None:
        """Turn for ever; parked, at no cost, while there is nothing to do. Cancel it to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            while True:
                if self._burst():
                    await trio.lowlevel.checkpoint()
                else:
                    self._parked = True
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._parked = False

    def shut(self) -> None:
        """Close what transfers have left to be closed, and what is the engine's own. It has stopped."""
        while self._deferred or self._closing:
            self._do_deferred()
        self._epoll.close()
        os.close(self._kick)

    def turn(self, wait: float = 0.0) -> bool:
        """One poll and all that follows from it; whether there was anything to do.

        Where there is not, it waits for up to ``wait`` seconds.
        """
        self.turns += 1
        busy = self._busy
        events = self._epoll.poll(0.0 if busy else wait, _BATCH)
        if not events and not busy:
            return False
        self.now = self.clock()
        for fd, mask in events:
            handler = self._handlers.get(fd)
            if handler is not None:
                try:
                    handler.on_events(mask)
                except Exception:
                    self._fault("an event", handler)
        if self._ready:
            self._bulk_at = self.now
            self._serve_ready()
        if self._deferred or self._closing:
            self.small_at = self.now
            self._do_deferred()
        return True

    @property
    def _busy(self) -> bool:
        return bool(self._ready or self._deferred or self._closing)

    def _burst(self) -> bool:
        """Turns until there is nothing to do, or the other tasks are due; whether there may be more."""
        until = self.clock() + _BURST_SECONDS
        for _ in range(_BURST_TURNS):
            now = self.clock()
            if now >= until:
                break
            bulk = now < self._bulk_at + _QUIET
            if bulk and now > self.small_at + _QUIET and not self._busy:
                time.sleep(_REST)
            small = self.small_at >= self._bulk_at
            if not (self.turn() or (small and self._spin()) or (bulk and self.turn(_LINGER))):
                return False
        return True

    def _spin(self) -> bool:
        """Turns until one finds something to do."""
        return any(self.turn() for _ in range(_SPINS - 1))

    def _serve_ready(self) -> None:
        leg = self._ready.popleft()
        leg.queued = False
        try:
            leg.owner.turn(leg)
        except Exception:
            self._fault("a turn", leg)

    def _do_deferred(self) -> None:
        while self._closing:
            self._closing.pop().close()
        actions, self._deferred = self._deferred, []
        for action, who in actions:
            self.guard(action, who)

    async def _sweep(self) -> None:
        while True:
            self._wake_at = self.wheel.next_deadline()
            deadline = trio.current_time() + self._wake_at - self.clock()
            with trio.CancelScope(deadline=deadline) as self._sleep:
                await trio.sleep_forever()
            self.now = self.clock()
            for item in self.wheel.expired(self.now):
                try:
                    item.on_deadline(self.now)
                except Exception:
                    self._fault("a deadline", item)

    def _fault(self, what: str, who: Accountable) -> None:
        """Report the exception being handled and have ``who`` give up, which may fail as well."""
        self._on_fault(what)
        try:
            who.on_fault()
        except Exception:
            self._on_fault(f"giving up after {what}")

    def _unpark(self) -> None:
        if self._parked:
            self._parked = False
            # Edge-triggered: every write is an edge, so nobody needs to read the count back.
            os.eventfd_write(self._kick, 1)
