"""The status endpoint's answers: what is said, not how it travels."""

from __future__ import annotations

from typing import NamedTuple

from portproxy.metrics import render
from portproxy.snapshot import Snapshot

TEXT = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")
METRICS = "/metrics"
PAGES = (METRICS, "/healthz", "/readyz")


class Answer(NamedTuple):
    """A response, but for its framing. ``allow`` lists methods, where the one asked for is not among them."""

    status: int
    body: bytes
    content_type: str = TEXT
    allow: str = ""


def answer(method: str, path: str, accept: str, snapshot: Snapshot) -> Answer:
    """What the relay as ``snapshot`` shows it answers; ``accept`` is the header's value.

    For METRICS it may take seconds, as ``portproxy.metrics.render`` says.
    """
    if path not in ("/", *PAGES):
        return Answer(404, b"not found\n")
    if method not in METHODS:
        return Answer(405, b"method not allowed\n", allow=", ".join(METHODS))
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
