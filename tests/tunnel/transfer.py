"""Bytes over TCP connections between nodes, which arrive as they were sent."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import struct
import threading
from typing import Any, NamedTuple

from tests.tunnel.lab import PATIENCE, Node

_BLOCK = 1 << 18


class Connection(NamedTuple):
    """Both ends of a TCP connection, in the nodes that they are in."""

    near: socket.socket
    far: socket.socket

    def close(self) -> None:
        self.near.close()
        self.far.close()


def connect(client: Node, server: Node, to: str) -> Connection:
    """From ``client`` to the address ``to`` of ``server``."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with server.socket(family) as listener:
        listener.bind((to, 0))
        listener.listen()
        near = client.socket(family)
        near.connect((to, listener.getsockname()[1]))
        far, _ = listener.accept()
        far.settimeout(PATIENCE)
        return Connection(near, far)


def transfer(client: Node, server: Node, to: str, size: int, back: int) -> None:
    """``size`` bytes over a connection, then ``back`` bytes back; all arrive as they were sent."""
    connection = connect(client, server, to)
    try:
        carry(connection.near, connection.far, size)
        carry(connection.far, connection.near, back)
    finally:
        connection.close()


def carry(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """``size`` bytes, which arrive as they were sent: SHA-256 says so."""
    sent, received, left = hashlib.sha256(), hashlib.sha256(), size
    thread = threading.Thread(target=_send, args=(sender, size, sent), daemon=True)
    thread.start()
    while left:
        data = receiver.recv(min(left, _BLOCK))
        assert data, f"{left} bytes are missing"
        received.update(data)
        left -= len(data)
    thread.join()
    assert sent.digest() == received.digest()


def _send(sock: socket.socket, size: int, digest: Any) -> None:
    """No two blocks are alike."""
    noise = random.Random(size).randbytes(_BLOCK)
    for number in itertools.count():
        if size <= 0:
            return
        block = (struct.pack(">Q", number) + noise[8:])[:size]
        digest.update(block)
        sock.sendall(block)
        size -= len(block)
