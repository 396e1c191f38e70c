from __future__ import annotations

import os
import socket
import stat
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from portproxy import counters
from portproxy.config import DefaultControl
from portproxy.control import place, server
from portproxy.control.client import ask, health_over_http
from portproxy.control.server import control_socket, health_reply, serve_control
from portproxy.errors import PortproxyError, StartError
from portproxy.model import Endpoint, Rule, RuleType
from portproxy.options.addresses import SOCKET_PATH, SOCKET_PATH_BYTES
from portproxy.snapshot import RuleState, RuleStatus, Snapshot
from portproxy.wire.control_frames import Reply, Request, encode

HEALTH = Request("health")


def health(request: Request) -> Reply:
    return Reply(True, f"fine, {request.args.get('name', 'all')}")


def broken(request: Request) -> Reply:
    raise PortproxyError("cannot do that")


HANDLERS = {"health": health, "broken": broken}


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
async def relay(path: str, nursery: trio.Nursery) -> str:
    await nursery.start(serve_control, path, HANDLERS)
    return path


async def asked(path: str, request: Request = HEALTH, seconds: float = 5.0) -> Reply:
    return await trio.to_thread.run_sync(ask, path, request, seconds)


def snapshot(*states: RuleState, sessions: int = 0, draining: bool = False) -> Snapshot:
    block = counters.new_block()
    block[counters.ACTIVE] = sessions
    rule = Rule(RuleType.V6TOV4, Endpoint("*", 80), Endpoint("127.0.0.1", 80), "web")
    rules = tuple(RuleStatus(rule, state, "address already in use", block) for state in states)
    return Snapshot(rules, 0, {}, draining)


@pytest.mark.parametrize(
    ("seen", "reply"),
    [
        (
            snapshot(RuleState.LISTENING, RuleState.LISTENING, sessions=6),
            Reply(True, "2 rules listening, 12 sessions", {"listening": 2, "sessions": 12}),
        ),
        (
            snapshot(RuleState.LISTENING, RuleState.SHADOWED, RuleState.DRAINING),
            Reply(True, "1 rule listening, 0 sessions", {"listening": 1, "sessions": 0}),
        ),
        (
            snapshot(RuleState.LISTENING, RuleState.FAILED),
            Reply(False, "rule web: address already in use", {"listening": 1, "sessions": 0}),
        ),
        (
            snapshot(RuleState.LISTENING, sessions=1, draining=True),
            Reply(False, "the relay is stopping", {"listening": 1, "sessions": 1}),
        ),
    ],
)
def test_health_reply(seen: Snapshot, reply: Reply) -> None:
    assert health_reply(seen) == reply


async def test_a_command_is_answered(relay: str) -> None:
    assert await asked(relay) == Reply(True, "fine, all")
    assert await asked(relay, Request("health", {"name": "web"})) == Reply(True, "fine, web")


async def test_an_unknown_command_is_answered_with_the_known(relay: str) -> None:
    assert await asked(relay, Request("show")) == Reply(
        False, "no such command: 'show'; there are: broken, health"
    )


async def test_an_error_for_people_is_a_reply(relay: str) -> None:
    assert await asked(relay, Request("broken")) == Reply(False, "cannot do that")


async def test_the_socket_is_ours_alone_and_goes_with_us(path: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, HANDLERS)
        found = os.lstat(path)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert os.listdir(os.path.dirname(path)) == ["control.sock"]
        nursery.cancel_scope.cancel()
    assert os.listdir(os.path.dirname(path)) == []


async def test_a_stale_socket_is_replaced(path: str, nursery: trio.Nursery) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    await nursery.start(serve_control, path, HANDLERS)
    assert (await asked(path)).ok


async def test_a_live_relay_is_left_alone(relay: str) -> None:
    with pytest.raises(
        StartError, match=r"control\.sock: another relay answers there; stop it, or name another"
    ):
        await serve_control(relay, HANDLERS)
    assert (await asked(relay)).ok


