"""The configuration file replaced on real file systems: what is kept, what is refused, what a kill leaves."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from portproxy import store
from portproxy.config.editor import EditError, Put, Remove
from portproxy.store import StoreError

TOP = Path(__file__).parents[2]
OLD, NEW = b"# old\n", b"# new\r\n"
TEMPORARY = ".c.toml.portproxy-new"
NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_bytes(OLD)
    return path


def refusal(path: Path | str, data: bytes = NEW) -> str:
    with pytest.raises(StoreError) as refused:
        store.replace(str(path), data)
    (line,) = refused.value.lines
    assert line.isprintable()
    assert "--no-save" in line
    return line


def test_bytes_mode_owner_and_attributes(file: Path) -> None:
    os.chown(file, 12, 34)
    file.chmod(0o4640)
    os.setxattr(file, "user.note", b"kept")
    before = file.stat()
    store.replace(str(file), NEW)
    after = file.stat()
    assert store.read(str(file)) == NEW
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, 12, 34)
    assert os.getxattr(file, "user.note") == b"kept"
    assert os.listdir(file.parent) == ["c.toml"]


def access_list(user: int, bits: int) -> bytes:
    """One that has ``user`` too; linux/posix_acl_xattr.h: version 2, then tag, bits and id of each entry."""
    entries = [(1, 6, -1), (2, bits, user), (4, 4, -1), (16, 7, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def test_an_access_list_is_kept_and_none_is_inherited(file: Path) -> None:
    plain = file.with_name("plain.toml")
    plain.write_bytes(OLD)
    os.setxattr(file, "system.posix_acl_access", access_list(12, 6))
    os.setxattr(file.parent, "system.posix_acl_default", access_list(34, 7))
    before = os.getxattr(file, "system.posix_acl_access")
    for path in (file, plain):
        store.replace(str(path), NEW)
    assert os.getxattr(file, "system.posix_acl_access") == before
    assert os.listxattr(plain) == []
    assert stat.S_IMODE(plain.stat().st_mode) == 0o644


def test_a_link_stays_and_its_target_is_replaced(file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "second").symlink_to("../c.toml")
    first = tmp_path / "first"
    first.symlink_to(elsewhere / "second")
    store.replace(str(first), NEW)
    assert first.is_symlink()
    assert (elsewhere / "second").is_symlink()
    assert file.read_bytes() == NEW
    assert os.listdir(elsewhere) == ["second"]


def test_a_name_in_the_directory_one_is_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    store.replace("c.toml", NEW)
    assert file.read_bytes() == NEW


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "ring").symlink_to("ring")
    assert "no such file or directory; make an empty file first, or mend the link" in refusal(
        tmp_path / "dangling"
    )
    assert "mend the link" in refusal(tmp_path / "ring")
    assert "no such file" in refusal(tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "ring"]


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        assert "no regular file" in refusal(path)
        with pytest.raises(StoreError, match=r"no regular file|is a directory"):
            store.read(str(path))
    with pytest.raises(StoreError, match="no file can have this name"):
        store.replace("a\0b", NEW)


def test_a_file_that_someone_else_changed_is_left_alone(file: Path) -> None:
    read = store.read(str(file))
    file.write_bytes(b"# theirs\n")
    with pytest.raises(StoreError, match="changed by someone else"):
        store.replace(str(file), NEW, instead_of=read)
    assert file.read_bytes() == b"# theirs\n"
    store.replace(str(file), NEW, instead_of=b"# theirs\n")
    assert file.read_bytes() == NEW


def test_two_relays_take_turns(file: Path) -> None:
    directory = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    assert "another relay is replacing a file" in refusal(file)
    os.close(directory)
    store.replace(str(file), NEW)


# What follows changes mounts, users or limits, so it runs in a child.


def told_in_child(setup: str, file: Path, *, own_mounts: bool = False) -> str:
    """What a child says that runs ``setup`` and then replaces ``file``; empty where that went well."""
    script = f"""
import os, resource, subprocess, sys
from portproxy import store
def mount(*words): subprocess.run(["mount", *words], check=True)
path = sys.argv[1]
directory = os.path.dirname(path)
{setup}
try:
    store.replace(path, {NEW!r})
except store.StoreError as error:
    print(error)
"""
    unshare = ["unshare", "--mount", "--map-root-user"] if own_mounts else []
    command = [*unshare, sys.executable, "-c", script, str(file)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        (
            "mount('--bind', path, path)",
            "it is mounted by itself, and a mount cannot be replaced; mount its directory",
        ),
        (
            "mount('--bind', directory, directory); mount('-o', 'remount,bind,ro', directory)",
            "read-only file system; mount {directory} writable",
        ),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))", "file too large"),
    ],
)
def test_a_mount_that_refuses(file: Path, setup: str, told: str) -> None:
    said = told_in_child(setup, file, own_mounts=True)
    assert said.startswith(f"{file}: cannot be replaced: {told.format(directory=file.parent)}")
    assert said.endswith(", or change the running relay alone with --no-save\n")
    assert file.read_bytes() == OLD
    assert os.listdir(file.parent) == ["c.toml"]


def test_a_full_file_system(tmp_path: Path) -> None:
    setup = """
