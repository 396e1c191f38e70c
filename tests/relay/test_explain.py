"""Each step of a connection on the client's side broken alone: what explain says, and at which step."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
from dataclasses import replace
from functools import partial

import pytest

from portproxy.errors import ConfigError, PortproxyError
from portproxy.explain import as_text
from portproxy.explain.explanation import Outcome
from portproxy.model import Acl, Endpoint, Limits, RuleType
from tests.relay.namespaces import answer, command, in_own_network, lose
from tests.relay.rig import (
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
)
from tests.relay.walks import all_ok, no_descriptor_left, outcomes, step_of, stops_at, walk


@pytest.mark.parametrize("type", list(RuleType))
async def test_a_rule_that_is_well(type: RuleType) -> None:
    with upstream(type.connect_family.loopback) as service:
        rule = to(service, type=type)
        async with relaying(rule) as relay:
            for source in (None, type.listen_family.loopback):
                explanation = await walk(relay, rule, source)
                all_ok(explanation)
                assert explanation.failed is None
                assert as_text(explanation).endswith(" would get through")


async def test_nobody_is_disturbed() -> None:
    """Sessions go on meanwhile; nothing is accepted, counted or logged for it, but what the session does."""
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                before = relay.snapshot().rules[0].block
                all_ok(await walk(relay, rule, "127.0.0.1"))
                assert relay.snapshot().rules[0].block == before

                async def talk() -> None:
                    while True:
                        await round_trip(client, bytes(1 << 16))

                async with beside(talk):
                    for _ in range(20):
                        all_ok(await walk(relay, rule, "127.0.0.1"))
                assert relay.metric("portproxy_connections_total", rule="rule") == 1
                assert relay.supervisor.sessions == 1
                assert relay.records == []


async def test_what_cannot_be_explained() -> None:
    rule = make_rule()
    async with relaying(rule) as relay:
        with pytest.raises(ConfigError, match='--from "nobody": not an IP address'):
            await walk(relay, rule, "nobody")
        with pytest.raises(PortproxyError, match="rule gone: this relay does not run it"):
            await walk(relay, replace(rule, name="gone"))


# Family.


@pytest.mark.parametrize("source", ["192.0.2.1", "::ffff:192.0.2.1"])
async def test_a_client_of_the_other_family(source: str) -> None:
    with upstream() as service:
        rule = to(service, type=RuleType.V6TOV4)
        rule = replace(rule, listen=Endpoint("*", rule.listen.port))
        async with relaying(rule) as relay:
            explanation = await walk(relay, rule, source)
            assert explanation.source == "192.0.2.1"
            needed = f"add v4tov4 listenport={rule.listen.port} connectaddress=127.0.0.1"
            assert needed in stops_at(explanation, "family").advice
            del (rest := outcomes(explanation))["family"]
            assert rest.pop("admission") is Outcome.SKIPPED
            assert {*rest.values()} == {Outcome.OK}
            theirs = to(service, name="theirs", listen=rule.listen)
            await relay.supervisor.reload(relay.config(rule, theirs))
            assert "reach rule theirs" in stops_at(await walk(relay, rule, source), "family").advice


# Privilege.


def give_up_net_bind_service() -> None:
    """Take CAP_NET_BIND_SERVICE out of this thread's effective set (capget(2), version 3)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    sets = ctypes.create_string_buffer(24)
    assert libc.capget(header, sets) == 0
    effective, *rest = struct.unpack("6I", sets.raw)
    sets = ctypes.create_string_buffer(struct.pack("6I", effective & ~(1 << 10), *rest))
    assert libc.capset(header, sets) == 0


@in_own_network
async def test_a_port_that_needs_a_privilege() -> None:
    with upstream() as service:
        rule = to(service, listen=Endpoint("127.0.0.1", 1022))
        other = replace(rule, name="other", listen=Endpoint("127.0.0.1", 1023))
        async with relaying(rule) as relay:
            all_ok(await walk(relay, rule))
            give_up_net_bind_service()
            await relay.supervisor.reload(relay.config(rule, other))
            step = stops_at(await walk(relay, other), "privilege", "EACCES")
            assert "net.ipv4.ip_unprivileged_port_start=1023" in step.advice
            bound_before = await walk(relay, rule)
            assert bound_before.failed is None
            assert step_of(bound_before, "privilege").outcome is Outcome.WARNING


