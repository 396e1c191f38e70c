"""The connection in question: a rule of a running relay, and a client where one was named."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from portproxy.errors import ConfigError, shown
from portproxy.model import Family, IPAddress, Rule, literal
from portproxy.net.resolver import ResolveError
from portproxy.net.tcp import sockaddr
from portproxy.snapshot import RuleState
from portproxy.supervisor import Supervisor
from portproxy.wire.worker_frames import RoomLeft

ADVICE_ON_SHORTAGE = "raise RLIMIT_NOFILE (systemd: LimitNOFILE=), or set maxconn on the rules"


@dataclass(frozen=True, slots=True)
class Case:
    """One connection: its rule, the relay, and the client's address or None.

    ``state`` and ``last_error`` are the rule's when the explanation began: see ``RuleStatus``; ``rooms`` is
    what the client would find in each worker then.
    """

    rule: Rule
    relay: Supervisor
    source: IPAddress | None
    state: RuleState
    last_error: str
    rooms: Sequence[RoomLeft]

    @property
    def counted(self) -> Sequence[int]:
        """The rule's counters, as ``portproxy.counters`` lays them out."""
        return self.relay.counted(self.rule.name)

    @property
    def bound(self) -> str:
        """The literal that the rule binds; empty where its listen address is a name without one."""
        try:
            return self.relay.bound_address(self.rule)
        except ResolveError:
            return ""


def client_address(text: str) -> IPAddress:
    """The address of a client as the relay judges it: a v4-mapped one is IPv4 (RFC 4291, 2.5.5.2).

    Raises ConfigError where ``text`` is none.
    """
    ip = literal(text)
    if ip is None:
        raise ConfigError([f"--from {shown(text)}: not an IP address, like 192.0.2.1 or 2001:db8::1"])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def errno_name(error: OSError) -> str:
    """The name of the errno, as errno(3) lists it."""
    return errno.errorcode.get(error.errno or errno.EIO, str(error.errno))


def bind_error(family: Family, address: str, port: int) -> str:
    """The name of the errno that binding a TCP socket to this literal gives now, empty where it can be bound.

    Nothing listens on it, and it is closed at once, so that nobody sees it.
    """
    try:
        with socket.socket(family.af, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is Family.V6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(sockaddr(address, port))
    except OSError as error:
        return errno_name(error)
    return ""
