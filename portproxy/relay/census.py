"""Who is here: the status of every rule and of every session, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TypeVar

import trio

from portproxy import counters
from portproxy.model import Config
from portproxy.relay.instance import Instance
from portproxy.relay.session import Session
from portproxy.snapshot import RuleState, RuleStatus, SessionStatus

_AT_ONCE = 256
"""Rules or sessions that are looked at between two turns of those that relay."""

T = TypeVar("T")


async def by_turns(statuses: Iterator[T]) -> tuple[T, ...]:
    """All of ``statuses``; those that relay get their turns meanwhile."""
    taken: list[T] = []
    for status in statuses:
        if len(taken) % _AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        taken.append(status)
    return tuple(taken)


def rule_statuses(
    config: Config,
    running: Mapping[str, Instance],
    leaving: Iterable[Instance],
    errors: Mapping[str, str],
    *,
    draining: bool,
) -> Iterator[RuleStatus]:
    """Every rule of ``config``, by name ``running`` or shadowed, and those that are ``leaving``: a name once.

    ``errors`` says by name why a rule does not listen; with ``draining`` none is meant to.
    """
    shadowed = dict(config.shadowed)
    retired: dict[str, list[Instance]] = {}
    for instance in leaving:
        retired.setdefault(instance.rule.name, []).append(instance)
    for rule in config.rules:
        instances = retired.pop(rule.name, [])
        if rule.name not in shadowed:
            instances.insert(0, running[rule.name])
        state, error = rule_state(rule.name, shadowed, errors, draining=draining)
        yield RuleStatus(rule, state, error, _counted(instances))
    for instances in retired.values():
        yield RuleStatus(instances[0].rule, RuleState.DRAINING, "", _counted(instances))


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


def _counted(instances: Sequence[Instance]) -> list[int]:
    """The sum of what ``instances`` of one name have counted, and their sessions moved so far."""
    block = list(instances[0].block if instances else counters.new_block())
    for further in instances[1:]:
        counters.add(block, further.block)
    for instance in instances:
        instance.add_live(block)
    return block


def session_statuses(instances: Iterable[Instance], rule: str | None) -> Iterator[SessionStatus]:
    """The sessions of the rule of this name, or of all, the oldest first; none that has ended meanwhile."""
    mine = (instance for instance in instances if rule is None or instance.rule.name == rule)
    found = [session for instance in mine for session in instance.sessions]
    found.sort(key=attrgetter("number"))
    for session in found:
        if not session.ended:
            yield session.status()


def session_by_id(instances: Iterable[Instance], id: str) -> Session | None:
    """The session whose status has this ``id``."""
    everyone = (session for instance in instances for session in instance.sessions)
    return next((session for session in everyone if session.id == id), None)
