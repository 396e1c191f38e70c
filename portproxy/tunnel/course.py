"""What a tunnel goes by at a time: its way, its mode, its sockets; and its interface, arranged by that."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv6Interface, IPv6Network
from typing import NamedTuple, TypeVar

from portproxy.tunnel.causes import NotPublicError
from portproxy.tunnel.effects import Configure
from portproxy.tunnel.interface import Interface
from portproxy.tunnel.making import (
    AutomaticMode,
    ConfiguredMode,
    Sender,
    all_addresses,
    all_routes,
    make_mode,
    make_sender,
    names_of,
)
from portproxy.tunnel.model import AUTO, Tunnel, TunnelRoute, TunnelType
from portproxy.tunnel.model import Interface as Address
from portproxy.tunnel.modes.embedded import packed, public
from portproxy.tunnel.naming import Names
from portproxy.tunnel.routing import Way, check_own, way_to

T = TypeVar("T")

_ANYWHERE = "192.0.2.1"
"""What the default route leads to; nothing is sent there."""


class Course(NamedTuple):
    """``names`` are looked up as long as a tunnel goes by it."""

    spec: Tunnel
    way: Way
    mode: ConfiguredMode | AutomaticMode
    sender: Sender
    names: Names

    @property
    def link(self) -> object:
        """As long as this is the same, what routers have said holds."""
        return self.spec.type, self.spec.role, names_of(self.spec), self.way.local


def find_way(spec: Tunnel) -> Way:
    """Raises OSError: ENETUNREACH without a route, EADDRNOTAVAIL where localaddress is not this host's."""
    local = None if spec.localaddress == AUTO else spec.localaddress
    if not spec.type.automatic:
        return way_to(spec.remoteaddress, local)
    if not local:
        way = way_to(next(filter(_is_literal, names_of(spec)), _ANYWHERE))
        if spec.type is not TunnelType.ISATAP and not spec.private and not public(packed(way.local)):
            raise NotPublicError(
                errno.EADDRNOTAVAIL, f"localaddress auto is {way.local}, which is not public"
            )
        return way._replace(mtu=0)  # with a fixed MTU, whatever the first hop to each of many peers takes
    check_own(local)
    with suppress(OSError):
        return way_to(_ANYWHERE, local)._replace(mtu=0)
    return Way(local, 0)


def _is_literal(name: str) -> bool:
    return name.replace(".", "").isdigit()


def make_course(spec: Tunnel, way: Way, names: Names) -> Course:
    """Raises OSError."""
    return Course(spec, way, make_mode(spec, way), make_sender(spec, way), names)


def arrange(interface: Interface, course: Course, said: Configure) -> str:
    """Give ``interface`` what ``course`` says, and its routers, and take what it has beside that; what of
    ``said`` was refused, and why, for people. Raises OSError for the rest."""
    learned = [(IPv6Interface((address, length)), old) for address, length, old in said.addresses]
    addresses = all_addresses(course.spec, course.way.local)
    routes = tuple(dict.fromkeys(all_routes(course.spec)))
    more = [one for one, _ in learned if one not in addresses]
    prefixes = {IPv6Network(one) for one in said.routes} - {route.prefix for route in routes}
    told = {TunnelRoute(prefix, learned=True) for prefix in prefixes}
    # What may be refused comes first, while nothing is taken yet but what stands in its way.
    give_up(interface, addresses, routes)
    _add(interface, addresses, routes)
    gone = [one for one in interface.addresses if one not in (*addresses, *more)]
    interface.remove_routes(route for route in interface.routes if route not in (*routes, *told))
    if gone and course.spec.type.inner == 4:
        # With an IPv4 address the kernel takes others of its prefix, with the last one every route.
        interface.remove_routes(interface.routes)
        gone = list(interface.addresses)
    interface.remove_addresses(gone)
    _add(interface, addresses, routes)
    interface.set_mtu(course.mode.mtu)
    refused = []
    for one in more:
        refused += _try(interface.add_addresses, one, one in interface.addresses)
    interface.deprecate(frozenset(one for one, old in learned if old))
    for route in sorted(told, key=str):
        refused += _try(interface.add_routes, route, route in interface.routes)
    return "; ".join(refused)


def give_up(interface: Interface, addresses: Iterable[Address], routes: Iterable[TunnelRoute]) -> None:
    """Take those of its addresses and routes that these are to be instead of. Raises OSError."""
    ips, prefixes = {one.ip: one for one in addresses}, {route.prefix: route for route in routes}
    interface.remove_addresses(one for one in interface.addresses if ips.get(one.ip, one) != one)
    interface.remove_routes(one for one in interface.routes if prefixes.get(one.prefix, one) != one)


def _add(interface: Interface, addresses: Iterable[Address], routes: Iterable[TunnelRoute]) -> None:
    interface.add_addresses(one for one in addresses if one not in interface.addresses)
    interface.add_routes(route for route in routes if route not in interface.routes)


def _try(add: Callable[[tuple[T]], None], one: T, there: bool) -> list[str]:
    try:
        if not there:
            add((one,))
    except OSError as error:
        why = "is there already" if error.errno == errno.EEXIST else os.strerror(error.errno or errno.EIO)
        return [f"{one}, as a router says: {why}"]
    return []
