"""TCP options of the relay's sockets, on both sides alike."""

from __future__ import annotations

import errno
import functools
import socket
from typing import Any

from portproxy.model import Rule

_KEEPALIVE_PROBES = 6
"""Unanswered probes that end a connection, spread over another ``keepalive`` seconds: a peer that is
gone is noticed within twice ``keepalive``."""


def set_options(sock: socket.SocketType, rule: Rule, *, new: bool = False) -> None:
    """Give ``sock`` the rule's options; a listener hands them down to what it accepts (tcp(7)).

    Urgent data stays in the stream (SO_OOBINLINE): a relay that read it out of band would lose it.
    A ``new`` socket is told only what is not so by itself.
    """
    for level, option, value in _options(rule.nodelay, rule.keepalive, rule.usertimeout, new):
        sock.setsockopt(level, option, value)


@functools.lru_cache
def _options(
    nodelay: bool, keepalive: float | None, usertimeout: float | None, new: bool
) -> tuple[tuple[int, int, int], ...]:
    """Levels, options and values, but for a new socket those of 0, which it begins with."""
    options = [
        (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, int(nodelay)),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive is not None)),
    ]
    if keepalive is not None:
        idle = max(1, round(keepalive))
        options += [
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // _KEEPALIVE_PROBES)),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES),
        ]
    milliseconds = 0 if usertimeout is None else max(1, round(usertimeout * 1000))
    options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds))
    return tuple(option for option in options if option[2] or not new)


def same_options(a: Rule, b: Rule) -> bool:
    """Whether ``set_options`` would do the same for both."""
    return (a.nodelay, a.keepalive, a.usertimeout) == (b.nodelay, b.keepalive, b.usertimeout)


SockAddr = tuple[Any, ...]
"""An endpoint as the socket module gives it: host and port, for IPv6 flow label and scope too."""


def sockaddr(address: str, port: int) -> SockAddr:
    """What bind(2) and connect(2) take for a literal; a scope (RFC 4007, 11) has to be made a number.

    Raises OSError (ENODEV) where no interface has the scope's name.
    """
    host, _, scope = address.partition("%")
    if not scope:
        return host, port
    if scope.isdecimal():
        return host, port, 0, int(scope)
    try:
        return host, port, 0, socket.if_nametoindex(scope)
    except OSError:  # without an errno
        raise OSError(errno.ENODEV, f"no interface {scope}") from None


AddressKey = tuple[bytes, int]
"""An address, packed, and its scope: alike for every spelling."""


def address_key(sockaddr: SockAddr) -> AddressKey:
    """The key of an endpoint's address."""
    host: str = sockaddr[0].partition("%")[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host), sockaddr[3] if len(sockaddr) == 4 else 0


def normalised(sockaddr: SockAddr) -> str:
    """An address as it is judged, counted and logged, from accept(2)'s or getsockname(2)'s.

    A v4-mapped address is the IPv4 address that it maps (RFC 4291, 2.5.5.2); a scope is its interface.
    """
    host = with_scope(sockaddr)
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def with_scope(sockaddr: SockAddr) -> str:
    """The literal address of an endpoint, its scope by the interface's name."""
    host: str = sockaddr[0]
    if len(sockaddr) == 4 and sockaddr[3]:
        return f"{host}%{_interface(sockaddr[3])}"
    return host


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # gone meanwhile
        return str(index)


def endpoint_text(host: str, port: int) -> str:
    """``host`` and ``port`` in one word, an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
