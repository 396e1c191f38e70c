"""configs/portproxy.service: systemd takes it, and the relay can live in what it leaves."""

from __future__ import annotations

import posixpath
import shlex
import signal
import sys
from pathlib import Path

import pytest

from portproxy import config
from portproxy.cli.group import portproxy as group
from portproxy.cli.manual import EXIT_CODES
from portproxy.control.place import ROOT_DIRECTORY
from portproxy.model import Server
from portproxy.options.kinds import duration
from tests.cli.shell import PORTPROXY, Said, Shell
from tests.configs import unit
from tests.configs.written import CONFIGS

TEXT = (CONFIGS / "portproxy.service").read_text(encoding="utf-8")
UNIT = unit.directives(TEXT)
EXPOSURE = "16"
"""Tenths: what `systemd-analyze security` of systemd 252 gives it. A change should give no more away."""

RULES = """
[server]
status = "127.0.0.1:9180"
[[rule]]
type = "v6tov4"
listenport = 80
connectport = 8000
"""
SCRIPT = """
ip link set lo up
mount --bind etc etc
mount --bind run run
mount -o remount,bind,ro /
confined() {{ exec setpriv --no-new-privs --bounding-set={caps} --inh-caps={caps} --ambient-caps={caps} \
    {python} {filter} portproxy.service "$@"; }}
{script}
"""
LIFE = """
truncate --size=16M etc/blob
python3 -m http.server --bind 127.0.0.1 --directory etc 8000 &
(confined {start}) &
until (confined portproxy health); do sleep 0.1; done
(confined portproxy add v6tov4 81 connectport=8000)
(confined {reload})
(confined portproxy explain 81)
curl --silent --fail --retry 5 --retry-connrefused 'http://[::1]:80/blob' 'http://[::1]:81/blob' | wc --bytes
curl --silent --fail 'http://127.0.0.1:9180/metrics'
kill -TERM %2
wait %2
kill %1
"""


class Installed(Shell):
    """The unit, in a directory that stands for the host: its paths lead there, and to this portproxy."""

    def __init__(self, directory: Path, text: str = TEXT) -> None:
        super().__init__(directory)
        self.environ["PATH"] += ":/usr/sbin:/sbin"
        self.etc, run = directory / "etc/portproxy", directory / "run"
        self.etc.mkdir(parents=True)
        (run / UNIT["RuntimeDirectory"][0]).mkdir(parents=True)
        for path, place in {"/usr/bin/portproxy": PORTPROXY, "/etc/portproxy": self.etc, "%t": run}.items():
            text = text.replace(path, str(place))
        self.file = directory / "portproxy.service"
        self.file.write_text(text)
        self.unit = unit.directives(text)

    def analyze(self, *argv: str) -> Said:
        """What systemd-analyze says of it."""
        return self.run(["systemd-analyze", *argv, str(self.file)])

    def confined(self, script: str) -> Said:
        """What ``script`` says where only the unit's directories are writable; ``confined`` confines more."""
        (capability,) = self.unit["CapabilityBoundingSet"]
        words = {
            "caps": "-all,+" + capability.removeprefix("CAP_").lower(),
            "python": sys.executable,
            "filter": unit.__file__,
        }
        whole = SCRIPT.format(**words, script=script)
        (variable,) = self.unit["Environment"]
        name, _, value = variable.partition("=")
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--map-root-user"]
        return self.run(
            ["timeout", "60", *namespaces, "bash", "-meuo", "pipefail", "-c", whole], environ={name: value}
        )


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """The unit as it is."""
    return Installed(tmp_path)


def seconds(key: str) -> float:
    """A duration of the unit; those of this one portproxy reads alike."""
    (written,) = UNIT[key]
    return float(duration(0).convert(written))


def test_systemd_takes_it(installed: Installed) -> None:
    assert installed.analyze("verify", "--man=no") == (0, "", [])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("KillMode=", "KillMod="),
        ("ProtectSystem=strict", "ProtectSystem=stict"),
        ("@system-service", "@system-servise"),
        ("TimeoutStopSec=45s", "TimeoutStopSec=45x"),
        ("ExecReload=/usr", "ExecReload=/nowhere"),
    ],
)
def test_systemd_refuses_what_is_wrong(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in TEXT
    _, _, errors = Installed(tmp_path, TEXT.replace(right, wrong)).analyze("verify", "--man=no")
    assert len(errors) == 1


def test_it_exposes_little(installed: Installed) -> None:
    code, output, _ = installed.analyze("security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}")
    assert code == 0, output


def test_what_it_runs_is_there() -> None:
    for key in ("ExecStart", "ExecReload"):
        (line,) = UNIT[key]
        program, command, *_ = shlex.split(line)
        assert program == "/usr/bin/portproxy"
        assert command in group.commands
    assert UNIT["ExecStart"][0].endswith(f" -c {config.DEFAULT_PATH}")


def test_paths_are_those_of_the_commands() -> None:
    """So that root's ``portproxy status`` finds it, and what commands change can be saved."""
    assert f"/run/{UNIT['RuntimeDirectory'][0]}" == ROOT_DIRECTORY
    assert UNIT["Environment"] == [f"PORTPROXY_CONTROL=%t/{posixpath.basename(ROOT_DIRECTORY)}/control.sock"]
    assert UNIT["ReadWritePaths"] == [f"-{posixpath.dirname(config.DEFAULT_PATH)}"]


def test_sessions_may_drain() -> None:
    files = CONFIGS.glob("*.toml")
    drains = [config.read(str(file)).config().server.draintimeout for file in files]
    assert seconds("TimeoutStopSec") > max(Server().draintimeout, *drains)
    assert UNIT["KillMode"] == ["mixed"]


def test_a_configuration_that_cannot_be_run_is_not_tried_again() -> None:
    (code,) = UNIT["RestartPreventExitStatus"]
    assert "configuration" in dict(EXIT_CODES)[code]


def test_the_relay_lives_in_it(installed: Installed) -> None:
    """A port below 1024, a change that is saved, a reload, much data, a clean end: none of it needs more."""
    file = installed.etc / "portproxy.toml"
    file.write_text(RULES)
    commands = {key.lower()[4:]: installed.unit[key][0] for key in ("ExecStart", "ExecReload")}
    code, output, errors = installed.confined(LIFE.format(**commands))
    assert code == 0, "\n".join(errors)
    assert f"\n{2 * 16 << 20}\n" in output
    assert 'dataplane="splice"' in output
    assert len(config.read(str(file)).config().rules) == 2


@pytest.mark.parametrize(
    "call",
    [
        "import os; os.chown('etc', 0, 0)",
        "import socket; socket.socket(socket.AF_PACKET)",
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    ],
)
def test_it_confines(installed: Installed, call: str) -> None:
    code, _, _ = installed.confined(f"(confined python -c {shlex.quote(call)})")
    assert code == 128 + signal.SIGSYS


def test_only_its_directories_can_be_written(installed: Installed) -> None:
    code, _, errors = installed.confined("touch etc/x run/x; (confined touch x)")
    assert code == 1
    assert "Read-only file system" in errors[-1]
