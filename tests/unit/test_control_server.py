"""What the control socket answers, to whom, and for how long."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from portproxy.control.client import ask
from portproxy.control.server import CLIENTS, DEADLINE, SMALL, serve_control
from portproxy.errors import PortproxyError
from portproxy.log import Event, Log
from portproxy.wire.control_frames import (
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
from tests.relay.rig import PATIENCE

HEALTH = Request("health")
IMPORT = Request("import", {"name": "x" * SMALL})
BUSY_CLIENTS = Reply.refusal(f"busy: {CLIENTS} clients are being served; try again", os.EX_TEMPFAIL)
BUSY_REPLIES = Reply.refusal("busy: other clients are taking large replies; try again", os.EX_TEMPFAIL)


class Relay:
    """A control server with handlers to wait in, and all that it has logged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.events: list[Event] = []
        self.started: list[Request] = []
        self.done: list[Request] = []
        self.go = trio.Event()
        self._news = trio.Event()
        self.log = Log(self.events.append)
        self.handlers = {
            "broken": self.broken,
            "faulty": self.faulty,
            "health": self.health,
            "import": self.change,
            "large": self.large,
            "unsendable": self.unsendable,
            "wait": self.change,
        }

    async def health(self, request: Request) -> Reply:
        return Reply(True, f"fine, {request.args.get('name', 'all')}")

    async def broken(self, request: Request) -> Reply:
        raise PortproxyError("cannot do that", "nor \x1b that")

    async def faulty(self, request: Request) -> Reply:
        raise MemoryError

    async def unsendable(self, request: Request) -> Reply:
        return Reply(True, "\udc80")

    async def large(self, request: Request) -> Reply:
        return Reply(True, "x" * int(request.args["bytes"]))

    async def change(self, request: Request) -> Reply:
        """Done when the test says so."""
        self.started.append(request)
        self._tell()
        await self.go.wait()
        self.done.append(request)
        self._tell()
        return Reply(True, "changed")

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, started: int = 0, done: int = 0) -> None:
        """Wait for so many changes."""
        while len(self.started) < started or len(self.done) < done:
            await self._news.wait()

    async def ask(self, request: Request = HEALTH) -> Reply:
        """As another client would."""
        return await trio.to_thread.run_sync(ask, self.path, request, PATIENCE)

    async def connect(self, data: bytes = b"") -> trio.SocketStream:
        """A client that has sent ``data``."""
        stream = await trio.open_unix_socket(self.path)
        await stream.send_all(data)
        return stream


@pytest.fixture
async def relay(tmp_path: Path, nursery: trio.Nursery) -> Relay:
    relay = Relay(str(tmp_path / "control.sock"))
    await nursery.start(serve_control, relay.path, relay.handlers, relay.log)
    return relay


async def said(stream: trio.SocketStream) -> Reply | None:
    """What ``stream`` says before it ends, None where that is nothing."""
    decoder = Decoder(REPLY_LIMIT)
    replies: list[bytes] = []
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            replies += decoder.feed_untrusted(data)
    assert not decoder.expected
    if not replies:
        return None
    (reply,) = replies
    return reply_untrusted(reply)


async def test_a_command_is_answered(relay: Relay) -> None:
    assert await relay.ask() == Reply(True, "fine, all")
    assert await relay.ask(Request("health", {"name": "web"})) == Reply(True, "fine, web")


async def test_an_unknown_command_is_answered_with_the_known(relay: Relay) -> None:
    known = "broken, faulty, health, import, large, unsendable, wait"
    reply = await relay.ask(Request("show\n"))
    assert reply == Reply.refusal(f'no such command: "show\\n"; there are: {known}')


async def test_an_error_for_people_is_a_reply_of_its_lines(relay: Relay) -> None:
    reply = await relay.ask(Request("broken"))
    assert not reply.ok
    assert reply.lines == ["cannot do that", "nor \\x1b that"]
    assert relay.events == []


@pytest.mark.parametrize("command", ["faulty", "unsendable"])
async def test_a_fault_is_logged_and_affects_nothing(relay: Relay, command: str) -> None:
    reply = await relay.ask(Request(command))
    assert reply == Reply.refusal(f"a fault of portproxy in {command}: the log has it")
    (event,) = relay.events
    assert (event.event, event.fields["command"]) == ("a fault of portproxy in a control command", command)
    assert "Error" in str(event.fields["traceback"])
    assert (await relay.ask()).ok


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\xff\xff\xff\xff", f"a frame of 4294967295 bytes; at most {REQUEST_LIMIT} are allowed"),
        (b"GET / HTTP/1.1\r\n\r\n", f"a frame of 1195725856 bytes; at most {REQUEST_LIMIT} are allowed"),
        (b"\0\0\0\x02{]", "not a request: JSON is malformed"),
        (b"\0\0\0\0", "not a request: "),
        (b'\0\0\0\x0d{"command":1}', "not a request: Expected `str`, got `int` - at `$.command`"),
        (b"\0\0\x80\x00" + b"x" * 0x8000, "not a request: JSON is malformed"),
        (encode(HEALTH)[:-1], "the request ended before it was whole"),
        (encode(IMPORT)[:-1], "the request ended before it was whole"),
    ],
    ids=range(8),
)
async def test_garbage_is_told_what_it_is_and_affects_nothing(relay: Relay, garbage: bytes, why: str) -> None:
    async with await relay.connect(garbage) as stream:
        await stream.send_eof()
        reply = await said(stream)
        assert reply
        assert not reply.ok
        assert reply.text.startswith(why)
    assert (await relay.ask()).ok


