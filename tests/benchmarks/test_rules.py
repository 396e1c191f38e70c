"""The benchmark of many rules works; what its figures are is not for a test to judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rules.py"

SECONDS = {
    "check",
    "start to ready",
    "portproxy show all",
    "portproxy dump",
    "portproxy status (looks twice, 1 s apart)",
    "/metrics",
    "portproxy reload, one rule changed",
    "SIGHUP to reloaded, one rule changed",
    "portproxy add, saved",
    "SIGTERM to exit",
    "Config of 1,000 rules",
    "check of 1,000 rules",
}
MEMORY = {"PSS when ready", "PSS after /metrics", "PSS at the end"}


def test_a_quick_round(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as script:
        printed, _ = script.communicate(timeout=100)
    assert script.returncode == 0
    # The relay was in the session of the script, with all that it started.
    with pytest.raises(ProcessLookupError):
        os.killpg(script.pid, 0)
    result = json.loads((tmp_path / "rules.json").read_text())
    assert (result["rules"], result["workers"], result["rounds"]) == (100, 1, 1)
    figures = result["figures"]
    units = {"s": SECONDS, "MiB": MEMORY, "MB": {"/metrics, size"}}
    assert {name: figure["unit"] for name, figure in figures.items()} == {
        name: unit for unit, names in units.items() for name in names
    }
    for figure in figures.values():
        assert figure["values"] == [figure["median"]] == [figure["min"]] == [figure["max"]]
        assert figure["median"] > 0
    page = (tmp_path / "rules.md").read_text()
    for name in figures:
        assert name in printed
        assert f"| {name} | " in page
