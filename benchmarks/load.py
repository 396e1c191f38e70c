"""Services and clients that no tool at hand is; each runs as a process of its own, ``load.py ROLE ...``.

    sink ADDRESS PORT                   holds every connection, and sends back what comes
    mixed ADDRESS PORT                  counts what comes where BULK comes first, says how much that is where
                                        COUNT does, echoes on other connections
    bulk ADDRESS PORT STREAMS           sends to such a service until SIGTERM; prints how many broke off
    ping ADDRESS PORT SECONDS           one message at a time; prints percentiles of the round trips, in us
    busy ADDRESS PORT CLIENTS SECONDS   one message of each client at a time; prints round trips a second

What is printed is JSON. ``ping`` and whoever echoes it run before bulk where the system lets them, by
SCHED_FIFO, so that what they wait for is the relay.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

BULK = b"b"
COUNT = b"c"
MESSAGE = b"x" * 64
_BLOCK = 128 * 1024
"""Bytes at once: as iperf3 sends and receives."""
_CONNECTIONS = 4096
"""That ``mixed`` serves in all."""
_PATIENCE = 30.0
"""Seconds without a byte before a client gives up."""


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=4096)


def _connect(address: str, port: int) -> socket.socket:
    sock = socket.create_connection((address, port), timeout=_PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _come_first() -> bool:
    """Whether the system lets this process."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def _send_back(sock: socket.socket) -> bool:
    """Whether the client is still there."""
    try:
        received = sock.recv(1 << 16)
        sock.sendall(received)
    except OSError:
        return False
    return bool(received)


def sink(address: str, port: str) -> None:
    """Serve until the process ends."""
    listener = _listen(address, int(port))
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    held: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            elif not _send_back(held[fd]):
                held.pop(fd).close()


def mixed(address: str, port: str) -> None:
    """Serve until killed, every client in a process of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = _listen(address, int(port))
    counts = memoryview(mmap.mmap(-1, _CONNECTIONS * 8)).cast("Q")  # which all processes share
    for number in itertools.count():
        sock, _ = listener.accept()
        if os.fork():
            sock.close()
            continue
        listener.close()
        _serve(sock, counts, number)
        os._exit(0)


def _serve(sock: socket.socket, counts: memoryview[int], number: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(_BLOCK)
    with contextlib.suppress(ConnectionError):
        first = sock.recv(1, socket.MSG_PEEK)
        if first == BULK:
            while received := sock.recv_into(buffer):
                counts[number] += received
        elif first == COUNT:
            sock.recv(1)  # what is left unread would reset the connection
            told = {"seconds": time.perf_counter(), "streams": [count for count in counts if count]}
            sock.sendall(json.dumps(told).encode())
        else:
            _come_first()
            while _send_back(sock):
                pass


def bulk(address: str, port: str, streams: str) -> None:
    """Send until SIGTERM; print how many streams broke off before."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    broken, block = [], BULK * _BLOCK

    def stream(number: int) -> None:
        try:
            with _connect(address, int(port)) as sock:
                while True:
                    sock.send(block)
        except OSError:
            broken.append(number)

    for number in range(int(streams)):
        threading.Thread(target=stream, args=(number,), daemon=True).start()
    signal.sigwait([signal.SIGTERM])
    print(json.dumps({"broken off": len(broken)}), flush=True)
    os._exit(0)  # the streams may be waiting for the relay


def ping(address: str, port: str, seconds: str) -> None:
    """Print p50 and p99 of the round trips, in microseconds, their number, and whether it came first."""
    first = _come_first()
    took: list[int] = []
    with _connect(address, int(port)) as sock:
        until = time.perf_counter() + float(seconds)
        while (began := time.perf_counter_ns()) < until * 1e9:
            sock.sendall(MESSAGE)
            left = len(MESSAGE)
            while left:
                received = sock.recv(left)
                if not received:
                    raise SystemExit("the connection was closed")
                left -= len(received)
            took.append(time.perf_counter_ns() - began)
    took.sort()
    p50, p99 = (took[int(len(took) * part)] / 1e3 for part in (0.50, 0.99))
    print(json.dumps({"p50": p50, "p99": p99, "round trips": len(took), "first": first}))


def busy(address: str, port: str, clients: str, seconds: str) -> None:
    """Print how many round trips all clients made a second."""
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    for _ in range(int(clients)):
        sock = _connect(address, int(port))
        connections[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
    for sock in connections.values():
        sock.sendall(MESSAGE)
    round_trips, until = 0, time.perf_counter() + float(seconds)
    while time.perf_counter() < until:
        for fd, _ in poll.poll(1):
            if not connections[fd].recv(1 << 16):
                raise SystemExit("a connection was closed")
            connections[fd].sendall(MESSAGE)
            round_trips += 1
    print(json.dumps({"clients": len(connections), "round trips a second": round_trips / float(seconds)}))


_ROLES: dict[str, Callable[..., None]] = {
    "sink": sink,
    "mixed": mixed,
    "bulk": bulk,
    "ping": ping,
    "busy": busy,
}

if __name__ == "__main__":
    _ROLES[sys.argv[1]](*sys.argv[2:])
