"""A service that holds every connection, and sends back what comes.

python sink.py HOST PORT
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Serve until the process ends."""
    host, port = arguments
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=4096)
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
            elif not _returned(held[fd]):
                held.pop(fd).close()


def _returned(sock: socket.socket) -> bool:
    """Whether what came was sent back; False where the client has gone."""
    try:
        block = sock.recv(1 << 16)
        sock.sendall(block)
    except OSError:
        return False
    return bool(block)


if __name__ == "__main__":
    main(sys.argv[1:])
