"""What has to be done to get from one configuration to another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portproxy.model import Config, Family, Rule

PortKey = tuple[Family, int]
"""A family and a port: the rules on it are laid out on listening sockets together."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Rules to stop, keep, change (old, new) and start, each by its endpoint.

    A kept rule is not disturbed. A changed one keeps its listening socket and its sessions.
    """

    stop: tuple[Rule, ...]
    keep: tuple[Rule, ...]
    change: tuple[tuple[Rule, Rule], ...]
    start: tuple[Rule, ...]

    @property
    def ports(self) -> tuple[PortKey, ...]:
        """The ports whose listening sockets have to be looked at again."""
        touched = (*self.stop, *(new for _, new in self.change), *self.start)
        return tuple(dict.fromkeys(port_key(rule) for rule in touched))

    def __str__(self) -> str:
        counts = (("stop", self.stop), ("keep", self.keep), ("change", self.change), ("start", self.start))
        return ", ".join(f"{verb} {len(rules)}" for verb, rules in counts)


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
    return Plan(stop, tuple(keep), tuple(change), tuple(start))


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
