"""Addresses, routes and MTU of a tunnel's interface, by rtnetlink(7)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portproxy.tunnel.model import Interface as Address
from portproxy.tunnel.model import TunnelRoute

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
_IPV6_OFF = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"
"""proc(5); rtnetlink has no such setting."""


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
        self._index = socket.if_nametoindex(name)
        self.addresses: tuple[Address, ...] = ()
        self.deprecated: frozenset[Address] = frozenset()
        self.routes: tuple[TunnelRoute, ...] = ()

    def take(self) -> None:
        """Make it ours: known by its alias, and with no address of the kernel's own making."""
        _do("link", "set", index=self._index, ifalias=OWNER)
        specific = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _GENERATE_NONE]]}]]}
        _do("link", "set", index=self._index, IFLA_AF_SPEC=specific)

    def set_mtu(self, mtu: int) -> None:
        """In bytes."""
        _do("link", "set", index=self._index, mtu=mtu)
        if self._carries == 4:  # every time: with 1280 bytes and more the kernel begins IPv6 anew
            self._switch_ipv6_off()

    def up(self) -> None:
        _do("link", "set", index=self._index, state="up")

    def add_addresses(self, addresses: Iterable[Address]) -> None:
        for one in addresses:
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
        """Raises OSError (EEXIST) where there is such a route already: a tunnel displaces none."""
        for route in routes:
            self._route("add", route)
            self.routes += (route,)

    def remove_routes(self, routes: Iterable[TunnelRoute]) -> None:
        for route in routes:
            _unless_gone(partial(self._route, "del", route))
            self.routes = tuple(other for other in self.routes if other != route)

    def _switch_ipv6_off(self) -> None:
        """Where /proc/sys can be written; elsewhere the tunnel drops what the kernel sends by itself."""
        with suppress(OSError):
            setting = _IPV6_OFF.format(socket.if_indextoname(self._index))
            with open(setting, "w") as file:
                file.write("1")

    def _address(self, command: str, one: Address, **settings: object) -> None:
        family = socket.AF_INET if one.version == 4 else socket.AF_INET6
        if one.version == 6 and not self._shared:
            settings |= {"flags": _NO_DAD}
        if "preferred_lft" in settings:
            settings |= {"valid_lft": _FOR_EVER}
        _do(
            "addr",
            command,
            index=self._index,
            family=family,
            address=str(one.ip),
            prefixlen=one.network.prefixlen,
            **settings,
        )

    def _route(self, command: str, route: TunnelRoute) -> None:
        family = socket.AF_INET if route.prefix.version == 4 else socket.AF_INET6
        settings: dict[str, object] = {"gateway": str(route.via)} if route.via else {}
        if not route.prefix.prefixlen:
            # A tunnel's default route is there for want of another (RFC 3964, 5).
            settings |= {"priority": _LAST_RESORT + self._index}
        _do("route", command, family=family, dst=str(route.prefix), oif=self._index, **settings)


def remove_left_behind(name: str) -> bool:
    """Remove the interface ``name`` if it is one that we made and did not take back; whether it was."""
    with IPRoute() as netlink:
        for link in netlink.get_links():
            if link.get_attr("IFLA_IFNAME") == name and link.get_attr("IFLA_IFALIAS") == OWNER:
                _do("link", "del", index=link["index"])
                return True
    return False


def _do(objects: str, command: str, **settings: object) -> None:
    """Each on a socket of its own: an IPRoute leaves something behind in every thread that it is used in."""
    try:
        with IPRoute() as netlink:
            getattr(netlink, objects)(command, **settings)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


def _unless_gone(act: Callable[[], None]) -> None:
    """What is to be removed may have been, by somebody or by the kernel with what it depended on."""
    try:
        act()
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT):
            raise
