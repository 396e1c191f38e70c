"""The benchmark beside the peers works and says what it found; what its figures are is not judged here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmark
from benchmarks import hosts, plots, report, targets
from benchmarks.ends import ENDS
from benchmarks.figures import Measure
from benchmarks.measures import bulk, tunnels
from benchmarks.relays import PEERS
from benchmarks.run import Run
from benchmarks.targets import Target, Verdict


def session(leader: int) -> list[str]:
    """Who still runs of a session, by the names of the processes (proc_pid_stat(5))."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, fields = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields.split()[3]) == leader:
            found.append(head)
    return found


def quick(results: Path) -> dict[str, Any]:
    """What a quick run of everything writes as speed.json."""
    words = [sys.executable, "-m", "benchmarks", "--quick", "--results", str(results)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as script:
        try:
            printed, _ = script.communicate(timeout=280)
        except subprocess.TimeoutExpired:
            script.send_signal(signal.SIGINT)
            printed, _ = script.communicate()
    assert script.returncode == 0, printed
    assert session(script.pid) == []
    return dict(json.loads((results / "speed.json").read_text()))


@pytest.mark.timeout(300)
def test_a_quick_run(tmp_path: Path) -> None:
    # One test: it would be run once more for each process that had a part of it.
    result = quick(tmp_path)
    everyone_was_measured(result)
    every_target_has_a_figure(result)
    the_page_and_the_pictures_are_there(tmp_path, result)


def everyone_was_measured(result: Mapping[str, Any]) -> None:
    assert result["rounds"] == 1
    assert [failure for failure in result["failed"] if failure["subject"].startswith("portproxy")] == []
    measured = {
        group: report.subjects_of(inside) for group, inside in report.groups(result["measures"]).items()
    }
    assert set(result["left out"]) == ({"tunnels"} if hosts.missing() else set())
    assert list(measured) == [group for group in benchmark.GROUPS if group not in result["left out"]]
    installed = {peer.name for peer in PEERS if peer.installed()}
    ends = {name: end.name for name, end in ENDS.items() if end.installed() and "tunnels" in measured}
    assert set(result["subjects"]) == {"portproxy", bulk.DEFAULT.name, *installed, *ends}
    assert set(result["missing"]) == {peer.name for peer in PEERS} - installed
    failed = {failure["subject"] for failure in result["failed"]}
    special = {"growth": {"portproxy"}, "tunnels": {tunnels.CABLE, *ends.values()}}
    for group, subjects in measured.items():
        wanted = special.get(group, {"portproxy", *installed})
        assert wanted - failed <= set(subjects), group
    for measure in result["measures"].values():
        for figure in measure["subjects"].values():
            assert figure["min"] <= figure["median"] <= figure["max"]
            assert len(figure["values"]) == result["rounds"]


def every_target_has_a_figure(result: Mapping[str, Any]) -> None:
    left_out = {tunnels.STREAM.name, tunnels.PACKETS.name} if result["left out"] else set[str]()
    wanted = ({target.measure for target in targets.TARGETS} | plots.SUMMARY.keys()) - left_out
    measured = {name for name, measure in result["measures"].items() if "portproxy" in measure["subjects"]}
    assert wanted - measured == set()


def the_page_and_the_pictures_are_there(results: Path, result: Mapping[str, Any]) -> None:
    page = (results / "speed.md").read_text()
    assert page == report.page(result)
    pictures = {path.name for path in results.glob("*.svg")}
    assert pictures == {"summary.svg", *(f"{group}.svg" for group in report.groups(result["measures"]))}
    for name in pictures:
        assert f"({name})" in page
        assert ET.parse(results / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    # Results are kept in the repository, which is nobody's home.
    assert str(Path(benchmark.__file__).parents[1]) not in page


def measure(more_is_better: bool = True, group: str = "bulk", **medians: float) -> dict[str, Any]:
    """A measure as in speed.json, by the subjects' medians."""
    return {
        "group": group,
        "unit": "u",
        "more_is_better": more_is_better,
        "subjects": {
            subject: {
                "median": median,
                "min": median * 0.9,
                "max": median * 1.1,
                "values": [median * 0.9, median, median * 1.1],
            }
            for subject, median in medians.items()
        },
    }


def made(measures: Mapping[str, Any]) -> dict[str, Any]:
    """A run's result, of these measures."""
    return {
        "machine": {"processor": "an abacus"},
        "pinning": "relay on CPU 1",
        "rounds": 3,
        "seconds": 0.5,
        "subjects": {
            "portproxy": {"version": "0.0", "configuration": "[server]\nlog = 'json'\n"},
            "HAProxy": {"version": "1.2", "configuration": "listen relay"},
        },
        "measures": dict(measures),
        "notes": {"connections": ["Said once."]},
        "missing": ["rinetd"],
        "left out": {"growth": "no soil"},
        "failed": [{"measure": "new connections", "subject": "socat", "why": "exit code 1: a|b"}],
    }


RATIO = Target("m", due=0.9, goal=1.0)
LESS = Target("m", due=1.05, goal=0.9)
SECONDS = Target("m", due=0.4, goal=0.25, absolute=True)
OTHERS = Target("m", due=1.0, goal=1.5, yardstick="socat")


@pytest.mark.parametrize(
    ("target", "figures", "value", "verdict"),
    [
        (RATIO, measure(portproxy=10, HAProxy=10), 1.0, Verdict.GOAL),
        (RATIO, measure(portproxy=9, HAProxy=10), 0.9, Verdict.DUE),
        (RATIO, measure(portproxy=8, HAProxy=10), 0.8, Verdict.MISSED),
        (LESS, measure(more_is_better=False, portproxy=9, HAProxy=10), 0.9, Verdict.GOAL),
        (LESS, measure(more_is_better=False, portproxy=10, HAProxy=10), 1.0, Verdict.DUE),
        (LESS, measure(more_is_better=False, portproxy=11, HAProxy=10), 1.1, Verdict.MISSED),
        (SECONDS, measure(more_is_better=False, portproxy=0.2), 0.2, Verdict.GOAL),
        (SECONDS, measure(more_is_better=False, portproxy=0.3, HAProxy=0.1), 0.3, Verdict.DUE),
        (SECONDS, measure(more_is_better=False, portproxy=0.5, HAProxy=0.9), 0.5, Verdict.MISSED),
        (RATIO, measure(portproxy=10), None, Verdict.UNKNOWN),
        (RATIO, measure(HAProxy=10), None, Verdict.UNKNOWN),
        (RATIO, measure(portproxy=10, HAProxy=0), None, Verdict.UNKNOWN),
        (RATIO, None, None, Verdict.UNKNOWN),
        (OTHERS, measure(portproxy=12, socat=10, HAProxy=1), 1.2, Verdict.DUE),
        (OTHERS, measure(portproxy=9, socat=10, HAProxy=1), 0.9, Verdict.MISSED),
        (OTHERS, measure(portproxy=10, HAProxy=10), None, Verdict.UNKNOWN),
    ],
)
def test_a_target_is_judged(
    target: Target, figures: Mapping[str, Any] | None, value: float | None, verdict: Verdict
) -> None:
    measures = {} if figures is None else {"m": figures}
    (found,) = targets.findings(measures, [target])
    assert (found.value, found.verdict) == (value, verdict)


def test_a_target_has_the_ratios_of_rounds_that_both_were_measured_in() -> None:
    figures = measure(portproxy=10, HAProxy=10)
    for subject, values in (("portproxy", [8, None, 12, 10]), ("HAProxy", [10, 10, 10, None])):
        figures["subjects"][subject]["values"] = values
    (found,) = targets.findings({"m": figures}, [RATIO])
    assert found.ratios == [0.8, 1.2]
    assert report.between(found.value, found.ratios) == "1.000 (0.800 to 1.200)"
    figures["subjects"]["socat"] = measure(socat=1)["subjects"]["socat"] | {"values": [1, 1, 2, None]}
    (found,) = targets.findings({"m": figures}, [OTHERS])
    assert found.ratios == [8, 6]


def test_every_target_asks_more_of_the_goal_than_is_due() -> None:
    for target in targets.TARGETS:
        assert target.due != target.goal, target.measure
    assert len({target.measure for target in targets.TARGETS}) == len(targets.TARGETS)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (0, "0"),
        (0.000123, "0.000123"),
        (0.0456, "0.0456"),
        (0.3, "0.300"),
        (9.999, "10.0"),
        (28.66, "28.7"),
        (99.97, "100"),
        (83_417, "83,400"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, written: str) -> None:
    assert report.number(value) == written


def test_the_page_says_everything() -> None:
    new = measure(group="connections", portproxy=6, HAProxy=10, nginx=5)
    new["subjects"]["nginx"]["values"][1] = None
    tunnel = measure(group="tunnels", portproxy=6, socat=4)
    tunnel["subjects"][targets.SOCAT_TUN] = tunnel["subjects"].pop("socat")
    page = report.page(made({"new connections": new, "tunnel, one TCP stream": tunnel}))
    for line in (
        "| processor | an abacus |",
        "CPUs: relay on CPU 1",
        "| new connections | 10.0 u | 6.00 u | 0.600 (0.600 to 0.600) | 0.6 | 1 | due reached |",
        "| tunnel, one TCP stream | 4.00 u (socat, TUN to UDP) | 6.00 u | 1.500 (1.500 to 1.500) | 1 | 1.5 "
        "| goal reached |",
        "| 64 B round trip, p50 | - | - | - | 0.85 | 0.65 | not measured |",
        "| subject | new connections, u (more is better) |",
        "| portproxy | 6.00 (5.40 to 6.60) |",
        "| nginx | 5.00 (4.50 to 5.50), 2 of 3 |",
        "Said once.",
        "Not installed, so not measured: rinetd.",
        "Left out, growth: no soil.",
        "| socat | new connections | exit code 1: a\\|b |",
        "### portproxy 0.0",
        "[server]",
    ):
        assert line in page.splitlines()
    assert "median of 3 rounds" in page


def test_the_page_says_that_nothing_failed() -> None:
    page = report.page(made({}) | {"missing": [], "left out": {}, "failed": []})
    assert "Every peer was installed." in page
    assert "No step failed." in page
    assert "Left out" not in page


def test_the_longer_side_of_a_table_goes_down() -> None:
    measures = {f"m{number}": measure(portproxy=number) for number in range(1, 4)}
    page = report.page(made(measures | {"m4": measure(HAProxy=4)}))
    assert "| measure | portproxy | HAProxy |" in page
    assert "| m4, u (more is better) | - | 4.00 (3.60 to 4.40) |" in page


@pytest.fixture(scope="module", autouse=True)
def _fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib keeps the files open of all fonts that it has used."""
    plots.draw(made({"m": measure(portproxy=1, HAProxy=2)}), tmp_path_factory.mktemp("fonts"))


def text_of(picture: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]


MAIN = {name: measure(portproxy=1, HAProxy=2, socat=400) for name in plots.SUMMARY}


def test_the_summary_is_of_ratios(tmp_path: Path) -> None:
    plots.draw(made(MAIN), tmp_path)
    words = text_of(tmp_path / "summary.svg")
    for said in ("portproxy", "socat", "0.50", "1.00", "200 »", "HAProxy: 2.00 u", "more is better"):
        assert said in words


def test_pictures_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        plots.draw(made(MAIN), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_figures_that_grow_are_a_curve(tmp_path: Path) -> None:
    counts = (10, 1000)
    grown = {f"requests, {count:,} clients": measure(group="growth", portproxy=5) for count in counts}
    plots.draw(made(grown | {"alone": measure(False, "growth", nginx=7)}), tmp_path)
    assert not (tmp_path / "summary.svg").exists()
    words = text_of(tmp_path / "growth.svg")
    for said in ("requests, by clients", "10", "1,000", "portproxy", "alone", "u, less is better"):
        assert said in words


def broken(run: Run) -> Iterator[str]:
    yield "a step"
    raise RuntimeError("out of luck")


def test_a_group_that_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(benchmark.GROUPS, "bulk", broken)
    assert benchmark.main(["--only", "bulk", "--rounds", "2", "--results", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "round 2 of 2: a step" in printed
    assert "failed: all, bulk: out of luck" in printed
    assert "| all | bulk | out of luck |" in (tmp_path / "speed.md").read_text()


def interrupted_in(number: int) -> Callable[[Run], Iterator[str]]:
    """A group of measures that Ctrl-C comes to in that round."""

    def group(run: Run) -> Iterator[str]:
        yield "a step"
        if run.round == number:
            raise KeyboardInterrupt
        run.figures.add(Measure("m", "s", False), "portproxy", run.round)

    return group


def test_rounds_before_an_interrupt_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(benchmark.GROUPS, "bulk", interrupted_in(2))
    assert benchmark.main(["--only", "bulk", "--rounds", "5", "--results", str(tmp_path)]) == 1
    assert "interrupted after 2 of 5 rounds" in capsys.readouterr().err
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["rounds"] == 2
    assert result["measures"]["m"]["subjects"]["portproxy"]["values"] == [0, 1]
    assert (tmp_path / "speed.md").read_text() == report.page(result)
    assert (tmp_path / "bulk.svg").exists()


def test_an_interrupt_in_the_first_round_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(benchmark.GROUPS, "bulk", interrupted_in(0))
    assert benchmark.main(["--only", "bulk", "--results", str(tmp_path)]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_group_that_this_machine_cannot_measure_is_left_out(tmp_path: Path) -> None:
    lacking = ("setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin") if os.geteuid() == 0 else ()
    words = (*lacking, sys.executable, "-m", "benchmarks", "--quick", "--only", "tunnels")
    done = subprocess.run(
        [*words, "--results", str(tmp_path)], check=False, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "left out, tunnels: it needs CAP_NET_ADMIN\n" in done.stdout
    assert "Left out, tunnels: it needs CAP_NET_ADMIN.\n" in (tmp_path / "speed.md").read_text()


def test_a_tool_that_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "TOOLS", ("no-such-tool",))
    assert benchmark.main([]) == 1
    assert "no-such-tool missing" in capsys.readouterr().err
