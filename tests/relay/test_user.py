"""A relay that root starts and that is somebody else once it listens, its workers included."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from portproxy.model import Endpoint
from tests.relay import rig
from tests.relay.namespaces import command
from tests.relay.rig import beside, dial, echo, eventually, round_trip, to, upstream
from tests.relay.served import SERVER, TOP, serving, table

NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.mark.parametrize("number", [1, 2], ids=["one worker", "two workers"])
def test_root_is_dropped_for_good(number: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can drop root")
    if subprocess.run(["unshare", "--mount", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here")
    child = ["unshare", "--mount", "--net", sys.executable, "-m", __name__, str(number)]
    done = subprocess.run(child, check=False, capture_output=True, text=True, cwd=TOP)
    assert done.returncode == 0, done.stdout + done.stderr


def closed_to_others() -> Iterable[Path]:
    """Directories that keep others from this Python, its packages and this checkout."""
    roots = {Path(path).resolve() for path in (*sys.path, sys.executable, sys.base_prefix, str(TOP)) if path}
    above = {parent for root in roots for parent in (root, *root.parents) if parent.is_dir()}
    return sorted(path for path in above if not path.stat().st_mode & 0o001)


def open_to_others(path: Path, scratch: Path) -> None:
    """In this mount namespace alone."""
    upper, work = (scratch / str(path).replace("/", "_") / part for part in ("upper", "work"))
    for directory in (upper, work):
        directory.mkdir(parents=True)
    command(f"mount -t overlay overlay -o lowerdir={path},upperdir={upper},workdir={work} {path}")
    path.chmod(0o755)


def identity(pid: int) -> tuple[set[int], set[int], int]:
    """The user's numbers, the groups, and the effective and permitted capabilities of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    groups = {*map(int, fields["Gid"].split()), *map(int, fields["Groups"].split())}
    capabilities = int(fields["CapEff"], 16) | int(fields["CapPrm"], 16)
    return {*map(int, fields["Uid"].split())}, groups, capabilities


async def _run(directory: Path) -> None:
    with upstream() as service:
        low = to(service, name="low", listen=Endpoint("127.0.0.1", 80))
        lower = to(service, name="lower", listen=Endpoint("127.0.0.1", 79))
        high = to(service, name="high")
        server = f'{SERVER}user = "nobody"\naccesslog = "{directory}/access.log"\n'
        path = directory / "portproxy.toml"
        async with beside(lambda: echo(service)), serving(path, server, table(low)) as served:
            path.chmod(0o644)
            processes = [served.process.pid]
            if rig.workers > 1:
                processes += [line["pid"] for line in await served.said("a worker relays", 2)]
            group = pwd.getpwuid(NOBODY).pw_gid
            for pid in processes:
                assert identity(pid) == ({NOBODY}, {*os.getgrouplist("nobody", group)}, 0)
            with dial(low) as client:
                await round_trip(client)
                await served.reload(server, table(low), table(lower), table(high))
                (failed,) = await served.said("a rule does not listen")
                assert failed["rule"] == "lower"
                assert "root was dropped to user nobody" in failed["error"]
                with dial(high) as another:
                    await round_trip(another)
                await round_trip(client)
            for pid in processes[1:]:
                os.kill(pid, signal.SIGKILL)
            if rig.workers > 1:
                successors = [line["pid"] for line in await served.said("a worker relays", 4)][2:]
                assert all(identity(pid)[0] == {NOBODY} for pid in successors)
                with dial(low) as client:
                    await round_trip(client)
            served.signal(signal.SIGTERM)
            assert await served.process.wait() == 0
            log = directory / "access.log"
            assert log.stat().st_uid == NOBODY
            await eventually(lambda: 'reason":"finished' in log.read_text())


def main() -> None:
    """What is run in namespaces of its own."""
    rig.workers = int(sys.argv[1])
    command("ip link set lo up")
    command("mount -t tmpfs tmpfs /mnt")
    for path in closed_to_others():
        open_to_others(path, Path("/mnt/overlays"))
    directory = Path("/mnt/relay")
    directory.mkdir()
    os.chown(directory, NOBODY, -1)
    trio.run(_run, directory)


if __name__ == "__main__":
    main()
