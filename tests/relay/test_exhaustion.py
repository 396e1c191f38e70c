"""When descriptors or pipes run out."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import signal
import socket
import sys
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from portproxy.control.client import ask
from portproxy.net.descriptors import raise_limit
from portproxy.wire.control_frames import Reply, Request
from tests.relay.namespaces import in_own_network
from tests.relay.rig import (
    PATIENCE,
    beside,
    dial,
    dial_endpoint,
    echo,
    eventually,
    free_port,
    make_rule,
    receive_all,
    relaying,
    round_trip,
    send_all,
    to,
    upstream,
    was_reset,
)
from tests.relay.served import SERVER, Served, command, serving, table


def leave(served: Served, free: int) -> int:
    """Lower the limits of those that relay so that each can open ``free`` descriptors more: how many."""
    for pid in served.pids:
        _leave(pid, free)
    return len(served.pids)


def _leave(pid: int, free: int) -> None:
    open_now = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    limit = max(open_now) + 1
    gaps = limit - len(open_now)
    assert gaps <= free
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit + free - gaps,) * 2)


async def test_accepting_pauses_while_descriptors_are_short(tmp_path: Path) -> None:
    with upstream() as service, ExitStack() as stack:
        rule, status = to(service), free_port()
        arguments = ("--status", f"127.0.0.1:{status}")
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", SERVER, table(rule), arguments=arguments) as served,
        ):
            count = 10 * leave(served, 2 * 10)  # ten sessions each
            holders = [stack.enter_context(dial(rule)) for _ in range(count)]
            for holder in holders:
                await round_trip(holder)
            waiting = [stack.enter_context(dial(rule)) for _ in range(3)]
            pause, *_ = await served.said("accepting paused")
            assert pause["error"] == "Too many open files"
            for holder in holders:
                await round_trip(holder, b"sessions go on")
            for holder in holders[:3]:
                holder.close()
            # No connection is new since; a timer sees to those that wait.
            for client in waiting:
                await round_trip(client)
            # They took the last descriptors, so it is over only when these are given back.
            stack.close()  # a scrape takes descriptors too
            await eventually(lambda: len(served.records) == count + 3)
            pauses = len(await served.said("accepting paused"))
            assert len(await served.said("accepting again", pauses)) == pauses <= 4 * len(served.pids)
            assert f"\nportproxy_accept_pauses_total {pauses}.0\n" in await scrape(status)
            assert {record["reason"] for record in served.records} == {"finished"}
            served.signal(signal.SIGTERM)
            assert await served.process.wait() == 0


async def test_the_last_descriptor_accepts_nobody_who_could_not_be_dialled_for(tmp_path: Path) -> None:
    with upstream() as service, ExitStack() as stack:
        rule = to(service)
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", SERVER, table(rule)) as served,
        ):
            relaying = leave(served, 2 * 2 + 1)  # and the one that each keeps to spare
            holders = [stack.enter_context(dial(rule)) for _ in range(3 * relaying)]
            for holder in holders:
                await round_trip(holder)
            pause, *_ = await served.said("accepting paused")
            assert pause["error"] == "Too many open files"
            waiting = stack.enter_context(dial(rule))
            for holder in holders[: 2 * relaying]:  # so that one of them has enough for it
                holder.close()
            await round_trip(waiting)
            stack.close()
            await eventually(lambda: len(served.records) == len(holders) + 1)
            assert {record["reason"] for record in served.records} == {"finished"}
            pauses = len(await served.said("accepting paused"))
            await served.said("accepting again", pauses)


async def asked(path: str, request: Request) -> Reply:
    return await trio.to_thread.run_sync(ask, path, request, PATIENCE)


async def test_the_control_socket_answers_while_clients_hold_every_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with upstream() as service, ExitStack() as stack:
        rule = to(service)
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", SERVER, table(rule), arguments=("--control", path)) as served,
        ):
            count = 4 * leave(served, 2 * 4)
            holders = [stack.enter_context(dial(rule)) for _ in range(count)]
            for holder in holders:
                await round_trip(holder)
            waiting = [stack.enter_context(dial(rule)) for _ in range(3)]
            await served.said("accepting paused")
            async with trio.open_nursery() as nursery:
                for command in ("status", "sessions", "health") * 3:
                    nursery.start_soon(answers, path, Request(command))
            listed = await asked(path, Request("sessions"))
            sessions = listed.data["sessions"]
            assert len(sessions) == count
            for session in sessions[:3]:
                assert (await asked(path, Request("kill", {"session": session["id"]}))).ok
            left = {session["client"] for session in sessions[3:]}
            stay = [holder for holder in holders if "{}:{}".format(*holder.getsockname()) in left]
            assert len(stay) == count - 3
            for client in (*waiting, *stay):
                await round_trip(client)
            stack.close()
            await eventually(lambda: len(served.records) == count + 3)
            await answers(path, Request("health"))
            reasons = Counter(record["reason"] for record in served.records)
            assert reasons == {"killed": 3, "finished": count}
            told = {event["event"] for event in served.events if event["level"] != "info"}
            assert [event for event in told if not event.startswith("accepting paused")] == []


async def answers(path: str, request: Request) -> None:
    assert (await asked(path, request)).ok


WITHOUT_THREADS = (
    "import os, resource as r, sys;"
    "r.setrlimit(r.RLIMIT_STACK, (8 << 30, r.getrlimit(r.RLIMIT_STACK)[1]));"
    "r.setrlimit(r.RLIMIT_AS, (4 << 30,) * 2);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command that can start no thread: its stack would be as large as RLIMIT_STACK
(pthread_create(3)). RLIMIT_NPROC does not bind root."""


