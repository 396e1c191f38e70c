"""Which CPUs the relay has, and which the load: clients and services."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

EVERY = frozenset(os.sched_getaffinity(0))
"""The CPUs that the benchmark was given, before it pinned itself."""


@dataclass(frozen=True)
class Pinning:
    """CPUs by number; an empty set leaves the choice to the kernel."""

    relay: frozenset[int] = frozenset()
    load: frozenset[int] = frozenset()

    def __str__(self) -> str:
        if not self.relay:
            return "not pinned: relay, clients and services share all CPUs"
        return f"relay on CPU {listed(self.relay)}, clients and services on CPU {listed(self.load)}"


def pinning(wanted: bool = True) -> Pinning:
    """The last CPU for the relay, the others for the load; no pinning where there is one CPU only."""
    cpus = sorted(EVERY)
    if not wanted or len(cpus) < 2:
        return Pinning()
    return Pinning(frozenset(cpus[-1:]), frozenset(cpus[:-1]))


@contextlib.contextmanager
def staying_on(cpus: frozenset[int]) -> Iterator[None]:
    """This process, and threads that it starts meanwhile, on ``cpus`` only; on all where these are none."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or EVERY)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def listed(cpus: frozenset[int]) -> str:
    """``"0,1"``, as taskset(1) takes it."""
    return ",".join(map(str, sorted(cpus)))
