"""Nodes in network namespaces, links between them, and portproxy serving in them.

For functions that run ``in_own_namespaces`` of tests.package.namespaces: whatever is made here is made in a
/run of their own, and gone when they are.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket as Socket  # noqa: N812

from portproxy.control import client
from portproxy.tunnel.model import TunnelType
from portproxy.wire.control_frames import Reply, Request
from tests.cli.shell import PORTPROXY, Said
from tests.package.namespaces import command

LINK, INNER = 1, 11
"""The networks that most tests have: the wire's, and the tunnel's."""
PREFIX = {4: 24, 6: 64}
PATIENCE = 40.0
"""Seconds until what is waited for is given up; no test's outcome depends on less."""

_RUN = Path("/run")
_STATUS = 9180
_CLONE_NEWNET = 0x40000000
_RTMGRP_ALL = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (rtnetlink(7))."""
_ETH_P = {4: 0x0800, 6: 0x86DD}
_libc = ctypes.CDLL(None, use_errno=True)


def address(version: int, net: int, host: int) -> str:
    """The address of ``host`` on the network ``net``, each up to 255."""
    return f"10.0.{net}.{host}" if version == 4 else f"2001:db8:{net}::{host}"


def network(version: int, net: int) -> str:
    """That network, with the length of its prefix."""
    return f"10.0.{net}.0/24" if version == 4 else f"2001:db8:{net}::/64"


def with_prefix(literal: str) -> str:
    """``literal`` as an interface has it."""
    return f"{literal}/{PREFIX[6 if ':' in literal else 4]}"


def tunnel(type_: TunnelType, remote: str, *addresses: str, **settings: object) -> str:
    """A ``[[tunnel]]`` to ``remote`` whose interface has ``addresses``; its name is ``tun``, unless
    ``settings`` have another."""
    keys: dict[str, object] = {"name": "tun", "type": type_, "remoteaddress": remote}
    keys |= {"address": [*map(with_prefix, addresses)], **settings}
    return "\n".join(["[[tunnel]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


class Node:
    """A network namespace. What is done ``within`` it by this thread is done there."""

    def __init__(self, name: str) -> None:
        self.name = name
        command("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")
        # Nobody else has these addresses: they need not be probed for, which takes a second.
        self.sysctl("net/ipv6/conf/default/accept_dad", 0)
        # What a router says of the kernel's own packets, which come when they like, is not to use it up.
        self.sysctl("net/ipv4/icmp_ratelimit", 0)
        self.sysctl("net/ipv6/icmp/ratelimit", 0)

    @contextmanager
    def within(self) -> Iterator[None]:
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def ip(self, *words: str) -> str:
        """What ip(8) says, here."""
        return command("ip", "-n", self.name, *words)

    def sysctl(self, key: str, value: int) -> None:
        with self.within():
            Path("/proc/sys", key).write_text(str(value))

    def forward(self) -> None:
        """Be a router."""
        self.sysctl("net/ipv4/ip_forward", 1)
        self.sysctl("net/ipv6/conf/all/forwarding", 1)

    def route(self, to: str, via: str) -> None:
        self.ip("route", "add", to, "via", via)

    def link(self, other: Node, literal: str, others: str, mtu: int = 1500) -> None:
        """A wire to ``other``, with one address at each end; each end is called to-NAME."""
        ends = ((self, f"to-{other.name}", literal), (other, f"to-{self.name}", others))
        (_, here, _), (_, there, _) = ends
        command(
            *("ip", "link", "add", here, "netns", self.name, "mtu", str(mtu)),
            *("type", "veth", "peer", "name", there, "netns", other.name, "mtu", str(mtu)),
        )
        for node, device, own in ends:
            node.ip("address", "add", with_prefix(own), "dev", device)
            node.ip("link", "set", device, "up")

    def interfaces(self) -> dict[str, int]:
        """The MTU of each, by name."""
        return {link["ifname"]: link["mtu"] for link in json.loads(self.ip("-json", "link"))}

    def addresses(self, device: str) -> set[str]:
        """Those of the interface ``device``."""
        (link,) = json.loads(self.ip("-json", "address", "show", "dev", device))
        return {info["local"] for info in link["addr_info"]}

    def until_address(self, device: str, prefix: str) -> str:
        """The address that begins with ``prefix``, once the interface ``device`` has it."""
        self.until(lambda: any(one.startswith(prefix) for one in self.addresses(device)))
        return next(one for one in self.addresses(device) if one.startswith(prefix))

    def until(self, what: Callable[[], bool]) -> None:
        """Look whenever links, addresses or routes change here."""
        with self.socket(socket.AF_NETLINK, socket.SOCK_RAW) as changes:
            changes.bind((0, _RTMGRP_ALL))
            while not what():
                changes.recv(1 << 16)

    def until_gateways(self, number: int) -> None:
        """Until there are so many default routes of IPv6."""
        self.until(lambda: len(json.loads(self.ip("-6", "-json", "route", "show", "default"))) == number)

    def run(self, *words: str) -> tuple[int, str]:
        """A command's exit code, and all that it says."""
        with self.within():
            done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, done.stdout + done.stderr

    def ping(self, to: str, *options: str) -> None:
        """Raises AssertionError unless ``to`` answers every one of three."""
        for _ in range(3):  # ping(8) heeds -W only while no reply has come
            code, said = self.run("ping", "-n", "-c", "1", "-W", "20", *options, to)
            assert code == 0, f"{self.name}: {said}"
            assert " 1 received, 0% packet loss" in said, f"{self.name}: {said}"

    def socket(self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> Socket:
        """One whose network is this one, wherever it is used, and that waits with patience."""
        with self.within():
            sock = socket.socket(family, kind, protocol)
        sock.settimeout(PATIENCE)
        return sock

    def capture(self, device: str, version: int) -> Socket:
        """Gives the packets of an IP version that leave or reach ``device``, from the IP header on."""
        sock = self.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P[version]))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((device, _ETH_P[version]))
        return sock


