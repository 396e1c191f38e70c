"""Every relay, in its best configuration."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from benchmarks.machine import debian
from benchmarks.processes import Address, Process, free_port, written

BLOCK = 256 * 1024
"""Bytes that a relay which copies takes at once."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Place:
    """Where a relay is put.

    ``also``: more addresses to listen on, for the relays that know rules. ``within``: a command that runs the
    one that follows it, in another network.
    """

    directory: Path
    listen: Address
    connect: Address
    cpus: frozenset[int] = frozenset()
    access_log: Path | None = None
    also: Sequence[Address] = ()
    within: Sequence[str] = ()


class Relay:
    """A relay that can be started; ``package`` is Debian's, None for what Python has."""

    name: str
    package: ClassVar[str | None] = None
    binary: ClassVar[str] = sys.executable
    file: ClassVar[str | None] = None
    """The name of its configuration file, where it reads one."""

    def installed(self) -> bool:
        """Whether there is something to start."""
        return shutil.which(self.binary, path=_PATH) is not None

    def version(self) -> str:
        """As its package says."""
        assert self.package is not None
        return debian(self.package)

    def configuration(self, place: Place) -> str:
        """Its configuration file, or its command line where it reads none."""
        return " ".join(self.words(place))

    def words(self, place: Place) -> list[str]:
        """The command."""
        raise NotImplementedError

    def start(self, place: Place) -> Process:
        """Start it; it need not listen yet. Raises OSError."""
        if self.file is not None:
            (place.directory / self.file).write_text(self.configuration(place))
        name = self.name.replace(" ", "-").replace(",", "")
        words = [*place.within, *self.words(place)]
        return Process(words, place.directory / f"{name}.log", place.cpus)


@dataclass
class Portproxy(Relay):
    """This relay, with its default limits and timers, and with metrics."""

    name: str = "portproxy"
    workers: int = 1
    status: bool = True
    options: dict[str, str] = field(default_factory=dict)
    """Of ``[defaults]``."""

    file: ClassVar[str] = "portproxy.toml"

    def version(self) -> str:
        return f"{version('portproxy')}, Python {platform.python_version()}, trio {version('trio')}"

    def configuration(self, place: Place) -> str:
        server: dict[str, str | int] = {
            "status": f"127.0.0.1:{free_port()}" if self.status else "off",
            "control": str(place.directory / "control.sock"),
            "log": "json",
            "accesslog": str(place.access_log or "off"),
            "workers": self.workers,
        }
        rules = [_rule(listen, place.connect) for listen in (place.listen, *place.also)]
        tables = [("[server]", server), *(("[[rule]]", rule) for rule in rules)]
        if self.options:
            tables.insert(1, ("[defaults]", dict[str, str | int](self.options)))
        return "\n".join(table(head, values) for head, values in tables)

    def words(self, place: Place) -> list[str]:
        return [self.binary, "-m", "portproxy", "serve", "-c", str(place.directory / self.file)]


def _rule(listen: Address, connect: Address) -> dict[str, str | int]:
    families = [6 if ":" in host else 4 for host, _ in (listen, connect)]
    return {
        "type": f"v{families[0]}tov{families[1]}",
        "listenaddress": listen[0],
        "listenport": listen[1],
        "connectaddress": connect[0],
        "connectport": connect[1],
    }


def table(head: str, values: Mapping[str, str | int | list[str]]) -> str:
    """A table of TOML, as a configuration file has it."""
    return "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


class HAProxy(Relay):
    """One thread, splice(2) both ways; as many connections as its descriptors allow."""

    name = "HAProxy"
    package = "haproxy"
    binary = "haproxy"
    file = "haproxy.cfg"

    def configuration(self, place: Place) -> str:
        log = ["log stdout format raw local0", "option tcplog"] if place.access_log else []
        binds = [f"bind {written(address)} backlog 4096" for address in (place.listen, *place.also)]
        relay = "\n    ".join([*binds, *log, f"server service {written(place.connect)}"])
        return f"""\
global
    nbthread 1
    tune.pipesize 1048576
defaults
    mode tcp
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen relay
    {relay}
"""

    def words(self, place: Place) -> list[str]:
        words = [self.binary, "-db", "-f", str(place.directory / self.file)]
        if place.access_log is None:
            return words
        return ["sh", "-c", 'exec "$@" >"$0"', str(place.access_log), *words]


