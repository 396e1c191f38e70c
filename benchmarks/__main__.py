"""Measure the relay and its peers in one run: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import hosts, plots, report
from benchmarks.ends import ENDS, PORT
from benchmarks.figures import Figures
from benchmarks.machine import machine
from benchmarks.measures import bulk, connections, growth, isolation, messages, rest, start, tunnels
from benchmarks.pinning import Pinning, pinning, staying_on
from benchmarks.relays import PEERS, Place, Relay, ours
from benchmarks.run import Run
from benchmarks.targets import OURS, findings

GROUPS: dict[str, Callable[[Run], Iterator[str]]] = {
    "bulk": bulk.measure,
    "messages": messages.measure,
    "connections": connections.measure,
    "rest": rest.measure,
    "start": start.measure,
    "isolation": isolation.measure,
    "growth": growth.measure,
    "tunnels": tunnels.measure,
}
"""One round of each group of measures; it yields a line before each step."""
NEEDS: dict[str, Callable[[], str | None]] = {"tunnels": hosts.missing}
"""Why a group cannot be measured on this machine, of those that not every machine can."""

TOOLS = ("iperf3", "wrk", "sockperf", "nginx")
"""Services and clients, without which there is nothing to measure."""
PACKAGES = ("portproxy", "trio")
HERE = Path(__file__).parent
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--quick", action="store_true", help="one short round: whether it works at all")
    made.add_argument("--rounds", type=int, help="how often everything is measured (5, or 1 with --quick)")
    made.add_argument("--seconds", type=float, help="length of a timed step (3, or 0.2 with --quick)")
    made.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    made.add_argument("--no-pinning", action="store_true", help="leave the choice of CPUs to the kernel")
    made.add_argument("--results", type=Path, default=HERE / "results", help="where the files go")
    return made


def described(relay: Relay, place: Place) -> dict[str, str]:
    """A relay's version, and its configuration, in a place like those that it is measured in."""
    command = " ".join(relay.words(place))
    written = f"$ {command}\n" if relay.file is None else f"$ {command}\n\n{relay.configuration(place)}"
    # Where this checkout and its Python lie is nobody's business.
    told = written.replace(sys.executable, "python").replace(f"{HERE.parent}/", "")
    return {"version": relay.version(), "configuration": told}


def rounds(
    given: argparse.Namespace, pinned: Pinning, say: Callable[[str], None], done: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """What is known after every round, of the groups that this machine has what they need for.

    ``say`` is told each step before it, ``done`` is called after each group of a round.
    """
    relays = [relay for relay in (ours(), *PEERS) if relay.installed()]
    lacking = {group: NEEDS[group]() for group in given.only if group in NEEDS}
    left_out = {group: why for group, why in lacking.items() if why}
    figures = {group: Figures() for group in given.only if group not in left_out}
    head = {
        "machine": machine(PACKAGES, TOOLS),
        "pinning": str(pinned),
        "seconds": given.seconds,
        "subjects": subjects((*relays, bulk.DEFAULT), figures),
        "missing": [peer.name for peer in PEERS if peer not in relays],
        "left out": left_out,
    }
    for number in range(given.rounds):
        for group, measured in figures.items():
            measured.round = number
            with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
                run = Run(Path(directory), measured, pinned, relays, given.seconds, given.quick, number)
                with run.noting(group, "all"):
                    for step in GROUPS[group](run):
                        say(f"round {number + 1} of {given.rounds}: {step}")
            done()
        yield {**head, "rounds": number + 1, **collected(figures)}


def subjects(relays: Sequence[Relay], groups: Container[str]) -> dict[str, dict[str, str]]:
    """Every relay, and where tunnels are measured what is at their near ends, by name."""
    directory = Path("/tmp/benchmark")
    place = Place(directory, ("::1", 8080), ("127.0.0.1", 8000))
    found = {relay.name: described(relay, place) for relay in relays}
    if "tunnels" in groups:
        own, peer = ((address, PORT) for address in hosts.ADDRESSES)
        near = Place(directory, own, peer)
        found |= {name: described(end, near) for name, end in ENDS.items() if end.installed()}
    return found


def collected(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """What was measured of each group, and what failed."""
    return {
        "measures": {
            name: {"group": group, **summary}
            for group, measured in figures.items()
            for name, summary in measured.summary().items()
        },
        "notes": {group: measured.notes() for group, measured in figures.items()},
        "failed": [failure for measured in figures.values() for failure in measured.failed()],
    }


def write(result: Mapping[str, Any], directory: Path) -> None:
    """``speed.json``, ``speed.md`` and the plots."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "speed.json").write_text(json.dumps(result, indent=2) + "\n")
    (directory / "speed.md").write_text(report.page(result))
    plots.draw(result, directory)


def show(console: Console, result: Mapping[str, Any]) -> None:
    """The targets on a terminal, and what failed."""
    table = Table("measure", "ratio or figure", "due", "goal", "verdict")
    for found in findings(result["measures"]):
        target = found.target
        table.add_row(
            target.measure, report.compared(found.value), f"{target.due:g}", f"{target.goal:g}", found.verdict
        )
    console.print(table)
    for failure in result["failed"]:
        said = f"failed: {failure['subject']}, {failure['measure']}: {failure['why']}"
        console.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
    for peer in result["missing"]:
        console.print(f"not installed, so not measured: {peer}", style="yellow")
    for group, why in result["left out"].items():
        console.print(f"left out, {group}: {why}", style="yellow")


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where a step of this relay failed or Ctrl-C came."""
    given = parser().parse_args(arguments)
    given.only = given.only or list(GROUPS)
    given.rounds = given.rounds or (1 if given.quick else 5)
    given.seconds = given.seconds or (0.2 if given.quick else 3.0)
    absent = [tool for tool in TOOLS if shutil.which(tool, path=_SBIN) is None]
    if absent:
        print(f"benchmarks: {', '.join(absent)} missing; `make bench` installs what it can", file=sys.stderr)
        return 1
    result = measure(given)
    if result is None:
        print("benchmarks: interrupted in the first round; nothing was written", file=sys.stderr)
        return 1
    show(Console(), result)
    finished = f"{result['rounds']} of {given.rounds} rounds"
    print(f"{finished} written to {given.results}")
    if result["rounds"] < given.rounds:
        print(f"benchmarks: interrupted after {finished}", file=sys.stderr)
        return 1
    return int(any(failure["subject"].startswith((OURS, "all")) for failure in result["failed"]))


def measure(given: argparse.Namespace) -> dict[str, Any] | None:
    """Write what is known after every round; the last of it, None where Ctrl-C came before the first."""
    pinned, result = pinning(not given.no_pinning), None
    with contextlib.suppress(KeyboardInterrupt), staying_on(pinned.load), Progress() as progress:
        task = progress.add_task("measuring", total=given.rounds * len(given.only))
        for result in rounds(
            given,
            pinned,
            lambda told: progress.console.print(told, style="dim", highlight=False, soft_wrap=True),
            lambda: progress.advance(task),
        ):
            write(result, given.results)
    return result


if __name__ == "__main__":
    sys.exit(main())