mount("-t", "tmpfs", "-o", "size=32k", "none", directory)
for name, size in ((path, 5), (directory + "/full", 20000)):
    with open(name, "w") as file:
        file.write("x" * size)
store.replace(path, b"# fits")
full = "x" * 9000
try:
    store.replace(path, full.encode())
except store.StoreError as error:
    print(error)
assert store.read(path) == b"# fits"
assert sorted(os.listdir(directory)) == ["c.toml", "full"]
os.unlink(directory + "/full")
"""
    said = told_in_child(setup, tmp_path / "c.toml", own_mounts=True)
    assert f"no space left on device; make room in {tmp_path}, or" in said
    assert said.count("\n") == 1


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        (0o755, "permission denied; let the relay's user write to {directory} and own the file"),
        (
            0o1777,
            "a new file could not have its owner and group (0:0); give it those of the relay"
            f" ({NOBODY}:{NOBODY})",
        ),
    ],
    ids=["of the directory", "of the file"],
)
def test_dropped_privileges(open_directory: Path, mode: int, advice: str) -> None:
    file = open_directory / "c.toml"
    file.write_bytes(OLD)
    open_directory.chmod(mode)
    said = told_in_child(f"os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)", file)
    assert said.startswith(f"{file}: cannot be replaced: {advice.format(directory=open_directory)}")
    assert file.read_bytes() == OLD
    assert os.listdir(open_directory) == ["c.toml"]


def test_killed_before_the_rename_the_old_file_is_whole(file: Path) -> None:
    script = """
import os, signal, sys
from portproxy import store
def rename(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
store.replace(sys.argv[1], b"# never")
"""
    done = subprocess.run([sys.executable, "-c", script, str(file)], cwd=TOP, check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == OLD
    assert (file.parent / TEMPORARY).read_bytes() == b"# never"
    store.replace(str(file), NEW)
    assert file.read_bytes() == NEW
    assert os.listdir(file.parent) == ["c.toml"]


RULE = '[[rule]]\ntype = "v4tov4"\nlistenport = 80\n'
KEY = ("v4tov4", "*", 80)


async def test_a_child_rewrites() -> None:
    put = Put(KEY, {"type": "v4tov4", "listenport": 80, "name": "é"})
    assert await store.rewritten(RULE, [put]) == RULE + 'name = "é"\n'
    assert await store.rewritten(RULE, [Remove(KEY)]) == ""
    with pytest.raises(EditError, match="two rules are v4tov4"):
        await store.rewritten(RULE + RULE, [put])


async def test_a_child_has_the_package_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found through the parent's path, however that came to be, and with none of the parent's descriptors."""
    copy = tmp_path / "copy"
    package = copy / "portproxy" / "config"
    package.mkdir(parents=True)
    for directory in (package.parent, package):
        (directory / "__init__.py").touch()
    listing = "sorted(os.readlink(f'/proc/self/fd/{n}').partition(':')[0] for n in (0, 1, 2))"
    (package / "editor.py").write_text(f"""
import json, os
def main():
    # The listing has a descriptor too.
    print(json.dumps({{"text": str(len(os.listdir("/proc/self/fd")) - 1) + str({listing})}}))
""")
    monkeypatch.setattr(sys, "path", ["copy", *sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open").touch()
    inherited = os.open(tmp_path / "open", os.O_RDONLY)
    assert await store.rewritten("", []) == "3['pipe', 'pipe', 'pipe']"
    os.close(inherited)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("kill -KILL $$", "was killed by SIGKILL"),
        ("echo Traceback >&2; echo 'MemoryError: \a' >&2; exit 1", r"failed: MemoryError: \x07, or change"),
        ("exit 3", "failed: exit status 3, or change"),
        ("echo '{'", "failed: exit status 0"),
    ],
)
async def test_a_child_that_dies(
    tmp_path: Path, code: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(StoreError) as refused:
        await store.rewritten(RULE, [])
    (line,) = refused.value.lines
    assert told in line
    assert line.isprintable()


async def test_no_child_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(StoreError, match="no process to rewrite it in: no such file"):
        await store.rewritten(RULE, [])


def first_line(path: Path) -> str:
    with path.open() as file:
        return file.readline()


async def test_a_cancelled_child_is_killed_and_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child says by a FIFO that it runs, and would never end, not even for SIGTERM."""
    program, fifo = tmp_path / "python", tmp_path / "fifo"
    program.write_text(f"#!/bin/sh\ntrap '' TERM\nexec > {fifo}\necho $$\nread never < {fifo}.never\n")
    program.chmod(0o755)
    for path in (fifo, Path(f"{fifo}.never")):
        os.mkfifo(path)
    monkeypatch.setattr(sys, "executable", str(program))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.rewritten, RULE, [])
        pid = int(await trio.to_thread.run_sync(first_line, fifo))
        nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
