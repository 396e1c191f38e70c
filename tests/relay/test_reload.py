"""From one configuration to another: listening sockets, sessions and counters that stay or go."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest
import trio

from portproxy import supervisor
from portproxy.model import ANY, Endpoint, Family, Limits, Rule, RuleType, literal
from portproxy.net.holder import Listeners, Place, who_holds
from portproxy.net.listeners import listen
from portproxy.snapshot import RuleState
from portproxy.status.app import answer
from portproxy.supervisor import ports
from tests.relay.rig import (
    Relay,
    beside,
    dial,
    dial_endpoint,
    echo,
    eventually,
    free_port,
    make_rule,
    port_of,
    relaying,
    round_trip,
    to,
    upstream,
    was_reset,
)


async def greet(listener: trio.socket.SocketType, greeting: bytes) -> None:
    """Serve ``listener`` until cancelled: every connection gets ``greeting``."""
    while True:
        sock, _ = await listener.accept()
        with sock:
            await sock.send(greeting)


async def greeting(host: str, port: int) -> bytes:
    """What is behind ``host`` and ``port``."""
    with dial_endpoint(host, port) as client:
        return await client.recv(9)


def state(relay: Relay, name: str) -> RuleState:
    (status,) = [status for status in relay.snapshot().rules if status.rule.name == name]
    return status.state


def taken(port: int, address: str = "127.0.0.1") -> socket.socket:
    """A stranger's listening socket."""
    return socket.create_server((address, port))


def listening(rule: Rule) -> set[str]:
    """The inodes of the sockets that listen where ``rule`` does."""
    address = literal(rule.bind_address)
    assert address
    return Listeners().in_the_way(address, rule.listen.port)


