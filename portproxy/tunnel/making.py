"""What a Tunnel comes to: its mode, its sockets, its addresses."""

from __future__ import annotations

import ipaddress

from portproxy.tunnel.carrier.raw import (
    Protocol4Receiver,
    Protocol4Sender,
    Protocol41Receiver,
    Protocol41Sender,
)
from portproxy.tunnel.model import Interface, Role, Tunnel, TunnelRoute, TunnelType
from portproxy.tunnel.modes import fourinsix, isatap
from portproxy.tunnel.modes.automatic import Automatic
from portproxy.tunnel.modes.embedded import COMPATIBLE, SIX_TO_FOUR, packed
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.modes.isatap_router import IsatapRouter
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.reception import Key
from portproxy.tunnel.routing import Way

ConfiguredMode = SixInFour | FourInSix
AutomaticMode = IsatapHost | IsatapRouter | SixToFour | Automatic
Sender = Protocol41Sender | Protocol4Sender

_LINK_LOCAL = 0xFE80 << 112
_DUMMY = ipaddress.IPv4Address("192.0.0.8").packed
"""RFC 7600, 4.8: what ICMPv4 errors come from that have no other address to come from."""
_EVERYWHERE = TunnelRoute(ipaddress.IPv6Network("::/0"))


def names_of(spec: Tunnel) -> tuple[str, ...]:
    """The routers or the relay of ``spec``, names and literals."""
    return (*spec.router, *filter(None, [spec.relay]))


def make_mode(spec: Tunnel, way: Way) -> ConfiguredMode | AutomaticMode:
    """The mode of ``spec``, which leaves by ``way``."""
    own = error_source(spec, way.local)
    if spec.type.automatic:
        return _make_automatic(spec, way.local, own)
    if spec.type is TunnelType.V6V4TUNNEL:
        return SixInFour(spec.remoteaddress, own, mtu=spec.mtu, link=way.mtu, clamp_mss=spec.mss)
    overhead = fourinsix.OVERHEAD + (0 if spec.encaplimit is None else fourinsix.LIMIT_OPTION)
    return FourInSix(
        spec.remoteaddress, own, mtu=spec.mtu, link=way.mtu, overhead=overhead, clamp_mss=spec.mss
    )


def _make_automatic(spec: Tunnel, local: str, own: bytes) -> AutomaticMode:
    assert spec.mtu, "an automatic tunnel has many paths, and follows none"
    if spec.type is TunnelType.V4COMPAT:
        return Automatic(local, mtu=spec.mtu, private=spec.private, clamp_mss=spec.mss)
    if spec.type is TunnelType.SIXTOFOUR:
        is_relay = spec.role is Role.RELAY
        return SixToFour(
            local, own, mtu=spec.mtu, is_relay=is_relay, private=spec.private, clamp_mss=spec.mss
        )
    routes = [
        (route.prefix.network_address.packed, route.prefix.prefixlen, route.via.packed)
        for route in spec.route
        if route.via
    ]
    if spec.role is Role.HOST:
        return IsatapHost(local, own, mtu=spec.mtu, routes=routes, clamp_mss=spec.mss)
    prefixes = [(prefix.network_address.packed, prefix.prefixlen) for prefix in spec.prefix]
    return IsatapRouter(local, own, mtu=spec.mtu, prefixes=prefixes, routes=routes, clamp_mss=spec.mss)


def make_sender(spec: Tunnel, way: Way) -> Sender:
    """What its packets leave by. Raises OSError."""
    if spec.type is TunnelType.V4V6TUNNEL:
        return Protocol4Sender(way.local, spec.remoteaddress, spec.ttl, spec.encaplimit)
    return Protocol41Sender(way.local, spec.remoteaddress or None, spec.ttl)


def open_receiver(key: Key) -> Protocol41Receiver | Protocol4Receiver:
    """Where the packets of ``key`` arrive. Raises OSError."""
    return Protocol41Receiver(key.local) if key.outer == 4 else Protocol4Receiver(key.local)


def all_addresses(spec: Tunnel, local: str) -> tuple[Interface, ...]:
    """What the interface of ``spec`` is to have, which leaves from ``local``."""
    return (*spec.address, *_own_addresses(spec, local))


def _own_addresses(spec: Tunnel, local: str) -> tuple[Interface, ...]:
    """Those that its type makes of ``local``; their prefixes are routes into the tunnel."""
    match spec.type:
        case TunnelType.V6V4TUNNEL:  # RFC 4213, 3.7
            return (ipaddress.IPv6Interface((_LINK_LOCAL | int(ipaddress.IPv4Address(local)), 64)),)
        case TunnelType.ISATAP:  # RFC 5214, 6.2
            identifier = isatap.identifier(packed(local))
            networks = [isatap.LINK_LOCAL, *(prefix.network_address.packed[:8] for prefix in spec.prefix)]
            return tuple(ipaddress.IPv6Interface((network + identifier, 64)) for network in networks)
        case TunnelType.SIXTOFOUR:  # RFC 3056, 2
            site = SIX_TO_FOUR + packed(local)
            return (ipaddress.IPv6Interface((site + bytes(6) + packed(local), 16)),)
        case TunnelType.V4COMPAT:  # RFC 4291, 2.5.5.1
            return (ipaddress.IPv6Interface((COMPATIBLE + packed(local), 96)),)
        case TunnelType.V4V6TUNNEL:
            return ()


def all_routes(spec: Tunnel) -> tuple[TunnelRoute, ...]:
    """The routes into its interface beside those to the prefixes of its addresses.

    The mode chooses by itself among gateways that are within the tunnel: the interface has no neighbours.
    """
    routes = tuple(TunnelRoute(route.prefix) if spec.type.automatic else route for route in spec.route)
    return (*routes, _EVERYWHERE) if spec.relay else routes


def error_source(spec: Tunnel, local: str) -> bytes:
    """The address, packed, that errors about packets are sent from."""
    if spec.type.inner == 4:
        return _DUMMY  # this host takes no IPv4 packet for real that comes in from an address of its own
    addresses = [one.ip for one in all_addresses(spec, local)]
    # No router forwards what a link-local address sends (RFC 4291, 2.5.6).
    return next((ip for ip in addresses if not ip.is_link_local), addresses[0]).packed
