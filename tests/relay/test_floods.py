"""Many connections that come to nothing, upstreams that come and go, and who else gets a turn."""

from __future__ import annotations

import errno
import math
import socket
import struct
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from portproxy import counters, supervisor
from portproxy.dataplane import loop
from portproxy.dataplane.base import EVENTS
from portproxy.dataplane.loop import Handler
from portproxy.model import Limits, Rule
from portproxy.net.descriptors import raise_limit
from portproxy.net.dial import begin_connect
from portproxy.reasons import ConnectFailed, Ended
from portproxy.relay import acceptor, session
from tests.conftest import open_descriptors
from tests.relay.namespaces import in_own_network
from tests.relay.rig import (
    PATIENCE,
    Relay,
    beside,
    dial,
    echo,
    eventually,
    free_port,
    make_rule,
    relaying,
    round_trip,
    to,
    upstream,
    was_reset,
)

TOP = Path(__file__).parents[2]

SILENT = 2000
RESETTING = 5000
AT_ONCE = 100


def pipes(relay: Relay) -> int:
    return sum(target.startswith("pipe:") for target in descriptors(relay).values())


def descriptors(relay: Relay) -> dict[str, str]:
    """Those of the processes that relay, and what each stands for."""
    return {f"{pid} {fd}": target for pid in relay.pids for fd, target in open_descriptors(pid).items()}


