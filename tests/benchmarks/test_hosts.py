"""The hosts that tunnels are measured between are networks of their own, and gone after whatever happens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from benchmarks import hosts
from benchmarks.figures import Figures
from benchmarks.pinning import Pinning
from benchmarks.processes import Process, until_listening
from benchmarks.run import Run


def run(directory: Path) -> Run:
    if why := hosts.missing():
        pytest.skip(why)
    return Run(directory, Figures(), Pinning(), ())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hosts_are_gone_whatever_happens(tmp_path: Path, error: type[BaseException]) -> None:
    interfaces, pids, networks = socket.if_nameindex(), list[int](), {os.readlink("/proc/self/ns/net")}

    def fails() -> None:
        with hosts.linked(run(tmp_path)) as pair:
            pids.extend(host.pid for host in pair)
            networks.update(os.readlink(f"/proc/{pid}/ns/net") for pid in pids)
            raise error

    with pytest.raises(error):
        fails()
    assert len(networks) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert socket.if_nameindex() == interfaces


def test_who_listens_on_another_host_is_found_there(tmp_path: Path) -> None:
    with hosts.linked(run(tmp_path)) as (near, far):
        words = ("iperf3", "--server", "--bind", far.address, "--port", "5201")
        with Process((*far.within, *words), tmp_path / "far") as server:
            until_listening(server, far.address, 5201)
        stray = Process((*near.within, *words), tmp_path / "near")
        with stray, pytest.raises(RuntimeError, match="ended before it listened"):
            until_listening(stray, far.address, 5201)


def test_what_ip_says_is_in_the_error(tmp_path: Path) -> None:
    said = pytest.raises(RuntimeError, match=r"^ip link set no up: .*no")
    with hosts.linked(run(tmp_path)) as (near, _), said:
        near.ip("link", "set", "no", "up")
