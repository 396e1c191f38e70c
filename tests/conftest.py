"""What holds for every test: nothing left behind, the same examples every time, no skip unseen."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

import portproxy

LONG_FUZZ = "PORTPROXY_FUZZ_EXAMPLES" in os.environ
"""Set by ``make fuzz``, which looks for examples that the fixed ones of ``make test`` are not."""

settings.register_profile("portproxy", derandomize=not LONG_FUZZ, deadline=None, database=None)
settings.load_profile("portproxy")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # nohup(1) and `make test &` leave it so, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Which portproxy is tested: the installed wheel's in `make test`, or the checkout's."""
    return f"portproxy: {Path(portproxy.__file__).parent}"


def open_descriptors(pid: int | str = "self") -> dict[str, str]:
    """A process's descriptors and what each stands for."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        # The listing's own descriptor is closed by now.
        with suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


def child_processes() -> dict[str, str]:
    """This process's children, zombies included, and their names."""
    found = {}
    for children in Path("/proc/self/task").glob("*/children"):
        # Threads and children may end while this looks.
        with suppress(FileNotFoundError, ProcessLookupError):
            for pid in children.read_text().split():
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a descriptor open or a child process behind."""
    descriptors, children = open_descriptors(), child_processes()
    yield
    if open_descriptors().items() - descriptors.items():
        # A socket in a reference cycle is closed by the collector, which warns of it.
        gc.collect()
    assert open_descriptors().items() - descriptors.items() == set(), "descriptors left open"
    assert child_processes().items() - children.items() == set(), "child processes left behind"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every skipped test and why, just above pytest's closing lines."""
    skipped = terminalreporter.stats.get("skipped", [])
    terminalreporter.section("skipped tests")
    for report in skipped:
        _path, _line, reason = report.longrepr
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if not skipped:
        terminalreporter.line("Skipped tests: none")
