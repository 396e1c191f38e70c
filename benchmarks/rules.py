"""What thousands of rules cost whoever gives commands: check, show, reload, add, scrape, stop.

Rules of all four types, on ports from FIRST_PORT up of ::1 and of 127.0.10.1 to 127.0.10.16. Commands are
given as a user would, so their figures have the start of an interpreter in them. Nobody connects.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figures import Measure
from benchmarks.processes import Process, free_port
from benchmarks.run import Run

PORTPROXY = (sys.executable, "-m", "portproxy")
PATIENCE = 120.0
"""Seconds for any one step; more is a fault."""
FIRST_PORT = 10_000
IPV4_ADDRESSES = 16
"""Of 127.0.0.0/8, which IPv4 rules take turns to listen on; IPv6 has one loopback address."""
LARGE = 100_000
"""Rules of the configuration that is only checked: more than a process has descriptors for."""

_READ = """
import sys, time
from portproxy import config
began = time.perf_counter()
config.read(sys.argv[1]).config()
print(time.perf_counter() - began)
"""


def rule(number: int, connectport: int = 80, first: int = FIRST_PORT) -> dict[str, str | int]:
    """The tags of one of many rules: all four types, some with a name, a limit or an access list."""
    listens, connects = (number % 2, number // 2 % 2)
    pair = number // 2
    tags: dict[str, str | int] = {
        "type": f"v{6 if listens else 4}tov{6 if connects else 4}",
        "listenaddress": "::1" if listens else f"127.0.10.{pair % IPV4_ADDRESSES + 1}",
        "listenport": first + pair % (65_536 - first),
        "connectaddress": f"2001:db8::{pair % 0x10000:x}" if connects else f"198.51.100.{pair % 254 + 1}",
        "connectport": connectport,
    }
    if number % 4 == 0:
        tags["name"] = f"service-{number}"
    if number % 8 == 1:
        tags["maxconn"] = 100 + number % 100
    if number % 16 == 3:
        tags["allow"] = "fd00::/8,::1" if listens else f"10.{number % 256}.0.0/16,127.0.0.1"
    return tags


def write(path: Path, rules: Sequence[dict[str, str | int]], **server: str) -> None:
    """A configuration of ``rules`` and of a ``[server]`` table."""
    tables = [("[server]", dict[str, str | int](server)), *(("[[rule]]", tags) for tags in rules)]
    path.write_text(
        "\n".join(
            "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in tags.items()), ""])
            for head, tags in tables
        )
    )


class Commands:
    """A relay of ``count`` rules, and every command that is given to it once."""

    def __init__(self, run: Run, count: int, workers: int = 1, first: int = FIRST_PORT) -> None:
        self._run, self._count, self._workers, self._first = run, count, workers, first
        self._file, self._control = run.directory / "rules.toml", str(run.directory / "control")
        self._status = f"127.0.0.1:{free_port()}"
        self._subject = "portproxy" if workers == 1 else f"portproxy, {workers} workers"

    def measure(self) -> None:
        """Add the figures. Raises RuntimeError, OSError and CalledProcessError."""
        self._write(connectport=80)
        with self._timed("check"):
            command("check", "-c", str(self._file))
        words = [*PORTPROXY, "serve", "-c", str(self._file), "--workers", str(self._workers)]
        began = time.perf_counter()
        with Process(words, self._run.directory / "rules.log", self._run.pinning.relay) as relay:
            self._said(relay, "ready")
            self._add("start to ready", time.perf_counter() - began)
            self._add("PSS when ready", _megabytes(relay), "MB")
            self._ask()
            self._add("PSS after /metrics", _megabytes(relay), "MB")
            self._change(relay)
            self._add("PSS at the end", _megabytes(relay), "MB")
            with self._timed("SIGTERM to exit"):
                relay.signal(signal.SIGTERM)
                relay.wait(PATIENCE)

    def _ask(self) -> None:
        for name, words in {
            "portproxy show all": ["show", "all"],
            "portproxy dump": ["dump"],
            "portproxy status (looks twice, 1 s apart)": ["status"],
        }.items():
            with self._timed(name):
                command(*words, "--control", self._control)
        url = f"http://{self._status}/metrics"
        with self._timed("/metrics"), urllib.request.urlopen(url, timeout=PATIENCE) as reply:
            body = reply.read()
        self._add("/metrics, size", len(body) / 1e6, "MB")

    def _change(self, relay: Process) -> None:
        self._write(connectport=81)
        with self._timed("portproxy reload, one rule changed"):
            command("reload", "--control", self._control)
        self._said(relay, "reloaded")
        self._write(connectport=82)
        with self._timed("SIGHUP to reloaded, one rule changed"):
            relay.signal(signal.SIGHUP)
            self._said(relay, "reloaded", times=2)
        tags = rule(self._count, first=self._first)
        added = [f"{key}={value}" for key, value in tags.items() if key != "type"]
        with self._timed("portproxy add, saved"):
            command("add", str(tags["type"]), *added, "--control", self._control)

    def _write(self, connectport: int) -> None:
        """All rules, the last of which has this port."""
        rules = [rule(number, first=self._first) for number in range(self._count)]
        rules[-1]["connectport"] = connectport
        write(self._file, rules, control=self._control, status=self._status, log="json", accesslog="off")

    def _said(self, relay: Process, event: str, times: int = 1) -> None:
        """Until the relay's log has had the event so often."""
        until = time.monotonic() + PATIENCE
        while sum(event in json.loads(line)["event"] for line in _lines(relay)) < times:
            if not relay.running():
                raise RuntimeError(f"ended before it said {event!r}: {relay.tail()}")
            if time.monotonic() > until:
                raise RuntimeError(f"has not said {event!r} after {PATIENCE:.0f} s")
            time.sleep(0.001)

    def _add(self, what: str, value: float, unit: str = "s") -> None:
        name = f"{what}, {self._count:,} rules"
        self._run.figures.add(Measure(name, unit, False), self._subject, value)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Measure how long the body takes, in seconds."""
        began = time.perf_counter()
        yield
        self._add(what, time.perf_counter() - began)


def check_large(run: Run, count: int) -> None:
    """Read and check a configuration of ``count`` rules: alone, and by the command, which prints a table."""
    file = run.directory / "large.toml"
    write(file, [rule(number) for number in range(count)])
    words = [sys.executable, "-c", _READ, str(file)]
    done = subprocess.run(words, capture_output=True, timeout=PATIENCE, check=True, text=True)
    run.figures.add(Measure(f"Config of {count:,} rules", "s", False), "portproxy", float(done.stdout))
    began = time.perf_counter()
    command("check", "-c", str(file))
    took = time.perf_counter() - began
    run.figures.add(Measure(f"check, {count:,} rules", "s", False), "portproxy", took)


def command(*words: str) -> None:
    """Have portproxy do as it is told. RuntimeError, with what it says, where it fails."""
    done = subprocess.run([*PORTPROXY, *words], capture_output=True, timeout=PATIENCE, check=False, text=True)
    if done.returncode:
        raise RuntimeError(f"portproxy {words[0]}: {done.stderr.strip().splitlines()[-1:]}")


def _lines(relay: Process) -> list[str]:
    """Whole lines only."""
    return relay.printed().split("\n")[:-1]


def _megabytes(relay: Process) -> float:
    return relay.pss() * (1 << 20) / 1e6
