"""Between two processes of one relay: frames and descriptors over a pair of sockets (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence

import trio

from portproxy.wire.worker_frames import DESCRIPTORS, Frames, WorkerFrameError, frame

_RECEIVE = 1 << 16
_ROOM = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)


class Channel:
    """One end of the pair. Frames arrive whole and in order, descriptors with the frame that they were sent
    with.
    """

    def __init__(self, sock: socket.socket, limit: int, *, takes_descriptors: bool) -> None:
        """Takes ``sock`` over. ``limit`` is what a received frame may have, in bytes.

        Where no descriptors are taken the kernel closes those that come.
        """
        sock.setblocking(False)
        self._room = _ROOM if takes_descriptors else 0
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._frames = Frames(limit)
        # A frame's descriptors come with its first byte, and those of one frame only with one recvmsg: each
        # set here is one frame's, short or empty where no descriptor was left for them (MSG_CTRUNC).
        self._sets: deque[list[int]] = deque()
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._news = trio.Event()

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Queue a frame, with at most DESCRIPTORS of them, which stay open until it is sent: see ``run``."""
        self._queue.append((frame(payload, with_descriptors=bool(descriptors)), descriptors))
        self._news.set()

    async def run(self) -> None:
        """Send what is queued until cancelled, or until the other end is gone. Raises OSError."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                while self._queue:
                    await self._send(*self._queue.popleft())
        except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
            return  # The reader sees it too.

    async def receive(self) -> tuple[bytes, list[int]] | None:
        """The next frame's payload and its descriptors, which are the caller's; None at the end.

        Fewer than were sent come where RLIMIT_NOFILE has no more. Raises WorkerFrameError.
        """
        while True:
            found = self._frames.next_untrusted()
            if found:
                payload, with_descriptors = found
                if not with_descriptors:
                    return payload, []
                if not self._sets:
                    raise WorkerFrameError("a frame that came without its descriptors")
                return payload, self._sets.popleft()
            try:
                data, ancillary, flags, _ = await self._sock.recvmsg(
                    _RECEIVE, self._room, socket.MSG_CMSG_CLOEXEC
                )
            except (OSError, trio.ClosedResourceError):
                return None
            descriptors = array.array("i")
            for level, kind, body in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(body[: len(body) - len(body) % descriptors.itemsize])
            if self._room and (ancillary or flags & socket.MSG_CTRUNC):
                self._sets.append(list(descriptors))
            if not data:
                return None
            self._frames.feed(data)

    def close(self) -> None:
        """Close this end, and descriptors that came and were not taken."""
        self._sock.close()
        while self._sets:
            for fd in self._sets.popleft():
                os.close(fd)

    async def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        rest = memoryview(data)
        if descriptors:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            rest = rest[await self._sock.sendmsg([rest], [rights]) :]
        while rest:
            rest = rest[await self._sock.send(rest) :]
