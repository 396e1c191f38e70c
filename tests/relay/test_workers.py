"""Several processes that relay as one: a worker that dies takes its own sessions with it, nothing else."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from portproxy import counters
from portproxy.model import Endpoint, Limits, Rule
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.snapshot import Snapshot
from portproxy.workers.processes import Processes
from tests.relay import rig
from tests.relay.rig import (
    Relay,
    beside,
    dial,
    echo,
    eventually,
    relaying,
    round_trip,
    to,
    upstream,
    was_reset,
)
from tests.relay.served import SERVER, serving, table

QUEUED = 200


@pytest.fixture(autouse=True)
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "workers", 2)


def pids(relay: Relay) -> list[int]:
    assert isinstance(relay.supervisor.crew, Processes)
    return relay.supervisor.crew.pids


async def kill(relay: Relay, pid: int) -> None:
    """Kill a worker, and wait for its successor."""
    before = len(relay.heard("a worker relays"))
    os.kill(pid, signal.SIGKILL)
    await relay.until(lambda: len(relay.heard("a worker relays")) > before)
    assert pid not in pids(relay)
    assert len(pids(relay)) == 2


@contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """They stand still meanwhile; those that are killed do not go on."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def two_workers(**options: object) -> AsyncIterator[tuple[Relay, Rule]]:
    """A relay to a service that echoes."""
    with upstream(backlog=4096) as service:
        rule = to(service, **options)
        async with beside(lambda: echo(service)), relaying(rule) as relay:
            yield relay, rule


async def test_a_worker_dies_and_nobody_who_waits_is_lost() -> None:
    async with two_workers() as (relay, rule):
        one, other = pids(relay)
        with ExitStack() as clients:
            with stopped(one):
                os.kill(other, signal.SIGSTOP)
                queued = [clients.enter_context(dial(rule)) for _ in range(QUEUED)]
                os.kill(other, signal.SIGKILL)
                await relay.said("a worker died")
                later = [clients.enter_context(dial(rule)) for _ in range(QUEUED)]
            for client in (*queued, *later):
                await round_trip(client)
            await eventually(lambda: relay.metric("portproxy_connections_total", rule="rule") == 2 * QUEUED)
            assert [relay.counted(reason) for reason in Ended] == [0] * len(Ended)
            (died,) = relay.heard("a worker died")
            assert died.fields["sessions_lost"] == 0
            assert died.fields["pid"] == other
            assert died.fields["fate"] == "killed by SIGKILL"


def fates(snapshot: Snapshot) -> dict[str, int]:
    """What has become of all connections so far."""
    block = [sum(column) for column in zip(*(status.block for status in snapshot.rules), strict=True)]
    assert block[counters.UP] == block[counters.UP + 1] + block[counters.UP + 2]
    assert block[counters.DOWN] == block[counters.DOWN + 1] + block[counters.DOWN + 2]
    return {
        "connections": block[counters.CONNECTIONS],
        "active": block[counters.ACTIVE],
        "refused": sum(block[counters.REFUSED : counters.CONNECT_FAILED]),
        "failed": sum(block[counters.CONNECT_FAILED : counters.ENDED]),
        "ended": sum(block[counters.ENDED :]),
        "lost": block[counters.ENDED + Ended.WORKER_LOST.slot],
        "up": block[counters.UP + 1],
        "down": block[counters.DOWN + 1],
    }


class Crowd:
    """Clients of a rule: how many there were, how many bytes each way, and who is still there."""

    def __init__(self, relay: Relay, rule: Rule) -> None:
        self.relay = relay
        self.rule = rule
        self.living: list[trio.socket.SocketType] = []
        self.made = self.moved = 0
        self.chance = random.Random(4)

    async def grow(self, number: int) -> None:
        for _ in range(number):
            self.living.append(dial(self.rule))
            await round_trip(self.living[-1])
        self.made += number
        self.moved += 4 * number

    async def shrink(self, left: int) -> dict[str, int]:
        """All but ``left`` go; what is counted by then."""
        self.chance.shuffle(self.living)
        while len(self.living) > left:
            self.living.pop().close()
        await eventually(lambda: self.relay.supervisor.sessions == left)
        counted = fates(await self.relay.supervisor.snapshot())
        assert (counted["connections"], counted["up"], counted["down"]) == (self.made, self.moved, self.moved)
        assert counted["ended"] == self.made - left
        return counted

    async def lose_a_worker(self, before: dict[str, int]) -> None:
        deaths = len(self.relay.heard("a worker died"))
        await kill(self.relay, self.chance.choice(pids(self.relay)))
        died = self.relay.heard("a worker died")[deaths]
        after = fates(await self.relay.supervisor.snapshot())
        lost = after["lost"] - before["lost"]
        assert lost == died.fields["sessions_lost"] == before["active"] - after["active"] > 0
        survivors = [client for client in self.living if await answers(client)]
        assert len(survivors) == len(self.living) - lost
        self.moved += 4 * len(survivors)
        for client in {*self.living} - {*survivors}:
            client.close()
        self.living = survivors


