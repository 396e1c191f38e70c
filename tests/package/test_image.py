"""The Dockerfile's image, built and run in namespaces: no engine is needed, and nothing is pulled."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.build import build
from tests.package.container import DOCKERS, PATIENCE, Image, container
from tests.package.namespaces import UNSHARE, command, in_own_namespaces

TOP = Path(__file__).parents[2]
FINAL = "1"
"""The number of the stage that is the image."""
PORT = 80
MARKED = "/opt/portproxy/bin/python"
NET_BIND_SERVICE = 1 << 10

UNCOMPILED = """
import importlib.util, os, sys, portproxy.cli, portproxy.serve
found = [getattr(module, "__cached__", None) for module in list(sys.modules.values())]
print([path for path in found if path and not os.path.exists(path)])
"""
UNCHECKED = "import portproxy.cli as m; print(open(m.__cached__, 'rb').read(8)[4])"
"""PEP 552: the flags of a compiled module; 1 is a hash, not checked."""


@pytest.fixture(scope="module")
def wheels(pytestconfig: pytest.Config) -> Path:
    """What the build needs of the package index; kept, and asked for again only when that changes."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    cache = pytestconfig.cache
    assert cache
    directory = cache.mkdir("wheels")
    words = [sys.executable, "-m", "pip", "download", "--quiet", f"--dest={directory}"]
    words += ["--only-binary=:all:", f"--constraint={TOP / 'tests/constraints.txt'}", *needed]
    kept = [*words, "--no-index", f"--find-links={directory}"]
    if subprocess.run(kept, check=False, capture_output=True, timeout=PATIENCE).returncode:
        subprocess.run(words, check=True, timeout=PATIENCE)
    return directory


@pytest.fixture(scope="module")
def built(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of the image, removed when the tests are through."""
    directory = tmp_path_factory.mktemp("image")
    build_image(str(wheels), str(directory))
    yield str(directory)
    # In namespaces, because some of it may belong to users of theirs only.
    subprocess.run([*UNSHARE, "rm", "-r", directory], check=True, timeout=PATIENCE)


@in_own_namespaces
def build_image(wheels: str, directory: str) -> None:
    build(TOP, Path(wheels), Path(directory))


@contextlib.contextmanager
def echo() -> Iterator[str]:
    """An upstream that is on IPv4 alone; the rule that leads there from IPv6."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(ConnectionResetError):
                    while data := client.recv(1 << 16):
                        client.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"v6tov4 listenport={PORT} connectport={listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def connect() -> socket.socket:
    return socket.create_connection(("::1", PORT), PATIENCE)


def exchange(client: socket.socket) -> None:
    client.sendall(b"across")
    assert client.recv(6, socket.MSG_WAITALL) == b"across"


def status(pid: int) -> dict[str, str]:
    """proc_pid_status(5), by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def children(pid: int) -> list[int]:
    """Of whichever of its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def processes() -> set[str]:
    """Everyone in the namespace, containers included, but for this process."""
    return {name for name in os.listdir("/proc") if name.isdecimal()} - {str(os.getpid())}


@in_own_namespaces
def test_the_relay_is_pid_1_and_relays_from_a_low_port(built: str) -> None:
    image = Image(TOP, Path(built))
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}) as relay:
        relay.said("ready")
        code, said = relay.run(*image.settings.health)
        assert code == 0, said
        with connect() as client:
            exchange(client)
        seen = status(relay.pid)
        assert seen["NSpid"].split()[-1] == "1"
        assert {*seen["Uid"].split(), *seen["Gid"].split()} == {"65532"}
        assert seen["Groups"].split() == []
        assert int(seen["CapPrm"], 16) == int(seen["CapEff"], 16) == NET_BIND_SERVICE
        assert relay.run("id", "-u") == (0, "65532\n")


@in_own_namespaces
def test_nothing_can_be_written_but_what_is_declared(built: str) -> None:
    image = Image(TOP, Path(built))
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}) as relay:
        relay.said("ready")
        (volume,) = image.settings.volumes
        # What the base image brings beside /usr/local is this machine's.
        mounted = ("(", "-path", "/usr", "-o", "-path", "/proc", "-o", "-path", "/dev", ")", "-prune")
        found = relay.run("find", "/", "/usr/local", *mounted, "-o", "-writable", "!", "-type", "l", "-print")
        assert found == (0, f"{volume}\n{image.settings.environ['PORTPROXY_CONTROL']}\n")
        code, said = relay.run("touch", "/written")
        assert code
        assert "Read-only file system" in said


