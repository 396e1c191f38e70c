"""Each step of a connection on the upstream's side broken alone: what explain says, and at which step."""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from portproxy.dataplane.transfer import reset
from portproxy.explain import upstream as explain_upstream
from portproxy.explain.explanation import Outcome
from portproxy.model import Endpoint, Family, Limits, Rule, RuleType
from portproxy.net.dial import begin_connect
from portproxy.net.resolver import KEEP_ANSWER, KEEP_FAILURE
from tests.relay.namespaces import answer, command, in_own_network, lose
from tests.relay.rig import (
    free_port,
    make_rule,
    port_of,
    receive_all,
    relaying,
    to,
    upstream,
)
from tests.relay.walks import all_ok, outcomes, step_of, stops_at, walk

NAME = "service.example"

Lookup = Callable[[str, Family], tuple[str, ...]]


def answers(*addresses: str) -> Lookup:
    """A look-up of ``NAME``, which has these addresses."""

    def lookup(name: str, family: Family) -> tuple[str, ...]:
        assert name == NAME
        found = [text for text in addresses if ipaddress.ip_address(text).version == family.version]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return tuple(found)

    return lookup


# Resolve.


async def test_a_name_that_is_well() -> None:
    with upstream() as service:
        rule = make_rule(f"{NAME}:{port_of(service)}")
        async with relaying(rule, lookup=answers("127.0.0.1", "127.0.0.1")) as relay:
            for when in ("looked up just now", "answered seconds ago"):
                explanation = await walk(relay, rule)
                assert when in step_of(explanation, "resolve").text
                assert outcomes(explanation)[f"connect {service_text(service)}"] is Outcome.OK


def service_text(service: trio.socket.SocketType) -> str:
    host, port = service.getsockname()[:2]
    return str(Endpoint(host, port))


async def test_a_name_that_nobody_knows() -> None:
    rule = make_rule(f"{NAME}:80")
    async with relaying(rule, lookup=answers()) as relay:
        for _ in range(2):  # asked, and then known
            explanation = await walk(relay, rule)
            assert f"getent ahostsv4 {NAME}" in stops_at(explanation, "resolve", "EAI_NONAME").advice
            found = outcomes(explanation)
            assert (found["loop"], found["connect"]) == (Outcome.SKIPPED, Outcome.SKIPPED)
            assert found["source"] is Outcome.OK


@in_own_network
async def test_no_name_server_answers() -> None:
    """Asked of the real resolver."""
    rule = make_rule("nobody.invalid:80")
    async with relaying(rule) as relay:
        step = (await walk(relay, rule)).failed
        assert step
        assert step.name == "resolve"
        assert step.errno in {"EAI_AGAIN", "EAI_NONAME"}  # whichever /etc/resolv.conf leads to


@pytest.mark.parametrize(
    ("type", "address", "fitting"),
    [(RuleType.V4TOV4, "2001:db8::1", "v4tov6"), (RuleType.V6TOV6, "192.0.2.1", "v6tov4")],
)
async def test_a_name_of_the_other_family(type: RuleType, address: str, fitting: str) -> None:
    rule = make_rule(f"{NAME}:80", type)
    async with relaying(rule, lookup=answers(address)) as relay:
        step = stops_at(await walk(relay, rule), "resolve", "EAI_NONAME")
        assert address in step.text
        assert step.advice == f"use {fitting} instead of {type}"


async def test_a_name_server_that_fails_says_nothing_of_families() -> None:
    def lookup(name: str, family: Family) -> tuple[str, ...]:
        if family is Family.V6:
            return ("2001:db8::1",)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    rule = make_rule(f"{NAME}:80")
    async with relaying(rule, lookup=lookup) as relay:
        assert "only" not in stops_at(await walk(relay, rule), "resolve", "EAI_AGAIN").text


