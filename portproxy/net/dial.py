"""Connecting to an upstream address without waiting for it."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from portproxy.model import Rule
from portproxy.net.tcp import set_options, sockaddr

_IP_BIND_ADDRESS_NO_PORT = 24
"""From linux/in.h: the local port is chosen at connect(2), so it is unique per destination only."""


def begin_connect(address: str, rule: Rule) -> socket.SocketType:
    """A socket whose connection to the literal ``address`` and the rule's connect port is under way.

    Raises OSError when it cannot even begin: no descriptor, no route, ``connectsource`` unusable.
    """
    family = rule.type.connect_family
    sock = socket.SocketType(family.af, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        set_options(sock, rule, new=True)
        if rule.connectsource is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind(sockaddr(rule.connectsource, 0))
        code = sock.connect_ex(sockaddr(address, rule.connect.port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "connect")
    except OSError:
        sock.close()
        raise
    return sock


def connected_to_itself(sock: socket.SocketType, port: int) -> bool:
    """Whether the kernel joined ``sock`` to itself (RFC 9293, 3.5, simultaneous open).

    It does so on one host when nobody listens on ``port`` and ``port`` is also picked as the local
    one; taken for an upstream, it would echo, and keep the real upstream from binding.
    """
    if port not in _local_ports:
        return False
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # reset meanwhile; the engine will hear of it
        return False


def _read_local_ports() -> range:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return range(1024, 65536)
    return range(int(low), int(high) + 1)


_local_ports = _read_local_ports()


def is_local(address: str) -> bool:
    """Whether the literal ``address`` is one of this host's own: only those can be bound (bind(2))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(sockaddr(address, 0))
    except OSError:
        return False
    return True
