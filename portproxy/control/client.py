"""Asking a running relay, from another process: over its control socket, or its status endpoint."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from portproxy.errors import PortproxyError
from portproxy.model import ANY, Endpoint
from portproxy.wire.control_frames import (
    REPLY_LIMIT,
    Decoder,
    FrameError,
    Reply,
    Request,
    encode,
    reply_untrusted,
)

TIMEOUT = 2.0
"""Seconds for a whole exchange: less than probes allow, so that it is said why one fails."""
PAUSE_FIRST = 0.05
PAUSE_LAST = 0.5
"""Seconds until a busy relay is asked again: doubled from the first to the last."""
BODY_LIMIT = 4096
"""Bytes read of an answer of /readyz, which is one line."""


def ask(path: str, request: Request, timeout: float = TIMEOUT) -> Reply:
    """What the relay at the control socket ``path`` answers within ``timeout`` seconds.

    A relay that is busy is asked again and again; its refusal, with EX_TEMPFAIL (sysexits.h), is the answer
    where it still is in the end. A command that is under way goes on when nobody waits for it any more.
    Raises PortproxyError where none answers, or what answers is not a relay.
    """
    deadline = time.monotonic() + timeout
    changes = request.change.commands and not request.change.dry_run
    unknown = "; whether the change was made, the file says, or `portproxy show all`" if changes else ""
    try:
        return _exchange_when_free(path, encode(request), deadline)
    except UnicodeEncodeError:
        raise PortproxyError("an argument is not UTF-8, which no name or address is without") from None
    except TimeoutError:
        raise PortproxyError(f"the relay at {path} did not answer within {timeout:g} s{unknown}") from None
    except PermissionError:
        raise PortproxyError(f"the relay at {path} serves root and its own user only") from None
    except ConnectionResetError:
        raise PortproxyError(
            f"the relay at {path} hung up without an answer (did it stop?){unknown}"
        ) from None
    except FrameError as error:
        raise PortproxyError(f"what answers at {path} is no portproxy relay: {error}") from None
    except OSError as error:
        raise PortproxyError(
            f"no relay answers at {path}: {error.strerror or error};"
            " is portproxy running, or does --control name another socket?"
        ) from None


def _exchange_when_free(path: str, frame: bytes, deadline: float) -> Reply:
    pause = PAUSE_FIRST
    while True:
        reply = _exchange(path, frame, deadline)
        if reply.exit_code != os.EX_TEMPFAIL or time.monotonic() + pause >= deadline:
            return reply
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_LAST)


def _exchange(path: str, frame: bytes, deadline: float) -> Reply:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_left(deadline))
        try:
            sock.connect(path)
        except BlockingIOError:  # the backlog is full (unix(7), EAGAIN)
            busy = f"busy: too many clients wait for the relay at {path}; try again"
            return Reply.refusal(busy, os.EX_TEMPFAIL)
        # A relay that refuses the request hangs up before the end of it, with a reply that says why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(frame)
        return _receive_reply(sock, deadline)


def _receive_reply(sock: socket.socket, deadline: float) -> Reply:
    decoder = Decoder(REPLY_LIMIT)
    while data := _receive(sock, deadline):
        for payload in decoder.feed_untrusted(data):
            return reply_untrusted(payload)
    raise ConnectionResetError


def _receive(sock: socket.socket, deadline: float) -> bytes:
    sock.settimeout(_left(deadline))
    return sock.recv(1 << 16)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def health_over_http(endpoint: Endpoint, timeout: float = TIMEOUT) -> Reply:
    """What /readyz at ``endpoint`` says, waiting ``timeout`` seconds at most for each step.

    Raises PortproxyError where nothing answers, or what answers does not speak HTTP.
    """
    import http.client

    host = "localhost" if endpoint.address == ANY else endpoint.address
    connection = http.client.HTTPConnection(host, endpoint.port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(BODY_LIMIT)
    except TimeoutError:
        raise PortproxyError(f"the relay at {endpoint} did not answer within {timeout:g} s") from None
    except http.client.HTTPException as error:
        raise PortproxyError(
            f"what answers at {endpoint} is no portproxy status endpoint: {error!r}"
        ) from None
    except OSError as error:
        raise PortproxyError(
            f"no relay answers at {endpoint}: {error.strerror or error};"
            " is portproxy running with --status, or does --status name another address?"
        ) from None
    finally:
        connection.close()
    text = body.decode("utf-8", "replace").strip() or f"{response.status} {response.reason}"
    return Reply(response.status == http.client.OK, text)
