"""Busy clients and their server, in a process of their own: ``python -m tests.relay.storm CLIENTS``.

Prints its server's port, reads the relay's, and then has every client send and wait for its echo until it
is killed. Both sit in one epoll, so that their round trips take the relay's time and not theirs.
"""

from __future__ import annotations

import select
import socket
import sys

MESSAGE = b"x" * 64


def run(clients: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=clients)
    print(listener.getsockname()[1], flush=True)
    port = int(sys.stdin.readline())
    epoll = select.epoll()
    sockets = {}
    for _ in range(clients):
        client = socket.create_connection(("127.0.0.1", port))
        server, _ = listener.accept()
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[sock.fileno()] = sock
            epoll.register(sock, select.EPOLLIN)
        client.send(MESSAGE)
    while True:
        for fd, _ in epoll.poll():
            # A client that has its echo sends it again; so does the server with what it gets.
            sockets[fd].send(sockets[fd].recv(len(MESSAGE)))


if __name__ == "__main__":
    run(int(sys.argv[1]))
