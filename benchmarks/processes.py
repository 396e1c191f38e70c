"""Processes that are measured, and those that load them."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pinning import listed

Address = tuple[str, int]
"""Host, as a number, and port."""

DESCRIPTORS = 20_000
"""What every process may open, where the hard limit is not lower: some reserve memory for each."""
PATIENCE = 3.0
"""Seconds that a process has to end after SIGTERM."""
PORTS = range(20_000, 30_000)
"""Below the kernel's default range for clients, which may take any port of theirs at any time."""
SETTLED = 0.05
_LISTEN = "0A"
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A command at work, on ``cpus``, what it prints in the file ``output``; ended as a context manager.

    It runs in a process group of its own, and what is left of that group ends with it.
    """

    def __init__(self, words: Sequence[str], output: Path, cpus: frozenset[int] = frozenset()) -> None:
        pinned = ["taskset", "--cpu-list", listed(cpus)] if cpus else []
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [*_LIMITED, *pinned, *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self.pid = self._process.pid

    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it, and it alone, a signal."""
        self._process.send_signal(number)

    def tail(self) -> str:
        """The last line that it printed."""
        lines = self.printed().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it printed nothing")

    def printed(self) -> str:
        """All that it printed so far."""
        return self._output.read_text(errors="replace")

    def wait(self, seconds: float, check: bool = True) -> str:
        """What it printed, once it has ended. RuntimeError where it is late, or failed (with ``check``)."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not ready within {seconds:.0f} s") from None
        if code and check:
            raise RuntimeError(f"exit code {code}: {self.tail()}")
        return self.printed()

    def family(self) -> list[int]:
        """The pids of it and its descendants."""
        return _family(self.pid)

    def cpu_seconds(self) -> float:
        """User and system time of its family since they began, children that have ended included."""
        while True:
            family = self.family()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                ticks = sum(map(_ticks, family))
                if self.family() == family:
                    return ticks / _TICKS

    def pss(self) -> float:
        """MiB of memory of its family, what they share counted once (proc_pid_smaps_rollup(5))."""
        return sum(map(_pss, self.family())) / 1024

    def end(self) -> None:
        """SIGTERM, and SIGKILL for whoever is left."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def free_port(host: str = "127.0.0.1") -> int:
    """A port of PORTS where nobody listens."""
    while True:
        port = random.choice(PORTS)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.suppress(OSError), socket.create_server((host, port), family=family):
            return port


def until_listening(process: Process, address: str, port: int, seconds: float = 30.0) -> None:
    """Until a socket listens there. RuntimeError, with the last line it printed, where that never comes.

    Nobody connects for that: a stray client would disturb a service that serves one at a time.
    """
    until = time.monotonic() + seconds
    while not _listens(address, port):
        if not process.running():
            raise RuntimeError(f"ended before it listened: {process.tail()}")
        if time.monotonic() > until:
            raise RuntimeError(f"does not listen after {seconds:.0f} s: {process.tail()}")
        time.sleep(0.001)


def until_idle(process: Process) -> None:
    """Until a process has done what it does after it listens: no CPU time for SETTLED seconds."""
    spent = -1.0
    while spent != (spent := process.cpu_seconds()):
        time.sleep(SETTLED)


def written(address: Address) -> str:
    """``"127.0.0.1:80"``, ``"[::1]:80"``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _limit() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)


_LIMITED = ("prlimit", f"--nofile={_limit()}")


def _listens(host: str, port: int) -> bool:
    """What proc_pid_net(5) says: sockets that listen come first, addresses are words in the host's order."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    words = struct.iter_unpack("=I", socket.inet_pton(family, host))
    local = "".join(f"{word:08X}" for (word,) in words) + f":{port:04X}"
    with open("/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp") as lines:
        next(lines)
        sockets = (line.split()[1:4] for line in lines)
        listening = itertools.takewhile(lambda fields: fields[2] == _LISTEN, sockets)
        return any(fields[0] == local for fields in listening)


def _family(pid: int) -> list[int]:
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                found += _family(int(child))
    return found


def _ticks(pid: int) -> int:
    """utime, stime, cutime and cstime of proc_pid_stat(5); the name before them may have spaces."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
