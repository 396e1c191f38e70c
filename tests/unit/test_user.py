"""Becoming another user for good: what the kernel says is left, in processes that start as root."""

from __future__ import annotations

import functools
import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from portproxy.errors import StartError
from portproxy.net.user import look_up

NOBODY = pwd.getpwnam("nobody")
NUMBER = next(number for number in range(54321, 60000) if number not in {e.pw_uid for e in pwd.getpwall()})
"""Nobody's."""
FREE_NAME = "nobodyx"

BEGIN = '''
import ctypes, json, os, socket, sys, threading
from portproxy.errors import StartError
from portproxy.net.descriptors import sessions_within
from portproxy.net.listeners import explain_bind
from portproxy.net.user import acting_as, become, check_reaches, give_socket, look_up

def credentials():
    """Of each thread: Uid, Gid, Groups and the capabilities."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status") as status:
            lines = {line.partition(":")[0]: line.split()[1:] for line in status}
        found.append([lines[key] for key in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb")])
    return found
'''


@functools.cache
def as_root() -> tuple[str, ...]:
    """What makes a process root of a network of its own; skips where that cannot be had."""
    namespaces = () if os.geteuid() == 0 else ("--user", "--map-root-user", "--map-auto")
    unshare = ("unshare", "--net", *namespaces)
    try:
        done = subprocess.run([*unshare, "true"], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare on this machine")
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    return unshare


def run(code: str, *before: str) -> Any:
    """What ``code`` prints, as JSON, in a Python process that begins as root; ``before`` starts it."""
    command = [*as_root(), *before, sys.executable, "-X", "dev", "-W", "error", "-c", BEGIN + code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refusal(code: str, *before: str) -> str:
    """The one line of the StartError that ``code`` raises, likewise."""
    (line,) = run(
        f"try:\n    {code}\nexcept StartError as error:\n    print(json.dumps(error.lines))", *before
    )
    return str(line)


def left(uid: int, gid: int, groups: list[int]) -> list[list[str]]:
    """The credentials of one thread, without a capability."""
    none = ["0" * 16]
    return [[str(uid)] * 4, [str(gid)] * 4, [str(group) for group in sorted(set(groups))], none, none, none]


@pytest.mark.parametrize(
    ("written", "uid", "gid"),
    [
        ("nobody", NOBODY.pw_uid, NOBODY.pw_gid),
        (str(NOBODY.pw_uid), NOBODY.pw_uid, NOBODY.pw_gid),
        ("nobody:54320", NOBODY.pw_uid, 54320),
        (f"{NUMBER}:54320", NUMBER, 54320),
    ],
)
def test_nothing_of_root_is_left_in_any_thread(written: str, uid: int, gid: int) -> None:
    found = run(f"""
os.setgroups([0, 4, 27])
over = threading.Event()
threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
dropped = become(look_up({written!r}))
print(json.dumps([dropped, credentials()]))
over.set()
for thread in threads:
    thread.join()
""")
    groups = [gid] if uid == NUMBER else os.getgrouplist("nobody", gid)
    assert found == [True, [left(uid, gid, groups)] * 4]


def test_a_group_can_be_named() -> None:
    name = grp.getgrgid(NOBODY.pw_gid).gr_name
    assert run(f"become(look_up('nobody:{name}')); print(json.dumps(os.getresgid()))") == [NOBODY.pw_gid] * 3


def test_files_are_made_as_the_user_and_root_comes_back(tmp_path: Path) -> None:
    found = run(f"""
os.setgroups([0, 4])
os.chdir({str(tmp_path)!r})
os.chmod(".", 0o755)
os.mkdir("its")
os.chown("its", {NOBODY.pw_uid}, -1)
before, refused = credentials(), []
for path in ("its/log", "log"):
    try:
        with acting_as(look_up("nobody:54320")), open(path, "x") as file:
            made = os.fstat(file.fileno())
    except PermissionError as error:
        refused.append(error.filename)
print(json.dumps([made.st_uid, made.st_gid, refused, before == credentials()]))
""")
    assert found == [NOBODY.pw_uid, 54320, ["log"], True]


def test_a_program_that_the_user_could_not_go_on_with(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    module = tmp_path / "module.py"
    module.touch()
    checked = f"check_reaches(look_up('nobody'), ['/', {str(module)!r}])"
    told = f"cannot read {module}; install portproxy where this user can"
    assert refusal(checked) == f"user nobody: {told}"
    assert run("check_reaches(look_up('nobody'), ['/']); print(os.geteuid())") == 0


def test_the_own_user_stays_as_it_is() -> None:
    found = run(
        "before = credentials(); print(json.dumps([become(look_up('root')), before == credentials()]))"
    )
    assert found == [False, True]
    assert run("check_reaches(look_up('root')); print(0)", "setpriv", "--bounding-set=-setgid") == 0
    again = run("""
user = look_up("nobody")
become(user)
before = credentials()
with acting_as(user):
    acted = credentials()
print(json.dumps([become(look_up("nobody")), before == acted == credentials()]))
""")
    assert again == [False, True]


def test_root_in_another_group_is_root_still() -> None:
    found = run("print(json.dumps([become(look_up('root:54320')), os.getresgid(), os.geteuid()]))")
    assert found == [False, [54320] * 3, 0]


def test_no_such_user_or_group() -> None:
    for written, told in (
        (FREE_NAME, "no such user; name one of /etc/passwd, or a number"),
        (f"nobody:{FREE_NAME}", "no such group; name one of /etc/group, or a number"),
        (str(NUMBER), f"no user has this number; name a group too, as in {NUMBER}:{NUMBER}"),
    ):
        with pytest.raises(StartError) as raised:
            look_up(written)
        assert raised.value.lines == (f"user {written}: {told}",)


@pytest.mark.parametrize("other", ["root", f"nobody:{NUMBER}"])
def test_only_root_can_become_another_user(other: str) -> None:
    told = "only root can become another user; start the relay as root, or as this user"
    assert refusal(f"become(look_up('nobody')); look_up('{other}')") == f"user {other}: {told}"


def test_a_root_that_may_not_change_its_group() -> None:
    for tried in ("become(look_up('nobody'))", "acting_as(look_up('nobody')).__enter__()"):
        assert refusal(tried, "setpriv", "--bounding-set=-setgid") == (
            "user nobody: root cannot become it: Operation not permitted; "
            f"that takes CAP_SETUID, CAP_SETGID and a user namespace that has {NOBODY.pw_uid}:{NOBODY.pw_gid}"
        )


def test_a_root_that_could_be_got_back() -> None:
    """capabilities(7): with that bit a change of the user leaves the capabilities, CAP_SETUID among them."""
    told = "root was not dropped for good; start the relay without SECBIT_NO_SETUID_FIXUP"
    said = refusal("become(look_up('nobody'))", "setpriv", "--securebits=+no_setuid_fixup")
    assert said == f"user nobody: {told}"


def test_what_the_relay_reads_of_itself_can_still_be_read() -> None:
    found = run("""
before = sessions_within(1000)
become(look_up("nobody"))
PR_GET_DUMPABLE = 3
print(json.dumps([before == sessions_within(1000), ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)]))
""")
    assert found == [True, int(Path("/proc/sys/fs/suid_dumpable").read_text())]


def test_a_port_that_needs_root_says_so_afterwards() -> None:
    found = run("""
become(look_up("nobody"))
with socket.socket() as sock:
    try:
        sock.bind(("0.0.0.0", 80))
    except OSError as error:
        print(json.dumps(explain_bind(error, "0.0.0.0", 80, "nobody")))
""")
    assert found == (
        "cannot listen on 0.0.0.0:80: permission denied; root was dropped to user nobody after the start, "
        "so a port below 1024 can be bound at a start only"
    )


def test_the_control_socket_is_given_to_the_user(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    found = run(f"""
path = {str(path)!r}
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    os.chmod(path, 0o600)
    user = look_up("nobody")
    give_socket(path, user)
    print(json.dumps([os.stat(path).st_uid, os.stat(path).st_gid]))
""")
    assert found == [NOBODY.pw_uid, NOBODY.pw_gid]


def test_nothing_but_that_socket_is_given_away(tmp_path: Path) -> None:
    found = run(f"""
os.chdir({str(tmp_path)!r})
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("socket")
os.symlink("socket", "link")
open("file", "x").close()
for path in ("link", "file"):
    give_socket(path, look_up("nobody"))
print(json.dumps([os.lstat(path).st_uid for path in ("socket", "link", "file")]))
""")
    assert found == [0, 0, 0]


def test_a_socket_that_cannot_be_given_away(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    told = f"cannot be given the control socket {missing}: No such file or directory"
    assert refusal(f"give_socket({str(missing)!r}, look_up('nobody'))") == f"user nobody: {told}"
