from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from portproxy.config import DefaultControl
from portproxy.control import place
from portproxy.control.client import ask, health_over_http
from portproxy.control.server import control_socket, serve_control
from portproxy.errors import PortproxyError, StartError
from portproxy.log import Event, Log
from portproxy.model import Endpoint
from portproxy.options.addresses import SOCKET_PATH, SOCKET_PATH_BYTES
from portproxy.wire.control_frames import REQUEST_LIMIT, Reply, Request, encode
from tests.relay.rig import PATIENCE

HEALTH = Request("health")


async def health(request: Request) -> Reply:
    return Reply(True, f"fine, {request.args.get('name', 'all')}")


def no_log(event: Event) -> None:
    pytest.fail(event.event)


HANDLERS = {"health": health}
LOG = Log(no_log)


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
async def relay(path: str, nursery: trio.Nursery) -> str:
    await nursery.start(serve_control, path, HANDLERS, LOG)
    return path


async def asked(path: str, request: Request = HEALTH, seconds: float = 5.0) -> Reply:
    return await trio.to_thread.run_sync(ask, path, request, seconds)


async def test_the_socket_is_ours_alone_and_goes_with_us(path: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, HANDLERS, LOG)
        found = os.lstat(path)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert os.listdir(os.path.dirname(path)) == ["control.sock"]
        nursery.cancel_scope.cancel()
    assert os.listdir(os.path.dirname(path)) == []


async def test_a_stale_socket_is_replaced(path: str, nursery: trio.Nursery) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    await nursery.start(serve_control, path, HANDLERS, LOG)
    assert (await asked(path)).ok


async def test_a_live_relay_is_left_alone(relay: str) -> None:
    with pytest.raises(
        StartError, match=r"control\.sock: another relay answers there; stop it, or name another"
    ):
        await serve_control(relay, HANDLERS, LOG)
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

    told = "control is off: XDG_RUNTIME_DIR is not set; name a path with --control"
    assert place.default_control(1000, {}) == default("") == DefaultControl(None, told)
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
            "the relay at {} hung up without an answer (did it stop?)",
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
        told = f"busy: too many clients wait for the relay at {path}; try again"
        assert ask(path, HEALTH, 0.1) == Reply.refusal(told, os.EX_TEMPFAIL)


async def test_a_relay_with_a_full_backlog_is_tried_again(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    pauses: list[float] = []
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as queued:
        busy.bind(str(path))
        busy.listen(0)
        queued.connect(str(path))
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(busy))

        async def serve() -> None:
            await (await listener.accept()).aclose()
            await fake(listener, encode(Reply(True, "fine")), False)

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 6:
                trio.from_thread.run_sync(nursery.start_soon, serve)
                trio.from_thread.run(trio.testing.wait_all_tasks_blocked)

        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", sleep)
            assert await asked(str(path), seconds=PATIENCE) == Reply(True, "fine")
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


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


async def test_a_reply_to_a_request_that_was_cut_off_is_heard(relay: str) -> None:
    """The relay hangs up before a large request has all been sent."""
    reply = await asked(relay, Request("health", {"name": "x" * REQUEST_LIMIT}))
    assert reply.text.endswith(f" bytes; at most {REQUEST_LIMIT} are allowed")
