"""The control socket's server: a unix socket for root and the relay's own user."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Mapping

import trio

from portproxy.control import place
from portproxy.counters import ACTIVE
from portproxy.errors import PortproxyError, StartError
from portproxy.snapshot import RuleState, Snapshot
from portproxy.wire.control_frames import (
    REQUEST_LIMIT,
    Decoder,
    FrameError,
    Reply,
    Request,
    encode,
    request_untrusted,
)

Handlers = Mapping[str, Callable[[Request], Reply]]

DEADLINE = 5.0
"""Seconds a client has for its request and for taking the reply."""
CLIENTS = 32
"""Clients at once: each costs the relay a descriptor."""

_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""


def health_reply(snapshot: Snapshot) -> Reply:
    """Whether every rule listens, and if not, why not; how many rules listen and sessions run."""
    listening = sum(status.state is RuleState.LISTENING for status in snapshot.rules)
    sessions = sum(status.block[ACTIVE] for status in snapshot.rules)
    text = snapshot.not_ready or f"{_count(listening, 'rule')} listening, {_count(sessions, 'session')}"
    return Reply(not snapshot.not_ready, text, {"listening": listening, "sessions": sessions})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
    path: str, handlers: Handlers, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer commands at ``path`` until cancelled. Raises StartError as ``control_socket`` does."""
    seats = trio.Semaphore(CLIENTS)

    async def serve_client(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, FrameError):
            seats.acquire_nowait()
            try:
                with trio.move_on_after(DEADLINE):
                    await _answer(stream, handlers)
            finally:
                seats.release()

    with control_socket(path) as sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        await trio.serve_listeners(serve_client, [listener], task_status=task_status)


async def _answer(stream: trio.SocketStream, handlers: Handlers) -> None:
    """Answer the one request a connection may bring."""
    if peer_uid(stream.socket) not in (0, os.geteuid()):
        return
    decoder = Decoder(REQUEST_LIMIT)
    async for data in stream:
        for payload in decoder.feed_untrusted(data):
            await stream.send_all(encode(_reply(request_untrusted(payload), handlers)))
            return


def peer_uid(sock: trio.socket.SocketType) -> int:
    """The user who connected (unix(7), SO_PEERCRED)."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _reply(request: Request, handlers: Handlers) -> Reply:
    handler = handlers.get(request.command)
    if handler is None:
        known = ", ".join(sorted(handlers))
        return Reply(False, f"no such command: {request.command!r}; there are: {known}")
    try:
        return handler(request)
    except PortproxyError as error:
        return Reply(False, str(error))
