"""Automatic tunnels of the real program between network namespaces."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import suppress
from ipaddress import ip_address

from portproxy.tunnel.packet import ipv4, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import LINK, Lab, Node, Relay, address, first
from tests.tunnel.transfer import transfer

SITE = "198.51.100."
LARGE = 100 << 20


def six_to_four(literal: str) -> str:
    """The 6to4 address of a host (RFC 3056, 2)."""
    packed = ip_address(literal).packed
    return str(ip_address(b"\x20\x02" + packed + bytes(6) + packed))


def table(name: str, type_: str, **settings: object) -> str:
    keys = {"name": name, "type": type_, **settings}
    return "\n".join(["[[tunnel]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def on_link(node: Node, other: Node, own: str, others: str) -> None:
    """A wire whose ends are neighbours whatever their prefixes are."""
    node.link(other, own, others)
    node.ip("route", "replace", others, "dev", f"to-{other.name}")
    other.ip("route", "replace", own, "dev", f"to-{node.name}")


def refused(relay: Relay, name: str) -> dict[str, int]:
    """What was dropped, but for what the kernel sends by itself to all on the link."""
    return {why: count for why, count in relay.dropped(name).items() if why != "multicast"}


@in_own_namespaces
def test_two_6to4_hosts() -> None:
    """Table 1: the outer addresses are those in the inner ones."""
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, f"{SITE}1", f"{SITE}2")
        lab.serve(*((node, table("six", "6to4", localaddress=f"{SITE}{n}")) for node, n in ((a, 1), (b, 2))))
        with b.capture("to-a", 4) as wire:
            a.ping(six_to_four(f"{SITE}2"))
            outer = first(wire, lambda packet: packet[9] == 41)
        inner = outer[20:]
        assert [str(ip_address(part)) for part in (outer[12:16], outer[16:20])] == [f"{SITE}1", f"{SITE}2"]
        assert [str(ip_address(part)) for part in (inner[8:24], inner[24:40])] == [
            six_to_four(f"{SITE}{n}") for n in (1, 2)
        ]
        assert outer[6] & 0x40 == 0, "RFC 3056, 4: DF is not set"
        b.ping(six_to_four(f"{SITE}1"), "-s", "3000")
        transfer(a, b, six_to_four(f"{SITE}2"), 1 << 20, 1 << 20)


@in_own_namespaces
def test_a_6to4_host_reaches_the_native_network_through_a_relay() -> None:
    with Lab("a", "relay", "native") as lab:
        a, relay, native = lab["a"], lab["relay"], lab["native"]
        a.link(relay, f"{SITE}1", f"{SITE}2")
        relay.link(native, address(6, 31, 1), address(6, 31, 2))
        native.route("2002::/16", address(6, 31, 1))
        relay.forward()
        serving, relaying = lab.serve(
            (a, table("six", "6to4", localaddress=f"{SITE}1", relay=f"{SITE}2")),
            (relay, table("out", "6to4", localaddress=f"{SITE}2", role="relay")),
        )
        a.ping(address(6, 31, 2))
        native.ping(six_to_four(f"{SITE}1"))
        assert (refused(serving, "six"), refused(relaying, "out")) == ({}, {})


@in_own_namespaces
def test_a_6to4_router_advertises_its_site() -> None:
    """RFC 3056, 5.1: a host inside, which knows nothing of tunnels, is reached from another site. An inside
    interface that is not there is said and waited for."""
    with Lab("inside", "router", "far", "late") as lab:
        inside, router, far, late = (lab[name] for name in ("inside", "router", "far", "late"))
        inside.link(router, address(4, LINK, 1), address(4, LINK, 2))
        router.link(far, f"{SITE}1", f"{SITE}2")
        router.forward()
        here = table(
            "site", "6to4", localaddress=f"{SITE}1", role="router", advertise=["to-inside", "to-late"]
        )
        (relay, _) = lab.serve((router, here), (far, table("six", "6to4", localaddress=f"{SITE}2")))
        router.link(late, address(4, 2, 2), address(4, 2, 1))
        own = inside.until_address("to-router", "2002:c633:6401:1:")
        inside.ping(six_to_four(f"{SITE}2"))
        far.ping(own)
        transfer(inside, far, six_to_four(f"{SITE}2"), 1 << 20, 1 << 20)
        late.until_address("to-router", "2002:c633:6401:2:")
        assert refused(relay, "site") == {}
        _, said = relay.end(signal.SIGTERM)
        assert said.count("advertise on to-late") == 1, said
        assert "deprecated" in inside.ip("-6", "address", "show", "dev", "to-router", "scope", "global")
        assert "default" not in inside.ip("-6", "route")


@in_own_namespaces
def test_an_isatap_host_is_configured_by_its_router() -> None:
    """Tables 2 and 3: it asks all routers of the link, and what it is told is its own."""
    prefix = "2001:db8:7::"
    with Lab("host", "router", "native") as lab:
        host, router, native = lab["host"], lab["router"], lab["native"]
        host.link(router, address(4, LINK, 1), address(4, LINK, 2))
        router.link(native, address(6, 31, 1), address(6, 31, 2))
        native.route(f"{prefix}/64", address(6, 31, 1))
        router.forward()
        with router.capture("to-host", 4) as wire:
            _, asking = lab.serve(
                (
                    router,
                    table(
                        "isa",
                        "isatap",
                        localaddress=address(4, LINK, 2),
                        role="router",
                        prefix=[f"{prefix}/64"],
                    ),
                ),
                (
                    host,
                    table("isa", "isatap", localaddress=address(4, LINK, 1), router=[address(4, LINK, 2)]),
                ),
            )
            solicitation = first(wire, lambda packet: packet[9] == 41 and packet[60] == 133)
        header = ipv6.parse(solicitation[20:])
        own = ip_address(f"fe80::5efe:{address(4, LINK, 1)}")
        assert (header.source, header.destination) == (own.packed, ip_address("ff02::2").packed)
        host.until_address("isa", str(ip_address(f"{prefix}5efe:{address(4, LINK, 1)}")))
        host.ping(f"fe80::5efe:{address(4, LINK, 2)}%isa")
        host.ping(address(6, 31, 2))
        native.ping(f"{prefix}5efe:{address(4, LINK, 1)}")
        assert asking.up("isa")


OURS, THEIRS = "2002:9d36:1:2:0:5efe:192.168.12.9", "2002:836b:1:2:0:5efe:192.168.141.30"
"""Tables 5 to 7: the hosts of two sites, each at an ISATAP and 6to4 router."""


def two_sites(lab: Lab) -> list[Relay]:
    """Figure 11, up and configured: a at left, b at right."""
    a, left, right, b = (lab[name] for name in ("a", "left", "right", "b"))
    on_link(a, left, "192.168.12.9", "192.168.204.1")
    on_link(left, right, "157.54.0.1", "131.107.0.1")
    on_link(b, right, "192.168.141.30", "192.168.39.1")
    serving = []
    for router, public, private, prefix in (
        (left, "157.54.0.1", "192.168.204.1", "2002:9d36:1:2::/64"),
        (right, "131.107.0.1", "192.168.39.1", "2002:836b:1:2::/64"),
    ):
        router.forward()
        out = table("out", "6to4", localaddress=public, role="router")
        serving.append(
            (router, out + table("isa", "isatap", localaddress=private, role="router", prefix=[prefix]))
        )
    for host, own, gate in ((a, "192.168.12.9", "192.168.204.1"), (b, "192.168.141.30", "192.168.39.1")):
        serving.append((host, table("isa", "isatap", localaddress=own, router=[gate])))
    relays = lab.serve(*serving)
    a.until_address("isa", str(ip_address(OURS)))
    b.until_address("isa", str(ip_address(THEIRS)))
    return relays


@in_own_namespaces
def test_two_sites() -> None:
    """Figure 11 of the coexistence paper, tables 3 to 7: ISATAP within each site, 6to4 between them."""
    with Lab("a", "left", "right", "b") as lab:
        relays = two_sites(lab)
        a, b = lab["a"], lab["b"]
        hops = [
            (lab["left"], "to-a", "192.168.12.9", "192.168.204.1"),
            (lab["right"], "to-left", "157.54.0.1", "131.107.0.1"),
            (b, "to-right", "192.168.39.1", "192.168.141.30"),
        ]
        wires = [node.capture(device, 4) for node, device, _, _ in hops]
        a.ping(THEIRS)
        for wire, (_, _, source, destination) in zip(wires, hops, strict=True):
            with wire:
                outer = first(wire, lambda packet: packet[9] == 41 and packet[60] == 128)
            header, inner = ipv4.parse(outer), ipv6.parse(outer[20:])
            assert [str(ip_address(one)) for one in (header.source, header.destination)] == [
                source,
                destination,
            ]
            assert (inner.source, inner.destination) == (ip_address(OURS).packed, ip_address(THEIRS).packed)
        b.ping(OURS, "-s", "3000")
        transfer(a, b, THEIRS, LARGE, 1 << 20)
        assert [refused(relay, "isa") for relay in relays] == [{}] * 4


@in_own_namespaces
def test_automatic_tunnelling() -> None:
    """Table 8: ::w.x.y.z both ways."""
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, f"{SITE}1", f"{SITE}2")
        lab.serve(
            *((node, table("auto", "v4compat", localaddress=f"{SITE}{n}")) for node, n in ((a, 1), (b, 2)))
        )
        a.ping(f"::{SITE}2")
        b.ping(f"::{SITE}1", "-s", "3000")
        transfer(a, b, f"::{SITE}2", 1 << 20, 1 << 20)


@in_own_namespaces
def test_a_router_that_does_not_forward_says_so() -> None:
    with Lab("a") as lab:
        a = lab["a"]
        a.ip("address", "add", f"{SITE}1", "dev", "lo")
        relay = Relay(a, table("out", "6to4", localaddress=f"{SITE}1", role="router"))
        code, said = relay.wait()
        assert code == 1
        assert "net.ipv6.conf.all.forwarding=1" in said


@in_own_namespaces
def test_several_tunnels_share_an_address() -> None:
    """A configured one has what its peer sends, 6to4 what another site does."""
    with Lab("a", "b", "c") as lab:
        a, b, c = (lab[name] for name in ("a", "b", "c"))
        a.link(b, f"{SITE}1", f"{SITE}2")
        on_link(a, c, f"{SITE}1", f"{SITE}3")
        near = table("tun", "v6v4tunnel", remoteaddress=f"{SITE}2", address=["2001:db8:5::1/64"])
        far = table("tun", "v6v4tunnel", remoteaddress=f"{SITE}1", address=["2001:db8:5::2/64"])
        (relay, *_) = lab.serve(
            (a, near + table("six", "6to4", localaddress=f"{SITE}1")),
            (b, far),
            (c, table("six", "6to4", localaddress=f"{SITE}3")),
        )
        a.ping("2001:db8:5::2")
        c.ping(six_to_four(f"{SITE}1"))
        b.ping("2001:db8:5::1")
        assert (refused(relay, "tun"), refused(relay, "six")) == ({}, {})


VICTIM, NATIVE = "203.0.113.2", "2001:db8:9::1"
ATTACKS = {
    "reflection: a source in the victim's site (RFC 3964, 4.1.1)": (six_to_four(VICTIM), NATIVE),
    "laundering: from 6to4 to 6to4 by way of the relay (RFC 3964, 4.2.5)": (
        six_to_four(f"{SITE}1"), six_to_four(VICTIM),
    ),
    "laundering: from nowhere to nowhere": (NATIVE, "2001:db8:9::2"),
    "a source in the relay's own site": (six_to_four(f"{SITE}2"), NATIVE),
    "a loop by ISATAP (RFC 6324, 2)": (six_to_four(f"{SITE}1"), f"2001:db8:8::200:5efe:{SITE}2"),
    "a loop by Teredo": (six_to_four(f"{SITE}1"), "2001:0:c633:6402::1"),
    "a loop by automatic tunnelling": (six_to_four(f"{SITE}1"), f"::{SITE}2"),
    "private, inside": ("2002:0a00:0001::1", NATIVE),
    "multicast, inside": (six_to_four(f"{SITE}1"), "ff0e::1"),
}  # fmt: skip


@in_own_namespaces
def test_an_attacker_gets_nothing_out_of_a_relay() -> None:
    """Not a packet leaves for what comes in, every one is counted, and who is honest is served meanwhile."""
    with Lab("attacker", "relay", "victim") as lab:
        attacker, relay, victim = lab["attacker"], lab["relay"], lab["victim"]
        attacker.link(relay, f"{SITE}1", f"{SITE}2")
        relay.link(victim, "203.0.113.1", VICTIM)
        relay.ip("address", "add", f"{NATIVE}/64", "dev", "to-victim")
        relay.forward()
        out = table("out", "6to4", localaddress=f"{SITE}2", role="relay")
        isa = table("isa", "isatap", localaddress=f"{SITE}2", role="router", prefix=["2001:db8:7::/64"])
        (relaying,) = lab.serve((relay, out + isa))
        wires = [attacker.capture("to-relay", 4), victim.capture("to-relay", 4)]
        with attacker.socket(socket.AF_INET, socket.SOCK_RAW, 41) as sock:
            for source, destination in ATTACKS.values():
                forged = ipv6.build(ip_address(source).packed, ip_address(destination).packed, 17, bytes(8))
                sock.sendto(forged, (f"{SITE}2", 0))
            own, far = (ip_address(six_to_four(f"{SITE}{host}")).packed for host in (1, 2))
            echo = ipv6.build(own, far, 58, b"\x80\0" + bytes(6))
            sum_ = upper_layer(echo[8:24], echo[24:40], 58, echo[40:])
            sock.sendto(echo[:42] + sum_.to_bytes(2) + echo[44:], (f"{SITE}2", 0))
        answer = first(wires[0], lambda packet: packet[9] == 41)
        assert answer[60] == 129, "the first packet that comes back is what an honest one asked for"
        assert sum(refused(relaying, "out").values()) == len(ATTACKS)
        assert refused(relaying, "isa") == {}
        for wire in wires:
            wire.setblocking(False)
            with wire, suppress(BlockingIOError):
                while True:
                    assert wire.recv(1 << 16)[9] not in (1, 41)
