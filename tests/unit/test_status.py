from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import h11
import pytest
import trio
import trio.testing

from portproxy import counters
from portproxy.errors import StartError
from portproxy.model import ANY, Endpoint, Rule, RuleType
from portproxy.snapshot import RuleState, RuleStatus, Snapshot
from portproxy.status import server
from portproxy.status.server import bind_status, serve_status

LOOPBACK = Endpoint("127.0.0.1", 0)


def snapshot(state: RuleState = RuleState.LISTENING, rules: int = 1) -> Snapshot:
    block = counters.new_block()
    statuses = tuple(
        RuleStatus(
            Rule(RuleType.V6TOV4, Endpoint("*", 80 + i), Endpoint("127.0.0.1", 80), f"web{i}"),
            state,
            "address already in use",
            block,
        )
        for i in range(rules)
    )
    return Snapshot(statuses, 0, {}, draining=False)


@asynccontextmanager
async def endpoint(
    seen: Callable[[], Snapshot] = snapshot, at: Endpoint = LOOPBACK
) -> AsyncIterator[tuple[str, int]]:
    """A status endpoint that runs, and its address."""
    async with trio.open_nursery() as nursery:
        sock = bind_status(at)
        address = sock.getsockname()[:2]

        async def now() -> Snapshot:
            return seen()

        await nursery.start(serve_status, sock, now)
        yield address
        nursery.cancel_scope.cancel()


async def respond(stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Response, bytes]:
    """The next response on ``stream``, read by a client that is strict about framing."""
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            return response, body


async def fetch(
    address: tuple[str, int], path: str, method: str = "GET", **headers: str
) -> tuple[h11.Response, bytes]:
    connection = h11.Connection(h11.CLIENT)
    async with await trio.open_tcp_stream(*address) as stream:
        request = h11.Request(method=method, target=path, headers=[("host", "x"), *headers.items()])
        await stream.send_all(connection.send(request) + connection.send(h11.EndOfMessage()))
        return await respond(stream, connection)


def header(response: h11.Response, name: bytes) -> bytes | None:
    return dict(response.headers).get(name)


@pytest.mark.parametrize(
    ("path", "state", "status", "body"),
    [
        ("/healthz", RuleState.FAILED, 200, b"ok\n"),
        ("/readyz", RuleState.LISTENING, 200, b"ready\n"),
        ("/readyz", RuleState.FAILED, 503, b"rule web0: address already in use\n"),
        ("/readyz?verbose", RuleState.LISTENING, 200, b"ready\n"),
        ("/", RuleState.LISTENING, 200, b"/metrics\n/healthz\n/readyz\n"),
        ("/metrics/", RuleState.LISTENING, 404, b"not found\n"),
        ("/../etc/passwd", RuleState.LISTENING, 404, b"not found\n"),
    ],
)
async def test_pages(path: str, state: RuleState, status: int, body: bytes) -> None:
    async with endpoint(lambda: snapshot(state)) as address:
        response, got = await fetch(address, path)
        assert (response.status_code, got) == (status, body)
        assert header(response, b"content-type") == b"text/plain; charset=utf-8"
        assert header(response, b"server") is None
        response, got = await fetch(address, path, "HEAD")
        assert (response.status_code, got) == (status, b"")
        assert header(response, b"content-length") == str(len(body)).encode()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_other_methods(method: str) -> None:
    async with endpoint() as address:
        response, body = await fetch(address, "/healthz", method)
        assert (response.status_code, body) == (405, b"method not allowed\n")
        assert header(response, b"allow") == b"GET, HEAD"


async def test_metrics_are_those_of_the_moment() -> None:
    seen = snapshot()
    async with endpoint(lambda: seen) as address:
        response, body = await fetch(address, "/metrics")
        assert header(response, b"content-type") == b"text/plain; version=0.0.4; charset=utf-8"
        assert b'portproxy_connections_total{rule="web0"} 0.0\n' in body
        block = seen.rules[0].block
        assert isinstance(block, memoryview)
        block[counters.CONNECTIONS] = 5
        response, body = await fetch(address, "/metrics", accept="application/openmetrics-text")
        assert (header(response, b"content-type") or b"").startswith(b"application/openmetrics-text")
        assert b'portproxy_connections_total{rule="web0"} 5.0\n' in body


async def test_a_connection_serves_one_request_after_another() -> None:
    connection = h11.Connection(h11.CLIENT)
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        for _ in range(3):
            request = h11.Request(method="GET", target="/healthz", headers=[("host", "x")])
            await stream.send_all(connection.send(request) + connection.send(h11.EndOfMessage()))
            assert (await respond(stream, connection))[1] == b"ok\n"
            connection.start_next_cycle()


@pytest.mark.parametrize(
    "garbage", [b"\0\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\r\n\r\n"]
)
async def test_garbage_is_refused_and_affects_nothing(garbage: bytes) -> None:
    async with endpoint() as address:
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(garbage)
            answer = b"".join([bytes(data) async for data in stream])
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"\r\nconnection: close\r\n" in answer.lower()
        assert (await fetch(address, "/healthz"))[1] == b"ok\n"