async def test_connections_that_never_send_cost_no_pipe_and_hold_nobody_up() -> None:
    assert raise_limit() > 4 * SILENT, "too few descriptors for this test"
    with upstream(backlog=AT_ONCE) as service, ExitStack() as stack:
        rule = to(service)
        async with relaying(rule) as relay:
            before = pipes(relay)
            for _ in range(SILENT // AT_ONCE):
                for _ in range(AT_ONCE):
                    stack.enter_context(dial(rule))
                for _ in range(AT_ONCE):
                    far, _ = await service.accept()
                    stack.enter_context(far)
            assert relay.supervisor.sessions == SILENT
            assert pipes(relay) == before
            async with beside(partial(echo, service)):
                with dial(rule) as client:
                    await round_trip(client)
                assert (await relay.record()).reason == Ended.FINISHED
        assert relay.counted(Ended.SHUTDOWN) == SILENT


def have_ended(relay: Relay, count: int) -> bool:
    """Whether so many connections were made, and are no more."""
    return relay.supervisor.counted("rule")[counters.CONNECTIONS] == count and not relay.supervisor.sessions


async def test_connections_that_reset_at_once() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            before = descriptors(relay)
            for number in range(1, RESETTING // AT_ONCE + 1):
                for _ in range(AT_ONCE):
                    # Not through trio: all of them are there, and gone, before the relay sees the first.
                    with socket.create_connection((rule.bind_address, rule.listen.port)) as sock:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await eventually(partial(have_ended, relay, number * AT_ONCE))
            with dial(rule) as client:
                await round_trip(client)
            await relay.record(RESETTING)
            await eventually(lambda: len(descriptors(relay)) == len(before))
            reasons = Counter(record.reason for record in relay.records)
            assert reasons.pop(Ended.FINISHED) == 1
            assert reasons.keys() <= {Ended.CLIENT_RESET, ConnectFailed.CLIENT_GONE}
            assert reasons.total() == RESETTING
            assert relay.metric("portproxy_connections_total", rule="rule") == RESETTING + 1
            assert relay.metric("portproxy_connections_active", rule="rule") == 0


async def test_an_upstream_that_comes_and_goes() -> None:
    port = free_port()
    rule = make_rule(f"127.0.0.1:{port}")
    async with relaying(rule) as relay:
        for _ in range(50):
            with upstream(port=port) as service:
                async with beside(partial(echo, service)):
                    with dial(rule) as client:
                        await round_trip(client)
                        await round_trip(client)
            with dial(rule) as client:
                assert await was_reset(client)
        await eventually(lambda: relay.supervisor.sessions == 0)
        assert relay.counted(Ended.FINISHED) + relay.counted(Ended.UPSTREAM_RESET) == 50
        assert relay.counted(ConnectFailed.REFUSED) == 50


@pytest.mark.alone("looks names up in the test's own process")
@pytest.mark.parametrize("soon", [True, False], ids=["before it is watched", "after"])
async def test_an_upstream_that_accepts_and_resets_at_once(
    monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    """It has been reached: no other address of its name is tried."""
    port, count = free_port(), 200
    rule = make_rule(f"service.example:{port}")
    with (
        socket.create_server(("127.0.0.3", port)) as service,
        socket.create_server(("127.0.0.4", port)) as other,
    ):
        service.settimeout(PATIENCE)
        other.setblocking(False)

        def accept_and_reset(number: int) -> None:
            far, _ = service.accept()
            with far:
                if number % 2:
                    far.send(b"answer")
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        def dial_there(address: str, rule: Rule) -> socket.SocketType:
            sock = begin_connect(address, rule)
            if soon and address == "127.0.0.3":
                accept_and_reset(number)
            return sock

        monkeypatch.setattr(session, "begin_connect", dial_there)
        async with relaying(rule, lookup=lambda name, family: ("127.0.0.3", "127.0.0.4")) as relay:
            for number in range(count):
                with dial(rule) as client:
                    if not soon:
                        await trio.to_thread.run_sync(accept_and_reset, number)
                    assert await was_reset(client)
            await relay.record(count - 1)
            assert relay.counted(Ended.UPSTREAM_RESET) == count
            assert {record.upstream for record in relay.records} == {f"127.0.0.3:{port}"}
            with pytest.raises(BlockingIOError):
                other.accept()


def refuse_watch(relay: Relay, number: int) -> None:
    """Have epoll_ctl(2) answer, once, to the ``number``-th descriptor from here on, that no watch is left."""
    engine, watch = relay.worker.engine, relay.worker.engine.watch
    left = number

    def refusing(fd: int, handler: Handler, events: int = EVENTS) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        watch(fd, handler, events)

    engine.watch = refusing  # type: ignore[method-assign]


@pytest.mark.alone("patches the worker's engine")
@pytest.mark.parametrize("number", [1, 2], ids=["client", "upstream"])
async def test_no_watch_is_left_for_a_session(number: int) -> None:
    with upstream() as service:
        rule = to(service, limits=Limits(maxconn=1, maxconnpersource=1))
        async with relaying(rule) as relay:
            refuse_watch(relay, number)
            before = open_descriptors()
            with dial(rule) as client:
                assert await was_reset(client)
                await relay.record()
            await eventually(lambda: open_descriptors() == before)
            assert relay.counted(ConnectFailed.DESCRIPTORS) == 1
            assert relay.metric("portproxy_connections_active", rule="rule") == 0
            async with beside(partial(echo, service)):
                with dial(rule) as client:  # the limits have room for it
                    await round_trip(client)
            await relay.said("accepting again")
            assert len(relay.heard("accepting paused")) == 1
            await relay.record(1)
            assert [record.reason for record in relay.records] == ["connect-descriptors", "finished"]


@pytest.mark.alone("patches the worker's engine")
async def test_no_watch_is_left_for_a_listening_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY_FIRST", 0.01)
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying() as relay:
            refuse_watch(relay, 1)
            await relay.supervisor.reload(relay.config(rule))
            said = await relay.said("does not listen")
            assert said.fields["error"] == f"cannot listen on {rule.listen}: No space left on device"
            await relay.said("listens again")
            with dial(rule) as client:
                await round_trip(client)


@pytest.mark.alone("of each connection by itself")
@in_own_network
async def test_an_upstream_that_is_gone_is_never_the_relay_itself() -> None:
    # The only local port to connect from is the one to connect to.
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40000")  # noqa: ASYNC240
    with socket.socket() as trap:
        trap.connect(("127.0.0.1", 40000))
        assert trap.getsockname() == trap.getpeername()
        trap.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rule = make_rule("127.0.0.1:40000")
    async with relaying(rule) as relay:
        for number in range(10):
            with socket.socket() as client:
                client.bind(("127.0.0.1", free_port()))
                client.connect((rule.bind_address, rule.listen.port))
                assert await was_reset(trio.socket.from_stdlib_socket(client))
            record = await relay.record(number)
            assert (record.reason, record.error, record.connect) == (
                ConnectFailed.REFUSED,
                "ECONNREFUSED: Connection refused",
                None,
            ), record
        with socket.socket() as service:
            # No SO_REUSEADDR: what lingers in TIME_WAIT would keep the upstream from coming back.
            service.bind(("127.0.0.1", 40000))


class Turns(trio.abc.Instrument):
    """Counts the engine's turns that found work, between one look of trio at the other tasks and the next."""

    def __init__(self, relay: Relay) -> None:
        self.most = self.now = self.looks = 0
        self._turn = relay.worker.engine.turn
        relay.worker.engine.turn = self._counted  # type: ignore[method-assign]

    def _counted(self, wait: float = 0.0) -> bool:
        worked = self._turn(wait)
        self.now += worked
        return worked

    def after_io_wait(self, timeout: float) -> None:
        self.most = max(self.most, self.now)
        self.now = 0
        self.looks += 1


@pytest.mark.alone("counts the turns of the worker's engine")
async def test_a_sleeper_beside_busy_clients_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a slow machine a burst may end for its time; it is to end for its turns here.
    monkeypatch.setattr(loop, "_BURST_SECONDS", math.inf)
    clients = 512
    storm = [sys.executable, "-m", "tests.relay.storm", str(clients)]
    run = partial(
        trio.run_process, storm, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=TOP, check=False
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        rule = make_rule(f"127.0.0.1:{int(await process.stdout.receive_some())}")
        async with relaying(rule) as relay:
            await process.stdin.send_all(f"{rule.listen.port}\n".encode())
            await eventually(lambda: relay.supervisor.sessions == clients)
            turns = Turns(relay)
            trio.lowlevel.add_instrument(turns)
            for _ in range(20):
                await trio.sleep(0.01)
            trio.lowlevel.remove_instrument(turns)
        nursery.cancel_scope.cancel()
    # trio wakes the sleepers that are due each time it looks, so this is how many turns one can be late by.
    assert 1 <= turns.most <= loop._BURST_TURNS
    assert relay.metric("portproxy_bytes_total", rule="rule", direction="up") > 64 * clients


@pytest.mark.alone("counts the turns of the worker's engine")
async def test_a_storm_of_connections_is_accepted_a_few_a_turn() -> None:
    with upstream(backlog=1024) as listener:
        rule = to(listener)
        async with relaying(rule) as relay:
            engine, block = relay.worker.engine, relay.instance("rule").block
            clients = [dial(rule) for _ in range(200)]
            most = 0
            while (before := block[counters.CONNECTIONS]) < 200:
                clients.append(dial(rule))  # an edge for the listener in every batch
                engine.turn()
                most = max(most, block[counters.CONNECTIONS] - before)
            assert most == acceptor._AT_ONCE
            for client in clients:
                client.close()
