"""What has to be done to get from one configuration to another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portproxy.model import Config, Family, Rule
from portproxy.tunnel.model import Tunnel

PortKey = tuple[Family, int]
"""A family and a port: the rules on it are laid out on listening sockets together."""


@dataclass(frozen=True, slots=True)
class TunnelPlan:
    """The same for tunnels, each by its interface and type.

    A changed one keeps its interface, and what goes through it goes on. ``wanted`` are all of the new
    configuration, in its order.
    """

    stop: tuple[Tunnel, ...] = ()
    keep: tuple[Tunnel, ...] = ()
    change: tuple[tuple[Tunnel, Tunnel], ...] = ()
    start: tuple[Tunnel, ...] = ()
    wanted: tuple[Tunnel, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stop or self.change or self.start)


@dataclass(frozen=True, slots=True)
class Plan:
    """Rules to stop, keep, change (old, new) and start, each by its endpoint.

    A kept rule is not disturbed. A changed one keeps its listening socket and its sessions.
    """

    stop: tuple[Rule, ...]
    keep: tuple[Rule, ...]
    change: tuple[tuple[Rule, Rule], ...]
    start: tuple[Rule, ...]
    tunnels: TunnelPlan

    @property
    def ports(self) -> tuple[PortKey, ...]:
        """The ports whose listening sockets have to be looked at again."""
        touched = (*self.stop, *(new for _, new in self.change), *self.start)
        return tuple(dict.fromkeys(port_key(rule) for rule in touched))

    def __str__(self) -> str:
        rules = _counts(self)
        return f"{rules}; of tunnels {_counts(self.tunnels)}" if self.tunnels else rules


def _counts(plan: Plan | TunnelPlan) -> str:
    counts = (("stop", plan.stop), ("keep", plan.keep), ("change", plan.change), ("start", plan.start))
    return ", ".join(f"{verb} {len(what)}" for verb, what in counts)


def port_key(rule: Rule) -> PortKey:
    """The family and port that ``rule`` listens on."""
    return rule.type.listen_family, rule.listen.port


def plan(old: Config, new: Config) -> Plan:
    """The steps from ``old``, which runs, to ``new``."""
    before = {rule.endpoint: rule for rule in old.active}
    after = {rule.endpoint: rule for rule in new.active}
    keep, change, start = [], [], []
    for endpoint, rule in after.items():
        was = before.get(endpoint)
        if was is None:
            start.append(rule)
        # Most rules of a change by command are the very ones that run, and comparing takes long.
        elif was is rule or was == rule:
            keep.append(rule)
        else:
            change.append((was, rule))
    stop = tuple(rule for endpoint, rule in before.items() if endpoint not in after)
    return Plan(stop, tuple(keep), tuple(change), tuple(start), _plan_tunnels(old, new))


def _plan_tunnels(old: Config, new: Config) -> TunnelPlan:
    before = {(tunnel.interface, tunnel.type): tunnel for tunnel in old.tunnels}
    after = {(tunnel.interface, tunnel.type): tunnel for tunnel in new.tunnels}
    both = [(before[key], tunnel) for key, tunnel in after.items() if key in before]
    return TunnelPlan(
        tuple(tunnel for key, tunnel in before.items() if key not in after),
        tuple(now for was, now in both if now == was),
        tuple((was, now) for was, now in both if now != was),
        tuple(tunnel for key, tunnel in after.items() if key not in before),
        new.tunnels,
    )


def sockets(config: Config) -> int:
    """How many listening sockets ``config`` takes."""
    wildcards = {port_key(rule) for rule in config.active if rule.wildcard}
    return len(wildcards) + sum(port_key(rule) not in wildcards for rule in config.active)


@dataclass(frozen=True, slots=True)
class Listening:
    """One listening socket: what it binds, the rule it stands for, and those that share it."""

    address: str
    default: Rule
    specific: tuple[Rule, ...] = ()


def layout(rules: Sequence[Rule]) -> tuple[Listening, ...]:
    """The listening sockets for rules of one family and port.

    The wildcard and a specific address cannot both listen on one port (bind(2)), so where there is a
    rule for the wildcard its socket serves all.
    """
    specific = tuple(rule for rule in rules if not rule.wildcard)
    wildcard = next((rule for rule in rules if rule.wildcard), None)
    if wildcard:
        return (Listening(wildcard.bind_address, wildcard, specific),)
    return tuple(Listening(rule.bind_address, rule) for rule in specific)
