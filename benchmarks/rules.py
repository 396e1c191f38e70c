"""What thousands of rules cost: a relay that is started, asked, reloaded, changed and stopped.

Every round starts a new ``portproxy serve`` and gives each command as a user would, so the figures of
commands have the start of an interpreter in them. Nobody connects: see the other scripts for that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
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


def rule(number: int, connectport: int = 80) -> dict[str, str | int]:
    """The tags of one of many rules: all four types, some with a name, a limit or an access list."""
    listens, connects = (number % 2, number // 2 % 2)
    pair = number // 2
    tags: dict[str, str | int] = {
        "type": f"v{6 if listens else 4}tov{6 if connects else 4}",
        "listenaddress": "::1" if listens else f"127.0.10.{pair % IPV4_ADDRESSES + 1}",
        "listenport": FIRST_PORT + pair % (65_536 - FIRST_PORT),
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


@dataclass
class Figures:
    """What was measured, by its name: a unit, and a value of each round."""

    units: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        self.units[name] = unit
        self.values.setdefault(name, []).append(value)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure how long the body takes, in seconds."""
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began, "s")

    def summary(self) -> dict[str, dict[str, Any]]:
        """By name: unit, median, least, most and all of the values."""
        return {
            name: {
                "unit": self.units[name],
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "values": values,
            }
            for name, values in self.values.items()
        }


def run(*words: str) -> str:
    """What a command prints. Raises CalledProcessError where it fails; what it complains of is shown."""
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=PATIENCE, check=True, text=True)
    return done.stdout


class Relay:
    """A running ``portproxy serve``; ``said(event)`` waits until its log has that event."""

    def __init__(self, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def said(self, event: str) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if event in json.loads(line)["event"]:
                return
        raise RuntimeError(f"the relay ended before it said {event!r}")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> None:
        """Until it has ended as told."""
        if self._process.wait(PATIENCE):
            raise RuntimeError(f"the relay ended with exit code {self._process.returncode}")

    def pss(self) -> float:
        """MiB of memory of all its processes, what they share counted once (proc_pid_smaps_rollup(5))."""
        return sum(map(_pss, _family(self._process.pid))) / 1024

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += _family(int(child))
    return found


def _pss(pid: int) -> int:
    """The process's proportional set size in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def one_round(figures: Figures, directory: Path, count: int, workers: int) -> None:
    """Start a relay of ``count`` rules, and do to it once whatever is measured."""
    file, control, status = directory / "rules.toml", str(directory / "control"), f"127.0.0.1:{_free_port()}"
    server = {"control": control, "status": status, "log": "json", "accesslog": "off"}
    rules = [rule(number) for number in range(count)]
    write(file, rules, **server)
    with figures.timed("check"):
        run(*PORTPROXY, "check", "-c", str(file))
    several = ["--workers", str(workers)] if workers > 1 else []
    began = time.perf_counter()
    with Relay([*PORTPROXY, "serve", "-c", str(file), *several]) as relay:
        relay.said("ready")
        figures.add("start to ready", time.perf_counter() - began, "s")
        figures.add("PSS when ready", relay.pss(), "MiB")
        _ask(figures, control, status)
        figures.add("PSS after /metrics", relay.pss(), "MiB")
        write(file, [*rules[:-1], rule(count - 1, connectport=81)], **server)
        with figures.timed("portproxy reload, one rule changed"):
            run(*PORTPROXY, "reload", "--control", control)
        relay.said("reloaded")
        write(file, [*rules[:-1], rule(count - 1, connectport=82)], **server)
        with figures.timed("SIGHUP to reloaded, one rule changed"):
            relay.signal(signal.SIGHUP)
            relay.said("reloaded")
        tags = rule(count)
        added = [f"{key}={value}" for key, value in tags.items() if key != "type"]
        with figures.timed("portproxy add, saved"):
            run(*PORTPROXY, "add", str(tags["type"]), *added, "--control", control)
        figures.add("PSS at the end", relay.pss(), "MiB")
        with figures.timed("SIGTERM to exit"):
            relay.signal(signal.SIGTERM)
            relay.wait()


def _ask(figures: Figures, control: str, status: str) -> None:
    for name, words in {
        "portproxy show all": ["show", "all"],
        "portproxy dump": ["dump"],
        "portproxy status (looks twice, 1 s apart)": ["status"],
    }.items():
        with figures.timed(name):
            run(*PORTPROXY, *words, "--control", control)
    url = f"http://{status}/metrics"
    with figures.timed("/metrics"), urllib.request.urlopen(url, timeout=PATIENCE) as reply:
        body = reply.read()
    figures.add("/metrics, size", len(body) / 1e6, "MB")


def check_large(figures: Figures, directory: Path, count: int) -> None:
    """Read and check a configuration of ``count`` rules: alone, and by the command, which prints a table."""
    file = directory / "large.toml"
    write(file, [rule(number) for number in range(count)])
    figures.add(f"Config of {count:,} rules", float(run(sys.executable, "-c", _READ, str(file))), "s")
    with figures.timed(f"check of {count:,} rules"):
        run(*PORTPROXY, "check", "-c", str(file))


def machine() -> dict[str, str]:
    """Where and with what the figures were made."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    packages = ("portproxy", "trio", "prometheus-client", "tomli", "tomlkit", "msgspec")
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory / (1 << 20):.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _cells(name: str, figure: dict[str, Any]) -> list[str]:
    return [name, *(f"{figure[key]:.3g}" for key in ("median", "min", "max")), figure["unit"]]


_HEAD = ("figure", "median", "min", "max", "unit")


def markdown(result: dict[str, Any]) -> str:
    """The result as a page of Markdown."""
    rows = [_HEAD, ("---", *["---:"] * 3, "---"), *(_cells(*item) for item in result["figures"].items())]
    lines = [
        f"# {result['rules']:,} rules, workers = {result['workers']}",
        "",
        "; ".join(f"{key} {value}" for key, value in result["machine"].items()) + ".",
        f"Rounds: {result['rounds']}. Commands are whole processes, the interpreter's start included.",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def show(console: Console, result: dict[str, Any]) -> None:
    """The result as a table on a terminal."""
    table = Table(title=f"{result['rules']:,} rules, workers = {result['workers']}")
    for place, head in enumerate(_HEAD):
        table.add_column(head, justify="right" if 0 < place < len(_HEAD) - 1 else "left")
    for item in result["figures"].items():
        table.add_row(*_cells(*item))
    console.print(table)


def measure(count: int, workers: int, rounds: int, large: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, ``rounds`` times; ``say`` is told how far it is."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="portproxy-rules-") as directory:
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            one_round(figures, Path(directory), count, workers)
            check_large(figures, Path(directory), large)
    return {
        "machine": machine(),
        "rules": count,
        "workers": workers,
        "rounds": rounds,
        "figures": figures.summary(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures, and write them to ``rules.json`` and ``rules.md``."""
    parser = argparse.ArgumentParser(description="What thousands of rules cost.")
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="100 rules, one round: whether it works at all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the files go")
    given = parser.parse_args(arguments)
    count, rounds, large = (100, 1, 1000) if given.quick else (given.rules, given.rounds, LARGE)
    console = Console()
    result = measure(count, given.workers, rounds, large, lambda told: console.print(told, style="dim"))
    show(console, result)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "rules.json").write_text(json.dumps(result, indent=2) + "\n")
    (given.results / "rules.md").write_text(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
