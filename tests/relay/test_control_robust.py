"""Clients of the control socket that mean harm: the relay goes on relaying, and grows by little."""

from __future__ import annotations

import hashlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from string import ascii_lowercase

import pytest
import trio

from portproxy.control.client import ask
from portproxy.control.server import CLIENTS
from portproxy.errors import PortproxyError
from portproxy.wire.control_frames import (
    COMMANDS_LIMIT,
    REPLY_LIMIT,
    REQUEST_LIMIT,
    Change,
    Decoder,
    Line,
    Reply,
    Request,
    encode,
    reply_untrusted,
)
from tests.relay.rig import PATIENCE, dial, eventually, receive_all, send_all, to, upstream
from tests.relay.served import SERVER, Served, serving, table

HEALTH = Request("health")
GIGABYTE = 1 << 30
GROWTH = 96 << 20
"""Bytes that the relay may take beside what it had: one large request with what it decodes to, REPLY_LIMIT
of replies with one more being made, and what malloc(3) keeps."""


def memory(pid: int, field: str) -> int:
    """Bytes, by a field of /proc/PID/status (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.removesuffix("kB")) << 10
    raise AssertionError(f"no {field}")


def descriptors(pid: int) -> Counter[str]:
    """How many of each kind a process has; but for pipes, which the relayed session takes and gives back."""
    kinds: Counter[str] = Counter()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            kinds[os.readlink(f"/proc/{pid}/fd/{number}").partition(":")[0]] += 1
    del kinds["pipe"]
    return kinds


def connect(path: str) -> trio.socket.SocketType:
    """A client's connection. It waits for its place in the queue, as no socket of trio does."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return trio.socket.from_stdlib_socket(sock)


async def answered(path: str, request: Request) -> Reply:
    """The relay's answer; what the client says, where there is none."""
    try:
        return await trio.to_thread.run_sync(ask, path, request, PATIENCE)
    except PortproxyError as error:
        return Reply(False, str(error))


async def said(sock: trio.socket.SocketType) -> Reply:
    """What comes on ``sock``."""
    decoder = Decoder(REPLY_LIMIT)
    while data := await sock.recv(1 << 16):
        for payload in decoder.feed_untrusted(data):
            return reply_untrusted(payload)
    raise AssertionError("no reply")


async def pour(sock: trio.socket.SocketType, data: bytes, most: int = GIGABYTE) -> int:
    """Send ``data`` over and over until ``most`` bytes are sent, or the relay hangs up; how many were."""
    sent, view = 0, memoryview(data)
    with suppress(BrokenPipeError, ConnectionResetError):
        while sent < most:
            sent += await sock.send(view[sent % len(data) :])
    return sent


class Session:
    """A relayed upload that goes on for as long as it is told to, each chunk once the last is there."""

    def __init__(self, client: trio.socket.SocketType, server: trio.socket.SocketType) -> None:
        self._client, self._server = client, server
        self._ending = False
        self.received = 0
        self._digest = hashlib.sha256()

    async def send(self) -> None:
        """Send until told to end; what has come then is what was sent."""
        digest = hashlib.sha256()
        for number in count():
            if self._ending:
                break
            chunk = number.to_bytes(8, "big") * (1 << 13)
            digest.update(chunk)
            await send_all(self._client, chunk)
            sent = (number + 1) * len(chunk)
            await eventually(lambda: self.received >= sent)  # noqa: B023
        self._client.shutdown(socket.SHUT_WR)
        assert await receive_all(self._client) == digest.digest()

    async def receive(self) -> None:
        """Take what comes; the answer is its hash."""
        while chunk := await self._server.recv(1 << 16):
            self._digest.update(chunk)
            self.received += len(chunk)
        await send_all(self._server, self._digest.digest())
        self._server.shutdown(socket.SHUT_WR)

    async def goes_on(self) -> None:
        """Wait until more of it has come."""
        before = self.received
        await eventually(lambda: self.received > before)

    def end(self) -> None:
        self._ending = True


@asynccontextmanager
async def relaying_on(served: Served, path: str, session: Session) -> AsyncIterator[None]:
    """Whatever the block does to the control socket, the session loses nothing, the relay stays small."""
    pid = served.process.pid
    assert (await answered(path, HEALTH)).ok
    before, resident = descriptors(pid), memory(pid, "VmRSS")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.send)
        nursery.start_soon(session.receive)
        await session.goes_on()
        yield
        await session.goes_on()
        assert (await answered(path, HEALTH)).ok
        session.end()
    await eventually(lambda: not descriptors(pid) - before)
    assert memory(pid, "VmHWM") - resident < GROWTH
    assert [event for event in served.events if event["level"] != "info"] == []


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    """The control socket of a relay that is busy relaying."""
    path = str(tmp_path / "control.sock")
    with upstream() as service:
        rule = to(service)
        arguments = ("--control", path)
        module = "tests.relay.large_replies"
        async with serving(tmp_path / "f", SERVER, table(rule), arguments=arguments, module=module) as served:
            with dial(rule) as client:
                far, _ = await service.accept()
                with far:
                    async with relaying_on(served, path, Session(client, far)):
                        yield path


