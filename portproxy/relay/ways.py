"""Where connections go: which rule of this worker takes one to an address, and whether it comes back."""

from __future__ import annotations

from collections.abc import Mapping

from portproxy.model import Family, Rule
from portproxy.net.dial import is_local
from portproxy.net.tcp import AddressKey, address_key, sockaddr
from portproxy.reconcile import PortKey
from portproxy.relay.acceptor import Acceptor
from portproxy.relay.instance import Instance

Acceptors = Mapping[PortKey, Mapping[AddressKey, Acceptor]]
"""What listens, by family and port, and by the address that it is bound to."""


def wildcard_key(family: Family) -> AddressKey:
    """The key of the unspecified address."""
    return address_key(sockaddr(family.wildcard, 0))


def serving(acceptors: Acceptors, rule: Rule, address: str) -> Instance | None:
    """The instance that takes a connection of ``rule`` to the literal ``address``, if any does."""
    family, port = rule.type.connect_family, rule.connect.port
    here = acceptors.get((family, port))
    if not here:
        return None
    try:
        key = address_key(sockaddr(address, port))
    except OSError:
        return None
    if key in here:
        return here[key].serving(key)
    wildcard = here.get(wildcard_key(family))
    return wildcard.serving(key) if wildcard and is_local(address) else None


def leads_back(acceptors: Acceptors, rule: Rule, address: str) -> bool:
    """Whether a connection of ``rule`` to ``address`` comes back to it, through whichever rules."""
    passed: set[Instance] = set()
    ways = [(rule, address)]
    while ways:
        at, address = ways.pop()
        reached = serving(acceptors, at, address)
        if reached is None or reached in passed:
            continue
        if reached.rule.endpoint == rule.endpoint:
            return True
        passed.add(reached)
        ways += [(reached.rule, further) for further in reached.last_addresses()]
    return False
