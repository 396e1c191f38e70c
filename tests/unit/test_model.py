"""The model's own arithmetic: what rules bind, and what makes two of them the same."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import socket
from ipaddress import ip_address

import pytest

from portproxy.model import Config, Endpoint, Family, Rule, RuleType, literal


def rule(kind: str, listen: str, name: str = "r") -> Rule:
    return Rule(RuleType(kind), Endpoint(listen, 80), Endpoint("192.0.2.1", 80), name)


@pytest.mark.parametrize(
    ("kind", "listen", "connect"),
    [("v4tov4", "v4", "v4"), ("v4tov6", "v4", "v6"), ("v6tov4", "v6", "v4"), ("v6tov6", "v6", "v6")],
)
def test_a_type_is_its_two_families(kind: str, listen: str, connect: str) -> None:
    assert RuleType(kind).listen_family is Family(listen)
    assert RuleType(kind).connect_family is Family(connect)


def test_a_family_is_consistent() -> None:
    for family, af in ((Family.V4, socket.AF_INET), (Family.V6, socket.AF_INET6)):
        assert family.af == af
        assert ip_address(family.wildcard).is_unspecified
        assert ip_address(family.loopback).is_loopback
        assert ip_address(family.loopback).version == ip_address(family.wildcard).version == family.version


@pytest.mark.parametrize(
    ("address", "spelled"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("0:0::1", "::1"),
        ("FE80::1%eth0", "fe80::1%eth0"),
        ("*", None),
        ("", None),
        ("a.example", None),
        ("127.1", None),
        ("192.0.2.1/32", None),
        ("::1%", None),
        ("[::1]", None),
        ("a:b", None),
    ],
)
def test_literals(address: str, spelled: str | None) -> None:
    ip = literal(address)
    assert (None if ip is None else str(ip)) == spelled


@pytest.mark.parametrize(
    ("kind", "listen", "bound", "wildcard"),
    [
        ("v4tov4", "*", "0.0.0.0", True),
        ("v4tov4", "0.0.0.0", "0.0.0.0", True),
        ("v6tov4", "*", "::", True),
        ("v6tov4", "0::0", "::", True),
        ("v6tov4", "2001:DB8::1", "2001:db8::1", False),
        ("v6tov4", "A.Example", "a.example", False),
    ],
)
def test_what_a_rule_binds(kind: str, listen: str, bound: str, wildcard: bool) -> None:
    made = rule(kind, listen)
    assert (made.bind_address, made.wildcard) == (bound, wildcard)
    assert made.endpoint == (made.type.listen_family, bound, 80)


def test_what_a_rule_listens_on_follows_it() -> None:
    one = rule("v6tov4", "::0:1")
    assert one.endpoint == (Family.V6, "::1", 80)
    # Workers are sent their rules.
    assert pickle.loads(pickle.dumps(one)).endpoint == copy.copy(one).endpoint == one.endpoint
    moved = dataclasses.replace(one, type=RuleType.V4TOV4, listen=Endpoint("*", 81))
    assert moved.endpoint == (Family.V4, "0.0.0.0", 81)
    # How it is written is what it is; where it ends up alike is for plans and checks to see.
    assert rule("v6tov4", "::1").endpoint == one.endpoint
    assert rule("v6tov4", "::1") != one
    assert "endpoint" not in repr(one)


def test_an_endpoint_brackets_ipv6() -> None:
    assert [str(Endpoint(address, 1)) for address in ("*", "192.0.2.1", "::1", "a.example")] == [
        "*:1",
        "192.0.2.1:1",
        "[::1]:1",
        "a.example:1",
    ]


def test_shadowed_rules_are_not_active() -> None:
    rules = (rule("v4tov4", "*", "a"), rule("v4tov4", "0.0.0.0", "b"))
    assert Config(rules=rules).active == rules
    assert Config(rules=rules, shadowed=(("b", "a"),)).active == rules[:1]
