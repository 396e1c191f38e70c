"""What a relay is told to do: frozen values, no I/O.

Names are netsh's (``netsh interface portproxy``). Durations are seconds, sizes are bytes;
``None`` stands for "off".
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import socket
from dataclasses import dataclass, field

from portproxy.tunnel.model import Tunnel

ANY = "*"
"""netsh's word for "any address of the listening family"."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Family(enum.Enum):
    """An IP family as the four rule types name it."""

    V4 = "v4"
    V6 = "v6"

    @property
    def af(self) -> socket.AddressFamily:
        return socket.AF_INET if self is Family.V4 else socket.AF_INET6

    @property
    def wildcard(self) -> str:
        """The unspecified address, which a listener on ``*`` binds."""
        return "0.0.0.0" if self is Family.V4 else "::"

    @property
    def loopback(self) -> str:
        """netsh's "local computer": what a rule without connectaddress reaches."""
        return "127.0.0.1" if self is Family.V4 else "::1"

    @property
    def version(self) -> int:
        return 4 if self is Family.V4 else 6


class RuleType(enum.StrEnum):
    """The four kinds of rule: the family listened on, to the family connected to."""

    V4TOV4 = "v4tov4"
    V4TOV6 = "v4tov6"
    V6TOV4 = "v6tov4"
    V6TOV6 = "v6tov6"

    def __init__(self, name: str) -> None:
        self.listen_family = Family(name[:2])
        self.connect_family = Family(name[-2:])


class DataPlaneChoice(enum.StrEnum):
    """How a rule's bytes are moved: see ``portproxy.dataplane``."""

    AUTO = "auto"
    SPLICE = "splice"
    COPY = "copy"


@functools.lru_cache(maxsize=1 << 16)
def literal(address: str) -> IPAddress | None:
    """The IP address that ``address`` spells (scope included), or None when it is a name or ``*``."""
    # Asked a dozen times for each address of a configuration, and most of reading one is this: inet_pton(3)
    # needs a fifth of the time, and takes what ipaddress takes but for scopes.
    try:
        if "%" in address:
            return ipaddress.IPv6Address(address)
        if ":" in address:
            return ipaddress.IPv6Address(socket.inet_pton(socket.AF_INET6, address))
        return ipaddress.IPv4Address(socket.inet_pton(socket.AF_INET, address))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address as it was written (IP literal, host name or ``*``) and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def default_name(rule_type: str, listen: Endpoint) -> str:
    """What a rule is called that was given no name."""
    return f"{rule_type}/{listen}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a session, and on how many there may be.

    Times are in seconds and hold for sessions begun after they were set; ``maxconn`` counts the
    rule's sessions, ``maxconnpersource`` those of one IPv4 address or one IPv6 /64.
    """

    connecttimeout: float = 5.0
    idletimeout: float | None = 3600.0
    halfclosetimeout: float | None = 600.0
    maxlifetime: float | None = None
    maxconn: int | None = None
    maxconnpersource: int | None = None


@dataclass(frozen=True, slots=True)
class Acl:
    """Who may connect: the most specific prefix wins, ``deny`` on a tie.

    An address that no prefix covers is admitted, unless ``allow`` names any.
    """

    allow: tuple[IPNetwork, ...] = ()
    deny: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One portproxy entry."""

    type: RuleType
    listen: Endpoint
    connect: Endpoint
    name: str
    protocol: str = "tcp"
    limits: Limits = field(default_factory=Limits)
    acl: Acl = field(default_factory=Acl)
    keepalive: float | None = 60.0
    usertimeout: float | None = None
    connectsource: str | None = None
    backlog: int = 4096
    nodelay: bool = True
    pipesize: int = 1 << 18
    dataplane: DataPlaneChoice = DataPlaneChoice.AUTO
    endpoint: tuple[Family, str, int] = field(init=False, repr=False, compare=False)
    """What no two rules may share: the family listened on, ``bind_address`` and the port."""

    def __post_init__(self) -> None:
        # Every check and every plan compares the endpoints of all rules, and there may be 100,000.
        family, listen = self.type.listen_family, self.listen
        object.__setattr__(self, "endpoint", (family, _bound(listen.address, family), listen.port))

    @property
    def bind_address(self) -> str:
        """What is handed to ``bind``: canonical where it is a literal, ``::`` or ``0.0.0.0`` for ``*``."""
        return self.endpoint[1]

    @property
    def wildcard(self) -> bool:
        """Whether it listens on every address of its family (``*``, ``0.0.0.0`` or ``::``)."""
        return self.endpoint[1] == self.endpoint[0].wildcard


@functools.lru_cache(maxsize=1 << 16)
def _bound(address: str, family: Family) -> str:
    if address == ANY:
        return family.wildcard
    ip = literal(address)
    return address.lower() if ip is None else str(ip)


@dataclass(frozen=True, slots=True)
class Server:
    """What concerns the whole process: the ``[server]`` table."""

    status: Endpoint | None = None
    control: str | None = None
    log: str = "console"
    accesslog: str | None = "-"
    draintimeout: float = 30.0
    user: str | None = None
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one relay runs.

    ``shadowed`` maps the name of a rule that cannot listen, because an earlier rule holds the same
    endpoint under its other spelling (``*`` beside ``0.0.0.0`` or ``::``), to that earlier rule's name.
    """

    server: Server = field(default_factory=Server)
    rules: tuple[Rule, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    shadowed: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def active(self) -> tuple[Rule, ...]:
        """The rules that listen: all but the shadowed."""
        hidden = {name for name, _ in self.shadowed}
        return tuple(rule for rule in self.rules if rule.name not in hidden)
