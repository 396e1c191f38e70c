"""Several workers are asked as one: sessions, kills, explanations."""

from __future__ import annotations

import resource
from contextlib import ExitStack

import pytest

from portproxy.explain.explanation import Outcome
from portproxy.model import Limits
from portproxy.reasons import Ended
from tests.relay import rig
from tests.relay.rig import dial, make_rule, round_trip, was_reset
from tests.relay.test_workers import pids, stopped, two_workers
from tests.relay.walks import step_of, walk


@pytest.fixture(autouse=True)
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "workers", 2)


async def test_sessions_are_listed_and_killed_wherever_they_are() -> None:
    async with two_workers() as (relay, rule):
        with ExitStack() as stack:
            clients = []
            for other in pids(relay):
                with stopped(other):
                    for _ in range(20):
                        clients.append(stack.enter_context(dial(rule)))
                        await round_trip(clients[-1])
            statuses = await relay.supervisor.session_statuses("rule")
            assert len({status.id for status in statuses}) == len(statuses) == 40
            assert [status.client for status in statuses] == [
                f"127.0.0.1:{client.getsockname()[1]}" for client in clients
            ]
            for status, client in zip(statuses, clients, strict=True):
                killed = await relay.supervisor.kill(status.id)
                assert killed
                assert killed.client == status.client
                assert await was_reset(client)
            for nobody in ("1", "1.", "1.0", "99.1", "", ".", "1.x"):
                assert await relay.supervisor.kill(nobody) is None
            assert relay.counted(Ended.KILLED) == 40


async def test_an_explanation_counts_what_each_worker_has() -> None:
    async with two_workers(limits=Limits(maxconnpersource=1)) as (relay, rule):
        with ExitStack() as stack:
            step = (await walk(relay, rule, "127.0.0.1")).steps[4]
            assert (step.name, step.outcome) == ("admission", Outcome.OK)
            assert "sessions: 0, room for " in step.text
            # More than one process has descriptors for.
            room = int(step.text.split("room for ")[1].split()[0])
            assert room > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
            one, other = pids(relay)
            with stopped(other):
                await round_trip(stack.enter_context(dial(rule)))
            step = step_of(await walk(relay, rule, "127.0.0.1"), "admission")
            assert step.outcome is Outcome.WARNING
            assert step.text.startswith("1 of 2 workers have as many sessions of 127.0.0.1 as may be (1)")
            with stopped(one):
                await round_trip(stack.enter_context(dial(rule)))
            failed = (await walk(relay, rule, "127.0.0.1")).failed
            assert failed
            assert failed.name == "admission"
            assert "as many sessions as maxconnpersource allows (1)" in failed.text
            assert (await walk(relay, rule, "127.0.0.2")).failed is None
            assert "sessions: 2, " in (await walk(relay, rule)).steps[4].text


async def test_an_explanation_follows_the_rules_that_workers_run() -> None:
    async with two_workers() as (relay, rule):
        onward = make_rule(f"127.0.0.1:{rule.listen.port}", name="onward")
        await relay.supervisor.reload(relay.config(rule, onward))
        (step,) = (step for step in (await walk(relay, onward)).steps if step.name.startswith("connect "))
        assert step.text == "rule rule of this relay listens there: explain that one"
