"""Listening sockets: what they are, and what is said where there can be none."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from portproxy.model import Endpoint, Family, Rule, RuleType
from portproxy.net.listeners import explain_bind, listen, unprivileged_port_start


def rule(port: int, **options: float | None) -> Rule:
    values: dict[str, float | None] = {"keepalive": 30.0, **options}
    listen, connect = Endpoint("*", port), Endpoint("127.0.0.1", 1)
    return Rule(RuleType.V4TOV4, listen, connect, "rule", keepalive=values["keepalive"])


def test_both_families_share_a_port() -> None:
    with listen(Family.V6, "::", rule(0)) as v6:
        port = v6.getsockname()[1]
        with listen(Family.V4, "0.0.0.0", rule(port)) as v4:
            assert v4.getsockname() == ("0.0.0.0", port)


def test_a_second_one_finds_the_port_in_use() -> None:
    with listen(Family.V4, "127.0.0.1", rule(0)) as sock:
        with pytest.raises(OSError, match="Address already in use") as error:
            listen(Family.V4, "127.0.0.1", rule(sock.getsockname()[1]))
        assert error.value.errno == errno.EADDRINUSE


def test_what_is_accepted_has_the_rule_s_options() -> None:
    with listen(Family.V4, "127.0.0.1", rule(0)) as sock, socket.create_connection(sock.getsockname()):
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE) == 1


def test_a_scope_picks_the_interface() -> None:
    # No interface has that address, but the kernel got as far as asking the one that is named.
    with pytest.raises(OSError, match="Cannot assign requested address"):
        listen(Family.V6, "fe80::dead:beef%lo", rule(0))
    with pytest.raises(socket.gaierror):
        listen(Family.V6, "fe80::1%nosuchlink", rule(0))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EADDRINUSE, ""), "the port is in use"),
        (OSError(errno.EADDRNOTAVAIL, ""), "no interface of this host has that address"),
        (OSError(errno.EAFNOSUPPORT, ""), "this kernel has no IPv6"),
        (OSError(errno.ENOBUFS, ""), "No buffer space available"),
        (OSError(), "Input/output error"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
    ],
)
def test_why_not(error: OSError, said: str) -> None:
    assert explain_bind(error, "::1", 80) == f"cannot listen on [::1]:80: {said}"


def test_why_not_where_nobody_is_seen_or_nothing_is_permitted() -> None:
    in_use = explain_bind(OSError(errno.EADDRINUSE, ""), "10.0.0.1", 80)
    assert in_use == "cannot listen on 10.0.0.1:80: the port is in use"
    for code in (errno.EACCES, errno.EPERM):
        assert "need root or CAP_NET_BIND_SERVICE" in explain_bind(OSError(code, ""), "::", 80)


def test_why_not_where_root_was_dropped() -> None:
    refused = OSError(errno.EACCES, "")
    start = unprivileged_port_start()
    assert str(start) == Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
    assert explain_bind(refused, "::", start - 1, "web").endswith(
        "permission denied; root was dropped to user web after the start, "
        f"so a port below {start} can be bound at a start only"
    )
    # What else refuses it (a security module) would do so at a start as well.
    assert "root was dropped" not in explain_bind(refused, "::", start, "web")