# Listener.


async def test_somebody_else_has_the_port() -> None:
    with upstream() as service, upstream("127.0.0.2") as stranger:
        rule = to(service)
        taken = to(service, name="taken", listen=Endpoint(*stranger.getsockname()))
        async with relaying(rule) as relay:
            await relay.supervisor.reload(relay.config(rule, taken))
            explanation = await walk(relay, taken)
            step = stops_at(explanation, "listener", "EADDRINUSE")
            assert f"(pid {os.getpid()})" in step.text
            found = outcomes(explanation)
            assert found["firewall"] is Outcome.SKIPPED
            assert found[f"connect {rule.connect}"] is Outcome.OK
            all_ok(await walk(relay, rule))


async def test_a_shadowed_rule() -> None:
    with upstream() as service:
        rule = to(service)
        star, zero = (
            replace(rule, name=name, listen=Endpoint(address, rule.listen.port))
            for name, address in (("star", "*"), ("zero", "0.0.0.0"))
        )
        async with relaying(star) as relay:
            config = replace(relay.config(star, zero), shadowed=(("zero", "star"),))
            await relay.supervisor.reload(config)
            assert "rule star holds" in stops_at(await walk(relay, zero), "listener").text
            all_ok(await walk(relay, star))


async def test_a_relay_that_stops() -> None:
    with upstream() as service:
        rule = to(service)
        async with relaying(rule) as relay:
            await relay.supervisor.drain()
            step = (await walk(relay, rule)).failed
            assert step
            assert (step.name, step.text) == ("listener", "it does not listen: the relay is stopping")


async def test_a_listen_name_without_an_address() -> None:
    with upstream() as service:
        rule = to(service)
        named = replace(rule, name="named", listen=Endpoint("nobody.invalid", free_port()))
        async with relaying(rule, lookup=unknown) as relay:
            await relay.supervisor.reload(relay.config(rule, named))
            step = stops_at(await walk(relay, named), "listener")
            assert "nobody.invalid: " in step.text
            assert "let the listen address resolve" in step.advice


def unknown(name: str, family: object) -> tuple[str, ...]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@in_own_network
async def test_an_address_that_is_gone() -> None:
    command("ip address add 192.0.2.1/32 dev lo")
    with upstream() as service:
        rule = to(service, listen=Endpoint("192.0.2.1", free_port()))
        async with relaying(rule) as relay:
            all_ok(await walk(relay, rule, "198.51.100.1"))
            command("ip address del 192.0.2.1/32 dev lo")
            stops_at(await walk(relay, rule), "listener", "EADDRNOTAVAIL")
            # What has no socket now is told by the same errno.
            other = replace(rule, name="other", listen=Endpoint("192.0.2.2", free_port()))
            await relay.supervisor.reload(relay.config(rule, other))
            stops_at(await walk(relay, other), "listener", "EADDRNOTAVAIL")


async def test_a_loopback_listener_and_a_stranger() -> None:
    with upstream() as service:
        rule = to(service)
        async with relaying(rule) as relay:
            assert "192.0.2.1" in stops_at(await walk(relay, rule, "192.0.2.1"), "listener").advice
            all_ok(await walk(relay, rule, "127.0.0.7"))


async def test_accepting_is_paused() -> None:
    with upstream() as service:
        rule = to(service)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with socket.socket() as client:
                client.setblocking(False)
                with no_descriptor_left():
                    client.connect_ex((rule.listen.address, rule.listen.port))
                    await relay.said("accepting paused")
                    stops_at(await walk(relay, rule), "listener", "EMFILE", unseen=("privilege",))
            await relay.said("accepting again")
            await eventually(lambda: relay.supervisor.sessions == 0)
            all_ok(await walk(relay, rule))


# Firewall.


