"""``portproxy`` with a command more, ``large``, whose reply is as long as it is asked to be.

``python -m tests.relay.large_replies serve ...``
"""

from __future__ import annotations

from typing import Any

from portproxy import serve
from portproxy.__main__ import main
from portproxy.control.server import Handlers, serve_control
from portproxy.wire.control_frames import Reply, Request


async def _large(request: Request) -> Reply:
    return Reply(True, "x" * int(request.args["bytes"]))


async def _serve_control(path: str, handlers: Handlers, *rest: Any, **options: Any) -> None:
    await serve_control(path, {**handlers, "large": _large}, *rest, **options)


if __name__ == "__main__":
    serve.serve_control = _serve_control  # type: ignore[attr-defined]
    main()
