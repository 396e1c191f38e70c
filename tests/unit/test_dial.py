"""Connecting without waiting."""

from __future__ import annotations

import errno
import select
import socket
from contextlib import closing
from dataclasses import replace

import pytest

from portproxy.model import Endpoint, Rule, RuleType
from portproxy.net.dial import begin_connect, connected_to_itself, is_local


def rule_to(port: int, type: RuleType = RuleType.V4TOV4) -> Rule:
    return Rule(type, Endpoint("*", 1), Endpoint("*", port), "rule")


def outcome(sock: socket.SocketType) -> int:
    """SO_ERROR once the connection is there or has failed."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    poll.poll()
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@pytest.mark.parametrize(("address", "type"), [("127.0.0.1", RuleType.V6TOV4), ("::1", RuleType.V4TOV6)])
def test_a_connection_is_under_way(address: str, type: RuleType) -> None:
    with socket.create_server((address, 0), family=type.connect_family.af) as server:
        rule = replace(rule_to(server.getsockname()[1], type), connectsource=address, usertimeout=1.0)
        with closing(begin_connect(address, rule)) as sock:
            assert outcome(sock) == 0
            assert not sock.getblocking()
            assert sock.getpeername() == server.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000
            assert not connected_to_itself(sock, rule.connect.port)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with closing(begin_connect("127.0.0.1", rule_to(taken.getsockname()[1]))) as sock:
            assert outcome(sock) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("address", "connectsource", "code"),
    [
        ("127.0.0.1", "192.0.2.1", errno.EADDRNOTAVAIL),
        ("255.255.255.255", None, errno.ENETUNREACH),
    ],
)
def test_what_cannot_even_begin(address: str, connectsource: str | None, code: int) -> None:
    with pytest.raises(OSError) as error:  # noqa: PT011
        begin_connect(address, replace(rule_to(1), connectsource=connectsource))
    assert error.value.errno == code


def test_a_scope_that_is_no_interface() -> None:
    with pytest.raises(OSError, match="no interface nosuchlink") as error:
        begin_connect("fe80::1%nosuchlink", rule_to(1, RuleType.V4TOV6))
    assert error.value.errno == errno.ENODEV


def test_a_connection_to_itself() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.connect(("127.0.0.1", port))
        assert connected_to_itself(sock, port)
        # A port that the kernel never takes for a local one needs no look.
        assert not connected_to_itself(sock, 80)


def test_a_connection_that_is_gone_is_not_to_itself() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert not connected_to_itself(sock, sock.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.1", False), ("2001:db8::1", False)],
)
def test_addresses_of_this_host(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_a_scoped_address_is_looked_for_on_its_interface() -> None:
    assert not is_local("fe80::1%lo")
    assert not is_local("fe80::1%nosuchlink")
