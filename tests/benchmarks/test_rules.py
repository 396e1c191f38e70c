"""The commands over many rules can be measured; what their figures are is not for a test to judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import rules
from benchmarks.figures import Figures
from benchmarks.pinning import Pinning
from benchmarks.run import Run
from portproxy import config

SECONDS = {
    "check, 100 rules",
    "start to ready, 100 rules",
    "portproxy show all, 100 rules",
    "portproxy dump, 100 rules",
    "portproxy status (looks twice, 1 s apart), 100 rules",
    "/metrics, 100 rules",
    "portproxy reload, one rule changed, 100 rules",
    "SIGHUP to reloaded, one rule changed, 100 rules",
    "portproxy add, saved, 100 rules",
    "SIGTERM to exit, 100 rules",
    "Config of 1,000 rules",
    "check, 1,000 rules",
}
MEGABYTES = {
    "PSS when ready, 100 rules",
    "PSS after /metrics, 100 rules",
    "PSS at the end, 100 rules",
    "/metrics, size, 100 rules",
}

FIRST_PORT = 31_000
"""Away from other tests' ports."""


def test_every_command_is_measured(tmp_path: Path) -> None:
    figures = Figures()
    run = Run(tmp_path, figures, Pinning(), ())
    rules.Commands(run, 100, first=FIRST_PORT).measure()
    rules.check_large(run, 1_000)
    measured = figures.summary()
    units = {name: measure["unit"] for name, measure in measured.items()}
    assert units == dict.fromkeys(SECONDS, "s") | dict.fromkeys(MEGABYTES, "MB")
    for measure in measured.values():
        (figure,) = measure["subjects"].values()
        assert figure["median"] > 0


def test_rules_are_of_all_types_and_valid(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    made = [rules.rule(number) for number in range(64)]
    rules.write(file, made, control="off")
    assert len(config.read(str(file)).config().rules) == len(made)
    assert {tags["type"] for tags in made} == {"v4tov4", "v4tov6", "v6tov4", "v6tov6"}
    assert {"name", "maxconn", "allow"} <= {tag for tags in made for tag in tags}


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^portproxy check: .*no-such\.toml"):
        rules.command("check", "-c", str(tmp_path / "no-such.toml"))
