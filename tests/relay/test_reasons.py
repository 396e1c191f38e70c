"""Every reason there is, provoked on real sockets and found in the log and in the metric."""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain

import pytest

from portproxy.dataplane import copy
from portproxy.model import Acl, Endpoint, Family, Limits
from portproxy.reasons import ConnectFailed, Ended, Reason, Refused
from tests.relay.namespaces import answer, in_own_network, lose
from tests.relay.rig import (
    Relay,
    adds_up,
    beside,
    dial,
    echo,
    eventually,
    free_port,
    make_rule,
    port_of,
    relaying,
    reset,
    round_trip,
    send_all,
    to,
    upstream,
    was_reset,
)
from tests.relay.scenes import deaf_upstream, dialling, session

Provoker = Callable[[], Awaitable[Relay]]

ALL: dict[str, Reason] = {reason.value: reason for kind in (Refused, ConnectFailed, Ended) for reason in kind}
HERE: dict[str, Provoker] = {}
IN_THE_ONE_WORKER: dict[str, Provoker] = {}
IN_OWN_NETWORK: dict[str, Provoker] = {}
ELSEWHERE = {ConnectFailed.WORKER_LOST.value, Ended.WORKER_LOST.value}
"""In test_workers.py: they take a relay of several processes, and whoever died has no account."""


def provokes(reason: Reason, among: dict[str, Provoker] = HERE) -> Callable[[Provoker], Provoker]:
    """Enter a scenario into the table; it returns the relay that should have given ``reason`` once."""

    def enter(provoker: Provoker) -> Provoker:
        among[reason.value] = provoker
        return provoker

    return enter


async def check(reason: Reason, provoke: Provoker) -> None:
    relay = await provoke()
    (record,) = [record for record in relay.records if record.reason == reason.value]
    adds_up(record)
    assert record.rule == "rule"
    assert relay.counted(reason) == 1
    others = [other for other in ALL.values() if other not in (reason, Ended.FINISHED)]
    assert [other for other in others if relay.counted(other)] == []
    assert relay.metric("portproxy_connections_active", rule="rule") == 0


@pytest.mark.alone("of the tables alone")
def test_every_reason_is_provoked() -> None:
    tables = HERE, IN_THE_ONE_WORKER, IN_OWN_NETWORK
    assert sorted(chain(*tables, ELSEWHERE)) == sorted(ALL)


async def only_id(relay: Relay) -> str:
    """That of the one session there is."""
    (status,) = await relay.supervisor.session_statuses()
    return status.id


# Refused.


async def refused(reason: Refused, limits: Limits) -> Relay:
    """One session is there; a second client is one too many."""
    with upstream() as service:
        rule = to(service, limits=limits)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial(rule) as first:
                await round_trip(first)
                with dial(rule) as second:
                    assert await was_reset(second)
                await relay.record()
            assert (await relay.record(1)).reason == "finished"
    assert relay.records[0].reason == reason.value
    return relay


provokes(Refused.MAXCONN)(partial(refused, Refused.MAXCONN, Limits(maxconn=1)))
# It holds for each worker by itself.
provokes(Refused.MAXCONNPERSOURCE, IN_THE_ONE_WORKER)(
    partial(refused, Refused.MAXCONNPERSOURCE, Limits(maxconnpersource=1))
)


@provokes(Refused.DENIED)
async def denied() -> Relay:
    rule = make_rule(acl=Acl(deny=(ipaddress.ip_network("127.0.0.1"),)))
    async with relaying(rule) as relay:
        with dial(rule) as client:
            assert await was_reset(client)
        await relay.record()
    return relay


# Connect failed.


async def fails_to_connect(relay: Relay) -> Relay:
    """A client comes, and is reset because no upstream can be reached."""
    with dial(relay.supervisor.config.rules[0]) as client:
        assert await was_reset(client)
    record = await relay.record()
    assert (record.connect, record.dataplane) == (None, "")
    return relay


@provokes(ConnectFailed.REFUSED)
async def connect_refused() -> Relay:
    async with relaying(make_rule(f"127.0.0.1:{free_port()}")) as relay:
        return await fails_to_connect(relay)


