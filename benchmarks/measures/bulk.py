"""Bulk: how much iperf3 gets through a relay, and what CPU time that takes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.relays import Portproxy, Relay, ours
from benchmarks.run import DIRECT, Run, Way

STREAMS = {1: "one stream", 8: "eight streams"}
WAYS = {"client to server": (), "server to client": ("--reverse",)}
QUICK = "16M"
"""Bytes of a step in quick mode: iperf3 counts time in whole seconds."""
_QUICK_TRIES = 5
DEFAULT = Portproxy("portproxy, default pipesize")
"""This relay without the option by which its pipes are as large as HAProxy's."""
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


class Moved(NamedTuple):
    """What iperf3's server, or with --reverse its client, received."""

    gigabits_per_second: float
    gibibytes: float


def measure(run: Run) -> Iterator[str]:
    """One and eight streams each way for all; one stream for each family pair of this relay.

    Quick mode has one stream, one way, for the variants of this relay, and for most peers one there and eight
    back.
    """
    every = list(itertools.product(STREAMS, WAYS))
    for relay in (None, *run.turn()):
        for streams, way in every if relay in run.few() else every[:: len(every) - 1]:
            yield from _step(run, relay, streams, way)
    few = 1 if run.quick else None
    ways = list(WAYS)[:few]
    for streams, way in itertools.product(list(STREAMS)[:few], ways):
        yield from _step(run, DEFAULT, streams, way)
    for listen, connect, way in itertools.product(LOOPBACK, LOOPBACK, ways):
        pair = ours(f"portproxy, v{listen}tov{connect}")
        yield from _step(run, pair, 1, way, LOOPBACK[listen], LOOPBACK[connect])


def _step(
    run: Run, relay: Relay | None, streams: int, way: str, host: str = "::1", upstream: str = "127.0.0.1"
) -> Iterator[str]:
    subject = relay.name if relay else DIRECT
    what = f"{STREAMS[streams]}, {way}"
    yield f"bulk, {what}: {subject}"
    with (
        run.noting(f"bulk, {what}", subject),
        services.iperf3(run, upstream) as address,
        run.through(relay, address, host) as there,
    ):
        before = there.cpu_seconds()
        moved = _iperf3(run, there, streams, way)
        run.figures.add(Measure(f"bulk, {what}", "Gb/s", True), subject, moved.gigabits_per_second)
        if relay:
            cost = Measure(f"CPU per GiB, {what}", "s", False)
            run.figures.add(cost, subject, (there.cpu_seconds() - before) / moved.gibibytes)


def _iperf3(run: Run, there: Way, streams: int, way: str) -> Moved:
    host, port = there.address
    length = ("--bytes", QUICK) if run.quick else ("--time", str(math.ceil(run.seconds)))
    words = ("iperf3", "--client", host, "--port", str(port), "--parallel", str(streams), *length, *WAYS[way])
    # So little has sometimes gone by on a busy machine before the last stream had its turn.
    for _ in range(_QUICK_TRIES if run.quick else 1):
        result = json.loads(run.load(*words, "--json", name="iperf3", check=False))
        if "error" in result:
            raise RuntimeError(f"iperf3: {result['error']}")
        received = result["end"]["sum_received"]
        if len(result["end"]["streams"]) == streams and received["bytes"]:
            return Moved(received["bits_per_second"] / 1e9, received["bytes"] / (1 << 30))
    raise RuntimeError("iperf3: not every stream got through")
