"""Every key of a configuration, once: what it takes, its default, and why that is the default.

Files and rules are read by these tables, and those of the README are made from them. Defaults are
those of ``portproxy.model``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable
from dataclasses import dataclass

from portproxy.model import Acl, DataPlaneChoice, Endpoint, Limits, Rule, RuleType, Server
from portproxy.options import addresses, kinds
from portproxy.options.kinds import Kind
from portproxy.tunnel.model import AUTO, Tunnel, TunnelType

_MODEL = {
    field.name: getattr(holder, field.name)
    for holder in (
        Rule(RuleType.V6TOV4, Endpoint("*", 1), Endpoint("127.0.0.1", 1), ""),
        Limits(),
        Acl(),
        Server(),
        Tunnel("", TunnelType.V6V4TUNNEL, AUTO, "", ""),
    )
    for field in dataclasses.fields(holder)
}


@dataclass(frozen=True, slots=True)
class Option:
    """One key: its ``kind`` of values, and ``why`` its default is what it is, for people."""

    name: str
    kind: Kind
    why: str
    shown_default: str = ""

    @property
    def default(self) -> object:
        """The model's default, as the model holds it."""
        return _MODEL[self.name]

    @property
    def default_text(self) -> str:
        """The default as one would write it, or in words where it depends on other keys."""
        return self.shown_default or self.kind.show(self.default)

    def tag(self, value: object) -> str:
        """The setting as ``--rule`` takes it, but for quotes."""
        return f"{self.name}={self.text(value)}"

    def text(self, value: object) -> str:
        """``value`` as a tag has it."""
        # A list is written out here, where an error line shows its first items.
        return ",".join(map(str, value)) or "off" if isinstance(value, tuple) else self.kind.show(value)


def by_name(options: Iterable[Option]) -> dict[str, Option]:
    """The options of a table by their keys, in the table's order."""
    return {option.name: option for option in options}


RULE_KEYS = (
    Option("type", kinds.choice(RuleType, RuleType), "a rule is nothing without its families", "required"),
    Option("listenport", kinds.PORT, "a rule is nothing without its port", "required"),
    Option("listenaddress", addresses.LISTEN, "netsh's: any address of the family", "*"),
    Option("connectaddress", addresses.CONNECT, "netsh's: this computer", "127.0.0.1 or ::1"),
    Option("connectport", kinds.PORT, "netsh's: the same service on both sides", "listenport"),
    Option("protocol", kinds.PROTOCOL, "netsh knows no other"),
    Option(
        "name", kinds.NAME, "says what the rule does in metrics and logs", "type/listenaddress:listenport"
    ),
)
"""What makes a rule: netsh's tags, in netsh's words, and its name. These have no place in ``[defaults]``."""

RULE_OPTIONS = (
    Option(
        "connecttimeout",
        kinds.duration(0.001),
        "a lost SYN is sent again after 1 s and after 3 s, so two losses are survived",
    ),
    Option(
        "idletimeout",
        kinds.duration(0.001, off=True),
        "frees what a vanished peer left, and spares slow users",
    ),
    Option(
        "halfclosetimeout",
        kinds.duration(0.001, off=True),
        "a reply may take its time, but a peer that never closes must go; counts while nothing moves",
    ),
    Option("maxlifetime", kinds.duration(0.001, off=True), "a session that works is not to be ended"),
    # tcp(7): TCP_KEEPIDLE is at most 32767 s (MAX_TCP_KEEPIDLE).
    Option(
        "keepalive",
        kinds.duration(1, 32767, off=True),
        "keeps NAT entries alive and finds dead peers in minutes",
    ),
    # tcp(7): TCP_USER_TIMEOUT is an int of milliseconds, so it ends a little under 597 hours.
    Option(
        "usertimeout",
        kinds.duration(0.001, 596 * 3600, off=True),
        "the kernel gives up after about 15 minutes; shorter cuts sessions in bad networks "
        "(keep-alive is silent while data is unacknowledged)",
    ),
    Option(
        "maxconn",
        kinds.count(1, 10**9, off=True),
        "descriptors are the bound, and their number is said at start",
    ),
    Option(
        "maxconnpersource",
        kinds.count(1, 10**9, off=True),
        "many users may share one address; IPv6 sources count per /64",
    ),
    Option(
        "allow",
        kinds.PREFIXES,
        "netsh admits everyone; where this is not empty, whoever it leaves out is denied",
    ),
    Option("deny", kinds.PREFIXES, "netsh denies nobody; the most specific prefix wins, deny on a tie"),
    Option("connectsource", addresses.SOURCE, "the kernel picks the address by its routes"),
    Option(
        "backlog", kinds.count(1, 65535), "holds a burst; the kernel lowers it to net.core.somaxconn, 4096"
    ),
    Option("nodelay", kinds.FLAG, "a relay adds no delay of its own to small messages"),
    # pipe(7): a pipe starts at 64 KiB, and 1 MiB is /proc/sys/fs/pipe-max-size.
    Option(
        "pipesize",
        kinds.size(1 << 16, 1 << 20),
        "what is moved in one turn; a larger pipe costs less CPU time beside many streams, and more memory",
    ),
    Option("dataplane", kinds.choice(DataPlaneChoice, DataPlaneChoice), "splice where it works, else copy"),
)
"""Options of a rule beyond netsh's: keys of ``[[rule]]``, tags of ``--rule``, and keys of ``[defaults]``."""

SERVER_OPTIONS = (
    Option("status", addresses.ENDPOINT, "nothing listens that was not asked for"),
    Option(
        "control",
        addresses.SOCKET_PATH,
        "where the commands find the relay; off, with a warning, where no socket can be made there",
        "/run/portproxy/control.sock as root, else $XDG_RUNTIME_DIR/portproxy.sock",
    ),
    Option("log", kinds.choice(("console", "json")), "read by people first"),
    Option(
        "accesslog", addresses.LOG_PATH, "every session leaves a line; containers collect standard output"
    ),
    Option("draintimeout", kinds.duration(0), "most exchanges end in it; Kubernetes kills after 30 s"),
    Option("user", kinds.USER, "who starts it decides; as root, name one: it drops root once it listens"),
    Option("workers", kinds.count(1, 64), "one process is enough for most; a worker takes a core at most"),
)
"""The keys of ``[server]``."""


def rule_values(rule: Rule) -> list[tuple[Option, object]]:
    """Each of RULE_OPTIONS with what it is for ``rule``."""
    holders = (rule, rule.limits, rule.acl)
    return [
        (option, getattr(next(holder for holder in holders if hasattr(holder, option.name)), option.name))
        for option in RULE_OPTIONS
    ]


def option_tags(rule: Rule, always: Container[str] = ()) -> list[str]:
    """The options that ``rule`` sets otherwise than by default, and those named in ``always``, as tags."""
    return [
        option.tag(value)
        for option, value in rule_values(rule)
        if value != option.default or option.name in always
    ]