@provokes(ConnectFailed.TIMEOUT)
async def connect_timeout() -> Relay:
    with deaf_upstream() as service:
        async with relaying(to(service, limits=Limits(connecttimeout=0.2))) as relay:
            return await fails_to_connect(relay)


@provokes(ConnectFailed.CLIENT_GONE)
async def connect_client_gone() -> Relay:
    async with dialling() as (relay, client):
        reset(client)
        await relay.record()
    return relay


@provokes(ConnectFailed.DRAINED)
async def connect_drained() -> Relay:
    async with dialling(draintimeout=0.0) as (relay, client):
        await relay.supervisor.drain()
        assert await was_reset(client)
    return relay


@provokes(ConnectFailed.KILLED)
async def connect_killed() -> Relay:
    async with dialling() as (relay, client):
        assert await relay.supervisor.kill(await only_id(relay))
        assert await was_reset(client)
        await relay.record()
    return relay


@provokes(ConnectFailed.UNREACHABLE, IN_OWN_NETWORK)
async def connect_unreachable() -> Relay:
    async with relaying(make_rule("192.0.2.1:80")) as relay:
        return await fails_to_connect(relay)


@provokes(ConnectFailed.RESOLVE, IN_OWN_NETWORK)
async def connect_resolve() -> Relay:
    async with relaying(make_rule("nobody.invalid:80")) as relay:
        await fails_to_connect(relay)
    assert relay.records[0].error.startswith("nobody.invalid: ")
    return relay


@provokes(ConnectFailed.LOOP, IN_THE_ONE_WORKER)
async def connect_loop() -> Relay:
    def lookup(name: str, family: Family) -> tuple[str, ...]:
        return ("127.0.0.1",)

    listen = Endpoint("127.0.0.1", free_port())
    rule = make_rule(f"elsewhere.example:{listen.port}", listen=listen)
    async with relaying(rule, lookup=lookup) as relay:
        return await fails_to_connect(relay)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open no descriptor more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@provokes(ConnectFailed.DESCRIPTORS, IN_THE_ONE_WORKER)
async def connect_descriptors() -> Relay:
    """Two clients wait for a name, and there is one descriptor to spare when it arrives."""
    gate = threading.Event()

    def slow(name: str, family: Family) -> tuple[str, ...]:
        gate.wait()
        return ("127.0.0.1",)

    with upstream() as service:
        rule = make_rule(f"name.example:{port_of(service)}")
        async with relaying(rule, lookup=slow) as relay:
            with dial(rule) as one, dial(rule) as other:
                await eventually(lambda: relay.supervisor.sessions == 2)
                with no_descriptor_left():
                    gate.set()
                    await relay.record()
                assert relay.supervisor.sessions == 1
                for client in (one, other):
                    with suppress(OSError):  # one of them has been reset
                        client.shutdown(socket.SHUT_WR)
                server, _ = await service.accept()
                server.close()
                await relay.record(1)
    return relay


@provokes(ConnectFailed.LOCAL)
async def connect_local() -> Relay:
    with upstream() as service:
        async with relaying(to(service, connectsource="192.0.2.1")) as relay:
            return await fails_to_connect(relay)


@provokes(ConnectFailed.OTHER, IN_OWN_NETWORK)
async def connect_other() -> Relay:
    with upstream() as service:
        answer(f"tcp dport {port_of(service)}", "icmp type prot-unreachable")
        async with relaying(to(service)) as relay:
            await fails_to_connect(relay)
    assert relay.records[0].error == "ENOPROTOOPT: Protocol not available"
    return relay


# Ended.


@provokes(Ended.FINISHED)
async def finished() -> Relay:
    async with session() as (relay, client, server):
        for one, other in ((client, server), (server, client)):
            await send_all(one, b"data")
            one.shutdown(socket.SHUT_WR)
            assert await other.recv(9) == b"data"
            assert await other.recv(9) == b""
        record = await relay.record()
    assert record[7:13] == (4, 4, 0, 4, 4, 0)
    return relay