async def test_a_thousand_sessions_and_three_killed_workers_add_up() -> None:
    async with two_workers() as (relay, rule):
        crowd = Crowd(relay, rule)
        try:
            for _ in range(3):
                await crowd.grow(250)
                await crowd.lose_a_worker(await crowd.shrink(60))
            await crowd.grow(250)
            end = await crowd.shrink(0)
        finally:
            for client in crowd.living:
                client.close()
        assert crowd.made == 1000 == end["connections"] == end["ended"]
        assert (end["active"], end["refused"], end["failed"]) == (0, 0, 0)
        assert len(relay.heard("a worker died")) == 3 == relay.metric("portproxy_worker_deaths_total")
        assert relay.metric("portproxy_workers") == 2
        assert relay.counted(Ended.WORKER_LOST) == end["lost"]
        assert relay.counted(Ended.FINISHED) == 1000 - end["lost"]
        await relay.until(lambda: len(relay.records) >= 1000 - end["lost"] - unwritten(relay))
        assert sum(record.up_delivered for record in relay.records) <= end["up"]


def unwritten(relay: Relay) -> int:
    """Lines of the access log that dead workers had not written yet, at most."""
    return sum(int(str(died.fields["lines_lost"])) for died in relay.heard("a worker died"))


async def answers(client: trio.socket.SocketType) -> bool:
    """Whether its session lives."""
    try:
        await round_trip(client)
    except (OSError, AssertionError):
        return False
    return True


async def test_who_is_dialled_for_is_lost_as_such() -> None:
    with upstream(backlog=0) as full, ExitStack() as stack:
        host, port = full.getsockname()[:2]
        for _ in range(2):  # a full backlog: connect(2) is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        async with relaying(to(full)) as relay:
            clients = [stack.enter_context(dial(relay.supervisor.config.rules[0])) for _ in range(8)]
            await eventually(lambda: relay.supervisor.sessions == len(clients))
            for pid in pids(relay):
                await kill(relay, pid)
            assert relay.counted(ConnectFailed.WORKER_LOST) == len(clients)
            assert relay.counted(Ended.WORKER_LOST) == 0
            assert relay.supervisor.sessions == 0


async def test_a_successor_knows_what_was_changed_before_it_came() -> None:
    with upstream() as service:
        first, second = (
            to(service, name="first"),
            to(service, name="second", listen=Endpoint("*", rig.free_port())),
        )
        beside_it = to(service, name="beside it", listen=Endpoint("127.0.0.1", second.listen.port))
        async with beside(lambda: echo(service)), relaying(first) as relay:
            await relay.supervisor.reload(relay.config(second, beside_it))
            for pid in pids(relay):
                await kill(relay, pid)
            for rule in (second, beside_it):
                with dial(rule) as client:
                    await round_trip(client)
            with pytest.raises(ConnectionRefusedError):
                dial(first)
            await relay.supervisor.reload(relay.config(first))
            with dial(first) as client:
                await round_trip(client)
            with pytest.raises(ConnectionRefusedError):
                dial(second)
            await eventually(lambda: relay.metric("portproxy_connections_total", rule="first") == 1)


