"""A worker's process, as its supervisor sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from portproxy.net.channel import Channel
from portproxy.net.user import User
from portproxy.wire.worker_frames import (
    REPLY_LIMIT,
    Idle,
    Reply,
    WorkerFrameError,
    reply_untrusted,
)

_COMMAND = "import sys; sys.path[:] = sys.argv[2:]; from portproxy.workers.main import main; main()"
"""The same modules as here, wherever the working directory is by now."""


class Answer:
    """What one request is answered; None where the process is gone before."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.asked_at = trio.current_time()
        self.arrived = trio.Event()

    def set(self, reply: Reply | None) -> None:
        self.reply = reply
        self.arrived.set()


class Member:
    """One process. Requests are carried out in the order in which they are sent.

    ``serial`` is its own, also among those that it replaces; ``lacking`` are the numbers of the listening
    sockets that it had no descriptor for.
    """

    def __init__(self, serial: int, process: trio.Process, channel: Channel) -> None:
        self.serial = serial
        self.process = process
        self.lacking: set[int] = set()
        self._channel = channel
        self._asked: deque[Answer] = deque()
        self._gone = False
        self._trouble = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, request: bytes, descriptors: Sequence[int] = ()) -> Answer:
        """Send a request, encoded as it is; the descriptors have to stay open until it is answered."""
        answer = Answer()
        if self._gone:
            answer.set(None)
        else:
            self._asked.append(answer)
            self._channel.send(request, descriptors)
        return answer

    @property
    def waiting_since(self) -> float | None:
        """When the oldest request was sent that is not answered yet, by trio's clock; None without one."""
        return self._asked[0].asked_at if self._asked else None

    async def run(self, on_idle: Callable[[int], None]) -> None:
        """Send and receive until the process is gone; one that cannot be talked with is killed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read(on_idle)
                nursery.cancel_scope.cancel()
        finally:
            self._gone = True
            while self._asked:
                self._asked.popleft().set(None)

    def give_up(self, why: str) -> None:
        """Kill the process, for this reason."""
        self._trouble = self._trouble or why
        self.process.kill()

    async def end(self, within: float) -> None:
        """Close the channel, by which the process ends, give it ``within`` seconds, and kill and reap it."""
        self._channel.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(within):
                await self.process.wait()
            self.process.kill()
            await self.process.wait()

    @property
    def fate(self) -> str:
        """How the process ended."""
        code = self.process.returncode
        if code is None:
            return "still there"
        ended = f"exit code {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
        return f"{ended}: {self._trouble}" if self._trouble else ended

    async def _write(self) -> None:
        try:
            await self._channel.run()
        except OSError as error:  # unix(7): ETOOMANYREFS, for one
            self.give_up(f"nothing can be sent to it: {error.strerror}")

    async def _read(self, on_idle: Callable[[int], None]) -> None:
        try:
            while received := await self._channel.receive():
                reply = reply_untrusted(received[0])
                if isinstance(reply, Idle):
                    on_idle(reply.number)
                elif self._asked:
                    self._asked.popleft().set(reply)
                else:
                    raise WorkerFrameError("an answer that nobody asked for")
        except WorkerFrameError as error:
            self.give_up(str(error))


async def start(serial: int, user: User | None) -> Member:
    """Start a worker's process, the ``serial``-th, as ``user``. Raises OSError where there can be none."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-c", _COMMAND, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # What a terminal sends on Ctrl-C is the supervisor's to obey.
                process_group=0,
                # Not later: a supervisor that has dropped root could not end a worker of root's.
                **(_identity(user) if user and os.geteuid() == 0 else {}),
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, RuntimeError):  # what Python makes of pthread_create(3)'s EAGAIN
                raise OSError(str(error)) from None
            raise
    return Member(serial, process, Channel(ours, REPLY_LIMIT, takes_descriptors=False))


def _identity(user: User) -> dict[str, Any]:
    return {"user": user.uid, "group": user.gid, "extra_groups": user.groups}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
