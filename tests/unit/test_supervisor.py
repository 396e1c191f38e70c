"""Changes that are refused, or broken off half-way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio

from portproxy.errors import PortproxyError
from portproxy.model import Config, Endpoint, Rule, literal
from portproxy.net.holder import Listeners
from portproxy.supervisor import Supervisor
from portproxy.tallies import BLOCKS
from tests.relay import rig
from tests.relay.rig import (
    Relay,
    beside,
    dial,
    echo,
    eventually,
    make_rule,
    relaying,
    round_trip,
    to,
    upstream,
    was_reset,
)


@pytest.fixture(autouse=True, params=[1, 2], ids=["one worker", "two workers"])
def _workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "workers", request.param)


@pytest.fixture(scope="module")
def too_many() -> list[Rule]:
    """More rules than there are counters for, on addresses of their own."""
    rule = make_rule()
    return [
        replace(rule, listen=Endpoint(f"127.1.{n >> 8}.{n & 255}", rule.listen.port), name=str(n))
        for n in range(BLOCKS)
    ]


async def test_more_rules_than_there_are_counters_for_change_nothing(too_many: list[Rule]) -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(lambda: echo(service)), relaying(rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                before, config = relay.supervisor.config, relay.config(*too_many)
                with pytest.raises(PortproxyError) as raised:
                    await relay.supervisor.reload(config)
                assert raised.value.lines == (
                    f"there is room for {BLOCKS - 1} rules, those that drain included",
                )
                assert relay.supervisor.config is before
                assert relay.supervisor.errors == {}
                assert [status.rule for status in relay.snapshot().rules] == [rule]
                await round_trip(client)
            with dial(rule) as client:
                await round_trip(client)
            # And it can be changed yet.
            other = to(service, name="other")
            await relay.supervisor.reload(relay.config(rule, other))
            with dial(other) as client:
                await round_trip(client)


async def test_a_start_with_more_rules_than_there_are_counters_for_is_refused(too_many: list[Rule]) -> None:
    relay = Relay()
    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.supervisor.run, relay.config(*too_many))
    assert raised.group_contains(PortproxyError, match=f"^there is room for {BLOCKS - 1} rules")


@asynccontextmanager
async def broken_off(relay: Relay, config: Config) -> AsyncIterator[trio.Event]:
    """A reload is cancelled, as by a signal to stop, when workers have been told of the rules that come, and
    before a port is changed; then the relay drains. The event says when it has.
    """
    supervisor = relay.supervisor
    reloading, drained = trio.CancelScope(), trio.Event()

    async def reload() -> None:
        with reloading:
            await supervisor.reload(config)

    async def drain() -> None:
        await supervisor.drain()
        drained.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        while supervisor.config is not config:
            await trio.lowlevel.checkpoint()
        reloading.cancel()
    assert reloading.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        yield drained


def leaving(supervisor: Supervisor) -> list[str]:
    return [service.rule.name for service in supervisor._services.leaving]


def listening(rule: Rule) -> set[str]:
    """The inodes of the sockets that listen where ``rule`` does."""
    address = literal(rule.bind_address)
    assert address
    return Listeners().in_the_way(address, rule.listen.port)


async def test_sessions_of_rules_that_a_broken_off_reload_left_may_end_by_themselves() -> None:
    with upstream() as service:
        rule, other = to(service), to(service, name="other")
        async with beside(lambda: echo(service)), relaying(rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                async with broken_off(relay, relay.config(other)) as drained:
                    with dial(rule) as queued:
                        await eventually(lambda: not listening(rule))
                        for each in (client, queued):
                            await round_trip(each)
                    await relay.record()
                    assert not drained.is_set()
                    assert leaving(relay.supervisor) == []
                    client.close()
                    await drained.wait()
            await relay.record(1)
            assert [record.reason for record in relay.records] == ["finished"] * 2
            assert relay.supervisor.sessions == 0


async def test_sessions_of_rules_that_a_broken_off_reload_left_have_draintimeout() -> None:
    with upstream() as service:
        rule, other = to(service), to(service, name="other")
        async with beside(lambda: echo(service)), relaying(rule, draintimeout=0.1) as relay:
            with dial(rule) as client:
                await round_trip(client)
                async with broken_off(relay, relay.config(other)) as drained:
                    assert await was_reset(client)
                    await drained.wait()
            assert (await relay.record()).reason == "draintimeout"


async def test_what_comes_to_an_idle_rule_that_a_broken_off_reload_left_is_a_session_like_others() -> None:
    with upstream() as service:
        rule, other = to(service), to(service, name="other")
        async with beside(lambda: echo(service)), relaying(rule) as relay:
            with ExitStack() as clients:
                async with broken_off(relay, relay.config(other)) as drained:
                    queued = clients.enter_context(dial(rule))
                    await round_trip(queued)
                    await eventually(lambda: not listening(rule))
                    assert relay.supervisor.sessions == 1
                    await round_trip(queued)
                    assert not drained.is_set()
                    queued.close()
                    await drained.wait()
            assert (await relay.record()).reason == "finished"
