"""Messages: keep-alive requests with wrk, and round trips with sockperf."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import services
from benchmarks.figures import Measure
from benchmarks.processes import until_idle, written
from benchmarks.relays import Relay
from benchmarks.run import DIRECT, Run, Way

CLIENTS = (32, 512)
SIZES = {64: "64 B", 1024: "1 KiB"}
PERCENTILES = {"p50": "50.000", "p99": "99.000", "p99.9": "99.900"}
_COMPLAINT = re.compile(r"Socket errors:.*|Non-2xx.*")
_RATE = re.compile(r"^Requests/sec: *([\d.]+)$", re.MULTILINE)
_NUMBER = re.compile(r"^ *(\d+) requests in ", re.MULTILINE)
_LOST = re.compile(r"# dropped messages = (\d+); # duplicated messages = (\d+)")


class Answered(NamedTuple):
    """How many requests were, and how many a second."""

    requests: int
    rate: float


def measure(run: Run) -> Iterator[str]:
    """Requests of 32 and of 512 clients, round trips of 64 B and of 1 KiB.

    sockperf knows IPv4 only: round trips are from v4 to v4, for all. It prepares itself for two seconds, so
    quick mode has one size, and this relay. Most peers have no more than 32 clients there.
    """
    for clients in CLIENTS:
        for relay in (None, *(run.turn() if clients == CLIENTS[0] else run.few())):
            yield from _requests(run, relay, clients)
    for size in list(SIZES)[: 1 if run.quick else None]:
        for relay in run.relays[:1] if run.quick else (None, *run.turn()):
            yield from _round_trips(run, relay, size)


def wrk(run: Run, there: Way, clients: int, *headers: str) -> Answered:
    """Load a way with requests. RuntimeError where one of them failed, or none was answered."""
    # In a short step on a busy machine none may have its turn; that says nothing of who would have answered.
    for seconds in (run.seconds, 4 * run.seconds, 16 * run.seconds):
        answered = _wrk(run, there, clients, seconds, *headers)
        if answered.requests:
            return answered
    raise RuntimeError("wrk: no request was answered")


def _wrk(run: Run, there: Way, clients: int, seconds: float, *headers: str) -> Answered:
    # wrk counts time in whole seconds, but ends in order when it is interrupted.
    timeout = ("timeout", "--signal=INT", "--preserve-status", f"{seconds}")
    given = (f"--header={header}" for header in headers)
    # Four thousand clients connect at once: the last may wait for longer than wrk has patience by itself.
    load = ("wrk", "--threads=1", f"--connections={clients}", "--duration=1h", "--timeout=30s", *given)
    printed = run.load(*timeout, *load, f"http://{written(there.address)}/", name="wrk")
    if complaint := _COMPLAINT.search(printed):
        raise RuntimeError(f"wrk: {complaint[0]}")
    number, rate = _NUMBER.search(printed), _RATE.search(printed)
    return Answered(int(number[1]), float(rate[1])) if number and rate else Answered(0, 0.0)


def costing(run: Run, there: Way, clients: int, cost: Measure, subject: str, *headers: str) -> Answered:
    """As ``wrk``; add what each request costs the relay, where there is one, in microseconds of CPU time."""
    before = there.cpu_seconds()
    answered = wrk(run, there, clients, *headers)
    if there.process:
        until_idle(there.process)  # who has a process for each client is to end them
        run.figures.add(cost, subject, (there.cpu_seconds() - before) / answered.requests * 1e6)
    return answered


def _requests(run: Run, relay: Relay | None, clients: int) -> Iterator[str]:
    subject = relay.name if relay else DIRECT
    requests = Measure(f"keep-alive requests, {clients} clients", "1/s", True)
    cost = Measure(f"CPU per request, {clients} clients", "us", False)
    yield f"{requests.name}: {subject}"
    with (
        run.noting(requests.name, subject),
        services.nginx(run) as address,
        run.through(relay, address) as there,
    ):
        run.figures.add(requests, subject, costing(run, there, clients, cost, subject).rate)


def _round_trips(run: Run, relay: Relay | None, size: int) -> Iterator[str]:
    subject = relay.name if relay else DIRECT
    what = f"{SIZES[size]} round trip"
    yield f"{what}: {subject}"
    with (
        run.noting(what, subject),
        services.sockperf(run) as address,
        run.through(relay, address, "127.0.0.1") as there,
    ):
        for name, value in sockperf(run, there, size).items():
            run.figures.add(Measure(f"{what}, {name}", "us", False), subject, value)


def sockperf(run: Run, there: Way, size: int) -> dict[str, float]:
    """Percentiles of the round trips of one message of ``size`` bytes at a time, in microseconds."""
    host, port = there.address
    seconds = str(math.ceil(run.seconds))
    options = ("--tcp", "--full-rtt", "-i", host, "-p", str(port), "-m", str(size), "-t", seconds)
    printed = run.load("sockperf", "ping-pong", *options, name="sockperf")
    lost = _LOST.search(printed)
    if lost is None or any(map(int, lost.groups())):
        raise RuntimeError(f"sockperf: {lost[0] if lost else 'no round trip'}")
    found = dict(re.findall(r"percentile ([\d.]+) = +([\d.]+)", printed))
    return {name: float(found[percentile]) for name, percentile in PERCENTILES.items()}