@pytest.mark.alone("without a thread no process can be started")
async def test_without_threads_the_relay_goes_on(tmp_path: Path) -> None:
    path, file = str(tmp_path / "control.sock"), tmp_path / "f"
    with upstream() as service:
        rule, named = to(service), make_rule("localhost:1", name="named")
        file.write_text("\n".join((SERVER, table(rule), table(named))))
        words = [*command("-c", str(file), "--control", path)]
        async with beside(partial(echo, service)):
            # Its log has nobody to write it.
            process = await trio.lowlevel.open_process([sys.executable, "-c", WITHOUT_THREADS, *words])
            try:
                await eventually(lambda: os.path.exists(path))
                with dial(rule) as client:
                    await round_trip(client)
                    with dial(named) as other:
                        assert await was_reset(other)
                    os.kill(process.pid, signal.SIGHUP)
                    refused = await asked(path, Request("reload"))
                    assert refused.text == "a fault of portproxy in reload: the log has it"
                    await answers(path, Request("health"))
                    await round_trip(client)
                process.terminate()
                assert await process.wait() == 0
            finally:
                process.kill()


async def scrape(port: int) -> str:
    with dial_endpoint("127.0.0.1", port) as client:
        await send_all(client, b"GET /metrics HTTP/1.0\r\n\r\n")
        return (await receive_all(client)).decode()


def exhaust_pipe_quota() -> list[int]:
    """Hold pipes until the kernel gives no more than its least to an unprivileged user (pipe(7))."""
    held: list[int] = []
    size = 1 << 20
    while size > 1 << 13:
        held += os.pipe()
        try:
            fcntl.fcntl(held[-1], fcntl.F_SETPIPE_SZ, size)
        except PermissionError:
            size //= 2
    return held


def exhausted() -> bool:
    """Whether it still is: other processes of this user give pipes back when they like."""
    ends = os.pipe()
    try:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 14)
    except PermissionError:
        return True
    finally:
        for end in ends:
            os.close(end)
    return False


@in_own_network  # and in a user namespace, whose root has no CAP_SYS_RESOURCE where the quota is kept
async def test_without_pipes_copy_serves() -> None:
    raise_limit()
    with upstream() as service:
        for _ in range(20):
            if await carried_without_pipes(service):
                return
    pytest.fail("the quota of pipes was never exhausted for as long as a session takes")


async def carried_without_pipes(service: trio.socket.SocketType) -> bool:
    """Whether there were none all the while."""
    data = random.Random(1).randbytes(4 << 20)
    rule = to(service)
    async with relaying(rule) as relay:
        held = exhaust_pipe_quota()
        with dial(rule) as client:
            server, _ = await service.accept()
            with server:
                for one, other in ((client, server), (server, client)):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(send_and_end, one, data)
                        assert await receive_all(other) == data
        record = await relay.record()
        without = exhausted()
        for descriptor in held:
            os.close(descriptor)
    assert record.reason == "finished"
    assert (record.up_delivered, record.down_delivered) == (len(data), len(data))
    if record.dataplane != "copy" and not without:
        return False
    assert record.dataplane == "copy"
    assert relay.metric("portproxy_splice_fallbacks_total", rule="rule") == 2
    assert (await relay.said("splice or its pipe was refused")).fields == {"rule": "rule", "legs": 2}
    assert relay.metric("portproxy_dataplane_sessions_total", rule="rule", dataplane="copy") == 1
    return True


async def send_and_end(sock: trio.socket.SocketType, data: bytes) -> None:
    await send_all(sock, data)
    sock.shutdown(socket.SHUT_WR)
