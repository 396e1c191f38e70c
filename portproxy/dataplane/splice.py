"""The mover for bulk: splice(2) from the socket into a pipe and from the pipe into the peer."""

from __future__ import annotations

import errno
import os

from portproxy.dataplane import copy
from portproxy.dataplane.base import BUFFER_BYTES, Progress
from portproxy.dataplane.leg import Leg, LegError

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_REFUSED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOMEM, errno.EPERM}
"""What splice answers where it cannot serve this socket (splice(2)), and what a sandbox answers that
forbids it (seccomp(2)); the stream itself is whole."""


def move(leg: Leg) -> Progress:
    """A ``Mover``: no byte enters this process, but for what a ``copy`` before it has left held.

    The pipe is filled only when empty, so a fill that finds nothing is an empty socket, never a full
    pipe. A fill of 0 bytes is left to ``copy`` to judge: before urgent data the kernel says 0 where
    the stream has not ended.
    """
    moved, budget = 0, leg.pool.size
    while not leg.pending or (copy.drain(leg) if leg.held else _drain(leg)):
        if not leg.readable:
            leg.release_pipe()
            small = leg.small_by_copy and moved < BUFFER_BYTES
            return Progress.TO_COPY if small else Progress.WAIT
        if moved >= budget:
            return Progress.TURN_OVER
        pipe = leg.pipe = leg.pipe or leg.pool.take()
        if not pipe:
            leg.refuse_splice()
        if not pipe or not leg.may_splice:
            return Progress.TO_COPY
        try:
            count = os.splice(leg.fd, pipe.writer, min(pipe.capacity, budget - moved), flags=_FLAGS)
        except BlockingIOError:
            leg.readable = False
            continue
        except OSError as error:
            if error.errno not in _REFUSED:
                raise LegError(leg, error.errno or 0) from None
            leg.refuse_splice()
            return Progress.TO_COPY
        if not count:
            return Progress.TO_COPY
        leg.spliced = True
        leg.accepted += count
        leg.pending = count
        moved += count
    return Progress.WAIT


def _drain(leg: Leg) -> bool:
    """Splice the pipe into the peer until it is empty or the peer is full; whether it is empty."""
    pipe = leg.pipe
    assert pipe
    while leg.pending:
        try:
            count = os.splice(pipe.reader, leg.peer.fd, leg.pending, flags=_FLAGS)
        except BlockingIOError:
            leg.peer.writable = False
            return False
        except OSError as error:
            raise LegError(leg.peer, error.errno or 0) from None
        leg.delivered += count
        leg.pending -= count
    return True
