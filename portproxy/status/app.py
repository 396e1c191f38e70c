"""The status endpoint's answers, as an ASGI application (https://asgi.readthedocs.io, HTTP)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import trio

from portproxy.metrics import render
from portproxy.snapshot import Snapshot

TEXT = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")
PAGES = ("/metrics", "/healthz", "/readyz")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Answer(NamedTuple):
    """A response, but for its framing."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()


def answer(method: str, path: str, accept: str, snapshot: Snapshot) -> Answer:
    """What the relay as ``snapshot`` shows it answers; ``accept`` is the header's value."""
    if path not in ("/", *PAGES):
        return Answer(404, b"not found\n")
    if method not in METHODS:
        return Answer(405, b"method not allowed\n", headers=((b"allow", ", ".join(METHODS).encode()),))
    match path:
        case "/metrics":
            return Answer(200, *render(snapshot, accept))
        case "/healthz":
            return Answer(200, b"ok\n")
        case "/readyz":
            why = snapshot.not_ready
            return Answer(503 if why else 200, f"{why or 'ready'}\n".encode(errors="backslashreplace"))
        case _:
            return Answer(200, "".join(f"{page}\n" for page in PAGES).encode())


def status_app(snapshot: Callable[[], Snapshot]) -> Application:
    """The application; it calls ``snapshot`` once a request, on the event loop."""
    # Thousands of rules take seconds to render: not on the loop, and not several at once.
    renderer = trio.CapacityLimiter(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        method, path = scope["method"], scope["path"]
        accept = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")
        make = partial(answer, method, path, accept, snapshot())
        if path == "/metrics":
            reply = await trio.to_thread.run_sync(make, abandon_on_cancel=True, limiter=renderer)
        else:
            reply = make()
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})

    return app
