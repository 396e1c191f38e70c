"""RLIMIT_NOFILE: how many sessions the process can hold."""

from __future__ import annotations

import os
import resource

_RESERVE = 32
"""Descriptors kept back for status, control, logs and name look-ups."""
_IDLE_SESSION = 2
"""A client's and an upstream's socket."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one; returns the limit that holds then."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sessions_within(limit: int) -> int:
    """How many sessions ``limit`` descriptors allow beside those now open.

    Sessions that move bulk in both directions at once hold two pipes too, or fall back to copying.
    """
    in_use = len(os.listdir("/proc/self/fd"))
    return max(0, limit - in_use - _RESERVE) // _IDLE_SESSION
