"""The status endpoint on a socket: HTTP/1.1 by h11, every wait of it under a deadline.

Not by hypercorn: its trio worker shields sends from cancellation, so that a scraper which stops reading
keeps the relay from stopping; it takes any number of clients, and keeps the socket of one that has left
until its keep-alive ends.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from http import HTTPStatus

import h11
import trio

from portproxy.errors import StartError
from portproxy.model import ANY, Endpoint, Family
from portproxy.net.holder import who_holds
from portproxy.snapshot import Snapshot
from portproxy.status.app import METRICS, Answer, answer

CLIENTS = 64
"""Connections at once: each costs the relay a descriptor."""
IDLE = 5.0
"""Seconds a connection has for a whole request, the first or the next."""
LIFETIME = 30.0
"""Seconds after which a connection is closed, whatever it does: three of Prometheus' scrape timeouts."""
REQUEST_LIMIT = 8 << 10
"""Bytes a request's head may have."""
RECEIVE = 4096
"""Bytes read at once; a request has a few hundred."""


def bind_status(endpoint: Endpoint) -> socket.socket:
    """A listening socket on ``endpoint``; ``*`` is every address of both families.

    Raises StartError with one line: what is wrong, and who holds the port where that can be seen.
    """
    both = endpoint.address == ANY and socket.has_dualstack_ipv6()
    family = Family.V6 if both or ":" in endpoint.address else Family.V4
    host = family.wildcard if endpoint.address == ANY else endpoint.address
    sock = socket.socket(family.af, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is Family.V6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind((host, endpoint.port))
        sock.listen(CLIENTS)
    except OSError as error:
        sock.close()
        in_use = error.errno == errno.EADDRINUSE
        holder = who_holds([(host, endpoint.port, family)])[0] if in_use else ""
        reason = str(error.strerror).lower() + (f", held by {holder}" if holder else "")
        raise StartError(f"status {endpoint}: {reason}") from None
    return sock


async def serve_status(
    sock: socket.socket,
    snapshot: Callable[[], Awaitable[Snapshot]],
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on ``sock``, as ``bind_status`` made it, until cancelled; closes it, and every connection.

    ``snapshot`` is called once a request.
    """
    seats = trio.Semaphore(CLIENTS)
    # Thousands of rules take seconds to render: not on the loop, and not several at once.
    renderer = trio.CapacityLimiter(1)

    async def respond(request: h11.Request) -> Answer:
        method, target = request.method.decode(), request.target.decode()
        path = target.partition("?")[0]
        accept = ",".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")
        make = partial(answer, method, path, accept, await snapshot())
        if path != METRICS:
            return make()
        try:
            return await trio.to_thread.run_sync(make, abandon_on_cancel=True, limiter=renderer)
        except RuntimeError:  # no thread can be started: rather late than not at all
            return make()

    async def serve_client(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            seats.acquire_nowait()
            try:
                with trio.move_on_after(LIFETIME):
                    await _Conversation(stream).run(respond)
            finally:
                seats.release()

    with sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        await trio.serve_listeners(serve_client, [listener], task_status=task_status)


class _Conversation:
    """One connection: requests and their answers, one after another."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_LIMIT)

    async def run(self, respond: Callable[[h11.Request], Awaitable[Answer]]) -> None:
        """Answer until the client leaves, is silent for IDLE seconds, or errs."""
        try:
            while request := await self._next_request_untrusted():
                await self._send(await respond(request), request.method)
                if self._http.our_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._send(Answer(error.error_status_hint, b"bad request\n"), close=True)

    async def _next_request_untrusted(self) -> h11.Request | None:
        """The next request, its body skipped; None when none comes. Raises h11.RemoteProtocolError."""
        request = None
        with trio.move_on_after(IDLE):
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._stream.receive_some(RECEIVE))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.EndOfMessage):
                    return request
                elif not isinstance(event, h11.Data):
                    return None
        return None

    async def _send(self, reply: Answer, method: bytes = b"GET", close: bool = False) -> None:
        headers = [
            ("date", formatdate(usegmt=True)),
            ("content-type", reply.content_type),
            ("content-length", str(len(reply.body))),
        ]
        headers += [("allow", reply.allow)] if reply.allow else []
        headers += [("connection", "close")] if close else []
        reason = HTTPStatus(reply.status).phrase.encode()
        data = self._http.send(h11.Response(status_code=reply.status, headers=headers, reason=reason))
        if method != b"HEAD":
            data += self._http.send(h11.Data(reply.body))
        await self._stream.send_all(data + self._http.send(h11.EndOfMessage()))
