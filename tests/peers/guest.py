"""A Linux kernel of its own at the other end of a wire, in user-mode Linux (``uml-peer``)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.package.namespaces import command
from tests.peers import agent

PEERS = Path(__file__).parent
_TOP = PEERS.parents[1]
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_NODE = "node"
"""What the test's own network namespace is called, for those that want a name."""
WIRE = "wire0"
_PORT = 4242
_SECONDS = 90
"""That a guest lives at most."""


@functools.cache
def hindrance() -> str:
    """Why there can be no guest here; empty where there can."""
    for tool in ("linux.uml", "modprobe", "tshark", "ping", "ip", "setpriv", "unshare"):
        if not shutil.which(tool, path=_PATH):
            return f"no {tool} on this machine"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun on this machine, or none for this user"
    return ""


class Guest:
    """The guest, which ``process`` runs and which answers at ``address``, one of its own."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process = process
        self.address = address

    def run(self, script: str) -> str:
        """What a shell script prints there. Raises AssertionError where it fails."""
        return str(self.ask("run", script))

    def ask(self, *request: object) -> Any:
        """Have the guest's agent do something (tests/peers/agent.py)."""
        return agent.ask(self.address, _PORT, *request)


@contextmanager
def booted(directory: Path, near: tuple[str, ...], far: tuple[str, ...]) -> Iterator[Guest]:
    """A guest on the wire WIRE of this namespace, which is a test's own with mounts of its own.

    ``near`` are the addresses of this side, ``far`` those of the guest, with the lengths of their prefixes.
    Both ends are up, and the guest answers at the first of ``far``.
    """
    command("mount", "-t", "tmpfs", "tmpfs", "/run")
    command("ip", "netns", "attach", _NODE, str(os.getpid()))
    command("ip", "tuntap", "add", WIRE, "mode", "tap")
    agent.run(_addressed(WIRE, near))
    script = directory / "guest.sh"
    script.write_text(f"set -e\n{_addressed('eth0', far)}\nexec {sys.executable} {PEERS}/agent.py {_PORT}\n")
    with (directory / "console").open("w+b") as console:
        process = subprocess.Popen(
            [PEERS / "uml-peer", _NODE, WIRE, script, str(_SECONDS)],
            stdout=console,
            stderr=subprocess.STDOUT,
            env={"PATH": _PATH, "TMPDIR": str(directory)},
        )
        try:
            _wait_until_it_answers(process, directory / "console")
            yield Guest(process, far[0].partition("/")[0])
        finally:
            process.terminate()
            process.wait()


def _addressed(interface: str, addresses: tuple[str, ...]) -> str:
    adding = (f"ip addr add {one} dev {interface} {'nodad' if ':' in one else ''}" for one in addresses)
    return "\n".join((f"ip link set {interface} up", *adding))


def _wait_until_it_answers(process: subprocess.Popen[bytes], console: Path) -> None:
    while agent.LISTENING not in (said := console.read_text(errors="replace")):
        assert process.poll() is None, said
        time.sleep(0.02)


@contextmanager
def serving(file: Path, tables: str, tunnels: int) -> Iterator[None]:
    """``portproxy serve`` with ``tables``, ``tunnels`` in all, which are up and complain of nothing."""
    file.write_text(tables)
    arguments = ("-m", "portproxy", "serve", "--control", "off", "-c", file)
    with subprocess.Popen(
        [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, cwd=_TOP
    ) as process:
        assert process.stderr
        said = ""
        try:
            while said.count("a tunnel is up") < tunnels:
                line = process.stderr.readline()
                assert line, said
                said += line
            yield
        finally:
            process.terminate()
        said += process.stderr.read()
    assert process.returncode == 0, said
    assert "warn" not in said, said
    assert "error" not in said, said
