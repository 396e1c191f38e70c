"""Does in a guest what a test asks for over TCP: ``agent.py PORT``. It needs Python's own library alone.

A request is ``[name, argument...]`` in JSON, a connection each; the answer is what the function of that name
returns. ``run``, ``inject`` and ``exchange`` serve the test's own side too.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

ECHO = 7
LISTENING = "the agent listens"
"""What it says on its standard output once it answers."""
_CHUNK = 1 << 16
_PATIENCE = 30.0
"""Seconds that anything may take; no outcome depends on them."""


def run(script: str) -> str:
    """Run a shell script; returns what it prints. Raises AssertionError where it fails."""
    done = subprocess.run(
        ["sh", "-ec", script], check=False, capture_output=True, text=True, timeout=_PATIENCE
    )
    assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return done.stdout


def inject(interface: str, protocol: int, packets: list[str]) -> None:
    """Send packets, each in hexadecimal, of the EtherType ``protocol`` out of an interface as they are."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, protocol))
        for packet in packets:
            sock.send(bytes.fromhex(packet))


def exchange(address: str, size: int) -> tuple[str, str]:
    """Send random bytes to the echo of ``address``; the hashes of what went and of what came back."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    with socket.create_connection((address, ECHO), timeout=_PATIENCE) as connection:
        sender = threading.Thread(target=_send, args=(connection, size, sent))
        sender.start()
        for data in _chunks(connection):
            received.update(data)
        sender.join()
    return sent.hexdigest(), received.hexdigest()


def _send(connection: socket.socket, size: int, sent: Any) -> None:
    for _ in range(0, size, _CHUNK):
        data = os.urandom(_CHUNK)
        sent.update(data)
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def serve_echo() -> None:
    """Send back what comes to port ECHO, of both families, on connections one after another."""
    with socket.create_server(("::", ECHO), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                for data in _chunks(connection):
                    connection.sendall(data)


def ask(address: str, port: int, *request: object) -> Any:
    """What the agent at ``address`` answers. Raises AssertionError where it says that it failed."""
    with socket.create_connection((address, port), timeout=2 * _PATIENCE) as connection:
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = json.loads(b"".join(_chunks(connection)))
    assert "failed" not in answer, answer["failed"]
    return answer["returned"]


def _answer(request: bytes) -> dict[str, Any]:
    name, *arguments = json.loads(request)
    known: dict[str, Callable[..., Any]] = {"run": run, "inject": inject, "exchange": exchange}
    try:
        return {"returned": known[name](*arguments)}
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        return {"failed": f"{type(error).__name__} in the guest: {error}"}


def _chunks(connection: socket.socket) -> Iterator[bytes]:
    while data := connection.recv(_CHUNK):
        yield data


def _main(port: int) -> None:
    threading.Thread(target=serve_echo, daemon=True).start()
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print(LISTENING, flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(json.dumps(_answer(b"".join(_chunks(connection)))).encode())


if __name__ == "__main__":
    _main(int(sys.argv[1]))
