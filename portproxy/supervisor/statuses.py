"""What is true of every rule, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from portproxy.model import Config
from portproxy.snapshot import RuleState, RuleStatus
from portproxy.supervisor.services import Service, Services


def rule_statuses(
    config: Config, services: Services, errors: Mapping[str, str], *, draining: bool
) -> Iterator[RuleStatus]:
    """Every rule of ``config``, running or shadowed, and those that are leaving: a name once.

    ``errors`` says by name why a rule does not listen; with ``draining`` none is meant to.
    """
    shadowed = dict(config.shadowed)
    retired: dict[str, list[Service]] = {}
    for service in services.leaving | services.retired:
        retired.setdefault(service.rule.name, []).append(service)
    running = services.running
    for rule in config.rules:
        alike = retired.pop(rule.name, [])
        if rule.name not in shadowed:
            alike.insert(0, running[rule.name])
        state, error = rule_state(rule.name, shadowed, errors, draining=draining)
        yield RuleStatus(rule, state, error, services.counted(alike))
    for alike in retired.values():
        yield RuleStatus(alike[0].rule, RuleState.DRAINING, "", services.counted(alike))


def rule_state(
    name: str, shadowed: Mapping[str, str], errors: Mapping[str, str], *, draining: bool
) -> tuple[RuleState, str]:
    """Where a rule of the configuration stands, and its last error: see ``RuleStatus``.

    ``shadowed`` names the rule that each shadowed one gives way to; ``errors`` and ``draining`` are as above.
    """
    if name in shadowed:
        return RuleState.SHADOWED, f"rule {shadowed[name]} holds the same endpoint"
    error = errors.get(name, "")
    return RuleState.DRAINING if draining else RuleState.FAILED if error else RuleState.LISTENING, error
