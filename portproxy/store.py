"""The configuration file: read as it is, rewritten in a child process, replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import msgspec
import trio

from portproxy.config.document import MAX_BYTES
from portproxy.config.editor import NO_SAVE, Edit, decode_result, encode_job
from portproxy.errors import PortproxyError, printable

_OTHERWISE = f", or {NO_SAVE}"

_PATIENCE = 60.0
"""Seconds for the child: changes wait for each other, so one that hangs must not hold them for ever."""
_SEPARATELY = (
    "it is mounted by itself, and a mount cannot be replaced; mount its directory instead of the file"
)
_REFUSED = "{reason}; let the relay's user write to {directory} and own the file"
_FULL = "{reason}; make room in {directory}"
_REMEDIES = {
    errno.EBUSY: _SEPARATELY,
    errno.EXDEV: _SEPARATELY,
    errno.EROFS: "{reason}; mount {directory} writable",
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED + ", with no attribute (lsattr) or policy against it",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOENT: "{reason}; make an empty file first, or mend the link",
    errno.ELOOP: "{reason}; mend the link",
    errno.EWOULDBLOCK: "another relay is replacing a file in {directory}; try again",
}
"""What would do, by errno. rename(2) has EBUSY for a mount point, such as a file that a container binds."""

_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from portproxy.config.editor import main; main()"


class StoreError(PortproxyError):
    """The configuration file could not be read, rewritten or replaced; it is as it was."""


def read(path: str) -> bytes:
    """The bytes of the file at ``path``, as ``replace`` compares them. Raises StoreError."""
    with _told(path, "read"), open(path, "rb", opener=_at_once) as file:
        _check_regular(path, os.fstat(file.fileno()))
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise StoreError(f"{printable(path)}: larger than {MAX_BYTES >> 20} MiB, which no configuration is")
    return data


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for a writer, where it is a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_replaceable(path: str) -> None:
    """Raises StoreError where it can be seen, without touching anything, that ``replace`` would.

    That the file is a mount point is not seen by this.
    """
    with _told(path, "replaced"):
        directory = os.path.dirname(os.path.realpath(path, strict=True))
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def replace(path: str, data: bytes, *, instead_of: bytes | None = None) -> None:
    """Have the file at ``path``, or the one it is a link to, hold ``data``: at once, or not at all.

    Mode, owner, group, extended attributes and POSIX access lists stay; other hard links to the file keep
    what they had. ``instead_of`` is what it has to hold until then, so that nobody's change is lost. Whoever
    is killed on the way leaves the old file whole, and perhaps a ``.NAME.portproxy-new`` beside it, which the
    next call removes. Blocks on the disk. Raises StoreError, one line; the file is then as it was.
    """
    with _told(path, "replaced"):
        target = os.path.realpath(path, strict=True)
        directory, name = os.path.split(target)
        beside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Two relays may have one file; the lock ends with its holder.
            fcntl.flock(beside, fcntl.LOCK_EX | fcntl.LOCK_NB)
            was = os.stat(name, dir_fd=beside, follow_symlinks=False)
            _check_regular(path, was)
            if instead_of is not None and read(target) != instead_of:
                raise StoreError(f"{printable(path)}: was changed by someone else meanwhile; try again")
            _replace(target, beside, was, data)
        finally:
            os.close(beside)


def _replace(target: str, beside: int, was: os.stat_result, data: bytes) -> None:
    name = os.path.basename(target)
    new = f".{name}.portproxy-new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=beside)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, 0o600, dir_fd=beside), "wb") as file:
        try:
            _take_after(target, was, file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.rename(new, name, src_dir_fd=beside, dst_dir_fd=beside)
        except BaseException:
            os.unlink(new, dir_fd=beside)
            raise
    # The new file is there already, so a file system that takes no fsync here is no reason to say otherwise.
    with suppress(OSError):
        os.fsync(beside)


def _take_after(target: str, was: os.stat_result, new: int) -> None:
    """Give the file ``new`` the owner, the mode and the attributes of ``target``."""
    mine = os.fstat(new)
    if (mine.st_uid, mine.st_gid) != (was.st_uid, was.st_gid):
        # chown(2) clears the set-ID bits, so the mode comes second.
        try:
            os.fchown(new, was.st_uid, was.st_gid)
        except PermissionError:
            raise StoreError(
                f"{printable(target)}: cannot be replaced: a new file could not have its owner and group"
                f" ({was.st_uid}:{was.st_gid}); give it those of the relay ({mine.st_uid}:{mine.st_gid})"
                f"{_OTHERWISE}"
            ) from None
    os.fchmod(new, stat.S_IMODE(was.st_mode))
    with suppress(OSError):
        _take_attributes(target, new)


def _take_attributes(target: str, new: int) -> None:
    theirs = set(os.listxattr(target))
    # acl(5): a directory's default list was inherited, and the mode has brought it to life.
    for attribute in set(os.listxattr(new)) - theirs:
        with suppress(OSError):
            os.removexattr(new, attribute)
    for attribute in theirs:
        with suppress(OSError):
            os.setxattr(new, attribute, os.getxattr(target, attribute))


def _check_regular(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        told = "no regular file; name one with -c"
        raise StoreError(f"{printable(path)}: {told}{_OTHERWISE}")


def _directory(path: str) -> str:
    try:
        return os.path.dirname(os.path.realpath(path))
    except OSError:  # the working directory is gone, and the path is relative
        return os.path.dirname(path) or "."


@contextmanager
def _told(path: str, done: str) -> Iterator[None]:
    """Turn what the kernel says into a line for people; the file was to be ``done``."""
    try:
        yield
    except OSError as error:
        told = _REMEDIES.get(error.errno or 0, "{reason}; mend that").format(
            reason=(error.strerror or str(error)).lower(),
            directory=printable(_directory(path)),
        )
        raise StoreError(f"{printable(path)}: cannot be {done}: {told}{_OTHERWISE}") from None
    except ValueError:
        raise StoreError(f"{printable(path)}: no file can have this name") from None


async def rewritten(text: str, edits: Sequence[Edit]) -> str:
    """``editor.rewrite(text, edits)``, worked out in a child process.

    Raises EditError as that does, and StoreError where there can be no child, it died, or took too long. A
    cancelled call kills and reaps it. A thread would hold the interpreter: while 5,000 rules were rewritten,
    a trio echo made 581 round trips a second beside a thread (p99 17 ms), 6,742 beside the child (0.6 ms),
    8,152 alone. The child costs about 0.13 s, and 10,000 rules about 1 s.
    """
    try:
        with trio.fail_after(_PATIENCE):
            done = await trio.run_process(
                _child(),
                stdin=encode_job(text, edits),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                deliver_cancel=_kill,
                # Ctrl-C at a terminal is the relay's to answer.
                start_new_session=True,
            )
    except trio.TooSlowError:
        told = f"the process that rewrites it was not done within {_PATIENCE:g} s"
        raise StoreError(f"the configuration file cannot be changed: {told}{_OTHERWISE}") from None
    except OSError as error:
        told = f"no process to rewrite it in: {(error.strerror or str(error)).lower()}"
        raise StoreError(f"the configuration file cannot be changed: {told}{_OTHERWISE}") from None
    try:
        return decode_result(done.stdout)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = f"the process that rewrites it {_end(done.returncode, done.stderr)}"
        raise StoreError(f"the configuration file cannot be changed: {told}{_OTHERWISE}") from None


def _child() -> list[str]:
    # The parent's very path, so that the child has this package, however it was found.
    return [sys.executable, "-I", "-c", _CHILD, *sys.path]


async def _kill(process: trio.Process) -> None:
    process.kill()


def _end(status: int, stderr: bytes) -> str:
    """How a child ended that gave no result."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}; give the relay more memory if it was short"
    said = stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"failed: {printable(said) or f'exit status {status}'}"
