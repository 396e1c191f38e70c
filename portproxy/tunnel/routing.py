"""How this host reaches another: from which address, and how wide the first hop is."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

import trio
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portproxy.tunnel.modes.embedded import Here

# From linux/rtnetlink.h: what changes the answer.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (rtnetlink(7))."""
_FIB_MATCH = 0x2000
"""RTM_F_FIB_MATCH: the route as it was set up, without what has been heard of the path since."""
_DISCARD = 9
"""A port to connect a datagram socket to, by which nothing is sent (udp(7))."""


class Way(NamedTuple):
    """The literal address that packets leave from, and the MTU of the first hop in bytes."""

    local: str
    mtu: int


def way_to(remote: str, local: str | None = None) -> Way:
    """The way to the literal address ``remote``, from ``local`` where that is given.

    Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL where ``local`` is not this host's.
    """
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if local:
            sock.bind((local, 0))
        sock.connect((remote, _DISCARD))
        found = sock.getsockname()[0]
    try:
        return Way(found, _first_hop(family, remote, found))
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


def check_own(local: str) -> None:
    """Raises OSError (EADDRNOTAVAIL) unless the literal address ``local`` is this host's."""
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((local, 0))


def look_around() -> Here:
    """What automatic tunnels have to know of this host. Raises OSError."""
    four, six, broadcasts = set[bytes](), set[bytes](), set[bytes]()
    try:
        with IPRoute() as netlink:
            for message in netlink.get_addr():
                family, kinds = message["family"], (four if message["family"] == socket.AF_INET else six)
                own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                kinds.add(socket.inet_pton(family, own))
                if broadcast := message.get_attr("IFA_BROADCAST"):
                    broadcasts.add(socket.inet_pton(family, broadcast))
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
    return Here(frozenset(four), frozenset(broadcasts), frozenset(six))


def forwards() -> bool:
    """Whether this host forwards IPv6 packets (ip-sysctl, net.ipv6.conf.all.forwarding)."""
    try:
        return Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() != "0"
    except FileNotFoundError:  # a kernel without IPv6
        return False


def _first_hop(family: int, remote: str, local: str) -> int:
    """The MTU that is set on the route, or else on its interface: that of the path is the mode's to find out,
    and to forget."""
    with IPRoute() as netlink:
        (route,) = netlink.route("get", family=family, dst=remote, src=local, flags=_FIB_MATCH)
        metrics = route.get_attr("RTA_METRICS")
        if mtu := metrics and metrics.get_attr("RTAX_MTU"):
            return int(mtu)
        (taken,) = netlink.route("get", family=family, dst=remote, src=local)
        (link,) = netlink.link("get", index=taken.get_attr("RTA_OIF"))
        return int(link.get_attr("IFLA_MTU"))


class Changes:
    """Tells when links, addresses or routes of this host change; what has changed is to be looked up."""

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._sock.bind((0, _GROUPS))

    def close(self) -> None:
        self._sock.close()

    async def wait(self) -> None:
        """Until something has changed."""
        await trio.lowlevel.wait_readable(self._sock)
        while True:
            try:
                self._sock.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more has changed than fits, which comes to the same
                continue
