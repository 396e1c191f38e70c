"""Sessions as an operator sees them, in each state, and ends them."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from portproxy import counters
from portproxy.model import Config, DataPlaneChoice, Family, Limits
from portproxy.reasons import ConnectFailed, Ended, Reason
from portproxy.relay.census import by_turns, session_statuses
from portproxy.snapshot import RuleState, SessionState, SessionStatus
from tests.relay.rig import (
    Relay,
    adds_up,
    beside,
    dial,
    echo,
    eventually,
    make_rule,
    port_of,
    relaying,
    round_trip,
    send_all,
    to,
    upstream,
    was_reset,
)
from tests.relay.scenes import UNLIMITED, dialling, session


async def only(relay: Relay) -> SessionStatus:
    """The one session there is."""
    (status,) = await relay.supervisor.session_statuses()
    return status


async def once(relay: Relay, condition: Callable[[SessionStatus], bool]) -> SessionStatus:
    """The one session, once ``condition`` holds for it."""
    while not condition(status := await only(relay)):  # noqa: ASYNC110
        await trio.sleep(0.001)
    return status


async def once_in(relay: Relay, state: SessionState) -> SessionStatus:
    return await once(relay, lambda status: status.state is state)


async def ids(relay: Relay, rule: str | None = None) -> list[str]:
    return [status.id for status in await relay.supervisor.session_statuses(rule)]


async def kill(relay: Relay, reason: Reason) -> None:
    """End the one session; it is gone from the list, and accounted for."""
    status = await only(relay)
    killed = await relay.supervisor.kill(status.id)
    assert killed
    assert (killed.id, killed.client, killed.state) == (status.id, status.client, status.state)
    assert await ids(relay) == []
    assert await relay.supervisor.kill(status.id) is None
    record = await relay.record()
    adds_up(record)
    assert (record.reason, record.client, record.upstream) == (reason, killed.client, killed.upstream)
    assert (record.up_accepted, record.up_delivered) == (killed.up_accepted, killed.up_delivered)
    assert (record.down_accepted, record.down_delivered) == (killed.down_accepted, killed.down_delivered)
    assert relay.counted(reason) == 1
    assert relay.metric("portproxy_connections_active", rule="rule") == 0


async def shows_reset(sock: trio.socket.SocketType) -> None:
    """Return once ``sock`` shows it was reset: after an end of stream only a write does."""
    with suppress(ConnectionError):
        while True:
            await sock.send(b"?")


async def test_a_session_that_dials() -> None:
    async with dialling() as (relay, client):
        status = await only(relay)
        connect = relay.supervisor.config.rules[0].connect
        assert (status.rule, status.state) == ("rule", SessionState.DIALLING)
        assert status.client == "{}:{}".format(*client.getsockname())
        assert status.upstream == str(connect)
        assert (status.idle, status.dataplane) == (None, "")
        assert status.age >= 0
        assert (status.up_accepted, status.down_accepted) == (0, 0)
        await kill(relay, ConnectFailed.KILLED)
        assert await was_reset(client)


@pytest.mark.alone("looks names up in the test's own process")
async def test_a_session_that_waits_for_a_name() -> None:
    gate = threading.Event()

    def slow(name: str, family: Family) -> tuple[str, ...]:
        gate.wait()
        return ("127.0.0.1",)

    with upstream() as service:
        rule = make_rule(f"name.example:{port_of(service)}")
        async with relaying(rule, lookup=slow) as relay:
            try:
                with dial(rule) as client:
                    await eventually(lambda: relay.supervisor.sessions)
                    status = await only(relay)
                    assert (status.state, status.upstream) == (SessionState.DIALLING, "")
                    await kill(relay, ConnectFailed.KILLED)
                    assert await was_reset(client)
            finally:
                gate.set()
            # The name comes, and nobody is dialled for it.
            await eventually(lambda: relay.supervisor.resolver.fresh("name.example", Family.V4))
            await trio.testing.wait_all_tasks_blocked()
            assert await relay.supervisor.session_statuses() == ()
    assert len(relay.records) == 1


async def test_a_session_that_relays() -> None:
    async with session() as (relay, client, server):
        await send_all(client, b"question")
        assert await server.recv(99) == b"question"
        await send_all(server, b"answer")
        assert await client.recv(99) == b"answer"
        status = await only(relay)
        assert status.state is SessionState.RELAYING
        assert status.upstream == "{}:{}".format(*server.getsockname())
        assert (status.up_accepted, status.up_delivered) == (8, 8)
        assert (status.down_accepted, status.down_delivered) == (6, 6)
        assert status.dataplane == "copy"
        assert status.idle is not None
        assert 0 <= status.idle <= status.age
        await kill(relay, Ended.KILLED)
        assert await was_reset(client)
        assert await was_reset(server)


@pytest.mark.alone("turns the worker's clock")
async def test_idle_counts_from_the_last_bytes_and_age_from_the_beginning() -> None:
    async with session() as (relay, client, server):
        await send_all(client, b"1")
        assert await server.recv(9) == b"1"
        before = await only(relay)
        clock = relay.worker.engine.clock
        relay.worker.engine.clock = lambda: clock() + 100
        later = await only(relay)
        await send_all(client, b"2")
        assert await server.recv(9) == b"2"
        again = await only(relay)
    assert before.idle is not None
    assert later.idle is not None
    assert again.idle is not None
    assert later.age >= before.age + 100
    assert later.idle >= before.idle + 100
    assert again.idle < 100 < again.age


async def half_closed(relay: Relay, one: trio.socket.SocketType, other: trio.socket.SocketType) -> None:
    """``one`` has sent its end of stream; ``other`` goes on."""
    one.shutdown(socket.SHUT_WR)
    assert await other.recv(1) == b""
    await send_all(other, b"more")
    assert await one.recv(9) == b"more"


async def test_a_session_whose_client_has_finished() -> None:
    async with session() as (relay, client, server):
        await half_closed(relay, client, server)
        status = await once_in(relay, SessionState.CLIENT_FINISHED)
        assert (status.up_delivered, status.down_delivered) == (0, 4)
        await kill(relay, Ended.KILLED)
        assert await was_reset(client)
        await shows_reset(server)


async def test_a_session_whose_upstream_has_finished() -> None:
    async with session() as (relay, client, server):
        await half_closed(relay, server, client)
        status = await once_in(relay, SessionState.UPSTREAM_FINISHED)
        assert (status.up_delivered, status.down_delivered) == (4, 0)
        await kill(relay, Ended.KILLED)
        assert await was_reset(server)
        await shows_reset(client)


async def flood(sock: trio.socket.SocketType) -> None:
    """Send until the connection is reset."""
    with suppress(ConnectionError):
        while True:
            await sock.send(bytes(1 << 16))


@pytest.mark.parametrize("plane", DataPlaneChoice)
async def test_what_was_in_flight_is_counted_when_killed(plane: DataPlaneChoice) -> None:
    with upstream() as service:
        rule = to(service, limits=UNLIMITED, dataplane=plane)
        async with relaying(rule) as relay:
            with dial(rule) as client:
                server, _ = await service.accept()
                with server:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(flood, client)
                        status = await once(relay, lambda status: status.up_accepted > status.up_delivered)
                        assert status.dataplane == ("copy" if plane is DataPlaneChoice.COPY else "splice")
                        await kill(relay, Ended.KILLED)
                    assert await was_reset(server)
    assert relay.records[0].up_discarded > 0


@asynccontextmanager
async def two_rules(
    draintimeout: float = 30.0,
) -> AsyncIterator[tuple[Relay, list[trio.socket.SocketType]]]:
    """Five clients of two rules by turns: the sessions 1, 3 and 5 of one, 2 and 4 of the other."""
    with upstream() as service, ExitStack() as stack:
        rules = [to(service, name=name, limits=Limits(idletimeout=None)) for name in ("one", "other")]
        async with beside(partial(echo, service)), relaying(*rules, draintimeout=draintimeout) as relay:
            clients = []
            for number in range(5):
                client = stack.enter_context(dial(rules[number % 2]))
                await round_trip(client)
                clients.append(client)
            yield relay, clients


@pytest.mark.alone("numbers are a worker's own")
async def test_numbers_are_unique_across_rules_and_the_oldest_is_first() -> None:
    async with two_rules() as (relay, clients):
        statuses = await relay.supervisor.session_statuses()
        assert [(status.id, status.rule) for status in statuses] == [
            ("1", "one"),
            ("2", "other"),
            ("3", "one"),
            ("4", "other"),
            ("5", "one"),
        ]
        assert [status.client for status in statuses] == [
            "{}:{}".format(*client.getsockname()) for client in clients
        ]
        assert await ids(relay, "other") == ["2", "4"]
        assert await ids(relay, "nobody") == []


async def ids_of(relay: Relay, clients: list[trio.socket.SocketType]) -> list[str]:
    """The sessions' ids, in the order of ``clients``."""
    found = {status.client: status.id for status in await relay.supervisor.session_statuses()}
    assert len(found) == len({*found.values()}) == len(clients)
    return [found["{}:{}".format(*client.getsockname())] for client in clients]


