"""What a Tunnel comes to: its mode, its sockets, its addresses."""

from __future__ import annotations

import ipaddress

from portproxy.tunnel.carrier import Protocol4Receiver, Protocol4Sender, Protocol41Receiver, Protocol41Sender
from portproxy.tunnel.model import Interface, Tunnel, TunnelType
from portproxy.tunnel.modes import fourinsix
from portproxy.tunnel.modes.fourinsix import FourInSix
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.reception import Key
from portproxy.tunnel.routing import Way

TunnelMode = SixInFour | FourInSix
Sender = Protocol41Sender | Protocol4Sender

_LINK_LOCAL = 0xFE80 << 112
_DUMMY = ipaddress.IPv4Address("192.0.0.8").packed
"""RFC 7600, 4.8: what ICMPv4 errors come from that have no other address to come from."""


def make_mode(spec: Tunnel, way: Way) -> TunnelMode:
    """The mode of ``spec``, which leaves by ``way``."""
    own = error_source(spec, way.local)
    if spec.type is TunnelType.V6V4TUNNEL:
        return SixInFour(spec.remoteaddress, own, mtu=spec.mtu, link=way.mtu, clamp_mss=spec.mss)
    overhead = fourinsix.OVERHEAD + (0 if spec.encaplimit is None else fourinsix.LIMIT_OPTION)
    return FourInSix(
        spec.remoteaddress, own, mtu=spec.mtu, link=way.mtu, overhead=overhead, clamp_mss=spec.mss
    )


def make_sender(spec: Tunnel, way: Way) -> Sender:
    """What its packets leave by. Raises OSError."""
    if spec.type is TunnelType.V6V4TUNNEL:
        return Protocol41Sender(way.local, spec.remoteaddress, spec.ttl)
    return Protocol4Sender(way.local, spec.remoteaddress, spec.ttl, spec.encaplimit)


def open_receiver(key: Key) -> Protocol41Receiver | Protocol4Receiver:
    """Where the packets of ``key`` arrive. Raises OSError."""
    return Protocol41Receiver(key.local) if key.outer == 4 else Protocol4Receiver(key.local)


def all_addresses(spec: Tunnel, local: str) -> tuple[Interface, ...]:
    """What the interface of ``spec`` is to have, which leaves from ``local``."""
    own = (_link_local(local),) if spec.type is TunnelType.V6V4TUNNEL else ()
    return (*spec.address, *own)


def _link_local(local: str) -> Interface:
    """The tunnel's own link-local address, from the IPv4 address ``local`` (RFC 4213, 3.7)."""
    return ipaddress.IPv6Interface((_LINK_LOCAL | int(ipaddress.IPv4Address(local)), 64))


def error_source(spec: Tunnel, local: str) -> bytes:
    """The address, packed, that errors about packets are sent from."""
    if spec.type.inner == 4:
        return _DUMMY  # this host takes no IPv4 packet for real that comes in from an address of its own
    addresses = [one.ip for one in all_addresses(spec, local)]
    # No router forwards what a link-local address sends (RFC 4291, 2.5.6).
    return next((ip for ip in addresses if not ip.is_link_local), addresses[0]).packed