async def behind_a_firewall(type: RuleType, errno: str) -> None:
    with upstream() as service:
        rule = to(service, type=type)
        rule = replace(rule, listen=Endpoint(rule.listen.address, 7777))
        async with relaying(rule) as relay:
            stops_at(await walk(relay, rule), "firewall", errno)


@in_own_network
async def test_packets_that_are_dropped() -> None:
    lose("tcp dport 7777")
    await behind_a_firewall(RuleType.V4TOV4, "ETIMEDOUT")


@pytest.mark.parametrize(
    ("type", "reject", "errno"),
    [
        ("v4tov4", "icmp type port-unreachable", "ECONNREFUSED"),
        ("v4tov4", "icmp type admin-prohibited", "EHOSTUNREACH"),
        ("v4tov4", "tcp reset", "ECONNREFUSED"),
        ("v6tov4", "icmpv6 type admin-prohibited", "EACCES"),
        ("v6tov4", "tcp reset", "ECONNREFUSED"),
    ],
)
@in_own_network
async def test_packets_that_are_rejected(type: str, reject: str, errno: str) -> None:
    answer("tcp dport 7777", reject)
    await behind_a_firewall(RuleType(type), errno)


async def test_nobody_has_arrived_yet() -> None:
    with upstream("::1") as service:
        rule = to(service, type=RuleType.V6TOV6)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            step = step_of(await walk(relay, rule, "::1"), "firewall")
            assert f"'ip6 and tcp dst port {rule.listen.port} and src host ::1'" in step.advice
            assert "src host" not in step_of(await walk(relay, rule, "192.0.2.1"), "firewall").advice
            with dial(rule) as client:
                await round_trip(client)
            assert step_of(await walk(relay, rule, "::1"), "firewall").advice == ""


# Admission.


async def test_a_client_that_is_not_admitted() -> None:
    with upstream() as service:
        allow, deny = (ipaddress.ip_network(prefix) for prefix in ("192.0.2.0/24", "192.0.2.64/26"))
        rule = to(service, acl=Acl(allow=(allow,), deny=(deny,)), listen=Endpoint("*", free_port()))
        async with relaying(rule) as relay:
            stopped = stops_at(await walk(relay, rule, "192.0.2.65"), "admission")
            assert "deny=192.0.2.64/26" in stopped.text
            stopped = stops_at(await walk(relay, rule, "198.51.100.1"), "admission")
            assert "allow=198.51.100.1" in stopped.advice
            admitted = await walk(relay, rule, "192.0.2.1")
            all_ok(admitted)
            assert "allow=192.0.2.0/24" in step_of(admitted, "admission").text
            anybody = await walk(relay, rule)
            all_ok(anybody)
            said = step_of(anybody, "admission").text
            assert said.startswith("only 192.0.2.0/24 may connect, but not 192.0.2.64/26")


async def one_session(limits: Limits, relay_is_full_for: tuple[str | None, ...]) -> None:
    with upstream() as service:
        rule = to(service, limits=limits)
        async with beside(partial(echo, service)), relaying(rule) as relay:
            with dial(rule) as client:
                await round_trip(client)
                for source in (None, "127.0.0.1", "127.0.0.2"):
                    explanation = await walk(relay, rule, source)
                    if source in relay_is_full_for:
                        stops_at(explanation, "admission")
                    else:
                        all_ok(explanation)


async def test_as_many_sessions_as_maxconn() -> None:
    await one_session(Limits(maxconn=1), (None, "127.0.0.1", "127.0.0.2"))


async def test_as_many_sessions_as_maxconnpersource() -> None:
    await one_session(Limits(maxconnpersource=1), ("127.0.0.1",))


async def test_no_descriptor_is_left() -> None:
    async with relaying(rule := make_rule()) as relay:
        with no_descriptor_left():
            explanation = await walk(relay, rule)
    stops_at(explanation, "admission", "EMFILE", unseen=("privilege", "firewall"))
    for name in ("privilege", "firewall", f"connect {rule.connect}"):
        assert step_of(explanation, name).errno == "EMFILE"