@in_own_namespaces
def test_the_stop_signal_lets_sessions_end(built: str) -> None:
    image = Image(TOP, Path(built))
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}) as relay:
        relay.said("ready")
        with connect() as client:
            exchange(client)
            relay.signal(signal.Signals[image.settings.stop_signal])
            relay.said("stopping")
            exchange(client)
        assert relay.ended() == 0
    assert processes() == set()


@in_own_namespaces
def test_draintimeout_bounds_the_stop(built: str) -> None:
    image = Image(TOP, Path(built))
    command("mount", "-t", "tmpfs", "tmpfs", image.path / "mnt")
    (image.path / "mnt/portproxy.toml").write_text('[server]\ndraintimeout = "10ms"\n')
    words = ["serve", "-c", "/mnt/portproxy.toml"]
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}, command=words) as relay:
        relay.said("ready")
        with connect() as client:
            exchange(client)
            relay.signal(signal.Signals[image.settings.stop_signal])
            assert relay.ended() == 0
            with pytest.raises(ConnectionResetError):
                client.recv(1)


@in_own_namespaces
def test_a_killed_relay_leaves_nothing_in_the_way(built: str) -> None:
    """Neither a process, nor the port, nor the control socket, which the next one finds in its volume."""
    image = Image(TOP, Path(built))
    with echo() as rule:
        for _ in range(2):
            with container(image, {"PORTPROXY_RULES": rule}) as relay:
                relay.said("ready")
                with connect() as client:
                    exchange(client)
                    relay.signal(signal.SIGKILL)
                    assert relay.ended() != 0
            assert processes() == set()


@pytest.mark.parametrize(
    ("bounding", "privileges"),
    [("docker", "may grow"), ("bind", "may grow"), ("none", "may grow"), ("docker", "may not grow")],
)
@in_own_namespaces
def test_it_starts_with_whatever_capabilities_it_is_left(built: str, bounding: str, privileges: str) -> None:
    """Without the capability it says so, and where anyone may bind the port it does without."""
    image = Image(TOP, Path(built))
    left = {"docker": DOCKERS, "bind": ("net_bind_service",), "none": ()}[bounding]
    stuck = privileges == "may not grow"
    with echo() as rule:
        environ = {"PORTPROXY_RULES": rule}
        with container(image, environ, left, no_new_privileges=stuck) as relay:
            if left and not stuck:
                relay.said("ready")
                return
            relay.said("permission denied; ports below")
            assert relay.ended() == 1
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text(str(PORT))
        with container(image, environ, left, no_new_privileges=stuck) as relay:
            relay.said("ready")
            assert int(status(relay.pid)["CapPrm"], 16) == 0
            with connect() as client:
                exchange(client)


@in_own_namespaces
def test_workers_of_pid_1_come_and_go(built: str) -> None:
    image = Image(TOP, Path(built))
    words = ["serve", "--workers", "2"]
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}, command=words) as relay:
        relay.said("ready")
        first, _ = children(relay.pid)
        os.kill(first, signal.SIGKILL)
        relay.said("worker")
        for _ in range(10):
            with connect() as client:
                exchange(client)
        code, said = relay.run(*image.settings.health)
        assert code == 0, said
        relay.signal(signal.Signals[image.settings.stop_signal])
        assert relay.ended() == 0
    assert processes() == set()


@in_own_namespaces
def test_every_module_is_compiled(built: str) -> None:
    """For good: no time of a file is compared, and nothing is tried to be written."""
    image = Image(TOP, Path(built))
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}) as relay:
        relay.said("ready")
        assert relay.run(MARKED, "-c", UNCOMPILED) == (0, "[]\n")
        assert relay.run(MARKED, "-c", UNCHECKED) == (0, "1\n")


@in_own_namespaces
def test_there_is_no_pip(built: str) -> None:
    image = Image(TOP, Path(built))
    with echo() as rule, container(image, {"PORTPROXY_RULES": rule}) as relay:
        relay.said("ready")
        for python in (MARKED, "/usr/local/bin/python"):
            code, said = relay.run(python, "-m", "pip")
            assert (code, "No module named pip" in said) == (1, True)


@in_own_namespaces
def test_one_file_is_marked_and_permits_no_more(built: str) -> None:
    """Permitted and not effective: linux/capability.h, struct vfs_cap_data."""
    marked = {}
    # What is mounted into it is not seen here, and not the image's own.
    for folder, _, names in os.walk(Path(built, FINAL)):
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(OSError):
                marked[path] = os.getxattr(path, "security.capability", follow_symlinks=False)
    assert marked.keys() == {f"{built}/{FINAL}/root{MARKED}"}
    ((revision, *sets),) = (struct.unpack("<5I", value[:20]) for value in marked.values())
    assert sets == [NET_BIND_SERVICE, 0, 0, 0]
    assert revision & 1 == 0
