"""What is relayed to. Each is a context manager, which gives the address where it listens."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import Address, Process, free_port, until_listening, written
from benchmarks.run import Run

_NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {directory}/service.pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {listen} backlog=4096;
        default_type text/plain;
        return 200 "ok\\n";
    }}
}}
"""


@contextlib.contextmanager
def iperf3(run: Run, host: str = "127.0.0.1") -> Iterator[Address]:
    """iperf3, which serves one client at a time."""
    port = free_port(host)
    with _serving(run, "iperf3", ["iperf3", "--server", "--bind", host, "--port", str(port)], (host, port)):
        yield host, port


@contextlib.contextmanager
def nginx(run: Run, host: str = "127.0.0.1") -> Iterator[Address]:
    """nginx, whose answer is three bytes from memory; a connection is kept for any number of requests."""
    address = host, free_port(host)
    file = run.directory / "service.conf"
    file.write_text(_NGINX.format(directory=run.directory, listen=written(address)))
    with _serving(run, "nginx", ["nginx", "-p", str(run.directory), "-c", str(file)], address):
        yield address


@contextlib.contextmanager
def sockperf(run: Run) -> Iterator[Address]:
    """sockperf, which returns each message; it knows IPv4 only."""
    address = "127.0.0.1", free_port()
    words = ["sockperf", "server", "--tcp", "-i", address[0], "-p", str(address[1])]
    with _serving(run, "sockperf", words, address):
        yield address


@contextlib.contextmanager
def sink(run: Run, host: str = "127.0.0.1") -> Iterator[Address]:
    """A service that holds every connection, and sends back what comes."""
    address = host, free_port(host)
    script = str(Path(__file__).with_name("load.py"))
    with _serving(run, "sink", [sys.executable, script, "sink", host, str(address[1])], address):
        yield address


@contextlib.contextmanager
def _serving(run: Run, name: str, words: Sequence[str], address: Address) -> Iterator[None]:
    with Process(words, run.directory / f"service-{name}.log", run.pinning.load) as process:
        until_listening(process, *address)
        yield