def first(sock: socket.socket, wanted: Callable[[bytes], bool]) -> bytes:
    """The first packet that is ``wanted`` of those that ``sock`` receives."""
    while not wanted(packet := sock.recv(1 << 16)):
        pass
    return packet


class Relay:
    """``portproxy serve`` in a node, with ``config`` beside a ``[server]`` table of its own."""

    def __init__(self, node: Node, config: str, *through: str) -> None:
        """``through`` is a command that runs the one that follows it."""
        self.node = node
        self._file, self._control = _RUN / f"{node.name}.toml", _RUN / f"{node.name}.control"
        self.write(config)
        with node.within():
            self._process = subprocess.Popen(
                [*through, PORTPROXY, "serve", "--config", self._file],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONWARNINGS": "always::ResourceWarning"},
            )
        self._lines: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, config: str) -> None:
        """Have this for the next reload."""
        server = f'[server]\ncontrol = "{self._control}"\nstatus = "127.0.0.1:{_STATUS}"\n'
        self._file.write_text(server + config)

    def said(self, *words: str) -> str:
        """The next line of its log that has all ``words``; there has to be one."""
        assert self._process.stderr
        for line in self._process.stderr:
            self._lines.append(line)
            if all(word in line for word in words):
                return line
        raise AssertionError(f"{self.node.name} never said {words}: {''.join(self._lines)}")

    def cli(self, *words: str) -> Said:
        """What ``portproxy`` with these ``words`` says, asked there."""
        with self.node.within():
            done = subprocess.run(
                [PORTPROXY, *words, "--control", self._control],
                check=False,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr.splitlines()

    def ask(self, command_: str) -> Reply:
        """Its answer to a command that has no arguments."""
        return client.ask(str(self._control), Request(command_), PATIENCE)

    def reload(self, config: str) -> None:
        """Go on with ``config``, which it can."""
        self.write(config)
        reply = self.ask("reload")
        assert not reply.exit_code, reply.text

    def refuses(self, config: str) -> list[str]:
        """Why it does not go on with all of ``config``, as ``portproxy reload`` says."""
        self.write(config)
        code, _, errors = self.cli("reload")
        assert code == 1
        return errors

    def metrics(self) -> dict[str, float]:
        """Its time series, as they are written, and their values."""
        lines = self._get("/metrics").partition("\r\n\r\n")[2].splitlines()
        split = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {series: float(value) for series, _, value in split}

    @property
    def ready(self) -> bool:
        """What its /readyz says."""
        return self._get("/readyz").split()[1] == "200"

    def mtu(self, name: str = "tun") -> int:
        """That of a tunnel."""
        return int(self.metrics()[f'portproxy_tunnel_mtu_bytes{{tunnel="{name}"}}'])

    def up(self, name: str = "tun") -> bool:
        """Whether a tunnel carries packets."""
        return self.metrics()[f'portproxy_tunnel_up{{tunnel="{name}"}}'] == 1

    def dropped(self, name: str = "tun") -> dict[str, int]:
        """Packets that a tunnel dropped, by reason."""
        begin, end = 'portproxy_tunnel_dropped_packets_total{reason="', f'",tunnel="{name}"}}'
        return {
            series.removeprefix(begin).removesuffix(end): int(value)
            for series, value in self.metrics().items()
            if series.startswith(begin) and series.endswith(end) and value
        }

    def _get(self, path: str) -> str:
        with self.node.socket(socket.AF_INET) as sock:
            sock.connect(("127.0.0.1", _STATUS))
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return b"".join(iter(functools.partial(sock.recv, 1 << 16), b"")).decode()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Its exit code after this signal, and all that it has said."""
        self.tell(number)
        return self.wait()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """The same once it ends by itself."""
        if not self.running:
            return self._process.returncode, "".join(self._lines)
        _, rest = self._process.communicate(timeout=PATIENCE)
        self._lines.append(rest)
        return self._process.returncode, "".join(self._lines)

    @property
    def running(self) -> bool:
        return self._process.returncode is None


class Lab:
    """The nodes, by name, and what serves in them; all of that ends with the block."""

    def __init__(self, *names: str) -> None:
        command("mount", "-t", "tmpfs", "tmpfs", str(_RUN))
        (_RUN / "netns").mkdir()
        self._nodes = {name: Node(name) for name in names}
        self._relays: list[Relay] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        """Every relay stops cleanly, and leaves no interface behind; of a test that fails, it says how."""
        for relay in self._relays:
            relay.tell(signal.SIGTERM)
        for relay in self._relays:
            code, said = relay.wait()
            if kind:
                print(f"{relay.node.name}: {said}")
            else:
                assert code in (0, -signal.SIGKILL), said
                assert not any(word in said for word in ("Traceback", "Warning")), said
        if not kind:
            for node in self._nodes.values():
                assert {name for name in node.interfaces() if not name.startswith("to-")} == {"lo"}

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def start(self, node: Node, config: str, *through: str) -> Relay:
        """``portproxy serve`` in ``node``, which starts."""
        relay = Relay(node, config, *through)
        self._relays.append(relay)
        return relay

    def serve(self, *pairs: tuple[Node, str]) -> list[Relay]:
        """The same with each ``config`` in its ``node``, all started before one is waited for; ready."""
        relays = [self.start(node, config) for node, config in pairs]
        for relay in relays:
            relay.said(" ready ")
            assert relay.ready, relay.ask("health").text
        return relays


def pair(lab: Lab, type_: TunnelType) -> list[Relay]:
    """A tunnel between the nodes a and b, which a wire links; b is to find its address out."""
    ours, theirs = (address(type_.outer, LINK, host) for host in (1, 2))
    inner = [address(type_.inner, INNER, host) for host in (1, 2)]
    lab["a"].link(lab["b"], ours, theirs)
    return lab.serve(
        (lab["a"], tunnel(type_, theirs, inner[0], localaddress=ours)),
        (lab["b"], tunnel(type_, ours, inner[1], localaddress="auto")),
    )


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
