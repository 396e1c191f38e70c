"""Why a connection through a rule fails, or that it would not: walked inside the relay that runs it."""

from __future__ import annotations

from portproxy.errors import PortproxyError
from portproxy.explain import firewall, listening, protocols, upstream
from portproxy.explain.case import Case, client_address
from portproxy.explain.explanation import Explanation, as_data, as_text
from portproxy.model import Rule
from portproxy.supervisor import Supervisor
from portproxy.supervisor.statuses import rule_state

__all__ = ["as_data", "as_text", "explain"]


async def explain(rule: Rule, relay: Supervisor, source: str | None) -> Explanation:
    """Walk one connection through ``rule``, from a client at the address ``source`` where that is given.

    Every step is walked, in the order of a connection, those behind a failing one too. Nothing is relayed,
    accepted or counted for it; the upstream sees one connection an address, closed at once. Raises
    ConfigError where ``source`` is no address, PortproxyError where the relay does not run the rule.
    """
    client = client_address(source) if source else None
    shadowed = dict(relay.config.shadowed)
    if not relay.runs(rule.name) and rule.name not in shadowed:
        raise PortproxyError(f"rule {rule.name}: this relay does not run it")
    state, error = rule_state(rule.name, shadowed, relay.errors, draining=relay.draining)
    rooms = await relay.room(rule, str(client) if client else None)
    case = Case(rule, relay, client, state, error, rooms)
    steps = [
        listening.family(case),
        listening.privilege(case),
        listening.listener(case),
        await firewall.firewall(case),
        listening.admission(case),
    ]
    resolved, addresses = await upstream.resolve(case)
    ways = dict(zip(addresses, await relay.ways(rule, addresses), strict=False))
    loop, onward = upstream.loop(rule, addresses, ways)
    steps += [resolved, loop, upstream.source(rule)]
    steps += await upstream.connects(rule, onward, ways)
    steps.append(protocols.protocol(rule))
    return Explanation(rule.name, str(case.source or ""), tuple(steps))