async def test_a_client_that_leaves_affects_nothing(relay: Relay) -> None:
    for data in (encode(HEALTH)[:5], encode(HEALTH), encode(IMPORT)[:-1]):
        await (await relay.connect(data)).aclose()
    assert (await relay.ask()).ok
    assert relay.events == []


@pytest.mark.parametrize(
    "data", [b"", encode(HEALTH)[:-1], encode(IMPORT)[:-1]], ids=["none", "half", "large"]
)
async def test_a_request_that_does_not_come_is_told_so_at_the_deadline(
    autojump_clock: trio.testing.MockClock, relay: Relay, data: bytes
) -> None:
    begin = trio.current_time()
    async with await relay.connect(data) as stream:
        assert await said(stream) == Reply.refusal("the request was not whole within 5 s")
    assert trio.current_time() == begin + DEADLINE


async def test_a_request_that_drips_is_cut_off_at_the_same_deadline(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    begin = trio.current_time()
    async with await relay.connect() as stream:
        with suppress(trio.BrokenResourceError):
            for number in encode(HEALTH):
                await stream.send_all(bytes([number]))
                await trio.sleep(1)
        assert trio.current_time() <= begin + DEADLINE + 1
        assert await said(stream) == Reply.refusal("the request was not whole within 5 s")


async def test_a_client_that_takes_no_reply_is_cut_off_at_the_deadline(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    async with await relay.connect(encode(Request("large", {"bytes": str(4 << 20)}))) as stream:
        await trio.sleep(DEADLINE + 1)
        received = sum([len(data) async for data in stream])
    assert received < 4 << 20


async def test_a_change_takes_as_long_as_it_takes_and_is_done_though_its_client_left(
    autojump_clock: trio.testing.MockClock, relay: Relay
) -> None:
    async with await relay.connect(encode(Request("wait"))) as patient:
        async with await relay.connect(encode(Request("wait"))):
            await relay.until(started=2)
        await trio.sleep(100 * DEADLINE)
        relay.go.set()
        await relay.until(done=2)
        assert await said(patient) == Reply(True, "changed")
    assert relay.events == []


async def test_clients_beyond_the_limit_are_told_so(mock_clock: trio.testing.MockClock, relay: Relay) -> None:
    """At once: the clock stands still, so no deadline cuts them off."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await relay.connect()) for _ in range(CLIENTS)]
        for _ in range(3):
            async with await relay.connect(encode(HEALTH)) as late:
                assert await said(late) == BUSY_CLIENTS
        for stream in streams:
            await stream.send_eof()
            assert await said(stream) == Reply.refusal("the request ended before it was whole")
    assert (await relay.ask()).ok


async def test_clients_beyond_the_limit_get_their_turn(relay: Relay) -> None:
    replies: list[Reply] = []

    async def change() -> None:
        replies.append(await relay.ask(Request("wait")))

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS + 8):
            nursery.start_soon(change)
        await relay.until(started=CLIENTS)
        relay.go.set()
    assert replies == [Reply(True, "changed")] * (CLIENTS + 8)


async def test_large_requests_wait_for_each_other_and_small_ones_pass(
    autojump_clock: trio.testing.MockClock, relay: Relay, nursery: trio.Nursery
) -> None:
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await relay.connect(encode(IMPORT)[:-1])) for _ in range(3)
        ]
        for stream in streams:
            await stream.send_all(encode(IMPORT)[-1:])
        await relay.until(started=1)
        await trio.sleep(10 * DEADLINE)
        async with await relay.connect(encode(HEALTH)) as stream:
            assert await said(stream) == Reply(True, "fine, all")
        assert len(relay.started) == 1
        relay.go.set()
        for stream in streams:
            assert await said(stream) == Reply(True, "changed")
    assert relay.done == [IMPORT] * 3


async def test_large_replies_that_are_not_taken_are_bounded(
    mock_clock: trio.testing.MockClock, relay: Relay
) -> None:
    half = Request("large", {"bytes": str(REPLY_LIMIT // 2 - len(encode(Reply(True, ""))))})
    change = Request("large", half.args, Change((Line("reset"),)))
    async with await relay.connect(encode(half)) as one, await relay.connect(encode(half)) as other:
        for stream in (one, other):
            assert await stream.receive_some(1)
        async with await relay.connect(encode(half)) as late:
            assert await said(late) == BUSY_REPLIES
        async with await relay.connect(encode(change)) as late:
            reply = await said(late)
            assert reply
            assert reply.exit_code == 1
            assert reply.text.endswith("; whether the change was made, `portproxy show all` says")
        assert (await relay.ask()).ok
    await trio.testing.wait_all_tasks_blocked()
    assert (await relay.ask(half)).ok


async def test_a_reply_over_the_limit_is_not_sent(relay: Relay) -> None:
    reply = await relay.ask(Request("large", {"bytes": str(REPLY_LIMIT)}))
    assert reply.text.startswith(f"the reply has {REPLY_LIMIT + 25} bytes; at most {REPLY_LIMIT} are allowed")


async def test_other_users_are_refused(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, whoever runs the test otherwise is the relay's own user and is served."""
    folder = os.path.dirname(relay.path)
    os.chmod(folder, 0o755)
    os.chmod(relay.path, 0o666)
    monkeypatch.chdir(folder)
    ourselves = os.geteuid()
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        if ourselves == 0:
            os.seteuid(65534)
        try:
            sock.connect("control.sock")
        finally:
            os.seteuid(ourselves)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        with suppress(trio.BrokenResourceError):
            await stream.send_all(encode(HEALTH))
        assert (await said(stream) is None) == (ourselves == 0)
