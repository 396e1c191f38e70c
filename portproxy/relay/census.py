"""Who is here: the status of every session, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TypeVar

import trio

from portproxy.relay.instance import Instance
from portproxy.relay.session import Session
from portproxy.snapshot import SessionStatus

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


def session_statuses(instances: Iterable[Instance], rule: str | None, now: float) -> Iterator[SessionStatus]:
    """The sessions of the rule of this name, or of all, as old as they are at ``now``, the oldest first.

    None that has ended meanwhile.
    """
    mine = (instance for instance in instances if rule is None or instance.rule.name == rule)
    found = [session for instance in mine for session in instance.sessions]
    found.sort(key=attrgetter("number"))
    for session in found:
        if not session.ended:
            yield session.status(now)


def session_by_id(instances: Iterable[Instance], id: str) -> Session | None:
    """The session whose status has this ``id``."""
    everyone = (session for instance in instances for session in instance.sessions)
    return next((session for session in everyone if session.id == id), None)