def test_a_relay_too_busy_to_accept_is_alive(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as queued:
        busy.bind(path)
        busy.listen(0)
        queued.connect(path)
        with pytest.raises(StartError, match="another relay answers there"), control_socket(path):
            pass


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(StartError, match=r"notes: there is a file of that name, and it is not a socket$"):
        control_socket(str(path)).__enter__()
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [("a/c.sock", "No such file or directory"), ("x" * 120, "AF_UNIX path too long")],
)
def test_a_path_that_cannot_be_used(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(StartError, match=f"^control .*: {why}$"):
        control_socket(str(tmp_path / name)).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_the_longest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number the process has: the longest is pretended."""
    monkeypatch.setattr(os, "getpid", lambda: 4194303)
    path = str(tmp_path).ljust(SOCKET_PATH_BYTES - 2, "x") + "/c"
    os.mkdir(os.path.dirname(path))
    assert SOCKET_PATH.convert(path) == path
    with control_socket(path):
        assert os.path.exists(path)


def test_the_default_s_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "ROOT_DIRECTORY", str(tmp_path / "portproxy"))
    made = place.default_control(0, {})
    assert made == DefaultControl(str(tmp_path / "portproxy" / "control.sock"))
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        with control_socket(str(made.path)):
            assert place.default_control(0, {}) == made


@pytest.mark.parametrize("under", ["file", "file/portproxy", "nowhere/portproxy"])
def test_no_socket_at_root_s_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(place, "ROOT_DIRECTORY", str(tmp_path / under))
    assert place.default_control(0, {}) == no_control(f"{tmp_path}/{under}/control.sock")


def no_control(path: str) -> DefaultControl:
    told = f"control is off: no socket can be made at {path}; name another place with --control"
    return DefaultControl(None, told)


def test_the_default_of_a_user(tmp_path: Path) -> None:
    def default(directory: str) -> DefaultControl:
        return place.default_control(1000, {"XDG_RUNTIME_DIR": directory})

    assert place.default_control(1000, {}) == default("") == DefaultControl()
    assert default(str(tmp_path)) == DefaultControl(f"{tmp_path}/portproxy.sock")
    for directory in (f"{tmp_path}/nowhere", ".", "/" + "x" * 99):
        assert default(directory) == no_control(f"{directory}/portproxy.sock")
    assert default("/a\n").warning.isprintable()


def test_a_successors_socket_is_not_removed(path: str) -> None:
    with control_socket(path):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(path)
    assert os.path.exists(path)


async def connect(path: str) -> trio.SocketStream:
    return await trio.open_unix_socket(path)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\0\0\0\x02{]", b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_garbage_is_cut_off_and_affects_nothing(relay: str, garbage: bytes) -> None:
    async with await connect(relay) as stream:
        await stream.send_all(garbage)
        assert await stream.receive_some() == b""
    assert (await asked(relay)).ok


async def test_a_client_that_leaves_affects_nothing(relay: str) -> None:
    async with await connect(relay) as stream:
        await stream.send_all(encode(HEALTH)[:5])
    async with await connect(relay) as stream:
        await stream.send_all(encode(HEALTH))
    assert (await asked(relay)).ok


async def test_half_a_frame_is_cut_off_at_the_deadline(
    path: str, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    await nursery.start(serve_control, path, HANDLERS)
    async with await connect(path) as stream:
        await stream.send_all(encode(HEALTH)[:-1])
        assert await stream.receive_some() == b""
    assert trio.current_time() >= server.DEADLINE


async def test_a_client_that_takes_no_reply_is_cut_off_at_the_deadline(
    path: str, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    await nursery.start(serve_control, path, {"health": lambda request: Reply(True, "x" * (4 << 20))})
    async with await connect(path) as stream:
        await stream.send_all(encode(HEALTH))
        await trio.sleep(server.DEADLINE + 1)
        received = sum([len(data) async for data in stream])
    assert received < 4 << 20


async def test_clients_beyond_the_limit_are_refused(
    path: str, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """At once: the clock stands still, so no deadline cuts them off."""
    relay = path
    await nursery.start(serve_control, relay, HANDLERS)
    streams = [await connect(relay) for _ in range(server.CLIENTS)]
    async with await connect(relay) as beyond:
        assert await beyond.receive_some() == b""
    for stream in streams:
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await stream.aclose()
    assert (await asked(relay)).ok


async def test_other_users_are_refused(relay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, whoever runs the test otherwise is the relay's own user and is served."""
    folder = os.path.dirname(relay)
    os.chmod(folder, 0o755)
    os.chmod(relay, 0o666)
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
        answer = b""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(encode(HEALTH))
            answer = await stream.receive_some()
    assert (answer == b"") == (ourselves == 0)


def test_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(PortproxyError) as caught:
        ask(str(path), HEALTH)
    assert caught.value.lines == (
        f"no relay answers at {path}: No such file or directory;"
        " is portproxy running, or does --control name another socket?",
    )


async def fake(listener: trio.SocketListener, answer: bytes, hold: bool) -> None:
    """Something that is no relay: takes one request, sends ``answer``, then closes, or holds on."""
    async with listener, await listener.accept() as stream:
        await stream.receive_some()
        await stream.send_all(answer)
        if hold:
            await trio.sleep_forever()


def unix_listener(path: Path) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@pytest.mark.parametrize(
    ("answer", "hold", "seconds", "why"),
    [
        (
            b"",
            False,
            5.0,
            "the relay at {} gave no answer: it serves root and",
        ),
        (b"\0\0\0\x02{}", True, 5.0, "what answers at {} is no portproxy relay: not a reply: "),
        (b"HTTP/1.1 400 \r\n", True, 5.0, "what answers at {} is no portproxy relay: a frame of "),
        (b"\0\0\0\x02{", True, 0.05, "the relay at {} did not answer within 0.05 s"),
    ],
)
async def test_what_is_no_relay(
    tmp_path: Path, nursery: trio.Nursery, answer: bytes, hold: bool, seconds: float, why: str
) -> None:
    path = tmp_path / "control.sock"
    nursery.start_soon(fake, unix_listener(path), answer, hold)
    with pytest.raises(PortproxyError) as caught:
        await asked(str(path), seconds=seconds)
    assert str(caught.value).startswith(why.format(path))


def test_a_relay_that_accepts_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as queued:
        busy.bind(path)
        busy.listen(0)
        queued.connect(path)
        with pytest.raises(PortproxyError, match="gave no answer: it serves"):
            ask(path, HEALTH)


async def fake_endpoint(nursery: trio.Nursery, answer: bytes, hold: bool) -> Endpoint:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(fake, listener, answer, hold)
    return Endpoint(*listener.socket.getsockname())


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n", Reply(True, "ready")),
        (b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nwhy \n", Reply(False, "why")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Reply(False, "404 Not Found")),
    ],
)
async def test_health_over_http(nursery: trio.Nursery, answer: bytes, reply: Reply) -> None:
    endpoint = await fake_endpoint(nursery, answer, True)
    assert await trio.to_thread.run_sync(health_over_http, endpoint) == reply


@pytest.mark.parametrize(
    ("answer", "hold", "seconds", "why"),
    [
        (b"", True, 0.05, "the relay at {} did not answer within 0.05 s"),
        (b"SSH-2.0\r\n\r\n", False, 5.0, "what answers at {} is no portproxy status endpoint: "),
        (b"", False, 5.0, "what answers at {} is no portproxy status endpoint: "),
    ],
)
async def test_what_is_no_status_endpoint(
    nursery: trio.Nursery, answer: bytes, hold: bool, seconds: float, why: str
) -> None:
    endpoint = await fake_endpoint(nursery, answer, hold)
    with pytest.raises(PortproxyError) as caught:
        await trio.to_thread.run_sync(health_over_http, endpoint, seconds)
    assert str(caught.value).startswith(why.format(endpoint))


def test_no_status_endpoint() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = Endpoint(*bound.getsockname())
        with pytest.raises(PortproxyError, match=f"^no relay answers at {endpoint}: Connection refused; is "):
            health_over_http(endpoint)