async def test_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who explain do not wait as long as a session would, and leave no failure for it."""
    monkeypatch.setattr(explain_upstream, "PATIENCE", 0.05)
    gate = threading.Event()

    def silent(name: str, family: Family) -> tuple[str, ...]:
        gate.wait()
        return ("127.0.0.1",)

    rule = make_rule(f"{NAME}:80", limits=Limits(connecttimeout=600))
    async with relaying(rule, lookup=silent) as relay:
        try:
            assert "no answer within 0.05 s" in stops_at(await walk(relay, rule), "resolve").text
            assert relay.supervisor.resolver.fresh(NAME, Family.V4) is None
        finally:
            gate.set()
        assert await relay.supervisor.resolver.resolve(NAME, Family.V4, math.inf) == ("127.0.0.1",)


async def test_a_last_good_answer(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    known = answers("127.0.0.1")
    failing = False

    def lookup(name: str, family: Family) -> tuple[str, ...]:
        if failing:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return known(name, family)

    with upstream() as service:
        rule = make_rule(f"{NAME}:{port_of(service)}")
        async with relaying(rule, lookup=lookup) as relay:
            all_ok(await walk(relay, rule))
            failing = True
            mock_clock.jump(KEEP_ANSWER)
            await walk(relay, rule)
            mock_clock.jump(KEEP_FAILURE + 2)
            explanation = await walk(relay, rule)
            step = step_of(explanation, "resolve")
            assert step.outcome is Outcome.WARNING
            assert "its last good answer: look-ups have failed for " in step.text
            assert explanation.failed is None


# Loop.


async def test_a_name_that_leads_back() -> None:
    listen = Endpoint("127.0.0.1", free_port())
    rule = make_rule(f"{NAME}:{listen.port}", listen=listen)
    with upstream("127.0.0.2", listen.port):
        async with relaying(rule, lookup=answers("127.0.0.1")) as relay:
            explanation = await walk(relay, rule)
            assert "127.0.0.1 " in stops_at(explanation, "loop").text
            assert outcomes(explanation)["connect"] is Outcome.SKIPPED
            assert relay.metric("portproxy_connections_total", rule="rule") == 0
        async with relaying(rule, lookup=answers("127.0.0.1", "127.0.0.2")) as relay:
            explanation = await walk(relay, rule)
            assert explanation.failed is None
            assert outcomes(explanation)["loop"] is Outcome.WARNING
            assert outcomes(explanation)[f"connect 127.0.0.2:{listen.port}"] is Outcome.OK


async def test_another_rule_of_this_relay_is_no_upstream_to_be_probed() -> None:
    with upstream() as service:
        second = to(service, name="second")
        first = make_rule(str(second.listen), name="first")
        async with relaying(first, second) as relay:
            explanation = await walk(relay, first)
            step = step_of(explanation, f"connect {second.listen}")
            assert step.outcome is Outcome.SKIPPED
            assert "rule second" in step.text
            assert explanation.failed is None
            assert relay.metric("portproxy_connections_total", rule="second") == 0


# Source.


async def test_a_connectsource_that_is_not_here() -> None:
    with upstream() as service:
        rule = to(service, connectsource="192.0.2.1")
        async with relaying(rule) as relay:
            stops_at(await walk(relay, rule), "source", "EADDRNOTAVAIL")
            usable = replace(rule, connectsource="127.0.0.5")
            await relay.supervisor.reload(relay.config(usable))
            all_ok(await walk(relay, usable))


# Connect.


async def cannot_connect(connect: str, errno: str, type: RuleType = RuleType.V4TOV4) -> None:
    rule = make_rule(connect, type, limits=Limits(connecttimeout=2.0))
    async with relaying(rule) as relay:
        stops_at(await walk(relay, rule), f"connect {rule.connect}", errno)
        assert relay.metric("portproxy_connect_seconds_count", rule="rule") == 0


async def test_nobody_listens_there() -> None:
    await cannot_connect(f"127.0.0.1:{free_port()}", "ECONNREFUSED")


async def test_an_interface_that_is_not_there() -> None:
    await cannot_connect("[fe80::1%nosuchlink]:80", "ENODEV", RuleType.V4TOV6)


@pytest.mark.parametrize(
    ("route", "errno"),
    [
        ("", "ENETUNREACH"),
        ("unreachable", "EHOSTUNREACH"),
        ("prohibit", "EACCES"),
        ("blackhole", "EINVAL"),
    ],
)
@in_own_network
async def test_no_route(route: str, errno: str) -> None:
    if route:
        command(f"ip route add {route} 192.0.2.0/24")
    await cannot_connect("192.0.2.1:80", errno)


@in_own_network
async def test_an_upstream_behind_a_firewall() -> None:
    with upstream() as service:
        lose(f"tcp dport {port_of(service)}")
        await cannot_connect(service_text(service), "ETIMEDOUT")


@in_own_network
async def test_an_upstream_behind_a_firewall_that_says_so() -> None:
    with upstream() as service:
        answer(f"tcp dport {port_of(service)}", "icmp type prot-unreachable")
        await cannot_connect(service_text(service), "ENOPROTOOPT")


def leave_one_local_port(port: int) -> None:
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{port} {port}")


@in_own_network
async def test_local_ports_are_used_up() -> None:
    leave_one_local_port(40000)
    with upstream(port=9999) as service, socket.create_connection(service.getsockname()):
        await cannot_connect(service_text(service), "EADDRNOTAVAIL")


@in_own_network
async def test_a_socket_that_the_kernel_joins_to_itself() -> None:
    """Nobody listens on the one port that a client can have."""
    leave_one_local_port(40000)
    await cannot_connect("127.0.0.1:40000", "ECONNREFUSED")


@in_own_network
async def test_addresses_that_are_silent_have_one_deadline_together() -> None:
    """Less than connecttimeout where that is long."""
    addresses = [f"127.0.1.{number}" for number in range(1, 4)]
    rule = make_rule(f"{NAME}:{free_port()}", limits=Limits(connecttimeout=600))
    lose("ip daddr 127.0.1.0/24")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain_upstream, "PATIENCE", 0.3)
        async with relaying(rule, lookup=answers(*addresses)) as relay:
            explanation = await walk(relay, rule)
    stops_at(explanation, f"connect {addresses[0]}:{rule.connect.port}", "ETIMEDOUT")
    steps = [step_of(explanation, f"connect {address}:{rule.connect.port}") for address in addresses]
    assert [step.errno for step in steps] == ["ETIMEDOUT"] * 3


async def test_a_session_goes_on_to_the_next_address() -> None:
    port = free_port()
    rule = make_rule(f"{NAME}:{port}")
    with upstream("127.0.0.3", port):
        async with relaying(rule, lookup=answers("127.0.0.2", "127.0.0.3")) as relay:
            explanation = await walk(relay, rule)
            assert explanation.failed is None
            first = step_of(explanation, f"connect 127.0.0.2:{port}")
            assert (first.outcome, first.errno) == (Outcome.WARNING, "ECONNREFUSED")
            assert outcomes(explanation)[f"connect 127.0.0.3:{port}"] is Outcome.OK


async def test_an_upstream_sees_a_connection_that_ends_well() -> None:
    with upstream() as service:
        rule = to(service, connectsource="127.0.0.5")
        async with relaying(rule) as relay:
            all_ok(await walk(relay, rule))
            server, (host, _) = await service.accept()
            with server:
                assert await receive_all(server) == b""
            assert host == "127.0.0.5"
            assert relay.snapshot().rules[0].block[0] == 0


async def test_an_upstream_that_resets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        rule = make_rule(f"127.0.0.1:{service.getsockname()[1]}")

        def accepted_and_reset(address: str, rule: Rule) -> socket.SocketType:
            sock = begin_connect(address, rule)
            with service.accept()[0] as server:
                reset(server)
            return sock

        monkeypatch.setattr(explain_upstream, "begin_connect", accepted_and_reset)
        async with relaying(rule) as relay:
            explanation = await walk(relay, rule)
    assert explanation.failed is None
    step = step_of(explanation, f"connect {rule.connect}")
    assert (step.outcome, step.errno) == (Outcome.WARNING, "ECONNRESET")


# Protocol.


@in_own_network
async def test_a_protocol_that_carries_addresses() -> None:
    with upstream(port=21) as service:
        rule = to(service)
        async with relaying(rule) as relay:
            explanation = await walk(relay, rule)
            assert explanation.failed is None
            assert outcomes(explanation).pop("protocol") is Outcome.WARNING
            assert "RFC 2428" in step_of(explanation, "protocol").advice
