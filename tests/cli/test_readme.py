"""README.md and configs/: what they say is so, and what they tell people to type works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from portproxy.config import read
from portproxy.control.client import TIMEOUT
from portproxy.options import RULE_KEYS, RULE_OPTIONS, SERVER_OPTIONS
from tests.cli.shell import Shell, free_port
from tests.cli.tables import README, renewed, tables

TEXT = README.read_text(encoding="utf-8")
CONFIGS = README.parent / "configs"
FILES = sorted(CONFIGS.glob("*.toml"))

PORTS = re.compile(r"\b(8000|8001|8080|8081|9180)\b")
"""The ports of the examples: each test uses others."""


def blocks(language: str) -> dict[str, str]:
    """The fenced blocks of ``language``, by the heading above them."""
    found: dict[str, str] = {}
    for section in re.split(r"^#+ ", TEXT, flags=re.MULTILINE):
        for block in re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            heading = section.partition("\n")[0]
            assert heading not in found, "give it a heading of its own"
            found[heading] = block
    return found


SHOWN = {
    "What an address is": "2002:9d36:1:2::",
    "An IPv4-only service over IPv6": "<title>Directory listing for /</title>",
    "A sidecar": "ready",
    "A benchmark": 'portproxy_bytes_total{direction="down",rule="measured"} 2.68',
    "Commands": "v6tov6  *:8443",
    "While it runs": "keep    1 rule",
}
"""Heading -> what its block prints, among other things."""


def with_free_ports(text: str, ports: dict[str, str]) -> str:
    def other(found: re.Match[str]) -> str:
        while found[0] not in ports:
            port = str(free_port())
            if port not in ports.values():
                ports[found[0]] = port
        return ports[found[0]]

    return PORTS.sub(other, text)


def test_the_tables_are_current() -> None:
    assert set(re.findall(r"<!-- table: (.+?) -->", TEXT)) == tables().keys()
    assert renewed(TEXT) == TEXT, "run: python -m tests.cli.tables"


def test_every_example_has_its_test() -> None:
    assert blocks("sh run").keys() == SHOWN.keys()


@pytest.mark.parametrize("heading", SHOWN)
def test_an_example_runs(portproxy: Shell, heading: str) -> None:
    ports: dict[str, str] = {}
    (portproxy.directory / "configs").mkdir()
    for file in FILES:
        (portproxy.directory / "configs" / file.name).write_text(with_free_ports(file.read_text(), ports))
    script = with_free_ports(blocks("sh run")[heading], ports)
    stop = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"
    code, output, errors = portproxy.run(
        ["timeout", "--kill-after=5", "60", "bash", "-euo", "pipefail", "-c", f"{stop}\n{script}"]
    )
    assert code == 0, "\n".join(errors)
    assert SHOWN[heading] in output


@pytest.mark.parametrize(
    ("file", "limit"), [("Dockerfile", r"--timeout=(\d+)s"), ("README.md", r"timeoutSeconds: (\d+)")]
)
def test_a_probe_allows_more_than_health_takes(file: str, limit: str) -> None:
    """Twice as much, for the start of Python: else nobody reads why it fails."""
    (seconds,) = re.findall(limit, (README.parent / file).read_text(encoding="utf-8"))
    assert int(seconds) >= 2 * TIMEOUT


EXAMPLES = {
    "Configuration": "web   v6tov4  *:8080",
    "A configured tunnel": "six     v6v4tunnel",
    "IPv4 across an IPv6 network": "four    v4v6tunnel",
    "6to4": "site    6to4",
    "ISATAP": "site    isatap",
    "A host of an ISATAP site": "site    isatap",
    "Automatic tunnelling": "auto    v4compat",
}
"""Heading -> what `check` prints of its example, among other things."""


def test_every_configuration_has_its_test() -> None:
    assert blocks("toml").keys() == EXAMPLES.keys()


@pytest.mark.parametrize("heading", EXAMPLES)
def test_a_configuration_example(portproxy: Shell, heading: str) -> None:
    (portproxy.directory / "example.toml").write_text(blocks("toml")[heading])
    code, output, errors = portproxy("check", "-c", "example.toml")
    assert (code, errors) == (0, [])
    assert EXAMPLES[heading] in output


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_file_of_configs(portproxy: Shell, file: Path) -> None:
    code, output, errors = portproxy("check", "-c", str(file))
    assert (code, errors) == (0, [])
    assert "warning" not in output


def test_the_sidecar_environment(portproxy: Shell) -> None:
    lines = (CONFIGS / "sidecar.env").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert environ.keys() == {"PORTPROXY_RULES", "PORTPROXY_STATUS", "PORTPROXY_CONTROL"}
    code, output, errors = portproxy("check", environ=environ)
    assert (code, errors) == (0, [])
    assert "idletimeout=10m" in output
    assert "status=[::]:9180 control=/run/portproxy/control.sock" in output


def test_the_annotated_file_has_every_key_and_its_default() -> None:
    file = CONFIGS / "portproxy.toml"
    text = file.read_text()
    commented = dict(re.findall(r'^# (\w+) = (".*?"|\[.*?\]|\S+)', text, re.MULTILINE))
    written = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    keys = {option.name: option for option in (*SERVER_OPTIONS, *RULE_KEYS, *RULE_OPTIONS)}
    assert commented.keys() | written == keys.keys()
    assert read(str(file)).config()
    # The default of control depends on who asks; those of a rule's keys on its type.
    for key in commented.keys() - {"control"} - {option.name for option in RULE_KEYS}:
        value: object = [] if commented[key] == "[]" else commented[key].strip('"')
        assert keys[key].kind.convert(value) == keys[key].default, key
