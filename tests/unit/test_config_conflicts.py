"""Rules that are right one by one, and wrong together: names, endpoints, rings."""

from __future__ import annotations

from pathlib import Path

import pytest

from portproxy import config
from portproxy.errors import ConfigError

RULE = '[[rule]]\ntype = "v6tov4"\nlistenport = 8080\n'


def load_problems(*rules: str, status: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.read(None, rules, status=status).config()
    return list(raised.value.lines)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            ["v6tov4 80", "v6tov6 80 ::5 name=b"],
            "2 (b): listenport = 80: --rule 1 (v6tov4/*:80) listens on *:80 already; change one of them",
        ),
        (
            ["v6tov4 80 listenaddress=::0:1 name=a", "v6tov4 80 listenaddress=::1 name=b"],
            "2 (b): listenport = 80: --rule 1 (a) listens on [::0:1]:80 already; change one of them",
        ),
        (
            ["v6tov4 80 listenaddress=A.example name=a", "v6tov4 80 listenaddress=a.example name=b"],
            "2 (b): listenport = 80: --rule 1 (a) listens on A.example:80 already; change one of them",
        ),
        (
            ["v6tov4 1 name=a", "v6tov4 2 name=a"],
            '2 (a): name = "a": --rule 1 (a) has this name already; each rule needs a name of its own',
        ),
        (
            ["v4tov4 80"],
            '1 (v4tov4/*:80): connectaddress = "127.0.0.1": the rule connects to its own listener; '
            "name an address and a port where no rule listens",
        ),
        (
            ["v4tov6 80 name=a", "v6tov4 80 name=b"],
            '1 (a): connectaddress = "::1": rules a -> b -> a connect in a ring; '
            "one of them must connect elsewhere",
        ),
    ],
)
def test_rules_that_are_wrong_together(rules: list[str], problem: str) -> None:
    assert load_problems(*rules) == [f"--rule {problem}"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["v6tov4 80 name=x", "v6tov4 80 listenaddress=:: connectport=81 name=x"], ["name"]),
        (["v6tov4 80 listenaddress=:: name=x", "v6tov4 80 name=x"], ["name"]),
        (["v6tov4 80", "v6tov4 80 listenaddress=:: name=v6tov4/*:80"], ["name"]),
        (["v6tov4 80", "v6tov4 81 name=v6tov4/*:80"], ["name"]),
        (["v6tov4 81 name=v6tov4/*:80", "v6tov4 80"], ["name"]),
        (["v6tov4 80 name=x", "v6tov4 80 name=x"], ["name", "listenport"]),
        (["v6tov4 80", "v6tov4 80"], ["listenport"]),
    ],
)
def test_names_are_unique_whatever_the_endpoints(rules: list[str], said: list[str]) -> None:
    lines = load_problems(*rules)
    assert [line.split(": ")[1].partition(" = ")[0] for line in lines] == said
    assert all(line.startswith("--rule 2 ") for line in lines)


def test_a_long_ring_is_cut_short() -> None:
    rules = [f"v4tov4 {port} connectport={port % 20 + 1} name=r{port}" for port in range(1, 21)]
    (line,) = load_problems(*rules)
    assert (
        "rules r1 -> r2 -> r3 -> r4 -> r5 -> r6 -> r7 -> r8 -> ... (20 rules) -> r1 connect in a ring" in line
    )


def test_the_other_rule_is_named_with_its_source(tmp_path: Path) -> None:
    path = str(tmp_path / "portproxy.toml")
    Path(path).write_text(RULE + RULE)
    with pytest.raises(ConfigError) as raised:
        config.read(path, ["v6tov6 8080 ::5"]).config()
    told = "(v6tov4/*:8080) listens on *:8080 already; change one of them"
    assert raised.value.lines == (
        f"{path}: rule 2 (v6tov4/*:8080): listenport = 8080: rule 1 {told}",
        f"--rule 1 (v6tov6/*:8080): listenport = 8080: {path}: rule 1 {told}",
    )


@pytest.mark.parametrize(
    "rules",
    [
        ["v4tov6 80 ::5", "v6tov4 80 192.0.2.1"],
        ["v4tov4 80 192.0.2.9", "v4tov4 80 192.0.2.8 listenaddress=192.0.2.1"],
        ["v4tov4 80 192.0.2.1", "v4tov4 80 192.0.2.8 listenaddress=192.0.2.1"],
        ["v6tov4 8080 127.0.0.1 80", "v4tov6 81"],
    ],
)
def test_rules_that_are_right_together(rules: list[str]) -> None:
    made = config.read(None, rules).config()
    assert (len(made.active), made.shadowed) == (len(rules), ())


