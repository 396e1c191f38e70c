"""What a running ``portproxy serve`` does when it is told to stop or to reload, and when it cannot start."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from portproxy.model import Rule, literal
from portproxy.net.holder import Listeners
from tests.relay.namespaces import in_own_network
from tests.relay.rig import (
    beside,
    dial,
    echo,
    eventually,
    make_rule,
    port_of,
    receive_all,
    round_trip,
    send_all,
    to,
    upstream,
    was_reset,
)
from tests.relay.served import Served, command, serving, start_failure, table


def server(draintimeout: str = "30s", **more: str) -> str:
    keys = {"log": "json", "draintimeout": draintimeout, **more}
    return "[server]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())


def inode(rule: Rule) -> set[str]:
    """What listens where ``rule`` does."""
    address = literal(rule.bind_address)
    assert address
    return Listeners().in_the_way(address, rule.listen.port)


async def stops(served: Served) -> list[str]:
    """That it exits cleanly; the reasons its sessions ended for."""
    assert await served.process.wait() == 0
    await served.gone.wait()
    await served.said("stopped")
    return [record["reason"] for record in served.records]


@asynccontextmanager
async def sessions(rule: Rule) -> AsyncIterator[list[trio.socket.SocketType]]:
    """Clients that came one by one: of two workers, each has some."""
    with ExitStack() as stack:
        clients = []
        for _ in range(8):
            clients.append(stack.enter_context(dial(rule)))
            await round_trip(clients[-1])
        yield clients


async def test_what_is_queued_is_served_before_it_stops(tmp_path: Path) -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), serving(tmp_path / "f", server(), table(rule)) as served:
            everyone = {served.process.pid, *served.pids}
            for pid in everyone:
                os.kill(pid, signal.SIGSTOP)
            clients = [dial(rule) for _ in range(100)]
            served.signal(signal.SIGTERM)
            for pid in everyone:
                os.kill(pid, signal.SIGCONT)
            for client in clients:
                with client:
                    await send_all(client, b"data")
                    client.shutdown(socket.SHUT_WR)
                    assert await receive_all(client) == b"data"
            assert await stops(served) == ["finished"] * 100


async def test_sessions_are_reset_once_draintimeout_has_passed(tmp_path: Path) -> None:
    with upstream() as service:
        rule = to(service)
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", server("100ms"), table(rule)) as served,
        ):
            async with sessions(rule) as clients:
                served.signal(signal.SIGINT)
                for client in clients:
                    assert await was_reset(client)
            assert await stops(served) == ["draintimeout"] * len(clients)


async def test_a_second_signal_resets_sessions_at_once(tmp_path: Path) -> None:
    with upstream() as service:
        rule = to(service)
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", server("1h"), table(rule)) as served,
        ):
            async with sessions(rule) as clients:
                served.signal(signal.SIGTERM)
                await served.said("stopping")
                await eventually(lambda: not inode(rule))
                for client in clients:
                    await round_trip(client, b"still there")
                served.signal(signal.SIGHUP)  # comes too late, and is not taken for a second one
                for client in clients:
                    await round_trip(client, b"still there")
                served.signal(signal.SIGINT)
                for client in clients:
                    assert await was_reset(client)
            assert await stops(served) == ["shutdown"] * len(clients)


async def test_a_reload_disturbs_nothing_that_stays(tmp_path: Path) -> None:
    with upstream() as service, upstream() as other:
        kept, changed, removed, added = (
            to(service, name=name) for name in ("kept", "changed", "removed", "added")
        )
        tables = [server(), *(table(rule) for rule in (kept, changed, removed))]
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", *tables) as served,
        ):
            with (
                dial(kept) as through_kept,
                dial(changed) as through_changed,
                dial(removed) as through_removed,
            ):
                clients = through_kept, through_changed, through_removed
                for client in clients:
                    await round_trip(client)
                inodes = inode(kept), inode(changed)
                new = table(changed, connectport=port_of(other), maxconn=1, backlog=7)
                said = await served.reload(server(), table(kept), new, table(added))
                assert said["plan"] == "stop 1, keep 1, change 1, start 1"
                assert (inode(kept), inode(changed)) == inodes
                assert inode(removed) == set()
                for client in clients:
                    await round_trip(client, b"still there")
                with dial(added) as client:
                    await round_trip(client)
                with dial(changed) as client:
                    assert await was_reset(client)  # the one that maxconn allows is there already
            await eventually(lambda: len(served.records) == 5)  # maxconn counts those that are ending
            with dial(changed) as client:
                far, _ = await other.accept()
                far.close()
            served.signal(signal.SIGTERM)
            reasons = await stops(served)
    assert sorted(reasons) == ["finished"] * 5 + ["maxconn"]


async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    with upstream() as service:
        rule = to(service)
        async with (
            beside(partial(echo, service)),
            serving(tmp_path / "f", server(), table(rule)) as served,
        ):
            was = inode(rule)
            served.write(server(), table(rule, listenprot=1), table(rule, listenport=0))
            served.signal(signal.SIGHUP)
            problems = [str(line["problem"]) for line in await served.said("not reloaded", 2)]
            assert "listenport" in problems[0]
            assert inode(rule) == was
            with dial(rule) as client:
                await round_trip(client)


async def test_a_port_in_use_is_told_with_rule_address_and_holder(tmp_path: Path) -> None:
    with upstream() as holder:
        rule = make_rule("127.0.0.1:9", name="web")
        path = tmp_path / "f"
        path.write_text(table(rule, listenport=port_of(holder)))
        code, said = await start_failure(command("-c", str(path)))
        where = f"127.0.0.1:{port_of(holder)}"
    comm = await trio.Path("/proc/self/comm").read_text()
    me = f"{comm.rstrip()} (pid {os.getpid()})"
    assert said == f"portproxy: rule web: cannot listen on {where}: the port is in use by {me}\n"
    assert code == 1


@pytest.mark.alone("of the supervisor's sockets, in a network made for it")
@in_own_network
async def test_a_privileged_port_is_told_in_one_line() -> None:
    rule = "v4tov4 listenport=80 listenaddress=127.0.0.1 connectport=8080 name=web"
    unprivileged = ["setpriv", "--bounding-set", "-net_bind_service"]
    code, said = await start_failure([*unprivileged, *command("--rule", rule)])
    assert code == 1
    assert said == (
        "portproxy: rule web: cannot listen on 127.0.0.1:80: permission denied; ports below "
        "net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE\n"
    )
