"""The mover for small messages, and for where splice is refused: recv, shared buffer, send."""

from __future__ import annotations

import os

from portproxy.dataplane.base import TURN_BYTES, Progress
from portproxy.dataplane.leg import Leg, LegError


def move(leg: Leg, buffer: memoryview) -> Progress:
    """A ``Mover``: through the shared buffer.

    What the peer does not take at once goes into a pipe where the leg may have one, else it is held;
    until it is delivered nothing more is read.
    """
    if leg.pending and not drain(leg):
        return Progress.WAIT
    sock, peer, size = leg.sock, leg.peer, len(buffer)
    budget = TURN_BYTES
    while leg.readable and budget >= size:
        try:
            count = sock.recv_into(buffer)
        except BlockingIOError:
            leg.readable = False
            break
        except OSError as error:
            raise LegError(leg, error.errno or 0) from None
        if not count:
            leg.shut_peer()
            break
        leg.accepted += count
        budget -= count
        if count < size and not leg.read_on:
            # epoll(7): a short read has emptied the socket, and whatever comes gives a new edge.
            leg.readable = False
        try:
            sent = peer.sock.send(buffer[:count])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            leg.pending = count
            raise LegError(peer, error.errno or 0) from None
        leg.delivered += sent
        if sent < count:
            peer.writable = False
            return _stash(leg, buffer[sent:count])
        if count == size and leg.may_splice:
            return Progress.TO_SPLICE
    return Progress.TURN_OVER if leg.readable else Progress.WAIT


def drain(leg: Leg) -> bool:
    """Send what is held; whether all of it went. Raises LegError."""
    try:
        sent = leg.peer.sock.send(leg.held)
    except BlockingIOError:
        sent = 0
    except OSError as error:
        raise LegError(leg.peer, error.errno or 0) from None
    leg.delivered += sent
    leg.pending -= sent
    leg.held = memoryview(leg.held)[sent:] if leg.pending else b""
    leg.peer.writable = not leg.pending
    return leg.peer.writable


def _stash(leg: Leg, rest: memoryview) -> Progress:
    """Put what the peer did not take where it waits: a pipe, else this process's memory."""
    leg.pending = len(rest)
    if leg.may_splice:
        leg.pipe = leg.pool.take()
        if leg.pipe:
            if os.write(leg.pipe.writer, rest) != leg.pending:
                raise MemoryError("an empty pipe did not take what fits into it")
            return Progress.TO_SPLICE
        leg.refuse_splice()
    leg.held = bytes(rest)
    return Progress.WAIT
