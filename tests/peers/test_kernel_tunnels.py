"""6in4 and 4in6 against Linux's own ``sit`` and ``ip6tnl``, in a guest kernel."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from portproxy.tunnel.packet import ipv4, ipv6
from tests.package.namespaces import command, in_own_namespaces
from tests.peers import agent
from tests.peers.guest import WIRE, Guest, booted, hindrance, serving

SIX, FOUR = "v6v4tunnel", "v4v6tunnel"
SIZE = 4 << 20
WIDE = 3200
"""The MTU of the links that are wider than what carries them: outer packets are fragmented."""


@pytest.fixture(autouse=True)
def _peer() -> None:
    if why := hindrance():
        pytest.skip(f"no kernel as a peer: {why}")


class Link(NamedTuple):
    """A tunnel from this program, as ``ours`` in its file says, to the kernel, as ``theirs`` says to
    ip-tunnel(8)."""

    name: str
    type: str
    number: int
    ours: str = ""
    theirs: str = ""
    wide: bool = False

    @property
    def inner(self) -> tuple[str, str]:
        """The addresses in the tunnel: this side's, and the guest's."""
        net = f"2001:db8:{self.number}::" if self.type == SIX else f"10.0.{self.number}."
        return f"{net}1", f"{net}2"

    @property
    def outer(self) -> tuple[str, str]:
        net = "198.51.100." if self.type == SIX else "2001:db8::"
        return f"{net}1", f"{net}{self.number}"

    @property
    def table(self) -> str:
        near, far = self.outer
        return f"""
[[tunnel]]
name = "{self.name}"
type = "{self.type}"
localaddress = "{near}"
remoteaddress = "{far}"
address = ["{self.inner[0]}/{64 if self.type == SIX else 24}"]
{f"mtu = {WIDE}" if self.wide else ""}
{self.ours}
"""

    @property
    def script(self) -> str:
        """What makes the guest's end."""
        near, far = self.outer
        family, mode, prefix = ("-4", "sit", "64 nodad") if self.type == SIX else ("-6", "ipip6", "24")
        return f"""
ip {family} tunnel add {self.name} mode {mode} local {far} remote {near} {self.theirs}
ip link set {self.name} {f"mtu {WIDE}" if self.wide else ""} up
ip addr add {self.inner[1]}/{prefix} dev {self.name}
"""


LINKS = (
    Link("six", SIX, 2),
    Link("six-auto", SIX, 3, 'mtu = "auto"\nttl = 33', "ttl 33 tos inherit"),
    Link("six-wide", SIX, 4, "", "ttl inherit nopmtudisc", wide=True),
    Link("four", FOUR, 5),
    Link("four-limit", FOUR, 6, "encaplimit = 4\nttl = 33", "hoplimit 33 tclass inherit"),
    Link("four-wide", FOUR, 7, "", "encaplimit none hoplimit 0", wide=True),
)
"""Where ``theirs`` is empty, Linux has its defaults: sit inherits the TTL and sets DF, ip6tnl has hop limit
64 and sends limit 4."""


class Packet(NamedTuple):
    """What is to be carried; ``size`` is its payload's, and ``fragment`` the flags of IPv4."""

    name: str
    tos: int = 0
    hops: int = 64
    size: int = 16
    fragment: int = 0

    def bytes(self, link: Link) -> bytes:
        """It, from this side's address in ``link`` to the guest's; nobody answers it."""
        near, far = (ip_address(one).packed for one in link.inner)
        payload = bytes(n % 251 for n in range(self.size))
        if link.type == SIX:
            return ipv6.build(
                near, far, _NO_NEXT_HEADER, payload, hop_limit=self.hops, traffic_class=self.tos, flow=0x12345
            )
        return ipv4.build(
            near, far, _ICMP, payload,
            ttl=self.hops, tos=self.tos, identification=7, fragment=self.fragment,
        )  # fmt: skip


_NO_NEXT_HEADER, _ICMP = 59, 1
"""Discarded without a word: nothing follows (RFC 8200, 4.7), or a message whose checksum is wrong."""


PACKETS = (
    Packet("plain"),
    Packet("whole", fragment=ipv4.DONT_FRAGMENT),
    Packet("expedited", tos=46 << 2 | 1, hops=9),
    Packet("capable", tos=2),
    Packet("congested", tos=3, hops=255),
)
LARGE = Packet("large", size=3000)
"""In three fragments where the link is wide."""


class Difference(NamedTuple):
    """A field of the outer header that is one thing in our packets and another in the kernel's, None where it
    is not there: on ``links``, and of all ``packets`` where they are not named."""

    field: str
    ours: str | None
    theirs: str | None
    why: str
    links: Sequence[str]
    packets: Sequence[str] = ()


_TREE = "ip/ip.dsfield_tree/ip.dsfield.", "ipv6/ipv6.tclass_tree/ipv6.tclass."
_OPTIONS = "ipv6/ipv6.dstopts/ipv6."
_PAD, _LIMIT = (
    {
        "ipv6.opt.type": f"0x0{kind}",
        "ipv6.opt.type_tree": {
            "ipv6.opt.type.action": "0", "ipv6.opt.type.change": "0", "ipv6.opt.type.rest": f"0x0{kind}"
        },
        "ipv6.opt.length": "1",
        name: value,
    }
    for kind, name, value in ((1, "ipv6.opt.padn", "00"), (4, "ipv6.opt.tel", "4"))
)  # fmt: skip

