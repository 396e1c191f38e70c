"""The control socket's server: a unix socket for root and the relay's own user."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping

import trio

from portproxy.control import place
from portproxy.errors import PortproxyError, StartError, printable, shown
from portproxy.log import Log
from portproxy.reasons import SHORTAGE
from portproxy.wire.control_frames import (
    REPLY_LIMIT,
    REQUEST_LIMIT,
    Decoder,
    FrameError,
    Reply,
    Request,
    encode,
    request_untrusted,
)

Handlers = Mapping[str, Callable[[Request], Awaitable[Reply]]]
"""By command, what carries it out. Nothing a client does cancels it; only the end of the relay does."""

DEADLINE = 5.0
"""Seconds a client has for its request, and again for taking the reply."""
CLIENTS = 32
"""Clients at once: each costs the relay a descriptor."""
PAUSE = 0.1
"""Seconds until accepting is tried again, where not even the spare descriptor was to be had."""
SMALL = 16 << 10
"""Bytes a request may have, and a reply, without waiting for its turn or being turned away: more than a
command line needs, and times CLIENTS not much."""

_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""


@contextlib.contextmanager
def control_socket(path: str) -> Iterator[socket.socket]:
    """A listening unix socket at ``path``, mode 0600, removed at the end if it is still this one.

    Of directories only ``place.ROOT_DIRECTORY`` is made where it is missing; a socket that nobody answers on
    is replaced. Raises StartError where a relay answers, something else is in the way, or the path cannot
    be used.
    """
    new = f"{path}.{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            if os.path.dirname(path) == place.ROOT_DIRECTORY:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(place.ROOT_DIRECTORY, 0o755)
            _check_free(path)
            _bind_private(listener, new)
            os.rename(new, path)
        except OSError as error:
            raise StartError(f"control {path}: {error.strerror or error}") from None
        ours = _identity(path)
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if _identity(path) == ours:
                    os.unlink(path)


def _check_free(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"control {path}: there is a file of that name, and it is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # Someone listens, with a full backlog (unix(7), EAGAIN).
    raise StartError(f"control {path}: another relay answers there; stop it, or name another socket")


def _bind_private(listener: socket.socket, path: str) -> None:
    """Bind and listen with mode 0600: nobody can connect before listen, and then the mode is set."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(CLIENTS)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


