"""What a name counts, while its rules are deleted, renamed and moved beside sessions that drain."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from portproxy import counters
from portproxy.handlers import health_reply
from portproxy.model import Endpoint, Limits, Rule
from portproxy.snapshot import RuleState
from tests.relay.rig import (
    Relay,
    beside,
    dial,
    echo,
    eventually,
    free_port,
    relaying,
    round_trip,
    to,
    upstream,
    was_reset,
)
from tests.relay.scenes import UNLIMITED

Totals = dict[str, tuple[int, int, int]]
"""By name: connections, and bytes delivered up and down."""


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Relay, trio.socket.SocketType]]:
    """A relay without rules yet, and a service that echoes."""
    with upstream() as service:
        async with beside(partial(echo, service)), relaying(draintimeout=600) as relay:
            yield relay, service


def elsewhere(rule: Rule) -> Rule:
    return replace(rule, listen=Endpoint("127.0.0.1", free_port()))


async def totals(relay: Relay) -> Totals:
    """What each name has counted by now, live sessions included."""
    slots = (counters.CONNECTIONS, counters.UP + 1, counters.DOWN + 1)
    return {
        status.rule.name: (status.block[slots[0]], status.block[slots[1]], status.block[slots[2]])
        for status in (await relay.supervisor.snapshot()).rules
    }


def active(relay: Relay) -> dict[str, int]:
    """Sessions by name, of names that have some."""
    rules = relay.snapshot().rules
    assert len({status.rule.name for status in rules}) == len(rules)
    return {status.rule.name: n for status in rules if (n := status.block[counters.ACTIVE])}


def draining_idle(relay: Relay) -> list[str]:
    """Names whose last session has ended in its worker, of which the supervisor has yet to hear."""
    rules = relay.snapshot().rules
    return [
        status.rule.name
        for status in rules
        if status.state is RuleState.DRAINING and not status.block[counters.ACTIVE]
    ]


async def listed(relay: Relay) -> dict[str, int]:
    found: dict[str, int] = {}
    for status in await relay.supervisor.session_statuses():
        found[status.rule] = found.get(status.rule, 0) + 1
    return found


async def agree(relay: Relay, sessions: dict[str, int]) -> None:
    """Status, metrics, health and the list of sessions all say ``sessions``, by name."""
    assert active(relay) == sessions
    assert await listed(relay) == sessions
    for name, number in sessions.items():
        assert relay.metric("portproxy_connections_active", rule=name) == number
    health = health_reply(relay.snapshot()).data
    assert health["sessions"] == relay.supervisor.sessions == sum(sessions.values())


async def test_a_rule_takes_the_name_of_one_that_drains() -> None:
    async with serving() as (relay, service):
        x, y = to(service, name="x"), to(service, name="y")
        await relay.supervisor.reload(relay.config(x, y))
        with dial(x) as old, dial(y) as new:
            await round_trip(old, bytes(1000))
            await round_trip(new, bytes(10))
            await relay.supervisor.reload(relay.config(y))
            await agree(relay, {"x": 1, "y": 1})
            await relay.supervisor.reload(relay.config(replace(y, name="x")))
            await agree(relay, {"x": 2})
            assert await totals(relay) == {"x": (2, 1010, 1010)}
            await round_trip(old, bytes(500))
            assert await totals(relay) == {"x": (2, 1510, 1510)}
            old.close()
            await relay.record()
            await agree(relay, {"x": 1})
            assert await totals(relay) == {"x": (2, 1510, 1510)}


async def test_a_rule_is_renamed_after_it_moved() -> None:
    async with serving() as (relay, service):
        here = to(service, name="m")
        there = elsewhere(here)
        await relay.supervisor.reload(relay.config(here))
        with dial(here) as old:
            await round_trip(old, bytes(1000))
            await relay.supervisor.reload(relay.config(there))
            await agree(relay, {"m": 1})
            await relay.supervisor.reload(relay.config(replace(there, name="n")))
            with dial(there) as new:
                await round_trip(new, bytes(7))
                await agree(relay, {"m": 1, "n": 1})
                assert await totals(relay) == {"n": (1, 7, 7), "m": (1, 1000, 1000)}
        await relay.record(1)
        await eventually(lambda: not draining_idle(relay))
        assert await totals(relay) == {"n": (1, 7, 7)}


async def test_a_moved_rule_has_room_beside_the_sessions_of_its_old_endpoint() -> None:
    async with serving() as (relay, service):
        here = to(service, limits=Limits(maxconn=1))
        there = elsewhere(here)
        await relay.supervisor.reload(relay.config(here))
        with dial(here) as old:
            await round_trip(old)
            await relay.supervisor.reload(relay.config(there))
            with dial(there) as new:
                await round_trip(new)
                await agree(relay, {"rule": 2})
                with dial(there) as refused:
                    assert await was_reset(refused)
            await round_trip(old, b"still there")
        await relay.record(2)
        assert sorted(record.reason for record in relay.records) == ["finished", "finished", "maxconn"]


async def test_a_name_that_drains_twice_keeps_what_its_shorter_half_counted() -> None:
    async with serving() as (relay, service):
        here = to(service)
        there = elsewhere(here)
        await relay.supervisor.reload(relay.config(here))
        with dial(here) as old:
            await round_trip(old)
            await relay.supervisor.reload(relay.config(there))
            with dial(there) as new:
                await round_trip(new)
            await relay.record()
            await relay.supervisor.reload(relay.config())
            (status,) = relay.snapshot().rules
            assert status.state is RuleState.DRAINING
            assert await totals(relay) == {"rule": (2, 8, 8)}


async def test_a_session_that_ends_between_two_turns_is_counted_once() -> None:
    async with serving() as (relay, service):
        here = to(service)
        await relay.supervisor.reload(relay.config(here))
        with dial(here) as client:
            await round_trip(client)
            await relay.supervisor.reload(relay.config(to(service, name="first"), elsewhere(here)))
            statuses = relay.supervisor._rule_statuses()
            assert next(statuses).rule.name == "first"
            (found,) = await relay.supervisor.session_statuses()
            assert await relay.supervisor.kill(found.id)
            (status,) = statuses
            assert status.block[counters.CONNECTIONS] == 1


class Walk:
    """A relay whose rules come, go, move and change names while clients come and go, by chance."""

    def __init__(self, seed: int, relay: Relay, service: trio.socket.SocketType) -> None:
        self.chance = random.Random(seed)
        self.relay = relay
        self.service = service
        self.rules: list[Rule] = []
        self.clients: list[trio.socket.SocketType] = []
        self.seen: Totals = {}

    async def step(self) -> None:
        ways = (self.add, self.delete, self.rename, self.move, self.dial, self.dial, self.hang_up)
        await self.chance.choice(ways)()
        await self.check()

    async def reload(self) -> None:
        await self.relay.supervisor.reload(self.relay.config(*self.rules))

    def unused(self) -> str | None:
        """A name that no running rule has; one that drains may."""
        names = sorted({*"abcd"} - {rule.name for rule in self.rules})
        return self.chance.choice(names) if names else None

    def take(self) -> Rule | None:
        return self.rules.pop(self.chance.randrange(len(self.rules))) if self.rules else None

    async def add(self) -> None:
        if name := self.unused():
            self.rules.append(to(self.service, name=name, limits=UNLIMITED))
            await self.reload()

    async def delete(self) -> None:
        self.take()
        await self.reload()

    async def rename(self) -> None:
        name = self.unused()
        if name and (rule := self.take()):
            self.rules.append(replace(rule, name=name))
            self.seen.pop(rule.name, None)  # what it counted goes with it, by its new name
            await self.reload()

    async def move(self) -> None:
        if rule := self.take():
            self.rules.append(elsewhere(rule))
            await self.reload()

    async def dial(self) -> None:
        if self.rules:
            client = dial(self.chance.choice(self.rules))
            self.clients.append(client)
            await round_trip(client, bytes(self.chance.randrange(1, 5000)))

    async def hang_up(self) -> None:
        if self.clients:
            self.clients.pop(self.chance.randrange(len(self.clients))).close()
            await eventually(lambda: self.relay.supervisor.sessions == len(self.clients))

    async def check(self) -> None:
        await eventually(lambda: not draining_idle(self.relay))
        sessions = await listed(self.relay)
        assert sum(sessions.values()) == len(self.clients)
        await agree(self.relay, sessions)
        now = await totals(self.relay)
        for name in now.keys() & self.seen.keys():
            assert all(new >= old for new, old in zip(now[name], self.seen[name], strict=True)), name
        self.seen = now


@pytest.mark.parametrize("seed", range(8))
async def test_on_any_way_all_sessions_are_counted_once_and_no_total_falls(seed: int) -> None:
    async with serving() as (relay, service):
        walk = Walk(seed, relay, service)
        try:
            for _ in range(40):
                await walk.step()
        finally:
            for client in walk.clients:
                client.close()