async def test_a_kill_ends_that_session_alone() -> None:
    async with two_rules() as (relay, clients):
        before = await ids_of(relay, clients)
        killed = await relay.supervisor.kill(before[2])
        assert killed
        assert (killed.id, killed.rule) == (before[2], "one")
        assert await was_reset(clients[2])
        assert {*await ids(relay)} == {*before} - {before[2]}
        for number in (0, 1, 3, 4):
            await round_trip(clients[number])
        await relay.record()
        assert relay.counted(Ended.KILLED, "one") == 1
        assert relay.counted(Ended.KILLED, "other") == 0


async def test_nobody_is_killed_by_another_id() -> None:
    async with two_rules() as (relay, clients):
        id = (await ids_of(relay, clients))[0]
        near = [
            f"0{id}",
            f" {id}",
            f"{id} ",
            f"-{id}",
            f"{id}.",
            f".{id}",
            f"{id}.1",
            id.replace("1", "\u0661"),
        ]
        for other in (*near, "0", "6", "1.", ".1", ".", "", "one", "3.1", "1.0", "\udce9"):
            assert await relay.supervisor.kill(other) is None
        assert len(await ids(relay)) == 5


async def test_sessions_of_a_rule_that_is_gone_are_listed_and_can_be_killed() -> None:
    async with two_rules() as (relay, clients):
        before = await ids_of(relay, clients)
        await relay.supervisor.reload(relay.config(relay.supervisor.config.rules[0]))
        assert {*await ids(relay, "other")} == {before[1], before[3]}
        snapshot = await relay.supervisor.snapshot()
        assert [(status.rule.name, status.state) for status in snapshot.rules] == [
            ("one", RuleState.LISTENING),
            ("other", RuleState.DRAINING),
        ]
        assert await relay.supervisor.kill(before[3])
        assert await was_reset(clients[3])
        await round_trip(clients[1])
        assert await ids(relay, "other") == [before[1]]


