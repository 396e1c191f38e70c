"""The mover for small messages, and for where splice is refused: read(2) and write(2)."""

from __future__ import annotations

import os

from portproxy.dataplane.base import BUFFER_BYTES, TURN_BYTES, WAIT, Progress
from portproxy.dataplane.leg import Leg, LegError

_READS = TURN_BYTES // BUFFER_BYTES
"""A turn's, however small what they bring: a client may send single bytes for ever."""


def move(leg: Leg) -> Progress:
    """A ``Mover``: through this process's memory.

    What the peer does not take at once goes into a pipe where the leg may have one, else it is held;
    until it is delivered nothing more is read.
    """
    if leg.pending and not drain(leg):
        return WAIT
    for _ in range(_READS):
        if not leg.readable:
            break
        try:
            data = os.read(leg.fd, BUFFER_BYTES)
        except BlockingIOError:
            leg.readable = False
            break
        except OSError as error:
            raise LegError(leg, error.errno or 0) from None
        count = len(data)
        if not count:
            leg.shut_peer()
            break
        leg.accepted += count
        if count < BUFFER_BYTES and not leg.read_on:
            # epoll(7): a short read has emptied the socket, and whatever comes gives a new edge.
            leg.readable = False
        try:
            sent = os.write(leg.peer.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            leg.pending = count
            raise LegError(leg.peer, error.errno or 0) from None
        leg.delivered += sent
        if sent < count:
            leg.peer.writable = False
            return _stash(leg, data[sent:])
        if count == BUFFER_BYTES and leg.may_splice:
            return Progress.TO_SPLICE
    return Progress.TURN_OVER if leg.readable else WAIT


def drain(leg: Leg) -> bool:
    """Write what is held; whether all of it went. Raises LegError."""
    try:
        sent = os.write(leg.peer.fd, leg.held)
    except BlockingIOError:
        sent = 0
    except OSError as error:
        raise LegError(leg.peer, error.errno or 0) from None
    leg.delivered += sent
    leg.pending -= sent
    leg.held = leg.held[sent:]
    leg.peer.writable = not leg.pending
    return leg.peer.writable


def _stash(leg: Leg, rest: bytes) -> Progress:
    """Put what the peer did not take where it waits: a pipe, else this process's memory."""
    leg.pending = len(rest)
    if leg.may_splice:
        leg.pipe = leg.pool.take()
        if leg.pipe:
            if os.write(leg.pipe.writer, rest) != leg.pending:
                raise MemoryError("an empty pipe did not take what fits into it")
            return Progress.TO_SPLICE
        leg.refuse_splice()
    leg.held = rest
    return WAIT