def stalled(path: str, data: bytes, clients: int, stack: ExitStack) -> list[socket.socket]:
    """As many clients that have sent ``data`` and do no more. Some are sent away before they have."""
    socks = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(clients)]
    for sock in socks:
        sock.connect(path)
        with suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
    return socks


async def one_ended(socks: Sequence[socket.socket]) -> None:
    """Until the relay has closed its end of one."""

    async def look(sock: socket.socket) -> None:
        sock.setblocking(False)
        with suppress(ConnectionResetError):
            data = b"?"
            while data:
                await trio.lowlevel.wait_readable(sock)
                data = sock.recv(1 << 16)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for sock in socks:
            nursery.start_soon(look, sock)


STALLS = (b"", encode(HEALTH)[:2], encode(HEALTH)[:-1], REQUEST_LIMIT.to_bytes(4, "big") + b"x" * (64 << 10))
"""Nothing, half a length, half a frame, the beginning of a large one."""


async def test_clients_that_stall(path: str) -> None:
    """Whatever of a request they have sent, they are sent away; large ones are, as they are read, in turn."""
    with ExitStack() as stack:
        share, rest = divmod(CLIENTS, len(STALLS))
        assert not rest
        kinds = [stalled(path, data, share, stack) for data in STALLS]
        with connect(path) as late:
            assert (await said(late)).text.startswith(f"busy: {CLIENTS} clients")
            assert (await answered(path, HEALTH)).ok
        for socks in kinds:
            await one_ended(socks)


async def test_a_gigabyte(path: str) -> None:
    for length in (GIGABYTE, REQUEST_LIMIT):
        with connect(path) as sock:
            await send_all(sock, length.to_bytes(4, "big"))
            sent = await pour(sock, b"x" * (1 << 16))
            assert sent < 2 * REQUEST_LIMIT
            assert not (await said(sock)).ok


async def test_large_requests_at_once(path: str) -> None:
    """Which decode to as much as there may be, from as many clients as there may be."""
    tags = {letter: letter * 2 for letter in ascii_lowercase[:23]}
    request = Request("none", change=Change((Line("set", tags=tags),) * COMMANDS_LIMIT))
    frame = REQUEST_LIMIT.to_bytes(4, "big") + encode(request)[4:].ljust(REQUEST_LIMIT)
    texts: list[str] = []

    async def one() -> None:
        with connect(path) as sock:
            await pour(sock, frame, len(frame))
            texts.append((await said(sock)).text)

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(one)
    assert {text.partition(";")[0] for text in texts} <= {
        'no such command: "none"',
        f"busy: {CLIENTS} clients are being served",
    }


async def test_large_replies_that_are_never_taken(path: str) -> None:
    with ExitStack() as stack:
        stalled(path, encode(Request("large", {"bytes": str(REPLY_LIMIT // 4)})), CLIENTS - 1, stack)
        assert (await answered(path, HEALTH)).ok


async def test_garbage(path: str) -> None:
    random = Random(1)
    for _ in range(200):
        with connect(path) as sock:
            await pour(sock, random.randbytes(random.randrange(1, 1 << 12)), 1 << 12)
            sock.shutdown(socket.SHUT_WR)
            assert not (await said(sock)).ok


async def test_200_at_once(path: str) -> None:
    replies: list[Reply] = []

    async def valid() -> None:
        replies.append(await answered(path, HEALTH))

    async def flood(length: int) -> None:
        with connect(path) as sock:
            await send_all(sock, length.to_bytes(4, "big"))
            assert await pour(sock, b"[" * (1 << 16)) < 2 * REQUEST_LIMIT
            assert not (await said(sock)).ok

    async def stall(data: bytes) -> None:
        with connect(path) as sock:
            await pour(sock, data, len(data))
            assert not (await said(sock)).ok

    kinds: list[Callable[[], Awaitable[None]]] = [
        valid,
        partial(flood, GIGABYTE),
        partial(flood, REQUEST_LIMIT),
        partial(stall, b""),
        partial(stall, encode(HEALTH)[:-1]),
    ]
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(kinds[number % len(kinds)])
    assert len(replies) == 40
    assert all(reply.ok for reply in replies)
