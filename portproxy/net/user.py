"""The user that a relay becomes once it has bound what only root may bind."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from portproxy.errors import StartError, printable

PROGRAM = (sys.executable, os.__file__, __file__)
"""The interpreter, its library and this package, all of which a relay needs again while it runs."""


@dataclass(frozen=True, slots=True)
class User:
    """``name`` as it was written, and what stands for it in credentials(7)."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def look_up(written: str) -> User:
    """The user that ``written`` names as chown(1) takes it, ``USER`` or ``USER:GROUP``, names before numbers.

    Its groups are those of initgroups(3). Raises StartError where there is no such user or group, or where
    this process could not become it.
    """
    name, _, group = written.partition(":")
    entry = _entry(name)
    if entry is None and not name.isdecimal():
        raise _error(written, "no such user; name one of /etc/passwd, or a number")
    uid = entry.pw_uid if entry else int(name)
    ours = uid == os.geteuid()
    if group:
        gid = _gid(written, group)
    elif ours:
        gid = os.getegid()
    elif entry:
        gid = entry.pw_gid
    else:
        raise _error(written, f"no user has this number; name a group too, as in {name}:{name}")
    if os.geteuid() != 0 and not (ours and gid == os.getegid()):
        raise _error(written, "only root can become another user; start the relay as root, or as this user")
    return User(written, uid, gid, tuple(os.getgrouplist(entry.pw_name, gid)) if entry else (gid,))


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else None
    except KeyError:
        return None


def _gid(written: str, group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal():
            return int(group)
        raise _error(written, "no such group; name one of /etc/group, or a number") from None


def _error(written: str, told: str) -> StartError:
    error = StartError(f"user {printable(written)}: {told}")
    error.exit_code = 2  # a restart would not mend it
    return error


def check_reaches(user: User, paths: Iterable[str] = PROGRAM) -> None:
    """Raises StartError where ``user`` may not read one of ``paths``, or ``become`` would raise it."""
    with acting_as(user):
        for path in paths:
            if not os.access(path, os.R_OK, effective_ids=True):
                real = os.path.realpath(path)
                where = path if real == path else f"{path}, which is {real}"
                raise _error(user.name, f"cannot read {where}; install portproxy where this user can")


def become(user: User) -> bool:
    """Be ``user`` from now on; returns whether root was dropped for it, False where it is us already.

    All threads change at once: glibc sees to that (nptl(7)). With root go all capabilities (capabilities(7),
    "Effect of user ID changes on capabilities") and PR_SET_PDEATHSIG. The process is not dumpable any more
    (prctl(2), PR_SET_DUMPABLE), so that others of that user cannot read what root had in memory; its own
    ``/proc/self/fd`` can still be listed. Raises StartError; the process may then be half of each.
    """
    if _is_us(user):
        return False
    with _told(user):
        # Each takes a privilege that the last one ends.
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    if user.uid == 0:
        return False
    if _root_again():
        raise _error(
            user.name, "root was not dropped for good; start the relay without SECBIT_NO_SETUID_FIXUP"
        )
    return True


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Open and make files as ``user`` would, and then be root again; nothing changes for ``user`` itself.

    What it will have to open again later fails at once then, and root follows no link of the user's. Raises
    StartError as ``become`` does.
    """
    if _is_us(user):
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    with ExitStack() as back:
        with _told(user):
            os.setgroups(user.groups)
            back.callback(os.setgroups, groups)
            os.setegid(user.gid)
            back.callback(os.setegid, gid)
            os.seteuid(user.uid)
            back.callback(os.seteuid, 0)
        yield


def _is_us(user: User) -> bool:
    return os.getresuid() == (user.uid,) * 3 and os.getresgid() == (user.gid,) * 3


@contextmanager
def _told(user: User) -> Iterator[None]:
    """Turn what the kernel says into a line for people."""
    try:
        yield
    except OSError as error:
        needed = f"CAP_SETUID, CAP_SETGID and a user namespace that has {user.uid}:{user.gid}"
        raise _error(user.name, f"root cannot become it: {error.strerror}; that takes {needed}") from None


def _root_again() -> bool:
    try:
        os.seteuid(0)
    except OSError:
        return False
    return True


def give_socket(path: str, user: User) -> None:
    """Make ``user`` the owner of the unix socket at ``path``, so that it may connect there.

    The directory stays whose it is. Raises StartError.
    """
    try:
        # The directory may be the user's already, who could put a link to root's files there meanwhile.
        found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISSOCK(os.fstat(found).st_mode):
                os.chown(f"/proc/self/fd/{found}", user.uid, user.gid)
        finally:
            os.close(found)
    except OSError as error:
        raise _error(user.name, f"cannot be given the control socket {path}: {error.strerror}") from None
