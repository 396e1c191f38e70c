from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from portproxy.model import ANY, Family
from portproxy.net.holder import holders, parse_address, who_holds

LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as sock:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(sys.argv[2]))
    sock.bind((sys.argv[1], 0))
    sock.listen()
    with open("/proc/self/comm", "w") as comm:
        comm.write(sys.argv[3])
    print(sock.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def listener(address: str, *, v6only: bool = True, name: str = "web") -> Iterator[tuple[int, str]]:
    """A child process that listens on ``address``: its port, and what it should be called."""
    command = [sys.executable, "-c", LISTEN, address, str(int(v6only)), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline()), f"{name} (pid {child.pid})"


@pytest.mark.parametrize(
    ("listens", "v6only", "wanted", "family"),
    [
        ("127.0.0.1", True, "127.0.0.1", Family.V4),
        ("127.0.0.1", True, "0.0.0.0", Family.V4),
        ("127.0.0.1", True, ANY, Family.V4),
        ("0.0.0.0", True, "127.0.0.1", Family.V4),
        ("::1", True, "::1", Family.V6),
        ("::1", True, ANY, Family.V6),
        ("::", True, "::1", Family.V6),
        ("::", False, "127.0.0.1", Family.V4),
        ("::", False, "0.0.0.0", Family.V4),
        ("127.0.0.1", True, "::", Family.V6),
    ],
)
def test_the_holder_is_named(listens: str, v6only: bool, wanted: str, family: Family) -> None:
    with listener(listens, v6only=v6only) as (port, process):
        assert holders([(wanted, port, family)]) == [[process]]
        assert who_holds([(wanted, port, family)]) == [process]


@pytest.mark.parametrize(
    ("listens", "wanted", "family"),
    [
        ("127.0.0.1", "127.0.0.2", Family.V4),
        ("127.0.0.1", "::1", Family.V6),
        ("::1", "127.0.0.1", Family.V4),
    ],
)
def test_who_is_not_in_the_way_is_not_named(listens: str, wanted: str, family: Family) -> None:
    with listener(listens) as (port, _):
        assert holders([(wanted, port, family)]) == [[]]


def test_a_port_nobody_listens_on() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert who_holds([("127.0.0.1", bound.getsockname()[1], Family.V4)]) == [""]


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        host, port = sock.getsockname()
        with socket.create_connection((host, port)), sock.accept()[0]:
            sock.close()
            assert holders([(host, port, Family.V4)]) == [[]]


def test_a_name_is_not_looked_up() -> None:
    assert holders([("localhost", 80, Family.V4)]) == [[]]


def test_places_are_looked_at_together() -> None:
    with listener("127.0.0.1") as (port, process), listener("::1") as (other_port, other):
        places = [("127.0.0.1", port, Family.V4), ("::1", port, Family.V6), ("::1", other_port, Family.V6)]
        assert who_holds(places) == [process, "", other]
        assert who_holds([]) == []


def test_nobody_is_seen_without_a_descriptor_to_look_with() -> None:
    with listener("127.0.0.1") as (port, _):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert who_holds([("127.0.0.1", port, Family.V4)]) == [""]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_a_process_calls_itself_is_not_trusted() -> None:
    with listener("127.0.0.1", name="a\x1b[2J\nb") as (port, process):
        pid = process.rpartition(" ")[2]
        assert holders([("127.0.0.1", port, Family.V4)]) == [[rf"a\x1b[2J\nb (pid {pid}"]]


def test_many_holders_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[sock.fileno()]) for _ in range(4)
        ]
        try:
            (found,) = holders([("127.0.0.1", port, Family.V4)])
            pids = sorted([os.getpid(), *(child.pid for child in children)])
            assert [int(name.rpartition(" ")[2][:-1]) for name in found] == pids
            assert who_holds([("127.0.0.1", port, Family.V4)]) == [", ".join([*found[:3], "and 2 more"])]
        finally:
            for child in children:
                child.communicate()


def test_addresses_are_words_of_this_machine() -> None:
    loopback = socket.inet_aton("127.0.0.1")
    word = f"{int.from_bytes(loopback, sys.byteorder):08X}"
    assert str(parse_address(word)) == "127.0.0.1"
    mapped = ["00000000", "00000000", f"{int.from_bytes(bytes([0, 0, 255, 255]), sys.byteorder):08X}", word]
    assert parse_address("".join(mapped)) == parse_address("".join(mapped).lower())
    assert parse_address("".join(mapped)).ipv4_mapped == parse_address(word)  # type: ignore[union-attr]
