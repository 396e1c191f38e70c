"""A relay that is told to stop while it waits for something: at its start, in a reload, in a retry."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from portproxy.model import Rule, literal
from portproxy.net.holder import Listeners
from tests.relay.rig import beside, dial, echo, eventually, make_rule, round_trip, to, upstream
from tests.relay.served import Served, serving, table

SERVER = '[server]\nlog = "json"\ndraintimeout = "1h"\n'

slow_names = partial(serving, module="tests.relay.slow_names")


def named(name: str) -> str:
    """The table of a rule that listens on a name."""
    rule = make_rule(name="named")
    return table(rule, listenaddress=name)


def listens(rule: Rule) -> bool:
    address = literal(rule.bind_address)
    assert address
    return bool(Listeners().in_the_way(address, rule.listen.port))


async def stops(served: Served) -> None:
    """That it exits as after any stop, and has no fault to tell of."""
    assert await served.process.wait() == 0
    await served.said("stopped")
    assert [line for line in served.events if "traceback" in line] == []


@asynccontextmanager
async def with_a_session(path: Path) -> AsyncIterator[tuple[Served, Rule]]:
    """A relay with one session, which in the end is all that keeps it from stopping."""
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), slow_names(path, SERVER, table(rule)) as served:
            with dial(rule) as client:
                await round_trip(client)
                yield served, rule
                await eventually(lambda: not listens(rule))
                await round_trip(client, b"still there")
            await stops(served)
            assert [record["reason"] for record in served.records] == ["finished"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    async with slow_names(tmp_path / "f", SERVER, named("name.silent"), until="asked") as served:
        served.signal(number)
        await stops(served)
        assert await served.said("ready", 0) == []


async def test_while_a_reload_waits_for_a_name(tmp_path: Path) -> None:
    async with with_a_session(tmp_path / "f") as (served, rule):
        served.write(SERVER, table(rule), named("name.silent"))
        served.signal(signal.SIGHUP)
        await served.said("asked")
        served.signal(signal.SIGTERM)
    assert await served.said("reloaded", 0) == []


async def test_while_a_retry_waits_for_a_name(tmp_path: Path) -> None:
    async with with_a_session(tmp_path / "f") as (served, rule):
        await served.reload(SERVER, table(rule), named("name.soon.silent"))
        await served.said("does not listen")
        await served.said("asked")
        served.signal(signal.SIGTERM)


async def test_while_a_reload_waits_for_its_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    async with with_a_session(path) as (served, _):
        path.unlink()
        os.mkfifo(path)
        served.signal(signal.SIGHUP)
        writers: list[int] = []
        await eventually(lambda: opened(path, writers))
        try:
            served.signal(signal.SIGTERM)
            await served.said("stopping")
        finally:
            os.close(writers[0])


def opened(fifo: Path, writers: list[int]) -> bool:
    """Whether somebody reads ``fifo``; who waits then for what the descriptor added to ``writers`` sends."""
    try:
        writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # ENXIO, fifo(7)
        return False
    return True