async def test_maxconn_counts_the_sessions_of_all() -> None:
    async with two_workers(limits=Limits(maxconn=6)) as (relay, rule):
        with ExitStack() as clients:
            for number in range(6):
                await round_trip(clients.enter_context(dial(rule)))
                await eventually(partial(has_sessions, relay, number + 1))
            for _ in range(4):
                assert await was_reset(clients.enter_context(dial(rule)))
            assert relay.counted(Refused.MAXCONN) == 4
            await kill(relay, pids(relay)[0])
            # What the dead one had counts no more.
            left = relay.supervisor.sessions
            for _ in range(6 - left):
                await round_trip(clients.enter_context(dial(rule)))
            assert await was_reset(clients.enter_context(dial(rule)))
            assert relay.supervisor.sessions == 6


async def test_a_drain_waits_for_the_sessions_of_all() -> None:
    async with two_workers() as (relay, rule):
        with ExitStack() as clients:
            sessions = [clients.enter_context(dial(rule)) for _ in range(40)]
            for client in sessions:
                await round_trip(client)
            drained = trio.Event()

            async def drain() -> None:
                await relay.supervisor.drain()
                drained.set()

            async with beside(drain):
                await eventually(lambda: not listens(rule))
                for client in sessions:
                    assert not drained.is_set()
                    await round_trip(client)
                    client.close()
                await drained.wait()
            # Those that asked whether anybody listens are among them.
            assert relay.counted(Ended.FINISHED) >= 40


def has_sessions(relay: Relay, number: int) -> bool:
    return relay.supervisor.sessions == number


def listens(rule: Rule) -> bool:
    try:
        dial(rule).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_what_is_queued_when_a_rule_stops_is_served() -> None:
    async with two_workers() as (relay, rule):
        with ExitStack() as clients:
            with stopped(*pids(relay)):
                queued = [clients.enter_context(dial(rule)) for _ in range(QUEUED)]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(relay.supervisor.reload, relay.config())
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    for pid in pids(relay):
                        os.kill(pid, signal.SIGCONT)
            for client in queued:
                await round_trip(client)
            assert not listens(rule)


async def test_without_a_supervisor_workers_finish_and_go(tmp_path: Path) -> None:
    with upstream() as service:
        rule = to(service, name="web")
        path = tmp_path / "portproxy.toml"
        async with beside(lambda: echo(service)), serving(path, SERVER, table(rule)) as served:
            workers = [line["pid"] for line in await served.said("a worker relays", 2)]
            with dial(rule) as client:
                await round_trip(client)
                served.process.kill()
                await served.said("the supervisor died", 2)
                await eventually(lambda: not listens(rule))
                await round_trip(client)
            await eventually(lambda: not any(map(alive, workers)))
            (record,) = served.records
            assert record["reason"] == Ended.FINISHED


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie, of whom nobody asks, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_signals_to_the_group_are_the_supervisors_to_obey(tmp_path: Path) -> None:
    """As a terminal sends SIGINT, and systemd with KillMode=control-group SIGTERM."""
    with upstream() as service:
        rule = to(service, name="web")
        path = tmp_path / "portproxy.toml"
        async with beside(lambda: echo(service)), serving(path, SERVER, table(rule)) as served:
            workers = [line["pid"] for line in await served.said("a worker relays", 2)]
            with dial(rule) as client:
                await round_trip(client)
                for pid in (*workers, served.process.pid):
                    os.kill(pid, signal.SIGTERM)
                await served.said("stopping")
                for pid in workers:
                    os.kill(pid, signal.SIGINT)
                await round_trip(client)
            await served.process.wait()
            assert served.process.returncode == 0
            await eventually(lambda: served.records)
            assert [record["reason"] for record in served.records] == [Ended.FINISHED]
            assert [line for line in served.events if line["level"] == "error"] == []


async def test_nobody_relays_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_workers() as (relay, rule):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("portproxy.workers.member.sys.executable", "/nonexistent/python")
            for pid in pids(relay):
                os.kill(pid, signal.SIGKILL)
            await relay.until(lambda: len(relay.heard("a worker cannot be started")) >= 2)
            snapshot = await relay.supervisor.snapshot()
            assert (snapshot.workers, snapshot.missing) == (2, 2)
            assert snapshot.not_ready == "no worker runs; the log says why"
            # They wait, rather than be refused.
            client = dial(rule)
        with client:
            await round_trip(client)
        await relay.until(lambda: len(pids(relay)) == 2)
        assert (await relay.supervisor.snapshot()).not_ready == ""
