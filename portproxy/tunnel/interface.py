"""Addresses, routes and MTU of a tunnel's interface, by rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from portproxy.tunnel.model import Interface as Address
from portproxy.tunnel.model import TunnelRoute
from portproxy.tunnel.rtnetlink import rtnetlink

OWNER = "portproxy"
"""The interface's alias, by which one that was left behind is known (ip-link(8), alias)."""

_NO_DAD = 0x02
"""IFA_F_NODAD: nobody else is in the tunnel, and a tentative address answers nobody for a second."""
_FOR_EVER = 0xFFFFFFFF
"""INFINITY_LIFE_TIME, in seconds."""
_LAST_RESORT = 1 << 16
"""A metric behind those that anybody else sets; the interface's index is added, for there may be several."""
_GENERATE_NONE = 1
"""IN6_ADDR_GEN_MODE_NONE: a link-local address made up by the kernel is not the tunnel's (RFC 4213, 3.7)."""
_SETTING = "/proc/sys/net/ipv6/conf/{}/{}"
"""ip-sysctl; rtnetlink has none of these."""
_PROTO = 0x70
"""IFA_PROTO of the addresses that are put on interfaces of others, by which those left behind are known; from
4 on it means nothing to the kernel."""
_IFF_UP = 0x1
_LOOKS, _BETWEEN = 20, 0.05
"""How often it is looked whether an interface is gone, and seconds between."""
_NO_GATEWAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)


class NoGatewayError(OSError):
    """The gateway of a route is not in the tunnel."""


class Interface:
    """The interface ``name``, which exists and carries this IP version. Where others are on its link, it is
    ``shared``: an address is not used before it is known to be nobody else's (RFC 4862, 5.4). Its methods
    raise OSError with the kernel's errno.

    ``addresses`` and ``routes`` are what it was given and has not been relieved of; ``deprecated`` are those
    addresses that no new connection is to begin from (RFC 4862, 5.5.4).
    """

    def __init__(self, name: str, carries: int, *, shared: bool = False) -> None:
        self._carries = carries
        self._shared = shared
        self._mtu = 0
        self.index = socket.if_nametoindex(name)
        self.addresses: tuple[Address, ...] = ()
        self.deprecated: frozenset[Address] = frozenset()
        self.routes: tuple[TunnelRoute, ...] = ()

    def take(self) -> None:
        """Make it ours: known by its alias, and with no address or route of the kernel's own making."""
        _do("link", "set", index=self.index, ifalias=OWNER)
        specific = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _GENERATE_NONE]]}]]}
        _do("link", "set", index=self.index, IFLA_AF_SPEC=specific)
        self._set("accept_ra", 0)
        self._set("accept_redirects", 0)

    def set_mtu(self, mtu: int) -> None:
        """In bytes."""
        self._mtu = mtu
        _do("link", "set", index=self.index, mtu=mtu)
        if self._carries == 4:  # every time: with 1280 bytes and more the kernel begins IPv6 anew
            self._set("disable_ipv6", 1)

    def up(self) -> None:
        _do("link", "set", index=self.index, state="up")

    def restore(self) -> bool:
        """Give it again what somebody else has taken; whether it was so. Raises OSError: ENETDOWN where it
        was set down, which is left to whoever did so."""
        with rtnetlink() as netlink:
            (link,) = netlink.link("get", index=self.index)
        if not link["flags"] & _IFF_UP:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        acts: list[Callable[[], None]] = []
        if link.get_attr("IFLA_MTU") != self._mtu:
            acts.append(partial(self.set_mtu, self._mtu))
        for one in self.addresses:
            old = {"preferred_lft": 0} if one in self.deprecated else {}
            acts.append(partial(self._address, "add", one, **old))
        acts += [partial(self._route, "add", route) for route in self.routes]
        missing = [act for act in acts if _is_missing(act)]
        return bool(missing)

    def add_addresses(self, addresses: Iterable[Address]) -> None:
        """Raises OSError (EEXIST, with the address) where it is this host's already."""
        for one in addresses:
            with _naming(one, errno.EEXIST):
                self._address("add", one)
            self.addresses += (one,)

    def remove_addresses(self, addresses: Iterable[Address]) -> None:
        for one in addresses:
            _unless_gone(partial(self._address, "del", one))
            self.addresses = tuple(other for other in self.addresses if other != one)

    def deprecate(self, addresses: frozenset[Address]) -> None:
        """These of its addresses, and no others."""
        for one in addresses ^ self.deprecated:
            if one in self.addresses:
                self._address("replace", one, preferred_lft=0 if one in addresses else _FOR_EVER)
        self.deprecated = addresses

    def add_routes(self, routes: Iterable[TunnelRoute]) -> None:
        """Raises OSError (EEXIST, with the route) where there is such a route already: a tunnel displaces
        none. Raises NoGatewayError."""
        for route in routes:
            with _naming(route, errno.EEXIST):
                self._route("add", route)
            self.routes += (route,)

    def remove_routes(self, routes: Iterable[TunnelRoute]) -> None:
        for route in routes:
            _unless_gone(partial(self._route, "del", route))
            self.routes = tuple(other for other in self.routes if other != route)

    def _set(self, setting: str, value: int) -> None:
        """Where /proc/sys can be written; elsewhere the tunnel drops what is not to be."""
        with suppress(OSError):
            Path(_SETTING.format(socket.if_indextoname(self.index), setting)).write_text(str(value))

    def _address(self, command: str, one: Address, **settings: object) -> None:
        family = socket.AF_INET if one.version == 4 else socket.AF_INET6
        if one.version == 6:
            settings |= {"IFA_PROTO": _PROTO} if self._shared else {"flags": _NO_DAD}
        if "preferred_lft" in settings:
            settings |= {"valid_lft": _FOR_EVER}
        settings |= {"index": self.index, "address": str(one.ip), "prefixlen": one.network.prefixlen}
        try:
            _do("addr", command, family=family, **settings)
        except PermissionError as error:
            if error.errno != errno.EACCES:
                raise
            # addrconf.c: disable_ipv6 is set.
            raise OSError(errno.EAFNOSUPPORT, socket.if_indextoname(self.index)) from None

    def _route(self, command: str, route: TunnelRoute) -> None:
        family = socket.AF_INET if route.prefix.version == 4 else socket.AF_INET6
        settings: dict[str, object] = {"gateway": str(route.via)} if route.via else {}
        if route.learned or not route.prefix.prefixlen:
            # A tunnel's default route is there for want of another (RFC 3964, 5).
            settings |= {"priority": _LAST_RESORT + self.index}
        try:
            _do("route", command, family=family, dst=str(route.prefix), oif=self.index, **settings)
        except OSError as error:
            if route.via and error.errno in _NO_GATEWAY:
                raise NoGatewayError(error.errno, str(route)) from None
            raise


