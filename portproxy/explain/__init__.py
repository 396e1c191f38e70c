"""Why a connection through a rule fails, or that it would not: walked inside the relay that runs it."""

from __future__ import annotations

from portproxy.errors import PortproxyError
from portproxy.explain import door, firewall, protocols, upstream
from portproxy.explain.case import Case, Relay, client_address
from portproxy.explain.explanation import Explanation, Outcome, Step, as_data, as_text
from portproxy.model import Rule

LONGEST = firewall.PATIENCE + 2 * upstream.PATIENCE
"""Seconds that an explanation waits at most, whatever does not answer."""

__all__ = ["LONGEST", "Explanation", "Outcome", "Relay", "Step", "as_data", "as_text", "explain"]


async def explain(rule: Rule, relay: Relay, source: str | None) -> Explanation:
    """Walk one connection through ``rule``, from a client at the address ``source`` where that is given.

    Every step is walked, in the order of a connection, those behind a failing one too. Nothing is relayed,
    accepted or counted for it; the upstream sees one connection an address, closed at once. Raises
    ConfigError where ``source`` is no address, PortproxyError where the relay does not run the rule.
    """
    case = Case(rule, relay, client_address(source) if source else None)
    snapshot = await relay.snapshot_by_turns()
    status = next((status for status in snapshot.rules if status.rule.name == rule.name), None)
    if status is None:
        raise PortproxyError(f"rule {rule.name}: this relay does not run it")
    steps = [
        door.family(case),
        door.privilege(case, status),
        door.listener(case, status),
        await firewall.firewall(case, status),
        await door.admission(case),
    ]
    resolved, addresses = await upstream.resolve(case)
    loop, onward = upstream.loop(case, addresses)
    steps += [resolved, loop, upstream.source(rule)]
    steps += await upstream.connects(case, onward)
    steps.append(protocols.protocol(rule))
    return Explanation(rule.name, str(case.source or ""), tuple(steps))
