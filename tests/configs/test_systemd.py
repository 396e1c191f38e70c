"""configs/portproxy.service and its drop-in: systemd takes them, and a relay can live in what is left."""

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
from portproxy.tunnel.device import NODE
from tests.cli.shell import PORTPROXY, Said, Shell
from tests.configs import unit
from tests.configs.written import CONFIGS

TEXT = (CONFIGS / "portproxy.service").read_text(encoding="utf-8")
UNIT = unit.directives(TEXT)
DROP_IN = (CONFIGS / "portproxy.service.d/tunnels.conf").read_text(encoding="utf-8")
EXPOSURE, WITH_TUNNELS = "16", "20"
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
TUNNELS = """
[[tunnel]]
name = "site"
type = "6to4"
role = "router"
localaddress = "198.51.100.1"
advertise = ["eth1"]
[[tunnel]]
name = "four"
type = "v4v6tunnel"
remoteaddress = "2001:db8::2"
address = ["10.0.0.1/24"]
"""
TUNNELS_LIFE = """
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
ip link add eth0 type veth peer name eth1
ip address add 198.51.100.1/24 dev eth0
ip address add 2001:db8::1/64 dev eth0
ip link set eth0 up
ip link set eth1 up
(confined {start}) &
until (confined portproxy health); do sleep 0.1; done
until ip -6 address show dev eth1 | grep 2002:c633:6401:1::1; do sleep 0.1; done
sed -i 's|10.0.0.1/24|10.0.0.2/24|' etc/portproxy/portproxy.toml
(confined {reload})
ip address show dev four
(confined portproxy tunnel status)
kill -TERM %1
wait %1
ip link show | grep -E 'site|four' && exit 9
ip -6 address show dev eth1 scope global
"""


class Installed(Shell):
    """The unit, in a directory that stands for the host: its paths lead there, and to this portproxy."""

    def __init__(self, directory: Path, text: str = TEXT, drop_in: str = "") -> None:
        super().__init__(directory)
        self.environ["PATH"] += ":/usr/sbin:/sbin"
        self.etc, run = directory / "etc/portproxy", directory / "run"
        self.etc.mkdir(parents=True)
        (run / UNIT["RuntimeDirectory"][0]).mkdir(parents=True)
        for path, place in {"/usr/bin/portproxy": PORTPROXY, "/etc/portproxy": self.etc, "%t": run}.items():
            text = text.replace(path, str(place))
        self.file = directory / "portproxy.service"
        self.file.write_text(text)
        if drop_in:
            (directory / "portproxy.service.d").mkdir()
            (directory / "portproxy.service.d/tunnels.conf").write_text(drop_in)
        self.unit = unit.directives(unit.whole(self.file))

    def analyze(self, *argv: str) -> Said:
        """What systemd-analyze says of it."""
        return self.run(["systemd-analyze", *argv, str(self.file)])

    def confined(self, script: str) -> Said:
        """What ``script`` says where only the unit's directories are writable; ``confined`` confines more."""
        assert self.unit["CapabilityBoundingSet"] == self.unit["AmbientCapabilities"]
        capabilities = " ".join(self.unit["CapabilityBoundingSet"]).split()
        words = {
            "caps": ",".join(["-all", *(f"+{one.removeprefix('CAP_').lower()}" for one in capabilities)]),
            "python": sys.executable,
            "filter": unit.__file__,
        }
        whole = SCRIPT.format(**words, script=script)
        (variable,) = self.unit["Environment"]
        name, _, value = variable.partition("=")
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--map-root-user"]
        return self.run(
            ["timeout", "--kill-after=5", "60", *namespaces, "bash", "-meuo", "pipefail", "-c", whole],
            environ={name: value},
        )


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """The unit as it is."""
    return Installed(tmp_path)


@pytest.fixture
def with_tunnels(tmp_path: Path) -> Installed:
    """The unit with its drop-in."""
    return Installed(tmp_path, drop_in=DROP_IN)


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


def test_tunnels_expose_little_more(with_tunnels: Installed) -> None:
    assert with_tunnels.analyze("verify", "--man=no") == (0, "", [])
    words = ("security", "--offline=yes", "--no-pager", f"--threshold={WITH_TUNNELS}")
    code, output, _ = with_tunnels.analyze(*words)
    assert code == 0, output


def test_tunnels_have_their_device(with_tunnels: Installed) -> None:
    assert with_tunnels.unit["PrivateDevices"][-1] == "no"
    assert with_tunnels.unit["DeviceAllow"] == [f"{NODE} rw"]


def test_systemd_reads_the_drop_in(tmp_path: Path) -> None:
    """Beside the unit, where the others expect it to: what is wrong in it is said."""
    wrong = DROP_IN.replace("DevicePolicy=", "DevicPolicy=")
    _, _, errors = Installed(tmp_path, drop_in=wrong).analyze("verify", "--man=no")
    assert len(errors) == 1


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


def test_tunnels_live_in_it(with_tunnels: Installed) -> None:
    """They are made, changed by a reload, and gone at the end, under the unit's own system-call filter."""
    (with_tunnels.etc / "portproxy.toml").write_text(TUNNELS)
    commands = {key.lower()[4:]: with_tunnels.unit[key][0] for key in ("ExecStart", "ExecReload")}
    code, output, errors = with_tunnels.confined(TUNNELS_LIFE.format(**commands))
    assert code == 0, "\n".join(errors)
    assert "inet 10.0.0.2/24" in output
    assert output.count("2002:c633:6401:1::1") == 1, "gone at the end"


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
