"""What a tunnel is to be: the ``[[tunnel]]`` tables as values."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass

AUTO = "auto"
"""As ``localaddress``: the address that the route to the peer leaves from, followed when it changes."""

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TunnelType(enum.StrEnum):
    """The modes, in netsh's words where it has any: the inner family first."""

    V6V4TUNNEL = "v6v4tunnel"
    V4V6TUNNEL = "v4v6tunnel"

    @property
    def inner(self) -> int:
        """The IP version that is carried."""
        return 6 if self is TunnelType.V6V4TUNNEL else 4

    @property
    def outer(self) -> int:
        """The IP version that carries."""
        return 10 - self.inner


@dataclass(frozen=True, slots=True)
class TunnelRoute:
    """A prefix that is reached through the tunnel, by the gateway ``via`` there where one is named."""

    prefix: Network
    via: Address | None = None

    def __str__(self) -> str:
        return f"{self.prefix} via {self.via}" if self.via else str(self.prefix)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One tunnel.

    ``localaddress`` is a literal or AUTO. ``mtu`` is in bytes of the inner packet, None follows the path;
    ``ttl`` is the outer header's. ``mss`` says to keep that of TCP connections below the MTU. ``encaplimit``
    is how many tunnels more a packet may enter (RFC 2473, 4.1.1), None says nothing of it.
    """

    name: str
    type: TunnelType
    localaddress: str
    remoteaddress: str
    interface: str
    address: tuple[Interface, ...] = ()
    route: tuple[TunnelRoute, ...] = ()
    mtu: int | None = None
    ttl: int = 64
    mss: bool = False
    encaplimit: int | None = None

    def __str__(self) -> str:
        return f"tunnel {self.name}: {self.type} {self.localaddress} -> {self.remoteaddress}"
