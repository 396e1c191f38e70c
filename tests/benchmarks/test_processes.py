"""What a step of the benchmark stands on: processes, their CPUs and what they cost, failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.figures import Figures, Measure
from benchmarks.measures import connections
from benchmarks.pinning import EVERY, Pinning, staying_on
from benchmarks.processes import Process, memory, until, until_idle, until_listening
from benchmarks.run import Run

SLEEPS = ("sh", "-c", "echo here; exec sleep 60")
WORKS = (sys.executable, "-c", "while True: pass")
SPENDS = f"{sys.executable} -c 'sum(range(10_000_000))'; echo here; exec sleep 60"
PARENT = (sys.executable, "-c", "import os, time; os.fork(); print('here', flush=True); time.sleep(60)")


def until_here(process: Process, times: int = 1) -> None:
    while process.printed().count("here") < times:
        assert process.running()
        time.sleep(0.001)


def test_a_process_has_all_cpus_unless_it_is_given_some(tmp_path: Path) -> None:
    one = frozenset([min(EVERY)])
    with (
        staying_on(one),
        Process(SLEEPS, tmp_path / "all") as everywhere,
        Process(SLEEPS, tmp_path / "some", one) as pinned,
    ):
        assert os.sched_getaffinity(0) == one
        for process, cpus in ((everywhere, EVERY), (pinned, one)):
            until_here(process)
            assert os.sched_getaffinity(process.pid) == cpus
    assert os.sched_getaffinity(0) == EVERY


def test_cpu_time_is_that_of_the_family(tmp_path: Path) -> None:
    with Process(("sh", "-c", SPENDS), tmp_path / "output") as process:
        until_here(process)
        assert len(process.family()) == 1
        assert process.cpu_seconds() > 0.03  # that of the child, which has ended


def test_there_is_no_cpu_time_of_who_has_ended(tmp_path: Path) -> None:
    with Process(("echo", "farewell"), tmp_path / "output") as process:
        process.wait(10)
        with pytest.raises(RuntimeError, match="farewell"):
            process.cpu_seconds()
        with pytest.raises(RuntimeError, match="farewell"):
            until_idle(process)


def test_an_end_is_waited_for_so_long(tmp_path: Path) -> None:
    with Process(SLEEPS, tmp_path / "output") as process:
        until_here(process)
        with pytest.raises(RuntimeError, match=r"^not ready within 0 s$"):
            process.wait(0)
        process.signal(signal.SIGTERM)
        assert process.wait(10, check=False) == "here\n"
        assert process.wait(0, check=False) == "here\n"  # once more: it has ended
        with pytest.raises(RuntimeError, match="exit code -15: here"):
            process.wait(0)


def test_what_never_comes_is_not_waited_for_in_vain(tmp_path: Path) -> None:
    with Process(SLEEPS, tmp_path / "output") as process:
        until_here(process)
        until(process, "said so", lambda: "here" in process.printed(), 0)
        with pytest.raises(RuntimeError, match=r"^has not said no after 0 s: here$"):
            until(process, "said no", lambda: False, 0)
    with pytest.raises(RuntimeError, match=r"^ended before it listened: here$"):
        until_listening(process, "127.0.0.1", 1)


def test_who_never_rests_is_not_waited_for_in_vain(tmp_path: Path) -> None:
    with Process(WORKS, tmp_path / "output") as process, pytest.raises(RuntimeError, match="still at work"):
        until_idle(process, 0.0)


def test_memory_is_counted_as_if_nobody_else_ran(tmp_path: Path) -> None:
    # This process maps the same interpreter: of that, PSS would count a part only.
    with Process(PARENT, tmp_path / "output") as process:
        until_here(process, times=2)
        family = process.family()
        assert len(family) == 2
        anonymous = sum(memory(pid, "Pss_Anon:") for pid in family) / 1024
        files = max(memory(pid, "Rss:") - memory(pid, "Anonymous:") for pid in family) / 1024
        assert anonymous + 0.95 * files < process.pss() < anonymous + 1.05 * files


ERRORS = [
    (RuntimeError("too late"), "too late"),
    (RuntimeError("two\nlines"), "two lines"),
    (OSError(111, "Connection refused"), "[Errno 111] Connection refused"),
    (TimeoutError(), "TimeoutError"),
    (KeyError("end"), "KeyError: 'end'"),
    (StopIteration(), "StopIteration"),
    (
        subprocess.CalledProcessError(2, "wrk"),
        "CalledProcessError: Command 'wrk' returned non-zero exit status 2.",
    ),
]


@pytest.mark.parametrize(("error", "why"), ERRORS)
def test_whatever_fails_is_noted(error: Exception, why: str, tmp_path: Path) -> None:
    run = Run(tmp_path, Figures(), Pinning(), ())
    with run.noting("m", "socat"):
        raise error
    assert run.figures.failed() == [{"measure": "m", "subject": "socat", "why": why}]


def test_values_pair_by_their_rounds() -> None:
    figures = Figures()
    for number, subjects in enumerate((("ours", "theirs"), ("theirs",), ("ours",), ())):
        figures.round = number
        for subject in subjects:
            figures.add(Measure("m", "s", False), subject, number)
    measured = figures.summary()["m"]["subjects"]
    assert measured["ours"] == {"median": 1, "min": 0, "max": 2, "values": [0, None, 2, None]}
    assert measured["theirs"]["values"] == [0, 1, None, None]


def test_an_access_log_that_misses_connections_is_a_failure() -> None:
    connections.check_log(991, 1_000)
    with pytest.raises(RuntimeError, match="980 lines for 1,000 connections"):
        connections.check_log(980, 1_000)