def count_attempts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each rule has tried to listen from here on; those that fail try again soon."""
    attempts: Counter[str] = Counter()

    def counted(family: Family, address: str, rule: Rule) -> socket.socket:
        attempts[rule.name] += 1
        return listen(family, address, rule)

    monkeypatch.setattr(ports, "listen", counted)
    monkeypatch.setattr(supervisor, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(supervisor, "RETRY_LAST", 0.02)
    return attempts


def retrying(relay: Relay) -> bool:
    """Whether it still tries to listen for rules that failed."""
    return any(task.name.endswith("._retry") for task in relay.supervisor._nursery.child_tasks)


async def test_a_port_taken_at_a_reload_fails_its_rule_until_it_is_free() -> None:
    with upstream() as service:
        first, second = to(service, name="first"), to(service, name="second")
        async with beside(partial(echo, service)), relaying(first) as relay:
            with dial(first) as client:
                await round_trip(client)
                with taken(second.listen.port):
                    await relay.supervisor.reload(relay.config(first, second))
                    said = await relay.said("does not listen")
                    error = str(said.fields["error"])
                    assert f"cannot listen on 127.0.0.1:{second.listen.port}: the port is in use by" in error
                    assert (state(relay, "first"), state(relay, "second")) == (
                        RuleState.LISTENING,
                        RuleState.FAILED,
                    )
                    info = "portproxy_listener_last_error_info"
                    assert relay.metric(info, rule="second", error=error) == 1
                    ready = answer("GET", "/readyz", "", relay.snapshot())
                    assert (ready.status, ready.body.decode()) == (503, f"rule second: {error}\n")
                    await round_trip(client, b"still there")
                await relay.said("listens again")
            assert state(relay, "second") is RuleState.LISTENING
            assert answer("GET", "/readyz", "", relay.snapshot()).status == 200
            with dial(second) as client:
                await round_trip(client)


async def test_the_specific_address_comes_before_the_wildcard() -> None:
    with upstream() as one, upstream() as other:
        specific = to(one, name="specific")
        wildcard = replace(to(other, name="wildcard"), listen=Endpoint(ANY, specific.listen.port))
        port = specific.listen.port

        async def both() -> list[bytes]:
            return [await greeting("127.0.0.1", port), await greeting("127.0.0.2", port)]

        async with (
            beside(partial(greet, one, b"specific"), partial(greet, other, b"wildcard")),
            relaying(specific, wildcard) as relay,
        ):
            assert await both() == [b"specific", b"wildcard"]
            # The wildcard's rule goes, and comes back.
            await relay.supervisor.reload(relay.config(specific))
            assert await greeting("127.0.0.1", port) == b"specific"
            with pytest.raises(ConnectionRefusedError):
                dial_endpoint("127.0.0.2", port)
            await relay.supervisor.reload(relay.config(specific, wildcard))
            assert await both() == [b"specific", b"wildcard"]
            await relay.supervisor.reload(relay.config(wildcard))
            assert await both() == [b"wildcard", b"wildcard"]


async def test_a_wildcard_that_cannot_listen_costs_the_specific_address_nothing() -> None:
    with upstream() as one, upstream() as other:
        specific = to(one, name="specific")
        port = specific.listen.port
        wildcard = replace(to(other, name="wildcard"), listen=Endpoint(ANY, port))
        async with (
            beside(partial(greet, one, b"specific"), partial(greet, other, b"wildcard")),
            relaying(specific) as relay,
        ):
            with taken(port, "127.0.0.3"):
                inodes = listening(specific)
                await relay.supervisor.reload(relay.config(specific, wildcard))
                assert state(relay, "wildcard") is RuleState.FAILED
                assert listening(specific) == inodes
                assert await greeting("127.0.0.1", port) == b"specific"
            await relay.said("listens again")
            assert await greeting("127.0.0.1", port) == b"specific"
            assert await greeting("127.0.0.2", port) == b"wildcard"


async def test_a_rule_at_another_endpoint_counts_on() -> None:
    with upstream() as service:
        here = to(service)
        there = replace(here, listen=Endpoint("127.0.0.1", free_port()))
        async with beside(partial(echo, service)), relaying(here) as relay:
            with dial(here) as client:
                await round_trip(client)
                await relay.supervisor.reload(relay.config(there))
                assert not listening(here)
                await round_trip(client, b"still there")
                with dial(there) as other:
                    await round_trip(other)
                assert relay.metric("portproxy_connections_total", rule="rule") == 2
            await relay.record(1)
            assert relay.metric("portproxy_connections_total", rule="rule") == 2
            assert relay.metric("portproxy_bytes_total", rule="rule", direction="up") == 4 + 11 + 4


async def test_a_renamed_rule_keeps_its_socket_and_its_sessions() -> None:
    with upstream() as service:
        before = to(service, name="before")
        after = replace(before, name="after")
        async with beside(partial(echo, service)), relaying(before, draintimeout=0) as relay:
            with dial(before) as client:
                await round_trip(client)
                inodes = listening(before)
                await relay.supervisor.reload(relay.config(after))
                assert listening(before) == inodes
                await round_trip(client, b"still there")
                assert [status.rule.name for status in relay.snapshot().rules] == ["after"]
                assert relay.metric("portproxy_connections_active", rule="after") == 1
                with dial(after) as other:
                    await round_trip(other)
            assert {(await relay.record(n)).rule for n in (0, 1)} == {"before", "after"}
            assert relay.metric("portproxy_connections_total", rule="after") == 2


async def test_renaming_a_rule_is_no_way_around_its_limits() -> None:
    with upstream() as service:
        rule = to(service, limits=Limits(maxconn=1))
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                for number, name in enumerate(("b", "c")):
                    await relay.supervisor.reload(relay.config(replace(rule, name=name)))
                    with dial(rule) as other:
                        assert await was_reset(other)
                    assert (await relay.record(number)).reason == "maxconn"


async def test_sessions_of_a_rule_that_is_gone_have_draintimeout() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying(rule, draintimeout=0.1) as relay:
            with dial(rule) as client:
                await round_trip(client)
                await relay.supervisor.reload(relay.config())
                assert not listening(rule)
                assert await was_reset(client)
            assert (await relay.record()).reason == "draintimeout"
            await eventually(lambda: not relay.snapshot().rules)


async def test_what_is_queued_for_a_rule_that_goes_is_served() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            clients = [dial(rule) for _ in range(50)]  # the relay's loop has not seen them yet
            await relay.supervisor.reload(relay.config())
            for client in clients:
                with client:
                    await round_trip(client)


async def test_what_is_queued_before_a_specific_rule_comes_goes_to_the_wildcard() -> None:
    with upstream() as one, upstream() as other:
        specific = to(one, name="specific")
        wildcard = replace(to(other, name="wildcard"), listen=Endpoint(ANY, specific.listen.port))
        async with (
            beside(partial(greet, one, b"specific"), partial(greet, other, b"wildcard")),
            relaying(wildcard) as relay,
        ):
            with dial(specific) as client:
                await relay.supervisor.reload(relay.config(wildcard, specific))
                assert await client.recv(9) == b"wildcard"


async def test_nothing_is_said_of_a_failed_rule_while_the_relay_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = count_attempts(monkeypatch)
    with upstream() as service:
        rule, failing = to(service, name="rule"), make_rule(name="failing")
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with taken(failing.listen.port), dial(rule) as client:
                await round_trip(client)
                await relay.supervisor.reload(relay.config(rule, failing))
                before = attempts[failing.name]
                await eventually(lambda: attempts[failing.name] > before)  # retries go on
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(relay.supervisor.drain)
                    await eventually(lambda: not listening(rule))
                    await eventually(lambda: not retrying(relay))
                    client.close()
            assert relay.heard("listens again") == []


@pytest.mark.alone("of listening sockets alone, which are the supervisor's")
async def test_who_holds_a_port_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all that fail together, and not again while they go on failing."""
    asked: list[Sequence[Place]] = []

    def counted(places: Sequence[Place]) -> list[str]:
        asked.append(places)
        return who_holds(places)

    monkeypatch.setattr(ports, "who_holds", counted)
    attempts = count_attempts(monkeypatch)
    rules = [make_rule(name=f"rule {number}") for number in range(21)]
    with ExitStack() as stack:
        for rule in rules:
            stack.enter_context(taken(rule.listen.port))
        async with relaying() as relay:
            await relay.supervisor.reload(relay.config(*rules[:20]))
            await eventually(lambda: min(attempts.values()) > 3)
            assert [len(places) for places in asked] == [20]
            await relay.supervisor.reload(relay.config(*rules))
            await eventually(lambda: attempts["rule 20"] > 3)
            assert [len(places) for places in asked] == [20, 1]
            said = {str(event.fields["rule"]): event.fields["error"] for event in relay.events}
            assert len(said) == len(relay.events) == 21
            assert said == {status.rule.name: status.last_error for status in relay.snapshot().rules}
            assert all(str(error).count("in use by") == 1 for error in said.values())