async def test_a_head_beyond_the_limit_is_refused() -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nX: " + b"x" * server.REQUEST_LIMIT)
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 431 ")


async def test_an_upgrade_is_not_taken() -> None:
    async with endpoint() as address:
        response, body = await fetch(address, "/healthz", upgrade="websocket", connection="upgrade")
        assert (response.status_code, body) == (200, b"ok\n")


async def test_a_body_is_skipped() -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        head = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        await stream.send_all(head + b"x" * 100_000 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = b""
        while b"ok\n" not in answers:
            answers += await stream.receive_some()
        assert answers.startswith(b"HTTP/1.1 405 ")


async def test_a_client_of_http_1_0_gets_its_answer_and_the_end() -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join([bytes(data) async for data in stream])
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nok\n")


async def test_a_client_that_closes_its_half_gets_its_answer() -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.send_eof()
        answer = b"".join([bytes(data) async for data in stream])
        assert b"portproxy_connections_total" in answer


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:"])
async def test_a_silent_client_is_dropped(sent: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(sent)
        assert await stream.receive_some() == b""
        assert trio.current_time() == pytest.approx(server.IDLE)


async def drip(stream: trio.SocketStream, data: bytes) -> None:
    """Send ``data`` every second until the connection breaks."""
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(data)
            await trio.sleep(1)


async def test_a_client_that_drips_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        await drip(stream, b"X: y\r\n")
        assert trio.current_time() <= server.IDLE + 2


async def test_a_client_that_never_ends_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with endpoint() as address, await trio.open_tcp_stream(*address) as stream:
        await drip(stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert trio.current_time() <= server.LIFETIME + 2


async def stuck_reader(address: tuple[str, int]) -> trio.SocketStream:
    """A client that asks for more than the sockets' buffers hold, and reads only the beginning."""
    stream = await trio.open_tcp_stream(*address)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await stream.receive_some(8)) == b"HTTP/1.1"
    return stream


def stuck_sends() -> int:
    statistics = trio.lowlevel.current_statistics().io_statistics
    assert statistics.backend == "epoll"
    return statistics.tasks_waiting_write


async def test_a_client_that_stops_reading_does_not_hold_up_the_stop() -> None:
    large = snapshot(rules=400)
    async with endpoint(lambda: large) as address:
        stuck = [await stuck_reader(address) for _ in range(2)]
        assert (await fetch(address, "/healthz"))[1] == b"ok\n"
        await trio.testing.wait_all_tasks_blocked()
        assert stuck_sends() == 2
    for stream in stuck:
        await stream.aclose()


async def test_a_client_that_stops_reading_is_dropped(mock_clock: trio.testing.MockClock) -> None:
    large = snapshot(rules=400)
    async with endpoint(lambda: large) as address, await stuck_reader(address):
        await trio.testing.wait_all_tasks_blocked()
        assert stuck_sends() == 1
        mock_clock.jump(server.LIFETIME)
        await trio.testing.wait_all_tasks_blocked()
        assert stuck_sends() == 0


async def test_clients_beyond_the_limit_are_refused(mock_clock: trio.testing.MockClock) -> None:
    """At once: the clock stands still, so no deadline cuts them off."""
    async with endpoint() as address:
        streams = [await trio.open_tcp_stream(*address) for _ in range(server.CLIENTS)]
        async with await trio.open_tcp_stream(*address) as beyond:
            assert await beyond.receive_some() == b""
        for stream in streams:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await fetch(address, "/healthz"))[1] == b"ok\n"


@pytest.mark.parametrize(
    ("at", "to"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), (ANY, "127.0.0.1"), (ANY, "::1"), ("::", "::1")],
)
async def test_where_it_listens(at: str, to: str) -> None:
    async with endpoint(at=Endpoint(at, 0)) as (_, port):
        assert (await fetch((to, port), "/healthz"))[1] == b"ok\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ANY])
def test_a_port_in_use(address: str) -> None:
    with bind_status(Endpoint(address, 0)) as sock:
        taken = Endpoint(address, sock.getsockname()[1])
        with pytest.raises(StartError) as caught:
            bind_status(taken)
    (line,) = caught.value.lines
    assert line.startswith(f"status {taken}: address already in use, held by ")
    assert line.endswith(f" (pid {os.getpid()})")


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (Endpoint("192.0.2.1", 9180), "status 192.0.2.1:9180: cannot assign requested address"),
        (Endpoint("2001:db8::1", 9180), "status [2001:db8::1]:9180: cannot assign requested address"),
        (Endpoint("fe80::1%nosuch0", 9180), "status [fe80::1%nosuch0]:9180: name or service not known"),
    ],
)
def test_an_address_that_cannot_be_bound(at: Endpoint, why: str) -> None:
    with pytest.raises(StartError) as caught:
        bind_status(at)
    (line,) = caught.value.lines
    assert line.startswith(why)


def test_a_plain_serve_imports_nothing_of_this() -> None:
    """A plain serve, without --status, shall not pay for HTTP and Prometheus."""
    rooms = "portproxy.control.server, portproxy.log, portproxy.sink, portproxy.accesslog"
    program = f"import sys, {rooms}; print({{'h11', 'prometheus_client'}} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