EXPOSED = "whoever connects reaches the upstream as a local client"


@pytest.mark.parametrize(
    ("rules", "warned"),
    [
        (["v6tov4 8080 connectport=80 name=web"], ["web: " + EXPOSED]),
        (["v4tov6 8080 localhost 80 0.0.0.0 name=web", "v6tov4 81 name=b"], ["web, b: " + EXPOSED]),
        ([f"v6tov4 {port} connectport=99 name=r{port}" for port in range(1, 6)], ["r1, r2, r3 and 2 more: "]),
        (["v6tov4 8080 connectport=80 listenaddress=::1"], []),
        (["v6tov4 8080 connectport=80 listenaddress=localhost"], []),
        (["v6tov4 8080 connectport=80 allow=2001:db8::/32"], []),
        (["v6tov4 8080 connectport=80 connectsource=127.0.0.2"], []),
        (["v6tov4 8080 connectport=80 connectsource=127.0.0.1 name=web"], ["web: " + EXPOSED]),
        (["v4tov6 8080 connectport=80 connectsource=0::1 name=web"], ["web: " + EXPOSED]),
        (["v4tov6 8080 connectport=80 connectsource=2001:db8::1"], []),
        (["v6tov4 8080 192.0.2.1 80"], []),
    ],
)
def test_a_relay_that_makes_strangers_local_is_warned_of(rules: list[str], warned: list[str]) -> None:
    made = config.read(None, rules).config()
    assert len(made.warnings) == len(warned)
    assert all(line.startswith(start) for line, start in zip(made.warnings, warned, strict=True))


def warnings(rules: list[str], workers: str) -> list[str]:
    """Those about limits that hold for each worker."""
    made = config.read(None, [f"{rule} allow=::1" for rule in rules], workers=workers).config()
    return list(made.warnings)


def test_a_limit_that_holds_for_each_worker_is_warned_of() -> None:
    rules = [f"v6tov4 {port} connectport=99 maxconnpersource=5 name=r{port}" for port in range(1, 6)]
    told = (
        "maxconnpersource holds in each of the {0} workers, "
        "so a source may have {0} times as many sessions in all"
    )
    assert warnings(rules[:1], "2") == [f"r1: {told.format(2)}"]
    assert warnings(rules, "8") == [f"r1, r2, r3 and 2 more: {told.format(8)}"]
    assert warnings(rules, "1") == []
    assert warnings(["v6tov4 80 maxconn=5", "v6tov4 81 maxconnpersource=off"], "2") == []


def test_the_other_spelling_of_any_is_shadowed() -> None:
    rules = ["v4tov4 80 192.0.2.1", "v4tov6 80 ::5 listenaddress=0.0.0.0 name=b", "v4tov4 80 192.0.2.2"]
    made = config.read(None, rules[:2]).config()
    assert made.shadowed == (("b", "v4tov4/*:80"),)
    assert [rule.name for rule in made.active] == ["v4tov4/*:80"]
    assert made.warnings == (
        '--rule 2 (b): listenaddress = "0.0.0.0": '
        "shadowed by --rule 1 (v4tov4/*:80), which listens there as *:80",
    )
    assert len(load_problems(*rules)) == 1


def test_the_status_endpoint_is_no_rules() -> None:
    for listen in ("*", "::", "::1"):
        (line,) = load_problems(f"v6tov4 9180 listenaddress={listen} name=a", status="[::1]:9180")
        assert line.startswith(
            "--rule 1 (a): listenport = 9180: the status endpoint [::1]:9180 needs this port"
        )
    assert len(load_problems("v6tov4 9180 listenaddress=::2", status="[::]:9180")) == 1
    assert config.read(None, ["v6tov4 9180"], status="127.0.0.1:9180").config().rules
    assert config.read(None, ["v6tov4 9180 listenaddress=::2"], status="[::1]:9180").config().rules


def test_ten_thousand_rules() -> None:
    text = "".join(f'{RULE}listenaddress = "2001:db8::{n:x}"\n' for n in range(10_000))
    made = config.parse(text, "portproxy.toml")
    assert len(made.active) == 10_000
