"""Listening sockets: made, explained when they cannot be, accepted from."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from portproxy.model import Family, Rule
from portproxy.net.tcp import SockAddr, endpoint_text, set_options

PASSING = {
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.EPERM,
}
"""Errors of one connection that accept(2) reports; the next one may be well."""
UNPRIVILEGED_PORT_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
"""Where the first port that needs no privilege stands (ip(7)); it holds for IPv6 too."""


def listen(family: Family, address: str, rule: Rule) -> socket.socket:
    """A non-blocking socket that listens on the literal ``address`` and the rule's port.

    IPv6 sockets are IPv6 only, so that rules of both families share a port. SO_REUSEPORT is not set:
    with it a second relay would bind silently. Raises OSError.
    """
    sockaddr = socket.getaddrinfo(
        address, rule.listen.port, family.af, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
    )[0][4]
    sock = socket.socket(family.af, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is Family.V6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_options(sock, rule)
        sock.bind(sockaddr)
        sock.listen(rule.backlog)
    except OSError:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> tuple[socket.SocketType, SockAddr]:
    """The next connection queued on ``listener``, non-blocking, and where it comes from. Raises OSError."""
    # socket.accept would make a socket.socket, whose constructor and close run in Python.
    fd, sockaddr = listener._accept()  # type: ignore[attr-defined]
    sock = socket.SocketType(-1, socket.SOCK_STREAM, 0, fd)
    sock.setblocking(False)
    return sock, sockaddr


def accept_queued(listener: socket.socket, most: int) -> Iterator[socket.socket]:
    """What is queued on a non-blocking ``listener`` by now, ``most`` of it, as far as descriptors go."""
    for _ in range(most):
        try:
            yield listener.accept()[0]
        except OSError as error:
            if error.errno not in PASSING:
                return


def unprivileged_port_start() -> int:
    """The first port that needs no privilege to be bound, in IPv6 too (ip(7), ip_unprivileged_port_start)."""
    try:
        return int(UNPRIVILEGED_PORT_START.read_text())
    except OSError:
        return socket.IPPORT_RESERVED


def explain_bind(error: OSError, address: str, port: int, dropped_to: str | None = None) -> str:
    """Why listening failed and what would help, in one line.

    ``dropped_to`` is the user that this process became when it was root no longer, if it was.
    """
    where = f"cannot listen on {endpoint_text(address, port)}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use"
    if error.errno in (errno.EACCES, errno.EPERM):
        if dropped_to and port < (first := unprivileged_port_start()):
            return (
                f"{where}: permission denied; root was dropped to user {dropped_to} after the start, "
                f"so a port below {first} can be bound at a start only"
            )
        return (
            f"{where}: permission denied; ports below net.ipv4.ip_unprivileged_port_start "
            "need root or CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: no interface of this host has that address"
    if error.errno == errno.EAFNOSUPPORT:
        return f"{where}: this kernel has no {'IPv6' if ':' in address else 'IPv4'}"
    if isinstance(error, socket.gaierror):
        return f"{where}: {error.strerror}"
    return f"{where}: {os.strerror(error.errno or errno.EIO)}"