def no_thread(*_: object) -> list[str]:
    """What asking for a thread comes to where RLIMIT_NPROC leaves none."""
    raise RuntimeError("can't start new thread")


@pytest.mark.alone("of listening sockets alone, which are the supervisor's")
async def test_a_change_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "who_holds", no_thread)
    monkeypatch.setattr(ports, "Listeners", no_thread)
    with upstream() as service:
        specific = to(service, name="specific")
        wildcard = replace(specific, name="wildcard", listen=Endpoint(ANY, specific.listen.port))
        failing = make_rule(name="failing")
        async with beside(partial(echo, service)), relaying(specific) as relay:
            with taken(failing.listen.port):
                await relay.supervisor.reload(relay.config(specific, wildcard, failing))
                assert str((await relay.said("does not listen")).fields["error"]).endswith("port is in use")
            for rule in (specific, wildcard):
                with dial(rule) as client:
                    await round_trip(client)


@pytest.mark.alone("of listening sockets alone, which are the supervisor's")
async def test_a_fault_while_it_listens_again_is_logged_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count_attempts(monkeypatch)
    rule = make_rule()
    async with relaying(faults=1) as relay:
        with taken(rule.listen.port), monkeypatch.context() as patch:
            await relay.supervisor.reload(relay.config(rule))
            patch.setattr(ports, "listen", no_thread)
            fault = await relay.said("listening again")
            assert "can't start new thread" in str(fault.fields["traceback"])
            assert state(relay, "rule") is RuleState.FAILED
            patch.setattr(ports, "listen", listen)
        await relay.said("a rule listens again")
        assert listening(rule)


async def test_both_families_listen_on_one_port() -> None:
    with upstream() as one, upstream("::1") as other:
        port = free_port()
        rules = [
            replace(to(one, name="v4"), listen=Endpoint("0.0.0.0", port)),
            replace(to(other, name="v6", type=RuleType.V6TOV6), listen=Endpoint("::", port)),
        ]
        async with (
            beside(partial(greet, one, b"v4"), partial(greet, other, b"v6")),
            relaying(*rules) as relay,
        ):
            assert await greeting("127.0.0.1", port) == b"v4"
            assert await greeting("::1", port) == b"v6"
            assert {(await relay.record(n)).client.partition(":")[0] for n in (0, 1)} == {"127.0.0.1", "["}
        assert port_of(one) != port_of(other)
