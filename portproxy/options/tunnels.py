"""The keys of a ``[[tunnel]]`` table."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from portproxy.errors import shown
from portproxy.options import Option, kinds
from portproxy.options.addresses import is_host_name
from portproxy.options.kinds import Kind, RefusedError, text
from portproxy.tunnel.model import AUTO, Interface, Network, Role, Tunnel, TunnelRoute, TunnelType
from portproxy.tunnel.packet.icmpv4 import single

# netdevice(7): IFNAMSIZ is 16 with the NUL, and dev_valid_name() refuses "/", ":" and white space. Of "%d"
# the kernel makes a number, and "all" and "default" are sysctl(8)'s.
_INTERFACE = re.compile(r"[!-$&-.0-9;-~]{1,15}")
_NO_INTERFACE = (".", "..", "all", "default")
_CLAMP = "clamp"
LEAST_MTU = {6: 1280, 4: 68}
"""What every link of the family takes (RFC 8200, 5; RFC 791, 3.2)."""
_LARGEST = 65535


def _interface(value: object) -> str:
    name = text(value)
    if not _INTERFACE.fullmatch(name) or name in _NO_INTERFACE:
        raise RefusedError
    return name


def _peer(value: object) -> str:
    try:
        address = ipaddress.ip_address(text(value))
    except ValueError:
        raise RefusedError from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise RefusedError("a tunnel ends at a unicast address, which is not a loopback one")
    if address.version == 4 and not single(address.packed):
        raise RefusedError("a tunnel ends at a unicast address; 0.0.0.0/8 and 240.0.0.0/4 are no host's")
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        raise RefusedError("write an IPv4 address as one, and no interface behind a %")
    if address.version == 6 and address.is_link_local:
        raise RefusedError("every link has that address; write one that a route leads to")
    return str(address)


def _local(value: object) -> str:
    return AUTO if value == AUTO else _peer(value)


def _relay(value: object) -> str | None:
    if value == "off":
        return None
    name = text(value)
    if is_host_name(name):
        return name
    address = ipaddress.ip_address(_peer(name))
    if address.version == 4:
        return str(address)
    if address.sixtofour is None:
        raise RefusedError("that is no 6to4 address (2002::/16); write the relay's, or its IPv4 address")
    return _peer(str(address.sixtofour))


def _router(item: str) -> str:
    if is_host_name(item):
        return item
    try:
        address = _peer(item)
    except RefusedError as refusal:
        raise RefusedError(f"{shown(item)}: {str(refusal) or ROUTERS.accepts}") from None
    if ":" in address:
        raise RefusedError(f"{shown(item)}: a router is asked over IPv4; write that address, or a name")
    return address


def _prefix(item: str) -> ipaddress.IPv6Network:
    try:
        prefix = ipaddress.IPv6Network(item)
    except ValueError as error:
        raise RefusedError(f"{shown(item)}: {error}; {PREFIXES.accepts}") from None
    if prefix.prefixlen != 64 or "%" in item:
        raise RefusedError(f"{shown(item)}: its hosts' identifiers are 64 bits long, so it is to be a /64")
    if prefix.is_multicast or prefix.is_link_local or not int(prefix.network_address):
        raise RefusedError(f"{shown(item)}: no host takes an address of this prefix from a router")
    return prefix


def _list_of(read: Callable[[str], Any]) -> Callable[[object], tuple[Any, ...]]:
    def convert(value: object) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = [] if value == "off" else value.split(",")
        if not isinstance(value, list):
            raise RefusedError
        return tuple(read(text(item).strip()) for item in value)

    return convert


def _address(item: str) -> Interface:
    if "/" not in item or "%" in item:
        raise RefusedError(f"{shown(item)} is no address with the length of its prefix, like 2001:db8::1/64")
    try:
        found = ipaddress.ip_interface(item)
    except ValueError:
        raise RefusedError(f"{shown(item)} is no address; {ADDRESSES.accepts}") from None
    if found.ip.is_multicast or found.ip.is_unspecified or found.ip.is_loopback:
        raise RefusedError(f"{shown(item)} is no address that an interface may have")
    return found


def _route(item: str) -> TunnelRoute:
    prefix, via, gateway = f"{item} ".partition(" via ")
    try:
        written = ipaddress.ip_interface(prefix.strip())
        hop = ipaddress.ip_address(gateway.strip()) if via else None
    except ValueError:
        told = f"{shown(item)} is no route; {ROUTES.accepts}; the default route is ::/0"
        raise RefusedError(told) from None
    network: Network = written.network
    if written.ip != network.network_address:
        raise RefusedError(f"{shown(item)}: that is a host's address; its prefix is {network}")
    if hop and hop.version != network.version:
        raise RefusedError(f"{shown(item)}: the gateway is of the other family")
    return TunnelRoute(network, hop)


def _mtu(value: object) -> int | None:
    return None if value == AUTO else _BYTES.convert(value)


def _limit(value: object) -> int | None:
    # 0 is a limit: no tunnel more.
    return None if value == "off" else _OCTET.convert(value)


def _mss(value: object) -> bool:
    if value not in (_CLAMP, "off"):
        raise RefusedError
    return value == _CLAMP


def _show_list(values: tuple[object, ...]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


_BYTES = kinds.count(LEAST_MTU[4], _LARGEST)
_OCTET = kinds.count(0, 255)

INTERFACE = Kind(
    'an interface\'s name is 1 to 15 characters, no space, slash, colon or %, and not "all" or "default"',
    _interface,
)
PEER = Kind("an address, IPv4 for v6v4tunnel and IPv6 for v4v6tunnel, and no name", _peer)
LOCAL = Kind(
    f'an address of this host, or "{AUTO}" for that of the route to the peer, the relay or the first router, '
    "or else of the default route",
    _local,
)
RELAY = Kind(
    'a host name, an IPv4 address or a 6to4 address (2002::/16), or "off"',
    _relay,
    lambda relay: relay or "off",
)
ROUTERS = Kind(
    'a list of host names and IPv4 addresses, like ["isatap", "192.0.2.1"]', _list_of(_router), _show_list
)
PREFIXES = Kind(
    'a list of IPv6 prefixes, each a /64, like ["2001:db8:1::/64"]', _list_of(_prefix), _show_list
)
INTERFACES = Kind('a list of interfaces\' names, like ["eth1", "eth2"]', _list_of(_interface), _show_list)
ADDRESSES = Kind(
    'a list of addresses with the lengths of their prefixes, like ["2001:db8:1::1/64"]',
    _list_of(_address),
    _show_list,
)
ROUTES = Kind(
    'a list of prefixes, like ["2001:db8:2::/48", "2001:db8:3::/48 via fe80::1"]',
    _list_of(_route),
    _show_list,
)
MTU = Kind(
    f"bytes of a packet in the tunnel, at least {LEAST_MTU[6]} of IPv6 and {LEAST_MTU[4]} of IPv4, or "
    f'"{AUTO}" to follow the path to a configured end',
    _mtu,
    lambda mtu: AUTO if mtu is None else str(mtu),
)
MSS = Kind(f'"{_CLAMP}" or "off"', _mss, lambda mss: _CLAMP if mss else "off", words=(_CLAMP, "off"))

LIMIT = Kind(
    'a whole number from 0 to 255, or "off"', _limit, lambda limit: "off" if limit is None else str(limit)
)

TUNNEL_OPTIONS = (
    Option(
        "name",
        kinds.NAME,
        "says which tunnel it is in metrics, logs and commands; without interface it is the interface's, and "
        "15 characters at most",
        "required",
    ),
    Option(
        "type", kinds.choice(TunnelType, TunnelType), "a tunnel is nothing without its families", "required"
    ),
    Option(
        "role",
        kinds.choice(Role, Role),
        "a host is for itself, a router for its site, a relay between sites and the rest of IPv6; isatap "
        "(host, router) and 6to4",
    ),
    Option(
        "remoteaddress",
        PEER,
        "the other end; the automatic types find it in each packet's destination",
        "required by v6v4tunnel and v4v6tunnel",
    ),
    Option("localaddress", LOCAL, "this end follows the route to the other", AUTO),
    Option(
        "relay",
        RELAY,
        "leads to the rest of IPv6, where nothing goes that was not asked for; 6to4 hosts and routers",
    ),
    Option(
        "router",
        ROUTERS,
        "hosts ask them for prefixes and a default route (RFC 5214, 8.3.2), and they may send what is from "
        "elsewhere; isatap",
        '["isatap"] for hosts',
    ),
    Option(
        "prefix", PREFIXES, "what hosts make their addresses of; isatap routers", "required by isatap routers"
    ),
    Option(
        "advertise",
        INTERFACES,
        "inside interfaces: the first one gets subnet 1 of the site, the next one 2; 6to4 routers",
    ),
    Option(
        "private",
        kinds.FLAG,
        "6to4 and v4compat are for public IPv4 addresses (RFC 3056, 2); true admits any, for a lab",
    ),
    Option("interface", INTERFACE, "what the kernel routes into", "name"),
    Option("address", ADDRESSES, "addresses of the tunnel's interface, beside its link-local one"),
    Option("route", ROUTES, "nothing goes into a tunnel that was not asked for"),
    Option(
        "mtu",
        MTU,
        "as in Linux: it suits a path of 1500; any path takes 1280 (RFC 3056, 4; RFC 4213, 3.2.1)",
        "1480 for v6v4tunnel, 1460 for v4v6tunnel, else 1280",
    ),
    Option("ttl", kinds.count(1, 255), "hops that the outer packet may take"),
    Option("mss", MSS, "TCP finds the path's MTU by itself where ICMP is let through"),
    Option(
        "encaplimit",
        LIMIT,
        "how many tunnels more a packet may enter; v4v6tunnel only (RFC 2473, 4.1.1)",
    ),
)
"""The keys of ``[[tunnel]]``."""


TYPES: Mapping[str, tuple[TunnelType, ...]] = {
    "role": (TunnelType.ISATAP, TunnelType.SIXTOFOUR),
    "remoteaddress": (TunnelType.V6V4TUNNEL, TunnelType.V4V6TUNNEL),
    "relay": (TunnelType.SIXTOFOUR,),
    "router": (TunnelType.ISATAP,),
    "prefix": (TunnelType.ISATAP,),
    "advertise": (TunnelType.SIXTOFOUR,),
    "private": (TunnelType.SIXTOFOUR, TunnelType.V4COMPAT),
    "encaplimit": (TunnelType.V4V6TUNNEL,),
}
"""Key -> the types that take it, where not all do."""

ROLES: Mapping[str, tuple[Role, ...]] = {
    "relay": (Role.HOST, Role.ROUTER),
    "prefix": (Role.ROUTER,),
    "advertise": (Role.ROUTER,),
}
"""Key -> the roles that take it, where not all do."""

SAYS_NOTHING = ("off", "[]", "false")
"""Values that are left out where settings are listed for people."""

_ENDS = ("name", "type", "localaddress", "remoteaddress")


def options_of(tunnel: Tunnel) -> list[Option]:
    """Those of TUNNEL_OPTIONS that a tunnel of this type and role takes."""
    return [
        option
        for option in TUNNEL_OPTIONS
        if tunnel.type in TYPES.get(option.name, TunnelType) and tunnel.role in ROLES.get(option.name, Role)
    ]


def tags(tunnel: Tunnel) -> list[str]:
    """The settings of ``tunnel`` beside its name, type and ends, those that say nothing left out."""
    options = [option for option in options_of(tunnel) if option.name not in _ENDS]
    values = [(option, getattr(tunnel, option.name)) for option in options]
    return [option.tag(value) for option, value in values if option.text(value) not in SAYS_NOTHING]
