"""CAP_NET_BIND_SERVICE: made effective where the process is permitted it."""

from __future__ import annotations

import ctypes

_VERSION_3 = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 (linux/capability.h): sets of 64 bits, in two halves of three words each."""
_NET_BIND_SERVICE = 1 << 10
_EFFECTIVE, _PERMITTED = 0, 1
"""Places in the lower half."""


def raise_net_bind_service() -> None:
    """Let the calling thread, and those it starts, bind ports below 1024, if the process is permitted to.

    An executable may permit the capability without making it effective: marked ``=ep`` it would not start at
    all where the bounding set lacks it (capabilities(7), "Safety checking for capability-dumb binaries").
    What is not permitted stays so, and binding says it.
    """
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(_VERSION_3)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        wanted = sets[_EFFECTIVE] | sets[_PERMITTED] & _NET_BIND_SERVICE
        # A sandbox may forbid the call, and it is seldom needed.
        if wanted != sets[_EFFECTIVE]:
            sets[_EFFECTIVE] = wanted
            libc.capset(header, sets)
