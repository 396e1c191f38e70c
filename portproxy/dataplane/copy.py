"""The mover for small messages, and for where splice is refused: read(2) and write(2)."""

from __future__ import annotations

import os

from portproxy.dataplane.base import BUFFER_BYTES, TURN_BYTES, Progress
from portproxy.dataplane.leg import Leg, LegError

# An enum's member takes four times as long to look up as a global, and every message asks.
_WAIT = Progress.WAIT


def move(leg: Leg) -> Progress:
    """A ``Mover``: through this process's memory.

    What the peer does not take at once goes into a pipe where the leg may have one, else it is held;
    until it is delivered nothing more is read.
    """
    if leg.pending and not drain(leg):
        return _WAIT
    peer, budget = leg.peer, TURN_BYTES
    while leg.readable and budget >= BUFFER_BYTES:
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
        budget -= count
        if count < BUFFER_BYTES and not leg.read_on:
            # epoll(7): a short read has emptied the socket, and whatever comes gives a new edge.
            leg.readable = False
        try:
            sent = os.write(peer.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            leg.pending = count
            raise LegError(peer, error.errno or 0) from None
        leg.delivered += sent
        if sent < count:
            peer.writable = False
            return _stash(leg, data[sent:])
        if count == BUFFER_BYTES and leg.may_splice:
            return Progress.TO_SPLICE
    return Progress.TURN_OVER if leg.readable else _WAIT


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
    return _WAIT
