"""``portproxy demo``: an IPv4-only HTTP service, and the rule that makes it reachable over IPv6."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from portproxy import config, counters
from portproxy.accesslog import Record
from portproxy.errors import PortproxyError, StartError
from portproxy.log import Log, encode_console
from portproxy.model import Config
from portproxy.net.dial import is_local
from portproxy.supervisor import Supervisor

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERVAL = 1.0
"""Seconds between two fetches."""
PATIENCE = 5.0
"""Seconds an exchange over HTTP may take."""
RECENT = 5
"""Sessions that are listed on a terminal."""
REQUEST_LIMIT = 16 << 10
"""Bytes a request may have; browsers send less."""

_INTRODUCTION = """\
An IPv4-only HTTP service on {service}, and a rule that makes it reachable over IPv6:

  portproxy serve --rule "{rule}"

  without it  {direct_url}  {direct}
  through it  {url}  {fetched}

It is fetched every second. Try it yourself, in a browser or with: curl '{url}'
Ctrl-C stops it.
"""

Say = Callable[[str], None]
Draw = Callable[[Sequence[int], Sequence[Record]], None]


def run(say: Say) -> None:
    """Show it until SIGTERM or SIGINT; ``say`` takes what is to be read, line by line.

    Raises StartError without an IPv6 loopback address, and what ``say`` raises.
    """
    if not is_local("::1"):
        raise StartError("demo: this computer has no IPv6 loopback address, ::1, for the rule to listen on")
    failures: list[BaseException] = []
    try:
        trio.run(_demo, say)
    except* (PortproxyError, OSError) as group:
        failures += group.exceptions
    if failures:
        raise failures[0]


async def _demo(say: Say) -> None:
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        listen_on("127.0.0.1") as service,
    ):
        board = _Board()
        log = Log(lambda event: say(encode_console(event).decode().rstrip()))
        supervisor = Supervisor(log, board.report)
        async with trio.open_nursery() as nursery:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(service))
            nursery.start_soon(trio.serve_listeners, _answer, [listener])
            port, service_port = _free_port(), service.getsockname()[1]
            rule = f"v6tov4 listenaddress=::1 listenport={port} connectport={service_port}"
            await nursery.start(supervisor.run, Config(rules=config.read(None, [rule]).config().rules))
            await _introduce(say, rule, port, service_port)
            nursery.start_soon(_visit, port)
            with _live() if _on_terminal() else contextlib.nullcontext(_plain(say)) as draw:
                nursery.start_soon(board.show, supervisor, draw)
                await anext(aiter(signals))
                nursery.cancel_scope.cancel()
        say(f"stopped; {_summary(_block(supervisor))}")


async def _introduce(say: Say, rule: str, port: int, service_port: int) -> None:
    with socket.socket(socket.AF_INET6) as direct:
        refusal = os.strerror(direct.connect_ex(("::1", service_port)))
    url = f"http://[::1]:{port}/"
    text = _INTRODUCTION.format(
        service=f"127.0.0.1:{service_port}",
        rule=rule,
        direct_url=f"http://[::1]:{service_port}/",
        direct=refusal,
        url=url,
        fetched=await _fetch(port),
    )
    for line in text.splitlines():
        say(line)


# The service, and its visitor.


async def _answer(stream: trio.SocketStream) -> None:
    """Answer one request, whatever it is, with a page that says who was seen."""
    page = (
        f"Served on {_text(stream.socket.getsockname())} only, to {_text(stream.socket.getpeername())}.\n"
    ).encode()
    head = (
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(page)}\r\nCache-Control: no-store\r\n\r\n"
    ).encode()
    request = b""
    with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(PATIENCE):
        while b"\r\n\r\n" not in request and len(request) < REQUEST_LIMIT:
            received = await stream.receive_some()
            if not received:
                return
            request += received
        await stream.send_all(head + page)


async def _visit(port: int) -> None:
    while True:
        await trio.sleep(INTERVAL)
        await _fetch(port)


async def _fetch(port: int) -> str:
    """The page that is served on ``port`` of the IPv6 loopback address, or why there is none."""
    reply = b""
    try:
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("::1", port) as stream:
                await stream.send_all(f"GET / HTTP/1.0\r\nHost: [::1]:{port}\r\n\r\n".encode())
                async for received in stream:
                    reply += received
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        return str(error) or "no answer"
    return reply.partition(b"\r\n\r\n")[2].decode().strip()


def listen_on(host: str) -> socket.socket:
    """A listening socket on a free port of ``host``, an IP address. Raises StartError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        raise StartError(f"demo: cannot listen on {host}: {error.strerror}") from None


def _free_port() -> int:
    with listen_on("::1") as probe:
        return int(probe.getsockname()[1])


def _text(sockaddr: tuple[str, int]) -> str:
    return f"{sockaddr[0]}:{sockaddr[1]}"


# What is shown.


class _Board:
    """What the sessions of the demo's one rule have done."""

    def __init__(self) -> None:
        self._recent: deque[Record] = deque(maxlen=RECENT)
        self._news = trio.Event()

    def report(self, record: Record) -> None:
        """A session has ended."""
        self._recent.append(record)
        self._news.set()

    async def show(self, supervisor: Supervisor, draw: Draw) -> None:
        """Draw whenever sessions have ended."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            draw(_block(supervisor), self._recent)


def _block(supervisor: Supervisor) -> Sequence[int]:
    """The counters of the one rule."""
    (status,) = supervisor.last_snapshot().rules
    return status.block


def _on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _plain(say: Say) -> Draw:
    return lambda block, recent: say(_summary(block))


def _summary(block: Sequence[int]) -> str:
    connections, up, down = (
        block[slot] for slot in (counters.CONNECTIONS, counters.UP + 1, counters.DOWN + 1)
    )
    return f"connections: {connections}, to the service: {_bytes(up)}, back: {_bytes(down)}"


@contextlib.contextmanager
def _live() -> Iterator[Draw]:
    """Draws in place, on a terminal."""
    from rich.live import Live

    # No thread of rich's own: it is drawn when there is something new.
    with Live(auto_refresh=False) as live:
        yield lambda block, recent: live.update(_frame(block, recent), refresh=True)


def _frame(block: Sequence[int], recent: Sequence[Record]) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    totals = Table(box=box.SIMPLE_HEAD)
    for name in ("connections", "active", "to the service", "back"):
        totals.add_column(name, justify="right")
    totals.add_row(
        str(block[counters.CONNECTIONS]),
        str(block[counters.ACTIVE]),
        _bytes(block[counters.UP + 1]),
        _bytes(block[counters.DOWN + 1]),
    )
    sessions = Table("client", "ended", box=box.SIMPLE_HEAD)
    for name in ("connect", "duration", "to the service", "back"):
        sessions.add_column(name, justify="right")
    for record in recent:
        sessions.add_row(
            record.client,
            record.reason,
            "-" if record.connect is None else _milliseconds(record.connect),
            _milliseconds(record.duration),
            _bytes(record.up_delivered),
            _bytes(record.down_delivered),
        )
    return Group(totals, sessions)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _bytes(number: int) -> str:
    return f"{number:,} B"
