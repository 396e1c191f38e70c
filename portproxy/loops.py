"""Rules that connect to listeners of the same configuration, and so to themselves in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from portproxy.model import ANY, Family, IPAddress, Rule, literal

IsLocal = Callable[[str], bool]
"""Whether an IP address is one of this host's."""

_Host = IPAddress | str
"""An address, or a name that is not looked up."""


def rings(rules: Sequence[Rule], is_local: IsLocal | None = None) -> list[list[int]]:
    """The rings among ``rules``, by index: each connects to the next one's listener, the last to the first's.

    A connection reaches one listener at most, the specific one before the wildcard one. A wildcard
    listener is reached through loopback addresses and names (RFC 6761 section 6.3), through addresses that
    another rule listens on, and through those that ``is_local`` knows; other names are not looked up.
    Takes time linear in the number of rules. Each ring begins with the first of its rules.
    """
    reached = _Listeners(rules, is_local)
    found = []
    walk_of = [-1] * len(rules)
    for start in range(len(rules)):
        at: int | None = start
        path: list[int] = []
        while at is not None and walk_of[at] == -1:
            walk_of[at] = start
            path.append(at)
            at = reached.by(rules[at])
        if at is not None and walk_of[at] == start:
            ring = path[path.index(at) :]
            first = ring.index(min(ring))
            found.append(ring[first:] + ring[:first])
    return found


class _Listeners:
    """Which rule a connection reaches, by where the rules listen."""

    def __init__(self, rules: Sequence[Rule], is_local: IsLocal | None) -> None:
        self._rules = rules
        self._is_local = is_local
        self._index: dict[tuple[Family, _Host, int], int] = {}
        # Most rules have a port that none connects to, and need no closer look.
        reached = {rule.connect.port for rule in rules}
        for number, rule in enumerate(rules):
            if rule.listen.port in reached:
                self._index.setdefault((*_listening(rule), rule.listen.port), number)
        self._ports = {port for _, _, port in self._index}

    @cached_property
    def _hosts(self) -> set[tuple[Family, _Host]]:
        """Where the rules listen, on whatever port."""
        return {_listening(rule) for rule in self._rules}

    def by(self, rule: Rule) -> int | None:
        """The number of the rule that takes the connections of ``rule``, None where they leave this relay."""
        family, port = rule.type.connect_family, rule.connect.port
        if port not in self._ports:
            return None
        host = _host(rule.connect.address, family)
        exact = self._index.get((family, host, port))
        if exact is not None:
            return exact
        wildcard = self._index.get((family, _host(ANY, family), port))
        return wildcard if wildcard is not None and self._local(family, host) else None

    def _local(self, family: Family, host: _Host) -> bool:
        if (family, host) in self._hosts:
            return True
        if isinstance(host, str):
            return False
        return host.is_loopback or (self._is_local is not None and self._is_local(str(host)))


def is_loopback(address: str, family: Family) -> bool:
    """Whether an address or name of a rule is this computer's loopback, by its spelling alone."""
    host = _host(address, family)
    return not isinstance(host, str) and host.is_loopback


def _listening(rule: Rule) -> tuple[Family, _Host]:
    family = rule.endpoint[0]
    return family, _host(rule.listen.address, family)


def _host(address: str, family: Family) -> _Host:
    """One value for each host, however it is spelled."""
    ip = literal(family.wildcard if address == ANY else address)
    if ip is not None:
        return ip
    name = address.lower().removesuffix(".")
    local = name == "localhost" or name.endswith(".localhost")
    return _host(family.loopback, family) if local else name
