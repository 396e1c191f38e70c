"""status, sessions, kill and explain, as a user types them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.cli.shell import Shell, free_port


@pytest.fixture
def service() -> Iterator[socket.socket]:
    """A service on ::1 that accepts by the backlog, and says nothing."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        yield listener


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def relay(portproxy: Shell, service: socket.socket, port: int) -> Iterator[Shell]:
    file = portproxy.directory / "portproxy.toml"
    # The service never closes its side.
    file.write_text('[server]\ndraintimeout = "0s"\n')
    rule = f"v4tov6 {port} connectport={service.getsockname()[1]} listenaddress=127.0.0.1 name=web"
    other = f"v4tov4 {free_port()} 198.51.100.1 maxconn=5"
    with portproxy.serving("-c", str(file), "--rule", rule, "--rule", other):
        yield portproxy


def test_status(relay: Shell, port: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(b"x" * 1000)
        code, said, errors = relay("status")
    assert (code, errors) == (0, [])
    head, _, columns, web, other = said.splitlines()
    assert re.fullmatch(r"portproxy [\d.]+, up [\d.]+s: 2 rules, 1 session", head)
    assert columns.split()[:4] == ["rule", "state", "sessions", "conn/s"]
    assert web.split()[:3] == ["web", "listening", "1"]
    assert web.split()[-4:] == ["1.0", "kB", "0", "B"]
    assert other.split()[1] == "listening"


def test_status_for_programs(relay: Shell, port: int) -> None:
    socket.create_connection(("127.0.0.1", port)).close()
    code, said, errors = relay("status", "--json")
    assert (code, errors) == (0, [])
    web = json.loads(said)["rules"][0]
    assert (web["name"], web["state"], web["listen"]) == ("web", "listening", f"127.0.0.1:{port}")
    assert web["counters"]["connections"] == 1
    assert web["rates"] == {"connections": 0.0, "bytes_up": 0.0, "bytes_down": 0.0}


def test_sessions_and_kill(relay: Shell, port: int) -> None:
    assert relay("sessions") == (0, "no sessions\n", [])
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.settimeout(30)
        host = "{}:{}".format(*client.getsockname())
        code, said, errors = relay("sessions", "web")
        assert (code, errors) == (0, [])
        columns, row = said.splitlines()
        assert columns.split()[:4] == ["id", "rule", "client", "upstream"]
        number, rule, address = row.split()[:3]
        assert (rule, address) == ("web", host)
        listed = json.loads(relay("sessions", str(port), "--json")[1])["sessions"]
        assert [(session["id"], session["client"]) for session in listed] == [(number, host)]
        assert relay("kill", number) == (0, f"killed session {number} of web, from {host}\n", [])
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    gone = f'portproxy: "{number}": there is no such session; `portproxy sessions` lists them'
    assert relay("kill", number) == (1, "", [gone])
    assert json.loads(relay("status", "--json")[1])["rules"][0]["counters"]["ended"] == {"killed": 1}


def test_explain(relay: Shell, service: socket.socket) -> None:
    code, said, errors = relay("explain", "web", "--from", "127.0.0.1")
    assert (code, errors) == (0, [])
    assert said.splitlines()[-1].startswith("a connection from 127.0.0.1 would get through")
    service.close()
    code, said, errors = relay("explain", "web", "--json")
    assert (code, errors) == (1, [])
    explained = json.loads(said)
    (failed,) = [step for step in explained["steps"] if step["outcome"] == "fail"]
    assert (explained["failed"], failed["errno"]) == (failed["name"], "ECONNREFUSED")
    assert relay("explain", "web", "--from", "nobody") == (
        2,
        "",
        ['portproxy: --from "nobody": not an IP address, like 192.0.2.1 or 2001:db8::1'],
    )
