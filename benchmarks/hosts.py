"""Two hosts and a cable between them: network namespaces, joined by veth.

A namespace has no name here, but a process that sleeps in it: it is gone when that is, however a run ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Process, until
from benchmarks.run import Run

ADDRESSES = ("198.51.100.1", "198.51.100.2")
"""Of the ends of the cable, whose MTU is veth's: 1500."""
_CABLE = "cable"
"""What both ends are called."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TUN = "/dev/net/tun"
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
"""Of capabilities(7), by their bits; the last one makes namespaces."""


@dataclass(frozen=True)
class Host:
    """A namespace. A command that follows ``within`` runs there; its files belong into ``directory``."""

    directory: Path
    address: str
    pid: int
    cpus: frozenset[int]

    @property
    def within(self) -> tuple[str, ...]:
        return "nsenter", f"--net=/proc/{self.pid}/ns/net"

    def ip(self, *words: str) -> None:
        """Have ip(8) do something here. RuntimeError, with what it says, where it fails."""
        done = subprocess.run([*self.within, "ip", *words], capture_output=True, check=False, text=True)
        if done.returncode:
            raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def missing() -> str | None:
    """What this machine lacks for tunnels between hosts; None where it has all."""
    if importlib.util.find_spec("pyroute2") is None:
        return "pyroute2 is not installed"
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool, path=_PATH) is None:
            return f"{tool} is not installed"
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    for capability, bit in _CAPABILITIES.items():
        if not effective >> bit & 1:
            return f"it needs {capability}"
    try:
        os.close(os.open(_TUN, os.O_RDWR))
    except OSError as error:
        return f"{_TUN}: {error.strerror}"
    return None


@contextlib.contextmanager
def linked(run: Run) -> Iterator[tuple[Host, Host]]:
    """The near host has the load's CPUs, the far one the relay's. RuntimeError where that cannot be."""
    with (
        _host(run, ADDRESSES[0], run.pinning.load) as near,
        _host(run, ADDRESSES[1], run.pinning.relay) as far,
    ):
        peer = ("peer", "name", _CABLE, "netns", str(far.pid))
        near.ip("link", "add", _CABLE, "type", "veth", *peer)
        for host in (near, far):
            host.ip("address", "add", f"{host.address}/24", "dev", _CABLE)
            host.ip("link", "set", _CABLE, "up")
        yield near, far


@contextlib.contextmanager
def _host(run: Run, address: str, cpus: frozenset[int]) -> Iterator[Host]:
    directory = run.directory / address
    directory.mkdir(exist_ok=True)
    with Process(["unshare", "--net", "sleep", "infinity"], directory / "host.log", cpus) as sleeper:
        home = os.readlink("/proc/self/ns/net")
        until(sleeper, "made a network", lambda: os.readlink(f"/proc/{sleeper.pid}/ns/net") != home)
        yield Host(directory, address, sleeper.pid, cpus)