def remove_left_behind(name: str) -> None:
    """Remove the interface ``name`` if it is a relay's, and no process has it any more; one whose process was
    just killed is given a second to go by itself. Raises OSError."""
    for _ in range(_LOOKS):
        with rtnetlink() as netlink:
            ours = [
                link
                for link in netlink.get_links()
                if link.get_attr("IFLA_IFNAME") == name and link.get_attr("IFLA_IFALIAS") == OWNER
            ]
        for link in ours:
            if not link.get_attr("IFLA_CARRIER"):
                _unless_gone(partial(_do, "link", "del", index=link["index"]))
                return
        if not ours:
            return
        time.sleep(_BETWEEN)


def remove_strays(name: str) -> None:
    """Remove the addresses that were put on the interface ``name``, which is not ours, and left behind."""
    with rtnetlink() as netlink:
        strays = [
            (message["index"], message.get_attr("IFA_ADDRESS"), message["prefixlen"])
            for message in netlink.get_addr(index=socket.if_nametoindex(name), family=socket.AF_INET6)
            if message.get_attr("IFA_PROTO") == _PROTO
        ]
    for index, address, length in strays:
        remove = partial(_do, "addr", "del", index=index, address=address, prefixlen=length)
        _unless_gone(partial(remove, family=socket.AF_INET6))


def _do(objects: str, command: str, **settings: object) -> None:
    with rtnetlink() as netlink:
        getattr(netlink, objects)(command, **settings)


@contextmanager
def _naming(what: object, code: int) -> Iterator[None]:
    """The error ``code`` of the kernel's says what it is about."""
    try:
        yield
    except OSError as error:
        if error.errno != code:
            raise
        raise OSError(code, str(what)) from None


def _is_missing(add: Callable[[], None]) -> bool:
    """And is so no more. Where root was dropped, nobody can know."""
    try:
        add()
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.EPERM):
            raise
        return False
    return True


def _unless_gone(act: Callable[[], None]) -> None:
    """What is to be removed may have been, by somebody or by the kernel with what it depended on."""
    try:
        act()
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT):
            raise
