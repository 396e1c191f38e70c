"""Processes that are measured, and those that load them."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.pinning import EVERY, listed

Address = tuple[str, int]
"""Host, as a number, and port."""

DESCRIPTORS = 20_000
"""What every process may open, where the hard limit is not lower: some reserve memory for each."""
PATIENCE = 3.0
"""Seconds that a process has to end after SIGTERM."""
PORTS = range(20_000, 30_000)
"""Below the kernel's default range for clients, which may take any port of theirs at any time."""
SETTLED = 0.05
IDLE = 0.02
"""A process is idle that takes less than this part of a CPU for SETTLED seconds: some have timers."""
_LIBC = ctypes.CDLL(None)
_LISTEN = "0A"
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A command at work, on ``cpus``, what it prints in the file ``output``; ended as a context manager.

    Without ``cpus`` it has all that the benchmark was given, and not only those that the benchmark stays on.

    It runs in a process group of its own, and what is left of that group ends with it.
    """

    def __init__(self, words: Sequence[str], output: Path, cpus: frozenset[int] = frozenset()) -> None:
        pinned = ["taskset", "--cpu-list", listed(cpus or EVERY)]
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
        if not self._ended(seconds):
            raise RuntimeError(f"not ready within {seconds:.0f} s")
        code = self._process.wait()
        if code and check:
            raise RuntimeError(f"exit code {code}: {self.tail()}")
        return self.printed()

    def family(self) -> list[int]:
        """The pids of it and its descendants."""
        return _family(self.pid)

    def cpu_seconds(self) -> float:
        """CPU time of its family since they began, children and threads that have ended included.

        RuntimeError where it has ended, or its children come and go too quickly to be counted.
        """
        until = time.monotonic() + PATIENCE
        while self.running() and time.monotonic() < until:
            family = self.family()
            with contextlib.suppress(OSError):
                spent = sum(map(_cpu_seconds, family))
                if self.family() == family:
                    return spent
        raise RuntimeError(f"no CPU time to be had: {self.tail()}")

    def pss(self) -> float:
        """MiB of memory of its family as if nobody else ran, what they share counted once.

        A stretch of a file (proc_pid_smaps(5)) that several of them have mapped counts as large as it is with
        whoever has most of it in memory.
        PSS itself would give others, this benchmark included, a share of the Python that they have in common.
        """
        family, stretches = self.family(), dict[str, int]()
        for stretch, size in (found for pid in family for found in _mapped(pid)):
            stretches[stretch] = max(size, stretches.get(stretch, 0))
        return (sum(memory(pid, "Pss_Anon:") for pid in family) + sum(stretches.values())) / 1024

    def end(self) -> None:
        """SIGTERM, and SIGKILL for whoever is left."""
        self._process.terminate()
        self._ended(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _ended(self, seconds: float) -> bool:
        """Whether it does so within ``seconds``; Popen.wait would look every 50 ms only."""
        if not self.running():
            return True
        poll, process = select.poll(), os.pidfd_open(self.pid)
        try:
            poll.register(process, select.POLLIN)
            return bool(poll.poll(seconds * 1e3))
        finally:
            os.close(process)

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
    """Until a socket listens there, in its network. RuntimeError as ``until`` has it.

    Nobody connects for that: a stray client would disturb a service that serves one at a time.
    """
    until(process, "listened", lambda: _listens(process.pid, address, port), seconds)


def until(process: Process, what: str, holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Until ``holds``, which is to say that the process has done ``what``: "listened".

    RuntimeError, with the last line it printed, where that never comes.
    """
    late = time.monotonic() + seconds
    while not holds():
        if not process.running():
            raise RuntimeError(f"ended before it {what}: {process.tail()}")
        if time.monotonic() > late:
            raise RuntimeError(f"has not {what} after {seconds:.0f} s: {process.tail()}")
        time.sleep(0.001)


def until_idle(process: Process, seconds: float = 30.0) -> None:
    """Until a process has done what it does after it listens: hardly any CPU time for SETTLED seconds.

    RuntimeError where that never comes, or it has ended.
    """
    late = time.monotonic() + seconds
    before = process.cpu_seconds()
    while True:
        time.sleep(SETTLED)
        spent = process.cpu_seconds()
        if spent - before < SETTLED * IDLE:
            return
        if time.monotonic() > late:
            raise RuntimeError(f"still at work after {seconds:.0f} s")
        before = spent


def memory(pid: int, *fields: str) -> int:
    """The sum of such fields of a process, in KiB (proc_pid_smaps_rollup(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields))


def written(address: Address) -> str:
    """``"127.0.0.1:80"``, ``"[::1]:80"``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _limit() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)


_LIMITED = ("prlimit", f"--nofile={_limit()}")


def _listens(pid: int, host: str, port: int) -> bool:
    """What proc_pid_net(5) says where a process is, unless it has ended.

    Sockets that listen come first, addresses are words in the host's order.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    table = "tcp6" if family == socket.AF_INET6 else "tcp"
    words = struct.iter_unpack("=I", socket.inet_pton(family, host))
    local = "".join(f"{word:08X}" for (word,) in words) + f":{port:04X}"
    with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}") as lines:
        next(lines)
        sockets = (line.split()[1:4] for line in lines)
        listening = itertools.takewhile(lambda fields: fields[2] == _LISTEN, sockets)
        return any(fields[0] == local for fields in listening)
    return False


def _family(pid: int) -> list[int]:
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                found += _family(int(child))
    return found


def _cpu_seconds(pid: int) -> float:
    """Of a process to the nanosecond, of its children that have ended to the tick (proc_pid_stat(5))."""
    clock = ctypes.c_int()
    if error := _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(clock.value) + sum(map(int, fields[13:15])) / _TICKS


def _mapped(pid: int) -> Iterator[tuple[str, int]]:
    """Stretches of files, memory that processes share included, and how many KiB of each are in memory."""
    stretch, resident = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *fields = line.split()
        if not name.endswith(":"):
            _, offset, device, inode = fields[:4]
            stretch = f"{device} {inode} {offset}" if inode != "0" else ""
        elif name == "Rss:":
            resident = int(fields[0])
        elif name == "Anonymous:" and stretch:
            yield stretch, resident - int(fields[0])
