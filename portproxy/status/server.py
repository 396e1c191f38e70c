"""The status endpoint on a socket: hypercorn speaks HTTP, under limits of ours.

Not ``hypercorn.trio.serve``: it shields its sends from cancellation, so that a scraper which stops reading
could keep the relay from stopping, and it takes any number of clients. What it runs for one connection is
run here, where the socket can be closed under it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import cast

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import wrap_app

from portproxy.errors import StartError
from portproxy.model import ANY, Endpoint, Family
from portproxy.net.holder import who_holds
from portproxy.snapshot import Snapshot
from portproxy.status.app import status_app

CLIENTS = 64
"""Connections at once: each costs the relay a descriptor."""
IDLE = 5.0
"""Seconds a connection has for a whole request, the first or the next."""
LIFETIME = 30.0
"""Seconds after which a connection is closed, whatever it does: three of Prometheus' scrape timeouts."""
REQUEST_LIMIT = 16 << 10
"""Bytes a request's head may have."""


def bind_status(endpoint: Endpoint) -> socket.socket:
    """A listening socket on ``endpoint``; ``*`` is every address of both families.

    Raises StartError with one line: what is wrong, and who holds the port where that can be seen.
    """
    both = endpoint.address == ANY and socket.has_dualstack_ipv6()
    family = Family.V6 if both or ":" in endpoint.address else Family.V4
    host = "" if endpoint.address == ANY else endpoint.address
    try:
        return socket.create_server((host, endpoint.port), family=family.af, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise StartError(f"status {endpoint}: {error.strerror}") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        holder = who_holds(endpoint.address, endpoint.port, family)
        raise StartError(
            f"status {endpoint}: {reason.lower()}" + (f", held by {holder}" if holder else "")
        ) from None


def _hypercorn_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = IDLE
    config.h11_max_incomplete_size = REQUEST_LIMIT
    return config


async def _hang_up(stream: trio.SocketStream) -> None:
    """Close ``stream`` at the end of its lifetime, and at once when cancelled."""
    try:
        await trio.sleep(LIFETIME)
    finally:
        stream.socket.close()


async def serve_status(
    sock: socket.socket,
    snapshot: Callable[[], Snapshot],
    *,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on ``sock``, as ``bind_status`` made it, until cancelled; closes it, and every connection."""
    app = wrap_app(cast(ASGIFramework, status_app(snapshot)), 0, "asgi")
    config, context = _hypercorn_config(), WorkerContext(None)
    seats = trio.Semaphore(CLIENTS)

    async def serve_client(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.WouldBlock):
            seats.acquire_nowait()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_hang_up, stream)
                    # TCPServer takes plain streams too; its annotation names the TLS ones only.
                    secure = cast("trio.SSLStream[trio.SocketStream]", stream)
                    await TCPServer(app, config, context, ConnectionState({}), secure)
                    nursery.cancel_scope.cancel()
            except Exception:
                logging.getLogger(__name__).exception("a connection to the status endpoint failed")
            finally:
                seats.release()

    with sock:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        await trio.serve_listeners(serve_client, [listener], task_status=task_status)
