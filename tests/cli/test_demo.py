"""``portproxy demo``, as it is seen in a pipe and on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import urllib.request

import pytest

from portproxy import demo
from portproxy.errors import StartError
from tests.cli.shell import PORTPROXY, Shell, stopped

TOTALS = re.compile(r"connections: (\d+), to the service: ([\d,]+) B, back: ([\d,]+) B")


def counted(line: str) -> tuple[int, ...]:
    found = TOTALS.search(line)
    assert found, line
    return tuple(int(number.replace(",", "")) for number in found.groups())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_a_pipe(portproxy: Shell, number: signal.Signals) -> None:
    with portproxy.started(PORTPROXY, "demo") as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(10)]
        text = "".join(said)
        without, through = re.findall(r"http://\[::1\]:(\d+)/  (.*)", text)
        assert without[1] == "Connection refused"
        assert re.fullmatch(r"Served on 127\.0\.0\.1:\d+ only, to 127\.0\.0\.1:\d+\.", through[1])
        url = f"http://[::1]:{through[0]}/"
        with urllib.request.urlopen(url) as page:
            assert page.read().startswith(b"Served on 127.0.0.1:" + without[0].encode())
        first, second = counted(process.stdout.readline()), counted(process.stdout.readline())
        assert all(later > earlier for earlier, later in zip(first, second, strict=True))
        ended = stopped(process, number)
    assert (ended.code, ended.errors) == (0, "")
    last = ended.output.splitlines()[-1]
    assert last.startswith("stopped; ")
    assert counted(last) >= second
    with socket.socket(socket.AF_INET6) as later:
        assert later.connect_ex(("::1", int(through[0]))) != 0


def test_on_a_terminal(portproxy: Shell) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    process = subprocess.Popen(
        [PORTPROXY, "demo"],
        cwd=portproxy.directory,
        env=portproxy.environ | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal, process:
        shown = b""
        # Two sessions: the table was drawn again in its place.
        while b"finished" not in shown.partition(b"\x1b[1A")[2]:
            shown += terminal.read(1 << 16)
        process.send_signal(signal.SIGINT)
        while b"stopped; connections: " not in shown:
            shown += terminal.read(1 << 16)
        assert process.wait() == 0
    assert b"Traceback" not in shown


def test_without_an_ipv6_loopback_address(portproxy: Shell) -> None:
    code = (
        "import sys, portproxy.demo; sys.argv = ['portproxy', 'demo']\n"
        "portproxy.demo.is_local = lambda address: False\n"
        "from portproxy.cli import main; main()"
    )
    line = "portproxy: demo: this computer has no IPv6 loopback address, ::1, for the rule to listen on"
    assert portproxy.run([sys.executable, "-c", code]) == (1, "", [line])


def test_an_address_that_cannot_be_listened_on() -> None:
    with pytest.raises(StartError, match=r"^demo: cannot listen on 192\.0\.2\.1: Cannot assign requested"):
        demo.listen_on("192.0.2.1")


def test_a_visitor_who_says_nothing_does_not_keep_it(portproxy: Shell) -> None:
    with portproxy.started(PORTPROXY, "demo") as process:
        assert process.stdout is not None
        text = "".join(process.stdout.readline() for _ in range(10))
        port = int(re.findall(r"\[::1\]:(\d+)/", text)[-1])
        with socket.create_connection(("::1", port)) as silent:
            ended = stopped(process, signal.SIGINT)
            assert ended.code == 0
            with pytest.raises(ConnectionResetError):
                silent.recv(1)
