"""What a tunnel is to be: the ``[[tunnel]]`` tables as values."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass

AUTO = "auto"
"""As ``localaddress``: the address that the route to the peer leaves from, followed when it changes. For an
automatic type that is the route to its relay or its first router, where there is none the default route."""

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class TunnelType(enum.StrEnum):
    """The modes, in netsh's words where it has any: the inner family first.

    They are declared in the order in which those that share an IPv4 address are asked whether what arrived is
    theirs: whoever is configured with its peer knows best, ``::/96`` is the least particular.
    """

    V6V4TUNNEL = "v6v4tunnel"
    V4V6TUNNEL = "v4v6tunnel"
    ISATAP = "isatap"
    SIXTOFOUR = "6to4"
    V4COMPAT = "v4compat"

    @property
    def inner(self) -> int:
        """The IP version that is carried."""
        return 4 if self is TunnelType.V4V6TUNNEL else 6

    @property
    def outer(self) -> int:
        """The IP version that carries."""
        return 10 - self.inner

    @property
    def automatic(self) -> bool:
        """Whether the packet's destination says where the tunnel ends, instead of a configured peer."""
        return self not in (TunnelType.V6V4TUNNEL, TunnelType.V4V6TUNNEL)


class Role(enum.StrEnum):
    """What this host is in a tunnel of many ends: one of them, the way to others, or the way out."""

    HOST = "host"
    ROUTER = "router"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class TunnelRoute:
    """A prefix that is reached through the tunnel, by the gateway ``via`` there where one is named. Those
    ``learned`` are not the configuration's: a router says so."""

    prefix: Network
    via: Address | None = None
    learned: bool = False

    def __str__(self) -> str:
        return f"{self.prefix} via {self.via}" if self.via else str(self.prefix)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One tunnel.

    ``localaddress`` is a literal or AUTO, ``remoteaddress`` a literal, empty for an automatic type. ``mtu``
    is in bytes of the inner packet, None follows the path; ``ttl`` is the outer header's. ``mss`` says to
    keep that of TCP connections below the MTU. ``encaplimit`` is how many tunnels more a packet may enter
    (RFC 2473, 4.1.1), None says nothing of it.

    6to4 and ISATAP have a ``role``. What a 6to4 host or router has for no other site goes to ``relay``, a
    name or IPv4 literal, nowhere where that is None (RFC 3056, 5.2). Each interface of ``advertise`` gets a
    subnet of a 6to4 router's site: the first one 1, the next one 2, and so on. Each ``router``, names and
    IPv4 literals, may send what is from elsewhere than its ISATAP link, and hosts ask it (RFC 5214, 7.3 and
    8.3.2); an ISATAP router advertises each ``prefix``, of 64 bits all. ``private`` admits IPv4 addresses
    that are not public to a type that is for public ones.
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
    role: Role = Role.HOST
    relay: str | None = None
    router: tuple[str, ...] = ()
    prefix: tuple[ipaddress.IPv6Network, ...] = ()
    advertise: tuple[str, ...] = ()
    private: bool = False

    def __str__(self) -> str:
        to = f" -> {self.remoteaddress}" if self.remoteaddress else ""
        return f"tunnel {self.name}: {self.type} {self.localaddress}{to}"