async def serve_control(
    path: str,
    handlers: Handlers,
    log: Log,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer commands at ``path`` until cancelled; faults of ``handlers`` go to ``log``.

    Raises StartError as ``control_socket`` does.
    """
    with control_socket(path) as sock:
        sock.setblocking(False)
        server = _Server(handlers, log)
        with contextlib.closing(_Spare()) as spare:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(sock)
                    if client := _accept(sock, spare):
                        nursery.start_soon(_serve, server, client, spare)
                    else:
                        await trio.sleep(PAUSE)


class _Spare:
    """A descriptor kept for accepting a client when clients of the rules have taken all the others.

    That is when an operator needs ``sessions`` and ``kill`` the most.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self.take_back()

    def take_back(self) -> None:
        """Have it again, if there is one to be had."""
        if self._fd is None:
            with contextlib.suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Leave it to whoever opens the next descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _accept(listener: socket.socket, spare: _Spare) -> trio.socket.SocketType | None:
    """The next client, by ``spare`` if need be; None where there is none, or no descriptor for it."""
    spare.take_back()
    try:
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno not in SHORTAGE:
                raise
            # In the same turn, or else a rule's client has it.
            spare.close()
            client, _ = listener.accept()
    except OSError:
        return None
    return trio.socket.from_stdlib_socket(client)


async def _serve(server: _Server, client: trio.socket.SocketType, spare: _Spare) -> None:
    with client:
        await server.serve(trio.SocketStream(client))
    # Not after another turn, for the same reason.
    spare.take_back()


def peer_uid(sock: trio.socket.SocketType) -> int:
    """The user who connected (unix(7), SO_PEERCRED)."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


class _Server:
    """Answers the one request that a connection may bring.

    Whatever clients do, it holds one large request, REPLY_LIMIT bytes of large replies, and of everything
    else SMALL bytes a client. A large request, decoded, may have twelve times its size.
    """

    def __init__(self, handlers: Handlers, log: Log) -> None:
        self._handlers = handlers
        self._log = log
        self._seats = trio.Semaphore(CLIENTS)
        self._large_request = trio.Lock()
        self._room = REPLY_LIMIT

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer a client that is root or our own user; for any other hang up."""
        if peer_uid(stream.socket) not in (0, os.geteuid()):
            return
        with contextlib.suppress(trio.BrokenResourceError):
            try:
                self._seats.acquire_nowait()
            except trio.WouldBlock:
                # Holds nobody up: nothing was sent before, so the socket's buffer has room.
                await stream.send_all(encode(_busy(f"{CLIENTS} clients are being served")))
                return
            try:
                await self._send(stream, *await self._answer(stream))
            finally:
                self._seats.release()

    async def _answer(self, stream: trio.SocketStream) -> tuple[bytes, bool]:
        """The reply to what comes, as a frame, and whether it is of a change. No request is held then."""
        async with contextlib.AsyncExitStack() as turn:
            try:
                request = await self._receive(stream, turn)
            except FrameError as error:
                return encode(Reply.refusal(printable(str(error)))), False
            is_change = bool(request.change.commands)
            try:
                return encode(await self._carry_out(request)), is_change
            except Exception as error:
                self._log.fault("a fault of portproxy in a control command", error, command=request.command)
                told = f"a fault of portproxy in {request.command}: the log has it"
                return encode(Reply.refusal(told)), is_change

    async def _receive(self, stream: trio.SocketStream, turn: contextlib.AsyncExitStack) -> Request:
        """The client's request. A large one waits until it is the only one, which it is until ``turn`` ends.

        Raises FrameError where none comes, within DEADLINE beside that wait.
        """
        decoder = Decoder(REQUEST_LIMIT)
        take = SMALL
        with trio.move_on_after(DEADLINE) as reading:
            while data := await stream.receive_some(take):
                for payload in decoder.feed_untrusted(data):
                    return request_untrusted(payload)
                if decoder.expected > take:
                    reading.deadline = math.inf
                    await turn.enter_async_context(self._large_request)
                    reading.deadline = trio.current_time() + DEADLINE
                    take = REQUEST_LIMIT
            raise FrameError("the request ended before it was whole")
        raise FrameError(f"the request was not whole within {DEADLINE:g} s")

    async def _carry_out(self, request: Request) -> Reply:
        handler = self._handlers.get(request.command)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            return Reply.refusal(f"no such command: {shown(request.command)}; there are: {known}")
        try:
            return await handler(request)
        except PortproxyError as error:
            return Reply.refusal("\n".join(map(printable, error.lines)), error.exit_code)

    async def _send(self, stream: trio.SocketStream, frame: bytes, is_change: bool) -> None:
        """Send a reply, or why it is not sent; what is not taken within DEADLINE is dropped."""
        if len(frame) > REPLY_LIMIT:
            frame = encode(
                Reply.refusal(f"the reply has {len(frame)} bytes; at most {REPLY_LIMIT} are allowed")
            )
        elif len(frame) > max(self._room, SMALL):
            # Rather than wait, which would hold the reply.
            frame = encode(_UNTOLD if is_change else _busy("other clients are taking large replies"))
        self._room -= len(frame)
        try:
            with trio.move_on_after(DEADLINE):
                await stream.send_all(frame)
        finally:
            self._room += len(frame)


def _busy(why: str) -> Reply:
    """Nothing was changed: asking again does no harm."""
    return Reply.refusal(f"busy: {why}; try again", os.EX_TEMPFAIL)


_UNTOLD = Reply.refusal(
    "other clients are taking large replies; whether the change was made, `portproxy show all` says"
)
"""Instead of a large reply to a change, which is not to be tried again: it may have been made."""