async def test_sessions_go_by_the_name_that_their_rule_has_now() -> None:
    async with session() as (relay, _, server):
        (rule,) = relay.supervisor.config.rules
        before = await ids(relay, "rule")
        renamed = to(server, listen=rule.listen, name="renamed")
        await relay.supervisor.reload(relay.config(renamed))
        assert (await only(relay)).rule == "renamed"
        assert await ids(relay, "renamed") == before != []
        assert await ids(relay, "rule") == []


async def test_a_shadowed_rule_whose_old_sessions_drain_is_there_once() -> None:
    with upstream() as service:
        first = to(service, name="first")
        rule = to(service, name="rule")
        async with beside(partial(echo, service)), relaying(first, rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                moved = replace(rule, listen=first.listen)
                hidden = Config(relay.server, (first, moved), shadowed=(("rule", "first"),))
                await relay.supervisor.reload(hidden)
                statuses = (await relay.supervisor.snapshot()).rules
                assert [(status.rule, status.state) for status in statuses] == [
                    (first, RuleState.LISTENING),
                    (moved, RuleState.SHADOWED),
                ]
                assert statuses[1].block[counters.ACTIVE] == 1
                assert statuses[1].block[counters.UP] == 4
                assert len(await ids(relay, "rule")) == 1


@pytest.mark.alone("looks at the worker's sessions")
async def test_who_ends_while_the_others_are_looked_at_is_left_out() -> None:
    async with two_rules() as (relay, _):
        statuses = session_statuses(relay.worker.instances.values(), None, relay.worker.engine.clock())
        assert next(statuses).id == "1"
        assert await relay.supervisor.kill("5")
        assert [status.id for status in statuses] == ["2", "3", "4"]


@pytest.mark.alone("of what has no worker")
async def test_many_are_looked_at_by_turns() -> None:
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with beside(neighbour):
        assert await by_turns(iter(range(3000))) == tuple(range(3000))
        assert turns >= 10


@pytest.mark.alone("a worker in a process of its own counts what was moved every second")
async def test_a_snapshot_has_what_live_sessions_moved_and_the_last_one_what_was_counted_by_then() -> None:
    async with two_rules() as (relay, clients):
        before = relay.supervisor.last_snapshot()
        now = await relay.supervisor.snapshot({"log": 1})
        assert sum(status.block[counters.UP] for status in before.rules) == 0
        assert sum(status.block[counters.UP] for status in now.rules) == 4 * len(clients)
        assert relay.supervisor.last_snapshot().rules == now.rules
        assert now.uptime >= before.uptime > 0
        assert (before.lost_lines, now.lost_lines) == ({}, {"log": 1})


async def test_counters_add_up_when_all_are_killed() -> None:
    async with two_rules() as (relay, clients):
        for id in await ids(relay):
            assert await relay.supervisor.kill(id)
        for client in clients:
            assert await was_reset(client)
        await relay.record(4)
        for record in relay.records:
            adds_up(record)
        for name, count in (("one", 3), ("other", 2)):
            assert relay.metric("portproxy_connections_total", rule=name) == count
            assert relay.counted(Ended.KILLED, name) == count
            assert relay.metric("portproxy_connections_active", rule=name) == 0
            assert relay.metric("portproxy_bytes_total", rule=name, direction="up") == 4 * count
            assert relay.metric("portproxy_bytes_total", rule=name, direction="down") == 4 * count
    assert [record.reason for record in relay.records] == ["killed"] * 5
