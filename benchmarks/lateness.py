"""How late a 10 ms timer comes in the relay's event loop beside 512 busy clients.

An echo server and the clients run in processes of their own; the relay and the timer share this one.
Without the engine's yielding the timer would wait for as long as there is anything to relay.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import statistics
import sys
import time
from multiprocessing.connection import Connection

import trio

from portproxy import config
from portproxy.log import Event, Log
from portproxy.supervisor import Supervisor

CLIENTS = 512
SECONDS = 10.0
TICK = 0.010
BOUND = 0.100
"""Seconds: no tick may come later than this."""
MESSAGE = b"x" * 64


def echo(ready: Connection) -> None:
    """Send back whatever comes, on a port of 127.0.0.1 that is told through ``ready``."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ready.send(listener.getsockname()[1])
    open_sockets: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                open_sockets[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            else:
                try:
                    open_sockets[fd].sendall(open_sockets[fd].recv(1 << 16))
                except ConnectionResetError:  # the relay has stopped
                    return


def clients(port: int, result: Connection) -> None:
    """Keep one message of each client on its way; tell how many came back."""
    poll = select.epoll()
    open_sockets: dict[int, socket.socket] = {}
    for _ in range(CLIENTS):
        sock = socket.create_connection(("::1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
        sock.sendall(MESSAGE)
    round_trips, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        for fd, _ in poll.poll(1):
            sock = open_sockets[fd]
            sock.recv(1 << 16)
            sock.sendall(MESSAGE)
            round_trips += 1
    result.send(round_trips)


async def measure(upstream: int) -> tuple[list[float], int]:
    """The lateness of every tick, in seconds, and the round trips that were relayed meanwhile."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        port = probe.getsockname()[1]
    loaded = config.read(
        None, [f"v6tov4 listenport={port} listenaddress=::1 connectport={upstream}"]
    ).config()
    supervisor = Supervisor(Log(_ignore))
    mine, theirs = multiprocessing.Pipe()
    busy = multiprocessing.Process(target=clients, args=(port, theirs), daemon=True)
    lateness: list[float] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, loaded)
        busy.start()
        while not mine.poll():
            due = trio.current_time() + TICK
            await trio.sleep_until(due)
            if supervisor.sessions == CLIENTS:
                lateness.append(trio.current_time() - due)
        nursery.cancel_scope.cancel()
    busy.join()
    return lateness, mine.recv()


def _ignore(event: Event) -> None:
    """Nobody reads this relay's log."""


def main() -> int:
    """Print the figures; 1 where a tick came later than BOUND."""
    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=echo, args=(theirs,), daemon=True)
    server.start()
    lateness, round_trips = trio.run(measure, mine.recv())
    server.join()
    worst = max(lateness)
    print(f"clients {CLIENTS}, round trips {round_trips / SECONDS:,.0f}/s, ticks {len(lateness)}")
    print(
        f"a {TICK * 1e3:.0f} ms timer came late by: median {statistics.median(lateness) * 1e3:.1f} ms,"
        f" worst {worst * 1e3:.1f} ms (bound {BOUND * 1e3:.0f} ms)"
    )
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