_DF = "a static MTU has no DF (RFC 4213, 3.2.1); pmtudisc, the kernel's default, sets it"
_HOPS = "ttl is the outer packet's own; the kernel's ttl inherit, its default for sit, takes the inner one"
_DSCP = "only ECN is taken over (RFC 4213, 3.5); the kernel's inherit takes the whole field"
_CE = "CE is copied (RFC 6040, 4.1); Linux sends ECT(0) for it, as RFC 3168, 9.1.1, has it"
_SENT = "the limit is sent where encaplimit says so; the kernel sends it unless told not to (RFC 2473, 4.1.1)"

DIFFERENCES = (
    Difference("ip/ip.flags_tree/ip.flags.df", "0", "1", _DF, ["six"]),
    Difference("ip/ip.ttl", "64", "9", _HOPS, ["six", "six-wide"], ["expedited"]),
    Difference("ip/ip.ttl", "64", "255", _HOPS, ["six", "six-wide"], ["congested"]),
    Difference("ipv6/ipv6.hlim", "64", "9", _HOPS, ["four-wide"], ["expedited"]),
    Difference("ipv6/ipv6.hlim", "64", "255", _HOPS, ["four-wide"], ["congested"]),
    Difference(_TREE[0] + "dscp", "0", "46", _DSCP, ["six-auto"], ["expedited"]),
    Difference(_TREE[1] + "dscp", "0", "46", _DSCP, ["four-limit"], ["expedited"]),
    Difference(_TREE[0] + "ecn", "3", "2", _CE, ["six", "six-auto", "six-wide"], ["congested"]),
    Difference(_TREE[1] + "ecn", "3", "2", _CE, ["four", "four-limit", "four-wide"], ["congested"]),
    Difference("ipv6/ipv6.nxt", "4", "60", _SENT, ["four"]),
    Difference("ipv6/ipv6.plen", "36", "44", _SENT, ["four"]),
    Difference(_OPTIONS + "dstopts.nxt", None, "4", _SENT, ["four"]),
    Difference(_OPTIONS + "dstopts.len", None, "0", _SENT, ["four"]),
    Difference(_OPTIONS + "dstopts.len_oct", None, "8", _SENT, ["four"]),
    Difference(_OPTIONS + "opt", None, json.dumps([_LIMIT, _PAD]), _SENT, ["four"]),
)
"""Fields are named by the layer and tshark's own names."""

OWN = {
    SIX: ("ip/ip.id", "ip/ip.checksum", "ip/ip.checksum_calculated"),
    FOUR: ("ipv6/ipv6.flow",),
}
"""What each sender numbers for itself (RFC 6864, 4.1; RFC 6437, 3), and the checksum over that, which tshark
compares with its own: ip.checksum.status has to be the same."""


@contextmanager
def connected(directory: Path) -> Iterator[Guest]:
    """The guest with its end of every one of LINKS, this program with ours, and an echo on both sides."""
    near = ("198.51.100.1/24", "2001:db8::1/64")
    far = tuple(f"{link.outer[1]}/{24 if link.type == SIX else 64}" for link in LINKS)
    threading.Thread(target=agent.serve_echo, daemon=True).start()
    tables = "".join(link.table for link in LINKS)
    with booted(directory, near, far) as guest, serving(directory / "portproxy.toml", tables, len(LINKS)):
        guest.run("".join(link.script for link in LINKS))
        yield guest


def test_both_ways_and_field_by_field(tmp_path: Path) -> None:
    with_one_guest(str(tmp_path))


@in_own_namespaces
def with_one_guest(directory: str) -> None:
    # The kernel does not fragment what ip6tnl makes.
    cases = [(link, packet) for link in LINKS for packet in PACKETS] + [(LINKS[2], LARGE)]
    with connected(Path(directory)) as guest:
        assert len(running()) > 1
        taken = [(link, packet, *captured(guest, link, packet.bytes(link))) for link, packet in cases]
        for link in LINKS:
            ping(guest, link)
            tcp(guest, link)
    compare(Path(directory), taken)
    nothing_is_left(directory)


def ping(guest: Guest, link: Link) -> None:
    """Both ways, whole and in fragments."""
    near, far = link.inner
    for size in ("56", "3000"):
        line = f"ping -n -c 3 -i 0.01 -w 10 -s {size}"
        for said in (agent.run(f"{line} {far}"), guest.run(f"{line} {near}")):
            assert "3 received, 0% packet loss" in said, (link.name, said)


def tcp(guest: Guest, link: Link) -> None:
    """Both ways."""
    near, far = link.inner
    for sent, received in (agent.exchange(far, SIZE), guest.ask("exchange", near, SIZE)):
        assert sent == received, link.name


Taken = tuple[Link, Packet, list[bytes], list[bytes]]
"""The frames that this program and the kernel make of a packet."""