class Nginx(Relay):
    """Its stream module, one worker."""

    name = "nginx"
    package = "libnginx-mod-stream"
    binary = "nginx"
    file = "nginx.conf"

    def configuration(self, place: Place) -> str:
        addresses = (place.listen, *place.also)
        listens = "\n".join(f"        listen {written(address)} backlog=4096;" for address in addresses)
        log = f"access_log {place.access_log} basic" if place.access_log else "access_log off"
        return f"""\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {place.directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 20000; }}
stream {{
    log_format basic '$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received '
                     '$session_time "$upstream_addr"';
    {log};
    server {{
{listens}
        proxy_pass {written(place.connect)};
        proxy_buffer_size 256k;
        proxy_half_close on;
        proxy_timeout 1h;
    }}
}}
"""

    def words(self, place: Place) -> list[str]:
        return [self.binary, "-p", str(place.directory), "-c", str(place.directory / self.file)]


class SocketProxyd(Relay):
    """systemd-socket-proxyd, which is given its socket at the first connection."""

    name = "systemd-socket-proxyd"
    package = "systemd"
    binary = "/lib/systemd/systemd-socket-proxyd"

    def words(self, place: Place) -> list[str]:
        listen = ["systemd-socket-activate", f"--listen={written(place.listen)}"]
        return [*listen, self.binary, "--connections-max=16384", written(place.connect)]


class Socat(Relay):
    """A process for each connection."""

    name = "socat"
    package = "socat"
    binary = "socat"

    def words(self, place: Place) -> list[str]:
        (host, port), (upstream, _) = place.listen, place.connect
        listen, connect = ("6" if ":" in address else "4" for address in (host, upstream))
        bind = f"[{host}]" if ":" in host else host
        return [
            *(self.binary, "-b", str(BLOCK)),
            f"TCP{listen}-LISTEN:{port},bind={bind},fork,reuseaddr,nodelay,backlog=4096",
            f"TCP{connect}:{written(place.connect)},nodelay",
        ]


class SixTunnel(Relay):
    """A process for each connection."""

    name = "6tunnel"
    package = "6tunnel"
    binary = "6tunnel"

    def words(self, place: Place) -> list[str]:
        (host, port), (upstream, upstream_port) = place.listen, place.connect
        families = [*(["-6"] if ":" in host else []), *([] if ":" in upstream else ["-4"])]
        return [self.binary, "-d", *families, "-l", host, str(port), upstream, str(upstream_port)]


class Rinetd(Relay):
    """One process and one thread."""

    name = "rinetd"
    package = "rinetd"
    binary = "rinetd"
    file = "rinetd.conf"

    def configuration(self, place: Place) -> str:
        (host, port), (upstream, upstream_port) = place.listen, place.connect
        return f"{host} {port} {upstream} {upstream_port}\npidlogfile {place.directory}/rinetd.pid\n"

    def words(self, place: Place) -> list[str]:
        return [self.binary, "-f", "-c", str(place.directory / self.file)]


class SocketStream(Relay):
    """The copy loop that one writes with trio's streams, without a thought for speed."""

    name = "trio.SocketStream"

    def version(self) -> str:
        return version("trio")

    def words(self, place: Place) -> list[str]:
        addresses = [str(part) for address in (place.listen, place.connect) for part in address]
        return [self.binary, str(Path(__file__).with_name("socketstream.py")), *addresses]


def ours(name: str = "portproxy", workers: int = 1, status: bool = True, **options: str) -> Portproxy:
    """This relay; ``options`` are those that every rule has. Its pipes are as large as HAProxy's."""
    return Portproxy(name, workers, status, {"pipesize": "1m", **options})


PEERS: tuple[Relay, ...] = (
    HAProxy(),
    Nginx(),
    SocketProxyd(),
    Socat(),
    SixTunnel(),
    Rinetd(),
    SocketStream(),
)
