"""A leg: one socket of a session, and the bytes on their way from it to its peer."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Protocol

from portproxy.dataplane.base import Ledger, Progress
from portproxy.dataplane.pipes import Pipe, PipePool

_ERROR = select.EPOLLERR
_OUTPUT = select.EPOLLOUT
_INPUT = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLPRI
_PLAIN = select.EPOLLIN | select.EPOLLOUT
_READ_ON = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLPRI


class LegError(Exception):
    """The socket of ``leg`` failed with errno ``code``; the kernel will not say so again."""

    def __init__(self, leg: Leg, code: int) -> None:
        super().__init__(leg, code)
        self.leg = leg
        self.code = code


class LegOwner(Protocol):
    """Who is told of a leg's events: a session that dials, then a transfer."""

    def on_ready(self, leg: Leg) -> None:
        """The socket became readable or writable; the leg's flags say which."""

    def on_error(self, leg: Leg) -> None:
        """EPOLLERR: SO_ERROR has not been read yet."""

    def on_fault(self) -> None:
        """A fault of portproxy's own, already reported: give up on this session."""

    def turn(self, leg: Leg) -> None:
        """The leg's turn has come again."""


class _Nobody:
    """Who owns a leg whose session has ended: a turn may still be queued for it. Nothing else comes."""

    def on_ready(self, leg: Leg) -> None:
        pass

    def on_error(self, leg: Leg) -> None:
        pass

    def on_fault(self) -> None:
        pass

    def turn(self, leg: Leg) -> None:
        pass


_NOBODY = _Nobody()


class Leg:
    """One socket of a session, and the bytes on their way from it to its peer.

    ``pending`` bytes are in flight: in ``held`` where that is not empty, else in ``pipe``.
    """

    __slots__ = (
        "accepted",
        "bulk",
        "delivered",
        "ended",
        "fd",
        "held",
        "may_splice",
        "mover",
        "owner",
        "peer",
        "pending",
        "pipe",
        "pool",
        "queued",
        "read_on",
        "readable",
        "refused",
        "small_by_copy",
        "sock",
        "spliced",
        "writable",
    )

    peer: Leg
    mover: Mover
    pool: PipePool

    def __init__(self, sock: socket.SocketType, owner: LegOwner) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.owner = owner
        self.readable = False
        self.writable = False
        self.read_on = False  # a short read does not mean "empty": an end or urgent data follows
        self.queued = False  # its turn was cut short and will come again
        self.ended = False
        self.spliced = False
        self.may_splice = True
        self.bulk = False  # copy found it to be: an edge does not bring its turn, but a place in the queue
        self.small_by_copy = False  # what moves less in a turn than copy reads at once goes back to it
        self.refused = False
        self.pipe: Pipe | None = None
        self.held = b""
        self.pending = 0
        self.accepted = 0
        self.delivered = 0

    def on_events(self, mask: int) -> None:
        """Take one edge from epoll(7)."""
        if mask == _PLAIN:
            self.readable = self.writable = True
            self.owner.on_ready(self)
            return
        if mask & _ERROR:
            # Before any end of stream: after the peer's FIN a reset shows as nothing else.
            self.owner.on_error(self)
            return
        if mask & _OUTPUT:
            self.writable = True
        if mask & _INPUT:
            self.readable = True
            if mask & _READ_ON:
                self.read_on = True
                if mask & select.EPOLLPRI:
                    self.may_splice = False  # splice stops before urgent data for good (tcp(7))
        self.owner.on_ready(self)

    def on_fault(self) -> None:
        self.owner.on_fault()

    def disown(self) -> None:
        """Its session has ended, and leaves no reference cycle: the memory is free at once, without anybody
        looking for it."""
        self.owner = _NOBODY

    @property
    def movable(self) -> bool:
        """Whether a turn would move anything; if not, an edge says when it would."""
        return self.peer.writable if self.pending else self.readable

    def refuse_splice(self) -> None:
        """Note that the kernel refused splice or its pipe: copy serves this leg from here on."""
        self.refused = True
        self.may_splice = False

    def release_pipe(self) -> None:
        """Let go of the pipe: pooled when empty, closed when bytes were left in it."""
        if self.pipe:
            if self.pending:
                self.pipe.close()
            else:
                self.pool.give_back(self.pipe)
            self.pipe = None

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.accepted, self.delivered, self.pending)

    def shut_peer(self) -> None:
        """Pass the end of this direction on, once everything before it was delivered.

        Raises LegError when the peer's socket was reset meanwhile.
        """
        peer = self.peer
        if peer.ended:
            # Both sockets are closed next, which sends the FIN too and costs less. What shutdown(2) would
            # have refused, a connection that was reset, is looked for: close(2) would not tell.
            if code := pending_error(peer.sock):
                raise LegError(peer, code)
        else:
            try:
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise LegError(peer, pending_error(peer.sock) or error.errno or errno.EIO) from None
        self.ended = True
        self.readable = False


Mover = Callable[[Leg], Progress]
"""Moves what it can, a turn's bytes at most, from a leg to its peer. Raises LegError."""


def pending_error(sock: socket.SocketType) -> int:
    """SO_ERROR: the socket's pending errno, which this consumes (socket(7))."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
