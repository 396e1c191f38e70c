"""Tunnels: what gets through 6in4 between two hosts, beside the cable alone and socat from TUN to UDP.

Each host is a network namespace. Where the benchmark pins, the near one has the load's CPUs and the far one
the relay's: an end of a tunnel shares them with the client or the service of its own host, as on a machine,
and neither end takes time from the other.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.ends import ENDS, PORT, End
from benchmarks.figures import Measure
from benchmarks.hosts import Host, linked
from benchmarks.pinning import listed
from benchmarks.processes import Process, until, until_idle, until_listening
from benchmarks.relays import Place
from benchmarks.run import Run

CABLE = "veth"
"""The subject that is no tunnel; TCP's segments are as large there as the system makes them."""
SIZE = 64
STREAM = Measure("tunnel, one TCP stream", "Gb/s", True)
COST = Measure("CPU per GiB, tunnel", "s", False)
"""Of the processes of both ends, for that stream."""
PACKETS = Measure(f"tunnel, {SIZE} B datagrams received", "1/s", True)
"""One to a packet, of a client that sends as many as it can."""
QUICK = {STREAM: ("--bytes", "4M"), PACKETS: ("--blockcount", "20000")}
"""The length of a step in quick mode: iperf3 counts time in whole seconds."""
_IPERF3 = 5201


class Way(NamedTuple):
    """From the near host to ``address``, where iperf3 listens; ``ends`` are the tunnel's processes."""

    near: Host
    address: str
    ends: Sequence[Process]


def measure(run: Run) -> Iterator[str]:
    """One round; a line of progress before each step."""
    if run.pinning.relay:
        near, far = listed(run.pinning.load), listed(run.pinning.relay)
        run.figures.note(f"Tunnels: the sending host on CPU {near}, the receiving one on CPU {far}.")
    subjects = [None, *(end for end in ENDS.values() if end.installed())]
    first = run.round % len(subjects)
    for end in (*subjects[first:], *subjects[:first]):
        subject = end.name if end else CABLE
        yield f"tunnel, stream and datagrams: {subject}"
        with run.noting("tunnel", subject), _through(run, end) as way:
            with run.noting(STREAM.name, subject):
                _stream(run, way, subject)
            with run.noting(PACKETS.name, subject):
                received = _iperf3(run, way, PACKETS, "--udp", "--length", str(SIZE), "--bitrate", "0")
                run.figures.add(PACKETS, subject, received["bytes"] / SIZE / received["seconds"])


@contextlib.contextmanager
def _through(run: Run, end: End | None) -> Iterator[Way]:
    """A way through a tunnel, or by the cable for None."""
    with linked(run) as (near, far), contextlib.ExitStack() as stack:
        ends: list[Process] = []
        address = far.address
        if end is not None:
            for own, peer in ((near, far), (far, near)):
                place = Place(own.directory, (own.address, PORT), (peer.address, PORT), own.cpus)
                ends.append(stack.enter_context(end.start(replace(place, within=own.within))))
            for process in ends:
                _until_ready(process, end)
            address = end.inside(far.address)
        server = [*far.within, "iperf3", "--server", "--bind", address, "--port", str(_IPERF3)]
        service = stack.enter_context(Process(server, far.directory / "iperf3.log", far.cpus))
        until_listening(service, address, _IPERF3)
        yield Way(near, address, ends)


def _until_ready(process: Process, end: End) -> None:
    until(process, f"said {end.ready}", lambda: end.ready in process.printed())
    until_idle(process)


def _stream(run: Run, way: Way, subject: str) -> None:
    before = sum(process.cpu_seconds() for process in way.ends)
    received = _iperf3(run, way, STREAM)
    spent = sum(process.cpu_seconds() for process in way.ends) - before
    run.figures.add(STREAM, subject, received["bits_per_second"] / 1e9)
    if way.ends:
        run.figures.add(COST, subject, spent / received["bytes"] * (1 << 30))


def _iperf3(run: Run, way: Way, measure: Measure, *options: str) -> dict[str, Any]:
    """What arrived, as iperf3's server says."""
    length = QUICK[measure] if run.quick else ("--time", str(math.ceil(run.seconds)))
    client = ("iperf3", "--client", way.address, "--port", str(_IPERF3), *length, *options, "--json")
    result = json.loads(run.load(*way.near.within, *client, name="iperf3", check=False))
    if "error" in result:
        raise RuntimeError(f"iperf3: {result['error']}")
    received = result["end"]["sum_received"]
    if not received["bytes"]:
        raise RuntimeError("iperf3: nothing got through")
    return dict(received)
