"""Addresses and options of TCP sockets."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from typing import Any

import pytest

from portproxy.model import Endpoint, Rule, RuleType
from portproxy.net.tcp import (
    SockAddr,
    address_key,
    endpoint_text,
    normalised,
    same_options,
    set_options,
    sockaddr,
)

RULE = Rule(RuleType.V4TOV4, Endpoint("*", 1), Endpoint("127.0.0.1", 1), "rule")


@pytest.mark.parametrize(
    ("sockaddr", "address"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (("2001:db8::1", 80, 0, 0), "2001:db8::1"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1"),
        (("::ffff:0:1", 80, 0, 0), "::ffff:0:1"),
        (("fe80::1", 80, 0, 1), "fe80::1%lo"),
        (("fe80::1", 80, 0, 999999), "fe80::1%999999"),
    ],
)
def test_one_spelling_for_an_address(sockaddr: SockAddr, address: str) -> None:
    assert normalised(sockaddr) == address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 80)),
        ("2001:db8::1", ("2001:db8::1", 80)),
        ("fe80::1%lo", ("fe80::1", 80, 0, 1)),
        ("fe80::1%1", ("fe80::1", 80, 0, 1)),
        ("fe80::1%999999", ("fe80::1", 80, 0, 999999)),
    ],
)
def test_what_bind_takes_for_a_literal(address: str, expected: SockAddr) -> None:
    assert sockaddr(address, 80) == expected


def test_a_scope_that_no_interface_has() -> None:
    with pytest.raises(OSError, match="no interface nowhere0") as caught:
        sockaddr("fe80::1%nowhere0", 80)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize(
    "spellings",
    [
        [("192.0.2.1", 1), ("192.0.2.1", 2)],
        [("::1.2.3.4", 1), ("::102:304", 1), ("::1.2.3.4", 1, 0, 0)],
        [("fe80::1", 1, 0, 1), ("fe80::1%lo", 1, 0, 1), ("FE80:0::1", 1, 0, 1)],
    ],
)
def test_one_key_for_an_address(spellings: list[SockAddr]) -> None:
    assert len({address_key(spelling) for spelling in spellings}) == 1


def test_addresses_of_two_links_have_two_keys() -> None:
    assert len({address_key(("fe80::1", 1, 0, scope)) for scope in range(3)}) == 3


def test_an_endpoint_in_one_word() -> None:
    assert endpoint_text("192.0.2.1", 80) == "192.0.2.1:80"
    assert endpoint_text("fe80::1%lo", 80) == "[fe80::1%lo]:80"


def options_of(rule: Rule) -> tuple[int, ...]:
    with socket.socket() as sock:
        set_options(sock, rule)
        tcp = (
            socket.TCP_NODELAY,
            socket.TCP_KEEPIDLE,
            socket.TCP_KEEPINTVL,
            socket.TCP_KEEPCNT,
            socket.TCP_USER_TIMEOUT,
        )
        general = (socket.SO_OOBINLINE, socket.SO_KEEPALIVE)
        return (
            *(sock.getsockopt(socket.SOL_SOCKET, option) for option in general),
            *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp),
        )


def test_options() -> None:
    assert options_of(RULE) == (1, 1, 1, 60, 10, 6, 0)
    assert options_of(replace(RULE, keepalive=0.25, usertimeout=1.5)) == (1, 1, 1, 1, 1, 6, 1500)
    assert options_of(replace(RULE, usertimeout=1e-6))[-1] == 1
    assert options_of(replace(RULE, nodelay=False))[2] == 0
    assert options_of(replace(RULE, keepalive=None))[1] == 0


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"nodelay": False}, False),
        ({"keepalive": None}, False),
        ({"usertimeout": 1.0}, False),
        ({"name": "other", "backlog": 1, "pipesize": 1}, True),
    ],
)
def test_rules_whose_options_are_the_same(change: dict[str, Any], same: bool) -> None:
    other = replace(RULE, **change)
    assert same_options(RULE, other) is same
    assert (options_of(RULE) == options_of(other)) is same
