"""The keys of a ``[[tunnel]]`` table."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from portproxy.errors import shown
from portproxy.options import Option, kinds
from portproxy.options.kinds import Kind, RefusedError, text
from portproxy.tunnel.model import AUTO, Interface, Network, Tunnel, TunnelRoute, TunnelType

# netdevice(7): IFNAMSIZ is 16 with the NUL, and dev_valid_name() refuses "/", ":" and white space.
_INTERFACE = re.compile(r"[!-.0-9;-~]{1,15}")
_CLAMP = "clamp"
LEAST_MTU = {6: 1280, 4: 68}
"""What every link of the family takes (RFC 8200, 5; RFC 791, 3.2)."""
_LARGEST = 65535


def _interface(value: object) -> str:
    name = text(value)
    if not _INTERFACE.fullmatch(name) or name in (".", ".."):
        raise RefusedError
    return name


def _peer(value: object) -> str:
    try:
        address = ipaddress.ip_address(text(value))
    except ValueError:
        raise RefusedError from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise RefusedError("a tunnel ends at a unicast address of another host")
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        raise RefusedError("write an IPv4 address as one, and no interface behind a %")
    return str(address)


def _local(value: object) -> str:
    return AUTO if value == AUTO else _peer(value)


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
    prefix, via, gateway = item.partition(" via ")
    try:
        network: Network = ipaddress.ip_network(prefix.strip())
        hop = ipaddress.ip_address(gateway.strip()) if via else None
    except ValueError as error:
        raise RefusedError(f"{shown(item)}: {error}; {ROUTES.accepts}") from None
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

INTERFACE = Kind("an interface's name is 1 to 15 characters, with no space, slash or colon", _interface)
PEER = Kind("an IPv4 or IPv6 address", _peer)
LOCAL = Kind(f'an address of this host, or "{AUTO}" for that of the route to the peer', _local)
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
    f'bytes of a packet in the tunnel, or "{AUTO}" to follow the path',
    _mtu,
    lambda mtu: AUTO if mtu is None else str(mtu),
)
MSS = Kind(f'"{_CLAMP}" or "off"', _mss, lambda mss: _CLAMP if mss else "off", words=(_CLAMP, "off"))

LIMIT = Kind(
    'a whole number from 0 to 255, or "off"', _limit, lambda limit: "off" if limit is None else str(limit)
)

TUNNEL_OPTIONS = (
    Option("name", kinds.NAME, "says which tunnel it is in metrics, logs and commands", "required"),
    Option(
        "type", kinds.choice(TunnelType, TunnelType), "a tunnel is nothing without its families", "required"
    ),
    Option("remoteaddress", PEER, "the other end", "required"),
    Option("localaddress", LOCAL, "this end follows the route to the other", AUTO),
    Option("interface", INTERFACE, "what the kernel routes into", "name"),
    Option("address", ADDRESSES, "addresses of the tunnel's interface, beside its link-local one"),
    Option("route", ROUTES, "nothing goes into a tunnel that was not asked for"),
    Option("mtu", MTU, "as in Linux: it suits a path of 1500", "1480 for v6v4tunnel, 1460 for v4v6tunnel"),
    Option("ttl", kinds.count(1, 255), "hops that the outer packet may take"),
    Option("mss", MSS, "TCP finds the path's MTU by itself where ICMP is let through"),
    Option(
        "encaplimit",
        LIMIT,
        "how many tunnels more a packet may enter; v4v6tunnel only (RFC 2473, 4.1.1)",
    ),
)
"""The keys of ``[[tunnel]]``."""


_ENDS = ("name", "type", "localaddress", "remoteaddress")


def tags(tunnel: Tunnel) -> list[str]:
    """The settings of ``tunnel`` beside its name, type and ends, those that say nothing left out."""
    values = [(option, getattr(tunnel, option.name)) for option in TUNNEL_OPTIONS if option.name not in _ENDS]
    return [option.tag(value) for option, value in values if option.text(value) != "off"]
