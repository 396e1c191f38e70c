"""How this host reaches another: from which address, and how wide the first hop is."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trio

from portproxy.tunnel.modes.embedded import Here
from portproxy.tunnel.rtnetlink import rtnetlink

# From linux/rtnetlink.h: what changes the answer.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18 | 1 << 24
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE (rtnetlink(7)), and of
RTNLGRP_IPV6_RULE and _IPV6_NETCONF the bits."""
_NEWLINK, _DELADDR, _DELROUTE = 16, 21, 25
_OIF = 4
# From linux/netlink.h: the beginnings of struct nlmsghdr and of struct rtattr.
_MESSAGE = struct.Struct("=IH10x")
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=I")
"""Of the interface, behind four bytes of struct ifinfomsg and of struct ifaddrmsg."""
_ROUTE = 12
"""Bytes of struct rtmsg."""
_ANY = 0
_FIB_MATCH = 0x2000
"""RTM_F_FIB_MATCH: the route as it was set up, without what has been heard of the path since."""
_DISCARD = 9
"""A port to connect a datagram socket to, by which nothing is sent (udp(7))."""


class Way(NamedTuple):
    """The literal address that packets leave from, the MTU of the first hop in bytes, and the index of the
    interface that they leave by; 0 where that is not known."""

    local: str
    mtu: int
    through: int = 0


def way_to(remote: str, local: str | None = None) -> Way:
    """The way to the literal address ``remote``, from ``local`` where that is given.

    Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL where ``local`` is not this host's,
    EDESTADDRREQ, with what it is, where ``remote`` is no other host's.
    """
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if local:
            sock.bind((local, 0))
        try:
            sock.connect((remote, _DISCARD))
        except PermissionError:  # ip(7): SO_BROADCAST was not set
            raise OSError(errno.EDESTADDRREQ, "a broadcast address") from None
        found = sock.getsockname()[0]
    if found == remote:
        raise OSError(errno.EDESTADDRREQ, "this host's own")
    return Way(found, *_first_hop(family, remote, found))


def check_own(local: str) -> None:
    """Raises OSError (EADDRNOTAVAIL) unless the literal address ``local`` is this host's."""
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((local, 0))


def look_around() -> Here:
    """What automatic tunnels have to know of this host. Raises OSError."""
    four, six, broadcasts = set[bytes](), set[bytes](), set[bytes]()
    with rtnetlink() as netlink:
        for message in netlink.get_addr():
            family, kinds = message["family"], (four if message["family"] == socket.AF_INET else six)
            own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            kinds.add(socket.inet_pton(family, own))
            if broadcast := message.get_attr("IFA_BROADCAST"):
                broadcasts.add(socket.inet_pton(family, broadcast))
    return Here(frozenset(four), frozenset(broadcasts), frozenset(six))


def forwards() -> bool:
    """Whether this host forwards IPv6 packets (ip-sysctl, net.ipv6.conf.all.forwarding)."""
    try:
        return Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text().strip() != "0"
    except FileNotFoundError:  # a kernel without IPv6
        return False


def _first_hop(family: int, remote: str, local: str) -> tuple[int, int]:
    """The MTU that is set on the route, or else on its interface: that of the path is the mode's to find out,
    and to forget. And that interface."""
    with rtnetlink() as netlink:
        (route,) = netlink.route("get", family=family, dst=remote, src=local, flags=_FIB_MATCH)
        (taken,) = netlink.route("get", family=family, dst=remote, src=local)
        index = int(taken.get_attr("RTA_OIF"))
        metrics = route.get_attr("RTA_METRICS")
        if mtu := metrics and metrics.get_attr("RTAX_MTU"):
            return int(mtu), index
        (link,) = netlink.link("get", index=index)
        return int(link.get_attr("IFLA_MTU")), index


class Others:
    """What the tunnels of a process have to know of one another; each is known by its interface's index."""

    def __init__(self) -> None:
        self._through: dict[int, int] = {}
        self._ends: dict[int, object] = {}

    def stand(self, tunnel: int, ends: object) -> None:
        """``tunnel`` is between ``ends``. Raises OSError (EADDRINUSE, with the interface's name) where
        another one is."""
        there = dict(socket.if_nameindex())
        for other, theirs in self._ends.items():
            # Somebody may have removed its interface, of which nobody has told yet.
            if other != tunnel and theirs == ends and other in there:
                raise OSError(errno.EADDRINUSE, there[other])
        self._ends[tunnel] = ends

    def lead(self, tunnel: int, through: int) -> None:
        """The packets of ``tunnel`` leave by ``through``. Raises OSError (ELOOP, with the interface's name)
        where they come back to it from there."""
        self._through[tunnel] = through
        seen, at = set[int](), through
        while at in self._through and at not in seen:
            if at == tunnel:
                raise OSError(errno.ELOOP, dict(socket.if_nameindex()).get(through, "that was removed"))
            seen.add(at)
            at = self._through[at]

    def forget(self, tunnel: int) -> None:
        self._through.pop(tunnel, None)
        self._ends.pop(tunnel, None)


class Changes:
    """Tells when links, addresses or routes of this host change, or whether it forwards; what has changed is
    to be looked up."""

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._sock.bind((0, _GROUPS))

    def close(self) -> None:
        self._sock.close()

    async def wait(self) -> Disturbed:
        """Until something has changed; which interfaces were set otherwise, or have lost something."""
        await trio.lowlevel.wait_readable(self._sock)
        found = set[int]()
        while True:
            try:
                found |= _disturbed(self._sock.recv(1 << 16))
            except BlockingIOError:
                return Disturbed(frozenset(found))
            except OSError:  # ENOBUFS: more has changed than fits
                found.add(_ANY)


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Interfaces, by their indexes."""

    indexes: frozenset[int]

    def __contains__(self, index: object) -> bool:
        return index in self.indexes or _ANY in self.indexes


def _disturbed(data: bytes) -> set[int]:
    """rtnetlink(7): what messages of the kernel are about that tell of a link, or of what it has no more."""
    found, at = set[int](), 0
    while at + _MESSAGE.size <= len(data):
        length, kind = _MESSAGE.unpack_from(data, at)
        if kind in (_NEWLINK, _DELADDR):
            found.add(_INDEX.unpack_from(data, at + _MESSAGE.size + 4)[0])
        elif kind == _DELROUTE:
            found |= _left_by(data[at + _MESSAGE.size + _ROUTE : at + length])
        at += max(length + 3 & ~3, _MESSAGE.size)
    return found


def _left_by(attributes: bytes) -> set[int]:
    """The interface of a route, by its RTA_OIF; of several, none is told."""
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _OIF:
            return {_INDEX.unpack_from(attributes, at + _ATTRIBUTE.size)[0]}
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    return set()
