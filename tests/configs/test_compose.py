"""configs/compose.yaml: the schema takes it, and what one line says fits what another does."""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest

from portproxy import __version__
from portproxy.model import Family
from portproxy.options.kinds import duration
from tests.cli.shell import Shell
from tests.configs.running import fetched
from tests.configs.written import CONFIGS, TOP, Table, check_command, documents, image, relay

FILE = CONFIGS / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Table]:
    """The services, by name."""
    (document,) = documents(FILE)
    assert document["services"].keys() == {"web", "portproxy"}
    return dict(document["services"])


def seconds(written: str) -> float:
    """A duration; those of this file portproxy would read alike."""
    return float(duration(0).convert(written))


def validated(file: Path) -> tuple[int, str]:
    """The exit code of the schema's check of ``file``, and what it says."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_the_schema_takes_it() -> None:
    assert validated(FILE) == (0, "ok -- validation done\n")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("cap_drop:", "cap_dorp:"), ("target: 8080", "target: [8080]"), ("test: [CMD,", "test: [1,")],
)
def test_the_schema_refuses_what_is_wrong(tmp_path: Path, right: str, wrong: str) -> None:
    text = FILE.read_text()
    assert right in text
    (tmp_path / "compose.yaml").write_text(text.replace(right, wrong))
    code, output = validated(tmp_path / "compose.yaml")
    assert code == 1
    assert "services.portproxy" in output


def test_what_is_published_is_the_rules_port_over_ipv6(services: dict[str, Table]) -> None:
    front = services["portproxy"]
    told = relay(front["environment"])
    (rule,), (port,) = told.rules, front["ports"]
    assert (port["target"], port["protocol"]) == (rule.listen.port, rule.protocol)
    assert port["host_ip"] == rule.type.listen_family.wildcard == "::"
    assert told.server.status
    assert front["expose"] == [str(told.server.status.port)]


def test_the_rule_leads_to_the_service(services: dict[str, Table]) -> None:
    (rule,) = relay(services["portproxy"]["environment"]).rules
    assert rule.type.connect_family is Family.V4
    assert rule.connect.address in services
    command = services[rule.connect.address]["command"]
    assert command[-1] == str(rule.connect.port)
    assert command[command.index("--bind") + 1] == rule.type.connect_family.wildcard


def test_both_are_on_a_network_with_ipv6(services: dict[str, Table]) -> None:
    (document,) = documents(FILE)
    ((network, settings),) = document["networks"].items()
    assert settings["enable_ipv6"] is True
    assert all(service["networks"] == [network] for service in services.values())


def test_the_health_check_hears_why(services: dict[str, Table]) -> None:
    check = services["portproxy"]["healthcheck"]
    word, *argv = check["test"]
    assert word == "CMD"
    check_command(argv, int(seconds(check["timeout"])))


def test_sessions_may_drain(services: dict[str, Table]) -> None:
    front = services["portproxy"]
    assert seconds(front["stop_grace_period"]) > relay(front["environment"]).server.draintimeout


def test_it_runs_as_the_image_does(services: dict[str, Table]) -> None:
    front = services["portproxy"]
    user, group, control = image()
    assert "user" not in front
    assert front["image"] == f"portproxy:{__version__}"
    assert ((FILE.parent / front["build"]["context"]).resolve() / "Dockerfile") == TOP / "Dockerfile"
    (mount,) = front["tmpfs"]
    found = re.fullmatch(r"(.+):uid=(\d+),gid=(\d+),mode=0700,size=1m", mount)
    assert found
    assert found.groups() == (posixpath.dirname(control), str(user), str(group))
    assert "PORTPROXY_CONTROL" not in front["environment"]


def test_both_are_confined(services: dict[str, Table]) -> None:
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_published_port_answers(portproxy: Shell, services: dict[str, Table]) -> None:
    front = services["portproxy"]
    page = fetched(
        portproxy,
        service=services["web"]["command"],
        hosts="web",
        environ=front["environment"],
        ready=front["healthcheck"]["test"][1:],
        url=f"http://[::1]:{front['ports'][0]['target']}/",
    )
    assert "Directory listing" in page