def compare(directory: Path, taken: Sequence[Taken]) -> None:
    """This program's packets are the kernel's, field by field."""
    frames = [frame for _, _, ours, theirs in taken for frame in (*ours, *theirs)]
    dissected = dissect(directory / "frames.pcap", frames)
    for link, packet, ours, theirs in taken:
        assert len(ours) == len(theirs) == (3 if packet is LARGE else 1), (link.name, packet.name)
        pairs = zip([next(dissected) for _ in ours], [next(dissected) for _ in theirs], strict=True)
        for our_fields, their_fields in pairs:
            found = differences(link, our_fields, their_fields)
            assert found == explained(link, packet), (link.name, packet.name, found)


def differences(link: Link, ours: Fields, theirs: Fields) -> dict[str, tuple[str | None, str | None]]:
    """The fields that differ, the addresses of the outer header compared crosswise."""
    outer = "ip/ip." if link.type == SIX else "ipv6/ipv6."
    theirs |= {f"{outer}src": theirs[f"{outer}dst"], f"{outer}dst": theirs[f"{outer}src"]}
    assert (ours[f"{outer}src"], ours[f"{outer}dst"]) == link.outer
    assert link.type == FOUR or ours["ip/ip.checksum.status"] == _GOOD
    both = {name: (ours.get(name), theirs.get(name)) for name in {*ours, *theirs}.difference(OWN[link.type])}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def explained(link: Link, packet: Packet) -> dict[str, tuple[str | None, str | None]]:
    """The fields that are to differ."""
    return {
        one.field: (one.ours, one.theirs)
        for one in DIFFERENCES
        if link.name in one.links and (not one.packets or packet.name in one.packets)
    }


def captured(guest: Guest, link: Link, packet: bytes) -> tuple[list[bytes], list[bytes]]:
    """The frames that this program and the kernel make of ``packet``, which arrives from the kernel whole."""
    ethertype = 0x86DD if link.type == SIX else 0x0800
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as tap:
        tap.settimeout(10)
        agent.inject(link.name, ethertype, [packet.hex()])
        ours = frames_of(packet, tap, WIRE, socket.PACKET_OUTGOING)
        guest.ask("inject", link.name, ethertype, [packet.hex()])
        theirs = frames_of(packet, tap, WIRE, socket.PACKET_HOST)
        arrived = frames_of(packet, tap, link.name, socket.PACKET_HOST)
        assert arrived == [packet], (link.name, packet.hex(), [one.hex() for one in arrived])
    return ours, theirs


def frames_of(packet: bytes, tap: socket.socket, interface: str, direction: int) -> list[bytes]:
    """What ``tap`` sees of ``packet`` on an interface, up to its last piece."""
    frames: list[bytes] = []
    while not (frames and frames[-1].endswith(packet[-_PIECE:])):
        frame, (where, _, way, *_) = tap.recvfrom(1 << 16)
        if (where, way) == (interface, direction) and frame[-_PIECE:] in packet:
            frames.append(frame)
    return frames


Fields = dict[str, str]
_GOOD = "1"
"""What tshark says of a checksum that is right."""
_ALL = 3
"""ETH_P_ALL (packet(7))."""
_PIECE = 16
"""Bytes by whose like at its end a frame is known as one of a packet's."""


def dissect(file: Path, frames: Sequence[bytes]) -> Iterator[Fields]:
    """tshark's fields of each of ``frames``."""
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, 1)
    file.write_bytes(header + b"".join(struct.pack("=4I", 0, 0, len(one), len(one)) + one for one in frames))
    settings = ("ip.check_checksum:TRUE", "ip.defragment:FALSE", "ipv6.defragment:FALSE")
    options = [word for setting in settings for word in ("-o", setting)]
    said = command("tshark", "-r", file, "-T", "json", "--no-duplicate-keys", *options)
    return (dict(fields(one["_source"]["layers"])) for one in json.loads(said))


def fields(layers: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of tshark's tree. A field that has a tree of its own is the sum of that, and some are the
    addresses once more."""
    for name, value in layers.items():
        if name in ("frame", "eth") or f"{name}_tree" in layers or name.endswith(("host", ".addr")):
            continue
        if isinstance(value, dict):
            yield from fields(value, f"{path}{name}/")
        else:
            yield path + name, value if isinstance(value, str) else json.dumps(value)


def nothing_is_left(directory: str) -> None:
    """Of a guest that SIGTERM has ended."""
    wait_until_alone()
    assert not list(Path(directory).glob("tmp.*"))


def test_a_guest_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    kill_guest(str(tmp_path))


@in_own_namespaces
def kill_guest(directory: str) -> None:
    with booted(Path(directory), ("198.51.100.1/24",), ("198.51.100.2/24",)) as guest:
        assert len(running()) > 1
        guest.process.kill()
        wait_until_alone()


def wait_until_alone() -> None:
    while running() != {os.getpid()}:
        time.sleep(0.05)


def running() -> set[int]:
    """The processes of this namespace, but for zombies."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # It may end while this looks.
        with suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(int(stat.parent.name))
    return found
