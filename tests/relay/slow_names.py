"""``portproxy`` with name servers that do not answer: ``python -m tests.relay.slow_names serve ...``.

Names in ``.silent`` are asked for in vain, for ever; those in ``.soon.silent`` fail once before. Whatever
waits for a name waits for ever too, so that nothing ends but by being told to.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
from typing import Any

from portproxy import supervisor
from portproxy.__main__ import main
from portproxy.net import resolver
from portproxy.supervisor import names

_answered = socket.getaddrinfo
_failed: set[str] = set()


def _getaddrinfo(host: str, *rest: Any, **options: Any) -> list[Any]:
    if not host.endswith(".silent"):
        return _answered(host, *rest, **options)
    if host.endswith(".soon.silent") and host not in _failed:
        _failed.add(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    os.write(2, json.dumps({"event": "asked", "name": host}).encode() + b"\n")
    threading.Event().wait()
    raise AssertionError("nobody sets the event")


if __name__ == "__main__":
    socket.getaddrinfo = _getaddrinfo  # type: ignore[assignment]
    names.PATIENCE = math.inf
    resolver.KEEP_FAILURE = 0
    supervisor.RETRY_FIRST = 0.01
    main()
