"""A session while it relays: two legs, their turns, their limits, their end."""

from __future__ import annotations

import errno
import math
import socket
import struct
from collections.abc import Callable

from portproxy.dataplane import copy, splice
from portproxy.dataplane.base import WAIT, Outcome, Progress
from portproxy.dataplane.leg import Leg, LegError, pending_error
from portproxy.dataplane.loop import Loop
from portproxy.dataplane.pipes import PipePool
from portproxy.dataplane.wheel import NOWHERE
from portproxy.model import DataPlaneChoice, Limits
from portproxy.reasons import Ended

RESETS = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED}
"""What a socket answers whose peer has reset the connection (tcp(7))."""
_LINGER_0 = struct.pack("ii", 1, 0)


def reset(sock: socket.SocketType) -> None:
    """Make the coming close(2) of ``sock`` send RST instead of FIN (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)


class Transfer:
    """Two legs between which bytes move until both directions have ended, or one event ends both.

    ``active_at`` is when they last did, by the loop's clock.
    """

    __slots__ = (
        "_began",
        "_limits",
        "_loop",
        "_on_end",
        "active_at",
        "bucket",
        "down",
        "ended",
        "up",
    )

    def __init__(
        self, loop: Loop, up: Leg, down: Leg, limits: Limits, on_end: Callable[[Outcome], None]
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._on_end = on_end
        self._began = self.active_at = loop.now
        self.bucket = NOWHERE
        self.ended = False
        self.up = up
        self.down = down

    def begin(self, choice: DataPlaneChoice, pool: PipePool, prefix: bytes) -> None:
        """Join the legs and move what is already there; ``prefix`` goes to the upstream first."""
        for leg, peer in ((self.up, self.down), (self.down, self.up)):
            leg.owner = self
            leg.peer = peer
            leg.pool = pool
            leg.may_splice = leg.may_splice and choice is not DataPlaneChoice.COPY
            leg.small_by_copy = choice is DataPlaneChoice.AUTO
            leg.mover = splice.move if choice is DataPlaneChoice.SPLICE else copy.move
        self.up.held = prefix
        self.up.pending = self.up.accepted = len(prefix)
        self._schedule()
        self.on_ready(self.up)
        if not self.ended:
            self.on_ready(self.down)

    @property
    def dataplane(self) -> str:
        """What an ``Outcome`` would say by now."""
        return "splice" if self.up.spliced or self.down.spliced else "copy"

    # What the engine calls.

    def on_ready(self, leg: Leg) -> None:
        """Move what the new edge on ``leg`` allows, in both directions; bulk waits for its turn."""
        peer = leg.peer
        if peer.pending and leg.writable:
            if peer.bulk:
                self._queue(peer)
            else:
                self.turn(peer)
        if leg.readable:
            if leg.bulk:
                self._queue(leg)
            else:
                self.turn(leg)

    def turn(self, leg: Leg) -> None:
        """Give ``leg`` one turn; what is left undone comes back through the ready queue."""
        # As leg.movable says, without the call: every message comes by here.
        if leg.queued or leg.ended or self.ended or not (leg.peer.writable if leg.pending else leg.readable):
            return
        self.active_at = now = self._loop.now
        if not leg.bulk:
            self._loop.small_at = now
        try:
            progress = leg.mover(leg)
        except LegError as failure:
            self.fail(failure.leg, failure.code)
            return
        if progress is WAIT:
            if leg.ended:
                self._leg_ended(leg)
            return
        if progress is Progress.TO_SPLICE:
            leg.mover = splice.move
            leg.bulk = True
        elif progress is Progress.TO_COPY:
            leg.release_pipe()
            leg.mover = copy.move
            leg.bulk = False
        self._queue(leg)

    def _queue(self, leg: Leg) -> None:
        """Have ``leg`` queued for a turn, if it has any use for one and the session goes on."""
        if not leg.queued and not self.ended and leg.movable:
            self._loop.again(leg)

    def on_error(self, leg: Leg) -> None:
        """EPOLLERR on ``leg``: read the error, once, and end the session."""
        self.fail(leg, pending_error(leg.sock))

    def on_fault(self) -> None:
        """An event of this session met a fault of portproxy's own: end it."""
        self.end(Ended.INTERNAL)

    def on_deadline(self, now: float) -> None:
        """A limit may have been reached; the wheel is coarse, so look which."""
        if self.ended:
            # By what another item of the same bucket did, after this one was taken out.
            return
        reason, deadline = self._deadline()
        if deadline <= now:
            self.end(reason)
        else:
            self._schedule()

    # How it ends.

    def end(self, reason: Ended, error: int = 0) -> None:
        """End the session, both sides by FIN when it finished and by RST for any other ``reason``.

        Bytes still in flight are discarded and counted.
        """
        if self.ended:
            return
        self.ended = True
        loop, up, down = self._loop, self.up, self.down
        loop.wheel.cancel(self)
        for leg in (up, down):
            leg.release_pipe()
            if reason is not Ended.FINISHED:
                reset(leg.sock)
            loop.close(leg)
        fallbacks = up.refused + down.refused
        on_end = self._on_end
        up.disown()
        down.disown()
        del up.peer, down.peer, self._on_end
        on_end(Outcome(up.ledger, down.ledger, reason, self.dataplane, fallbacks, error))

    def fail(self, leg: Leg, code: int) -> None:
        """End the session because the socket of ``leg`` failed with errno ``code``."""
        client = leg is self.up
        if code in RESETS or not code:
            reason = Ended.CLIENT_RESET if client else Ended.UPSTREAM_RESET
        elif code == errno.ETIMEDOUT:
            reason = Ended.CLIENT_TIMEOUT if client else Ended.UPSTREAM_TIMEOUT
        else:
            reason = Ended.CLIENT_ERROR if client else Ended.UPSTREAM_ERROR
        self.end(reason, code)

    def _leg_ended(self, leg: Leg) -> None:
        if leg.peer.ended:
            self.end(Ended.FINISHED)
        else:
            self._schedule()

    # Limits.

    def _deadline(self) -> tuple[Ended, float]:
        """The limit that will be reached first if nothing moves, and when."""
        limits = self._limits
        reason, deadline = Ended.IDLE, math.inf
        if limits.idletimeout is not None:
            deadline = self.active_at + limits.idletimeout
        if limits.halfclosetimeout is not None and (self.up.ended or self.down.ended):
            half_closed = self.active_at + limits.halfclosetimeout
            if half_closed < deadline:
                reason, deadline = Ended.HALFCLOSE, half_closed
        if limits.maxlifetime is not None and self._began + limits.maxlifetime < deadline:
            reason, deadline = Ended.LIFETIME, self._began + limits.maxlifetime
        return reason, deadline

    def _schedule(self) -> None:
        """Come up by the deadline: where that is earlier already, it stays, and looks again then."""
        deadline = self._deadline()[1]
        if deadline < math.inf and not NOWHERE < self.bucket <= deadline:
            self._loop.schedule(self, deadline)
