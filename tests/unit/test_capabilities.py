"""CAP_NET_BIND_SERVICE, in a thread: capabilities are a thread's own."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

from portproxy.net.capabilities import raise_net_bind_service

NET_BIND_SERVICE = 1 << 10


def capabilities() -> dict[str, int]:
    """The calling thread's sets (proc_pid_status(5)), by name."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return {line.split()[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def lower_all() -> None:
    """Empty the effective set, as in a process whose file is marked ``=p``; the other sets stay."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] = sets[3] = 0
    assert libc.capset(header, sets) == 0


def test_of_what_is_permitted_it_alone_becomes_effective() -> None:
    """Nothing at all, then, for a user who is permitted nothing."""
    seen: list[dict[str, int]] = []

    def raise_one() -> None:
        lower_all()
        seen.append(capabilities())
        raise_net_bind_service()
        seen.append(capabilities())

    thread = threading.Thread(target=raise_one)
    thread.start()
    thread.join()
    before, after = seen
    assert before["CapEff:"] == 0
    assert after == before | {"CapEff:": before["CapPrm:"] & NET_BIND_SERVICE}