@provokes(Ended.CLIENT_RESET)
async def client_reset() -> Relay:
    async with session() as (relay, client, server):
        reset(client)
        assert await was_reset(server)
    return relay


@provokes(Ended.UPSTREAM_RESET)
async def upstream_reset() -> Relay:
    async with session() as (relay, client, server):
        reset(server)
        assert await was_reset(client)
    return relay


async def unacknowledged(towards: str, answered_with: str | None = None) -> Relay:
    """One side's packets are lost, or answered with an ICMP error, from now on; data is sent to it."""
    async with session(usertimeout=0.4) as (relay, client, server):
        if towards == "client":
            match, sender = f"tcp sport {client.getpeername()[1]}", server
        else:
            match, sender = f"tcp dport {server.getsockname()[1]}", client
        if answered_with:
            answer(match, answered_with)
        else:
            lose(match)
        await send_all(sender, b"nobody will acknowledge this")
        await relay.record()
        assert await was_reset(sender)
    return relay


for _side, _timeout, _error in (
    ("client", Ended.CLIENT_TIMEOUT, Ended.CLIENT_ERROR),
    ("upstream", Ended.UPSTREAM_TIMEOUT, Ended.UPSTREAM_ERROR),
):
    provokes(_timeout, IN_OWN_NETWORK)(partial(unacknowledged, _side))
    # RFC 1122, 4.2.3.9: no reason to give up at once, but the reason given when the time is up.
    provokes(_error, IN_OWN_NETWORK)(partial(unacknowledged, _side, "icmp type host-unreachable"))


async def times_out(limits: Limits, *, half_closed: bool = False) -> Relay:
    """Nothing more happens, and both sides are reset."""
    async with session(limits) as (relay, client, server):
        if half_closed:
            client.shutdown(socket.SHUT_WR)
            assert await server.recv(1) == b""
        assert await was_reset(client)
        with suppress(ConnectionError):  # after an end of stream only a write shows the reset
            while True:
                await server.send(b"?")
        await relay.record()
    return relay


provokes(Ended.IDLE)(partial(times_out, Limits(idletimeout=0.1)))
provokes(Ended.HALFCLOSE)(partial(times_out, Limits(halfclosetimeout=0.1), half_closed=True))
provokes(Ended.LIFETIME)(partial(times_out, Limits(maxlifetime=0.1)))


@provokes(Ended.DRAIN)
async def draintimeout() -> Relay:
    async with session(draintimeout=0.05) as (relay, client, server):
        await relay.supervisor.drain()
        assert await was_reset(client)
        assert await was_reset(server)
    return relay


@provokes(Ended.SHUTDOWN)
async def shutdown() -> Relay:
    async with session() as (relay, client, server):
        await relay.supervisor.end_sessions(Ended.SHUTDOWN)
        assert await was_reset(client)
        assert await was_reset(server)
    return relay


@provokes(Ended.KILLED)
async def killed() -> Relay:
    async with session() as (relay, client, server):
        assert await relay.supervisor.kill(await only_id(relay))
        assert await was_reset(client)
        assert await was_reset(server)
    return relay


@provokes(Ended.INTERNAL, IN_THE_ONE_WORKER)
async def internal() -> Relay:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "_READS", None)  # range() raises TypeError
        async with session(faults=1) as (relay, client, server):
            await send_all(client, b"?")
            assert await was_reset(client)
            assert await was_reset(server)
    return relay


@pytest.mark.parametrize("name", sorted(HERE))
async def test_reason(name: str) -> None:
    await check(ALL[name], HERE[name])


@pytest.mark.alone("looks names up in the worker's own process, or patches it, or takes what it has")
@pytest.mark.parametrize("name", sorted(IN_THE_ONE_WORKER))
async def test_reason_in_the_one_worker(name: str) -> None:
    await check(ALL[name], IN_THE_ONE_WORKER[name])


@pytest.mark.alone("of one session each, as the others are, and they take long")
@pytest.mark.parametrize("name", sorted(IN_OWN_NETWORK))
@in_own_network
async def test_reason_of_the_network(name: str) -> None:
    await check(ALL[name], IN_OWN_NETWORK[name])
