"""A relay to which the kernel refuses pipes, or splice(2): a process of its own, run by test_refused.py.

Usage: without_splice.py quota|nosys|perm DATAPLANE. Prints as JSON how a session went before and after.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256

import trio

from portproxy.dataplane.base import BUFFER_BYTES
from portproxy.model import DataPlaneChoice
from tests.contract.rig import Rig, noise

NOBODY = 65534
LARGEST_PIPE = 1 << 20

SPLICE = {"x86_64": 275, "aarch64": 76}
"""The number of splice(2), by architecture."""
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


def use_up_the_quota() -> None:
    """Fill ``pipe-user-pages-soft`` (pipe(7)), as a user to whom it applies."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    if os.geteuid() == 0:
        # CAP_SYS_RESOURCE and CAP_SYS_ADMIN go with it (capabilities(7)).
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    while True:
        # Held until the process ends.
        reader, _writer = os.pipe()
        try:
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, LARGEST_PIPE)
        except PermissionError:
            if fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) < BUFFER_BYTES:
                return


def forbid_splice(code: int) -> None:
    """Have splice(2) fail with errno ``code`` from here on, as in a sandbox (seccomp(2))."""
    filters = (
        (LOAD_WORD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, SPLICE[platform.machine()]),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | code),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in filters))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(filters), ctypes.addressof(instructions))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program
    ):
        raise OSError(ctypes.get_errno(), "prctl(2) took no filter")


async def relay(dataplane: DataPlaneChoice) -> dict[str, object]:
    """Bulk both ways, each against a reader that stops at first; how it went."""
    data = noise(4 << 20)
    with closing(Rig()) as rig:
        session = rig.start(dataplane, buffers=1 << 17)
        whole = True
        for side in "client", "server":
            sent = await rig.stall(session, side, data)
            session.end(side).shutdown(socket.SHUT_WR)
            got = await rig.receive_end(session.other(side))
            whole = whole and sha256(got).digest() == sha256(data[:sent]).digest()
        await rig.until(lambda: session.ended)
        outcome = session.outcome
    return {
        "whole": whole,
        "reason": outcome.reason,
        "dataplane": outcome.dataplane,
        "fallbacks": outcome.fallbacks,
    }


REFUSALS: dict[str, Callable[[], None]] = {
    "quota": use_up_the_quota,
    "nosys": lambda: forbid_splice(errno.ENOSYS),
    "perm": lambda: forbid_splice(errno.EPERM),
}

if __name__ == "__main__":
    how, choice = sys.argv[1], DataPlaneChoice(sys.argv[2])
    before = trio.run(relay, choice)
    REFUSALS[how]()
    print(json.dumps([before, trio.run(relay, choice)]))
