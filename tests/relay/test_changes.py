"""Changes of a running relay by command: at once, in the file, one after the other, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from functools import partial
from pathlib import Path

import pytest
import trio

from portproxy import config
from portproxy.control.client import ask
from portproxy.errors import PortproxyError
from portproxy.wire.control_frames import Change, Line, Reply, Request
from tests.relay.rig import (
    beside,
    dial,
    echo,
    free_port,
    port_of,
    round_trip,
    to,
    upstream,
    was_reset,
)
from tests.relay.served import SERVER, serving, table


@pytest.fixture
def control(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


async def carried_out(
    control: str, *commands: Line, save: bool = True, dry_run: bool = False, partly: bool = False
) -> Reply:
    change = Change(commands, save, dry_run, partly)
    return await trio.to_thread.run_sync(ask, control, Request("change", change=change), 60.0)


def adding(port: int, **tags: str) -> Line:
    return Line("add", "v4tov4", {"listenport": str(port), "connectaddress": FAR, **tags})


def deleting(port: int) -> Line:
    return Line("delete", "v4tov4", {"listenport": str(port)})


def ports(text: str) -> list[int]:
    return [rule.listen.port for rule in config.parse(text, "portproxy.toml").rules]


async def told(control: str, command: str, **args: str) -> Reply:
    return await trio.to_thread.run_sync(ask, control, Request(command, args), 60.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "portproxy.toml"


FAR = "198.51.100.1"
"""Of no host (RFC 5737)."""


def held(path: Path) -> str:
    """What the file has in it now."""
    return path.read_text()


async def test_sessions_live_through_changes(path: Path, control: str) -> None:
    with upstream() as first, upstream() as second:
        rule = to(first)
        async with (
            beside(partial(echo, first), partial(echo, second)),
            serving(path, SERVER, table(rule), arguments=["--control", control]),
        ):
            with dial(rule) as client:
                await round_trip(client)
                assert (await carried_out(control, adding(free_port()))).ok
                tags = {"listenport": str(rule.listen.port), "listenaddress": rule.listen.address}
                moved = await carried_out(
                    control, Line("set", rule.type, {"connectport": str(port_of(second)), **tags})
                )
                assert moved.text == f"change  rule: connect {rule.connect} -> 127.0.0.1:{port_of(second)}"
                await round_trip(client)
                listed = (await told(control, "sessions")).data["sessions"]
                assert [session["upstream"] for session in listed] == [str(rule.connect)]
                with dial(rule) as newer:
                    await round_trip(newer)
                    listed = (await told(control, "sessions", rule="rule")).data["sessions"]
                    assert [session["upstream"] for session in listed] == [
                        str(rule.connect),
                        f"127.0.0.1:{port_of(second)}",
                    ]
                assert (await carried_out(control, Line("delete", rule.type, tags))).ok
                await round_trip(client)
                assert (await told(control, "kill", session=listed[0]["id"])).ok
                assert await was_reset(client)


@pytest.mark.alone("of the file, which no worker sees")
async def test_changes_at_once_are_all_there_afterwards(path: Path, control: str) -> None:
    wanted = [free_port() for _ in range(12)]
    replies: list[Reply] = []

    async def add(port: int) -> None:
        replies.append(await carried_out(control, adding(port)))

    async with serving(path, SERVER, arguments=["--control", control]) as served:
        async with trio.open_nursery() as nursery:
            for port in wanted:
                nursery.start_soon(add, port)
        assert [reply.text for reply in replies if not reply.ok] == []
        runs = (await told(control, "status")).data["rules"]
        assert {rule["state"] for rule in runs} == {"listening"}
        assert sorted(rule["listen"] for rule in runs) == sorted(f"*:{port}" for port in wanted)
        assert sorted(ports(held(path))) == sorted(wanted)
        # What a start would read is what runs: a reload finds nothing to do.
        served.signal(signal.SIGHUP)
        assert (await served.said("reloaded"))[0]["plan"] == f"stop 0, keep {len(wanted)}, change 0, start 0"


@pytest.mark.alone("of the file, which no worker sees")
async def test_a_file_that_was_changed_by_hand_is_not_overwritten(path: Path, control: str) -> None:
    port = free_port()
    async with serving(path, SERVER, arguments=["--control", control]) as served:
        served.write(SERVER, "# by hand\n")
        refused = await carried_out(control, adding(port))
        assert (refused.ok, refused.text) == (
            False,
            f"{path} was changed since this relay read it; `portproxy reload` first,"
            " or change the running relay alone with --no-save",
        )
        assert (await told(control, "status")).data["rules"] == []
        served.signal(signal.SIGHUP)
        await served.said("reloaded")
        assert (await carried_out(control, adding(port))).ok
        assert "# by hand\n" in held(path)
        assert ports(held(path)) == [port]


@pytest.mark.alone("of the file, which no worker sees")
async def test_what_is_not_saved_lasts_until_the_next_reload(path: Path, control: str) -> None:
    saved, unsaved = free_port(), free_port()
    async with serving(path, SERVER, arguments=["--control", control]) as served:
        assert (await carried_out(control, adding(unsaved), save=False)).ok
        assert held(path) == SERVER
        assert (await carried_out(control, adding(saved))).ok
        assert ports(held(path)) == [saved]
        shown = (await told(control, "show")).text
        assert str(saved) in shown
        assert str(unsaved) in shown
        served.signal(signal.SIGHUP)
        await served.said("reloaded")
        assert str(unsaved) not in (await told(control, "show")).text


@pytest.mark.alone("of the file, which no worker sees")
async def test_a_change_that_is_wrong_changes_nothing(path: Path, control: str) -> None:
    good, bad = free_port(), free_port()
    async with serving(path, SERVER, arguments=["--control", control]):
        refused = await carried_out(control, adding(good), adding(bad, connectaddress="::1"))
        assert refused.text.startswith(f'v4tov4/*:{bad}: connectaddress = "::1": v4tov4 connects to IPv4')
        assert held(path) == SERVER
        assert (await told(control, "status")).data["rules"] == []
        partly = await carried_out(control, adding(good), adding(bad, connectaddress="::1"), partly=True)
        assert list(partly.data["refused"]) == ["1"]
        assert ports(held(path)) == [good]


@pytest.mark.alone("of the file, which no worker sees")
async def test_a_file_that_cannot_be_replaced(path: Path, control: str) -> None:
    """A bind mount, as of a single file into a container: rename(2) says EBUSY."""
    port = free_port()
    mounted = ["unshare", "--mount", "sh", "-c", f'mount --bind "{path}" "{path}" && exec "$@"', "sh"]
    async with serving(path, SERVER, arguments=["--control", control], within=mounted):
        refused = await carried_out(control, adding(port))
        assert not refused.ok
        assert refused.text.startswith(f"{path}")
        assert "--no-save" in refused.text
        assert (await told(control, "status")).data["rules"] == []
        assert held(path) == SERVER
        assert set(os.listdir(path.parent)) == {path.name, "control.sock"}
        assert (await carried_out(control, adding(port), save=False)).ok


@pytest.mark.alone("of the file, which no worker sees")
async def test_killed_while_it_writes_the_file_is_whole(path: Path, control: str) -> None:
    """Whenever it is killed: the file is what it was, or what it was to be."""
    text = SERVER
    for _ in range(6):
        port = free_port()
        async with (
            serving(path, text, arguments=["--control", control]) as served,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_ask_anyway, control, adding(port))
            await _being_written(path, text)
            served.process.kill()
        assert held(path) == text or ports(held(path))[-1] == port
        text = held(path)
        os.unlink(control)


async def _being_written(path: Path, text: str) -> None:
    """Wait until another file is beside ``path``, or ``path`` holds something else than ``text``."""
    beside_it = len(os.listdir(path.parent))
    # The temporary file is there for a moment only, so this looks as often as it can.
    while len(os.listdir(path.parent)) == beside_it and held(path) == text:
        await trio.lowlevel.checkpoint()


async def _ask_anyway(control: str, command: Line) -> None:
    with contextlib.suppress(PortproxyError):
        await carried_out(control, command)


async def test_nothing_is_changed_while_the_relay_stops(path: Path, control: str) -> None:
    with upstream() as service:
        rule = to(service)
        async with (
            beside(partial(echo, service)),
            serving(path, SERVER, table(rule), arguments=["--control", control]) as served,
        ):
            with dial(rule) as client:
                await round_trip(client)
                served.signal(signal.SIGTERM)
                await served.said("stopping")
                refused = await carried_out(control, adding(free_port()))
                assert refused.text == "the relay is stopping; nothing is changed any more"
                await round_trip(client)
            await served.said("stopped")


@pytest.mark.alone("of the file, which no worker sees")
async def test_a_symlink_stays_and_so_do_mode_and_owner(path: Path, control: str) -> None:
    target = path.with_name("real.toml")
    os.symlink(target, path)
    os.close(os.open(target, os.O_CREAT))
    os.chown(target, 12, 34)
    os.chmod(target, 0o640)
    async with serving(path, SERVER, arguments=["--control", control]):
        assert (await carried_out(control, adding(free_port()))).ok
    assert stat.S_ISLNK(os.lstat(path).st_mode)
    found = os.stat(target)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o640)
    assert len(ports(held(target))) == 1


@pytest.mark.alone("of the file, which no worker sees")
async def test_shadowed_entries_are_entries(path: Path, control: str) -> None:
    """netsh's table has both ``*`` and 0.0.0.0; one listens, and the other once that is gone."""
    port = free_port()
    async with serving(path, SERVER, arguments=["--control", control]):
        await carried_out(control, adding(port))
        shadowed = await carried_out(control, adding(port, listenaddress="0.0.0.0"))
        assert shadowed.text == "no rule that listens changes"
        assert "shadowed by" in shadowed.data["warnings"][0]
        rules = (await told(control, "status")).data["rules"]
        assert [rule["state"] for rule in rules] == ["listening", "shadowed"]
        await carried_out(control, deleting(port))
        rules = (await told(control, "status")).data["rules"]
        assert [(rule["listen"], rule["state"]) for rule in rules] == [(f"0.0.0.0:{port}", "listening")]
