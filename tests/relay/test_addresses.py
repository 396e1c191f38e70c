"""Where a connection comes from, which upstream address it gets, and with what options."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from trio.testing import MockClock

from portproxy.accesslog import Record
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.wheel import Timed
from portproxy.model import Acl, Endpoint, Family, Limits, Rule, RuleType
from portproxy.net.dial import begin_connect
from portproxy.net.resolver import KEEP_LAST_GOOD
from portproxy.relay import session
from portproxy.snapshot import RuleState
from tests.relay.namespaces import command, in_own_network, lose
from tests.relay.rig import (
    Relay,
    adds_up,
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

NAME = "service.example"


def answers(*addresses: str) -> Callable[[str, Family], tuple[str, ...]]:
    """A look-up that knows one name, which has ``addresses`` in every family that asks for them."""

    def lookup(name: str, family: Family) -> tuple[str, ...]:
        assert name == NAME
        found = [text for text in addresses if ipaddress.ip_address(text).version == family.version]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return tuple(found)

    return lookup


async def reached(rule: Rule, relay: Relay) -> str:
    """The upstream address that a session through ``rule`` ends up at."""
    number = len(relay.records)
    with dial(rule) as client:
        await round_trip(client)
    return (await relay.record(number)).upstream.rpartition(":")[0]


@pytest.mark.parametrize("type", list(RuleType))
async def test_each_type(type: RuleType) -> None:
    with upstream(type.connect_family.loopback) as service:
        rule = to(service, type=type)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                host, port = client.getsockname()[:2]
            record = await relay.record()
            adds_up(record)
            assert record.client == str(Endpoint(host, port))
            assert record.listen == str(rule.listen)
            assert record.upstream == str(rule.connect)


@pytest.mark.alone("looks names up in the test's own process")
async def test_addresses_are_tried_in_order() -> None:
    port = free_port()
    rule = make_rule(f"{NAME}:{port}")
    with upstream("127.0.0.3", port) as third, upstream("127.0.0.4", port) as fourth:
        async with (
            beside(partial(echo, third), partial(echo, fourth)),
            # Nobody listens on the first two, and all but the kernel's loopback answers at once.
            relaying(rule, lookup=answers("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")) as relay,
        ):
            assert await reached(rule, relay) == "127.0.0.3"
            assert await reached(rule, relay) == "127.0.0.3"


@pytest.mark.alone("looks names up in the test's own process")
async def test_only_addresses_of_the_connect_family_are_used() -> None:
    lookup = answers("::1", "127.0.0.1")
    with upstream("127.0.0.1") as v4:
        to_v4 = make_rule(f"{NAME}:{port_of(v4)}", RuleType.V6TOV4, name="to v4")
        to_v6 = make_rule(f"{NAME}:{port_of(v4)}", RuleType.V4TOV6, name="to v6")
        async with beside(partial(echo, v4)), relaying(to_v4, to_v6, lookup=lookup) as relay:
            assert await reached(to_v4, relay) == "127.0.0.1"
            with dial(to_v6) as client:
                assert await was_reset(client)
            record = await relay.record(1)
            assert (record.reason, record.upstream) == ("connect-refused", f"[::1]:{port_of(v4)}")


@pytest.mark.alone("looks names up in the test's own process")
async def test_a_name_without_an_address_in_the_family() -> None:
    rule = make_rule(f"{NAME}:80", RuleType.V4TOV6)
    async with relaying(rule, lookup=answers("127.0.0.1")) as relay:
        for number in range(2):  # asked, and then known
            with dial(rule) as client:
                assert await was_reset(client)
            assert (await relay.record(number)).reason == "connect-resolve"


@pytest.mark.alone("looks names up in the test's own process")
@in_own_network
async def test_an_address_that_is_silent_gets_only_its_share_of_connecttimeout() -> None:
    port = free_port()
    lose(f"ip daddr 127.0.0.2 tcp dport {port}")
    rule = make_rule(f"{NAME}:{port}", limits=Limits(connecttimeout=1.0))
    with upstream("127.0.0.3", port) as service:
        async with (
            beside(partial(echo, service)),
            relaying(rule, lookup=answers("127.0.0.2", "127.0.0.3")) as relay,
        ):
            assert await reached(rule, relay) == "127.0.0.3"
            assert relay.metric("portproxy_connect_seconds_count", rule="rule") == 1


@pytest.mark.alone("looks names up in the test's own process")
async def test_a_listen_address_that_is_a_name() -> None:
    """It comes before the wildcard, as its address would, and is known for a listener of this relay."""
    with upstream() as service:
        named = to(service, name="named", listen=Endpoint(NAME, free_port()))
        wildcard = to(service, name="wildcard", listen=Endpoint("*", named.listen.port))
        chain = make_rule(f"{NAME}:{named.listen.port}", name="chain")
        lookup = answers("127.0.0.4")
        async with beside(partial(echo, service)), relaying(named, wildcard, lookup=lookup) as relay:
            for address in ("127.0.0.4", "127.0.0.1"):
                with dial_endpoint(address, named.listen.port) as client:
                    await round_trip(client)
            assert {(await relay.record(number)).rule for number in (0, 1)} == {"named", "wildcard"}
            await relay.supervisor.reload(relay.config(named, chain))
            with dial(chain) as client:
                await round_trip(client)
            ring = replace(named, connect=Endpoint(NAME, chain.listen.port))
            chain = replace(chain, listen=Endpoint(NAME, chain.listen.port))
            await relay.supervisor.reload(relay.config(ring, chain))
            with dial_endpoint("127.0.0.4", chain.listen.port) as client:
                assert await was_reset(client)
            assert (await relay.record(4)).reason == "connect-loop"


@pytest.mark.alone("looks names up in the test's own process")
async def test_a_listen_name_that_stops_resolving_reroutes_nothing(mock_clock: MockClock) -> None:
    """Its rule keeps its address beside a wildcard too, and after its last good answer is forgotten."""
    mock_clock.rate = 1.0
    known = answers("127.0.0.4")
    failing = False

    def lookup(name: str, family: Family) -> tuple[str, ...]:
        if failing:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return known(name, family)

    async def taken_by(number: int) -> str:
        with dial_endpoint("127.0.0.4", named.listen.port) as client:
            await round_trip(client)
        return (await relay.record(number)).rule

    with upstream() as service:
        named = to(service, name="named", listen=Endpoint(NAME, free_port()))
        wildcard = to(service, name="wildcard", listen=Endpoint("*", named.listen.port))
        running = relaying(named, wildcard, lookup=lookup, patience=10 * KEEP_LAST_GOOD)
        async with beside(partial(echo, service)), running as relay:
            assert await taken_by(0) == "named"
            failing = True
            for number in (1, 2):
                mock_clock.jump(KEEP_LAST_GOOD + 1)
                await relay.supervisor.reload(relay.config(named, replace(wildcard, backlog=number)))
                assert await taken_by(number) == "named"
            assert not relay.heard("does not listen")


@in_own_network
async def test_an_address_beside_a_wildcard_in_whatever_spelling() -> None:
    command("ip link add near type veth peer name far")
    for link in ("near", "far"):
        command(f"ip address add fe80::{link == 'far':d}:1/64 dev {link} nodad")
        command(f"ip link set {link} up")
    command("ip address add ::1.2.3.4/128 dev lo")
    scope = socket.if_nametoindex("far")
    with upstream() as service:
        wildcard = to(service, type=RuleType.V6TOV4, name="wildcard", listen=Endpoint("*", free_port()))
        async with beside(partial(echo, service)), relaying(wildcard) as relay:
            for number, (spelled, dialled) in enumerate(
                [
                    (f"fe80::1:1%{scope}", "fe80::1:1%far"),
                    ("fe80::1:1%far", f"fe80::1:1%{scope}"),
                    ("::1.2.3.4", "::102:304"),
                    ("::102:304", "::1.2.3.4"),
                    ("0:0::102:304", "::102:304"),
                ]
            ):
                specific = replace(wildcard, name="specific", listen=Endpoint(spelled, wildcard.listen.port))
                await relay.supervisor.reload(relay.config(wildcard, specific))
                for address in (dialled, "::1"):
                    with dial_endpoint(address, wildcard.listen.port) as client:
                        await round_trip(client)
                for rule in ("specific", "wildcard"):
                    await relay.until(partial(has, relay.records_of[rule], number + 1))
            assert not relay.heard("does not listen")


def has(records: list[Record], number: int) -> bool:
    return len(records) == number


@pytest.mark.alone("looks names up in the test's own process")
@in_own_network
async def test_connecttimeout_holds_for_all_addresses_together() -> None:
    """Each gets its share of what is left; once nothing is left, the others are not tried."""
    addresses = [f"127.0.1.{number}" for number in range(1, 51)]
    rule = make_rule(f"{NAME}:{free_port()}", limits=Limits(connecttimeout=10.0))
    lose(f"ip daddr 127.0.1.0/24 tcp dport {rule.connect.port}")
    async with relaying(rule, lookup=answers(*addresses)) as relay:
        engine = relay.worker.engine
        now = 1000.0
        dialled: list[tuple[str, float]] = []
        deadlines: list[float] = []

        def dial_slowly(address: str, rule: Rule) -> socket.SocketType:
            nonlocal now
            dialled.append((address, now))
            now += 1.0  # whatever the share was, it is used up
            return begin_connect(address, rule)

        def schedule(item: Timed, deadline: float) -> None:
            deadlines.append(deadline)
            Engine.schedule(engine, item, deadline)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "clock", lambda: now)
            patch.setattr(engine, "schedule", schedule)
            patch.setattr(session, "begin_connect", dial_slowly)
            with dial(rule) as client:
                assert await was_reset(client)
            record = await relay.record()
        assert record.reason == "connect-timeout"
        assert dialled == [(addresses[number], 1000.0 + number) for number in range(10)]
        shares = [(10 - number) / (50 - number) for number in range(10)]
        assert deadlines == [1000.0 + number + share for number, share in enumerate(shares)]


@pytest.mark.alone("looks names up in the test's own process")
async def test_a_ring_through_the_second_address_of_a_name() -> None:
    """Nobody listens on its first address, so each rule reaches the other by the second."""
    ports = free_port(), free_port()
    a, b = (
        make_rule(f"{NAME}:{there}", name=str(here), listen=Endpoint("127.0.0.9", here))
        for here, there in (ports, ports[::-1])
    )
    async with relaying(a, b, lookup=answers("127.0.0.8", "127.0.0.9")) as relay:
        with dial(a) as client:
            assert await was_reset(client)
        # What is left of the name is its first address, and nothing went round.
        assert [(record.rule, record.reason) for record in relay.records] == [(a.name, "connect-refused")]


async def test_two_spellings_of_one_address_beside_the_wildcard() -> None:
    with upstream() as service:
        wildcard = to(service, name="wildcard", listen=Endpoint("*", free_port()))
        literal, name = (
            replace(wildcard, name=host, listen=Endpoint(host, wildcard.listen.port))
            for host in ("127.0.0.1", NAME)
        )
        async with relaying(wildcard, lookup=answers("127.0.0.1")) as relay:
            await relay.supervisor.reload(relay.config(wildcard, literal, name))
            states = {status.rule.name: status.state for status in relay.snapshot().rules}
            assert states == {
                "wildcard": RuleState.LISTENING,
                "127.0.0.1": RuleState.LISTENING,
                NAME: RuleState.FAILED,
            }
            relay.events.clear()  # it may say so


@in_own_network
async def test_scoped_addresses() -> None:
    command("ip link add name near type veth peer name far")
    for link, address in (("near", "fe80::1"), ("far", "fe80::2")):
        command(f"ip address add {address}/64 dev {link} nodad")
        command(f"ip link set {link} up")
    with upstream("fe80::1%near") as service:
        listen = Endpoint("fe80::2%far", free_port())
        any_address = Endpoint("*", listen.port)
        connect = f"[fe80::1%near]:{port_of(service)}"
        rule = make_rule(connect, RuleType.V6TOV6, listen=listen)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial_endpoint("fe80::2%far", listen.port) as client:
                await round_trip(client)
            record = await relay.record()
            await relay.supervisor.reload(relay.config(rule, replace(rule, name="any", listen=any_address)))
            with dial_endpoint("fe80::2%far", listen.port) as client:
                await round_trip(client)
            assert (await relay.record(1)).rule == "rule"
            assert record.listen == str(listen)
            assert record.client.startswith("[fe80::2%far]:")
            assert record.upstream == connect


async def test_connectsource() -> None:
    with upstream() as service:
        rule = to(service, connectsource="127.0.0.5")
        async with relaying(rule):
            with dial(rule):
                server, (host, _) = await service.accept()
                server.close()
    assert host == "127.0.0.5"


async def test_a_source_is_judged_by_its_own_address() -> None:
    with upstream() as service:
        acl = Acl(allow=(ipaddress.ip_network("127.0.0.0/30"),), deny=(ipaddress.ip_network("127.0.0.2"),))
        rule = to(service, acl=acl)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            for source, admitted in (("127.0.0.1", True), ("127.0.0.2", False), ("127.0.0.9", False)):
                with dial(rule, source) as client:
                    if admitted:
                        await round_trip(client)
                    else:
                        assert await was_reset(client)
            reasons = [(await relay.record(number)).reason for number in range(3)]
            assert sorted(reasons) == ["denied", "denied", "finished"]


@pytest.mark.alone("maxconnpersource holds for each worker by itself")
async def test_maxconnpersource_follows_a_reload() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial(rule) as first:
                await round_trip(first)
                limited = replace(rule, limits=Limits(maxconnpersource=1))
                await relay.supervisor.reload(relay.config(limited))
                with dial(rule) as second:
                    assert await was_reset(second)
                with dial(rule, "127.0.0.2") as other:
                    await round_trip(other)
            await eventually(lambda: relay.supervisor.sessions == 0)
            with dial(rule) as third:
                await round_trip(third)


@pytest.mark.alone("looks at the worker's sockets")
async def test_options_are_on_both_sockets() -> None:
    """Also those of a rule that shares the wildcard's listening socket."""
    with upstream() as service:
        wildcard = to(service, name="wildcard", keepalive=None, nodelay=False)
        wildcard = replace(wildcard, listen=Endpoint("*", wildcard.listen.port))
        specific = to(service, name="specific", keepalive=30.0, usertimeout=2.5)
        specific = replace(specific, listen=Endpoint("127.0.0.1", wildcard.listen.port))
        async with beside(partial(echo, service)), relaying(wildcard, specific) as relay:
            with (
                dial_endpoint("127.0.0.1", wildcard.listen.port) as one,
                dial_endpoint("127.0.0.2", wildcard.listen.port) as other,
            ):
                await round_trip(one)
                await round_trip(other)
                for name, expected in (
                    ("specific", (1, 30, 5, 6, 2500, 1)),
                    ("wildcard", (0, None, None, None, 0, 0)),
                ):
                    (relayed,) = relay.instance(name).sessions
                    assert relayed.transfer
                    for leg in (relayed.transfer.up, relayed.transfer.down):
                        assert options(leg.sock) == expected


def options(sock: socket.SocketType) -> tuple[int | None, ...]:
    """SO_KEEPALIVE and its three times, TCP_USER_TIMEOUT in ms, TCP_NODELAY."""

    def get(option: int) -> int:
        return sock.getsockopt(socket.IPPROTO_TCP, option)

    keepalive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    times = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    shown = [get(option) if keepalive else None for option in times]
    return keepalive, *shown, get(socket.TCP_USER_TIMEOUT), get(socket.TCP_NODELAY)
