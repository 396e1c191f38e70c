"""What changes under a tunnel that runs, and what its hosts make of that: addresses, routes, neighbours."""

from __future__ import annotations

import json
from ipaddress import IPv6Address

from portproxy.tunnel.model import TunnelType
from portproxy.tunnel.packet import discovery
from portproxy.tunnel.packet.discovery import PrefixInformation, RouterAdvertisement
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import LINK, Lab, Node, address, first, tunnel
from tests.tunnel.test_automatic_in_namespaces import six_to_four, table

SITE = "198.51.100."
OLD, NEW = "2002:c633:6401:1:", "2002:c633:6403:1:"


def _prefixes(packet: bytes) -> dict[str, bool] | None:
    """Those that a router advertises, and whether they are deprecated."""
    if packet[6:8] != b"\x3a\xff" or packet[40] != 134:
        return None
    message = discovery.parse(packet)
    assert isinstance(message, RouterAdvertisement)
    return {
        str(IPv6Address(one.prefix)).rstrip(":") + ":": one.preferred == 0
        for one in message.options
        if isinstance(one, PrefixInformation)
    }


@in_own_namespaces
def test_a_6to4_site_is_renumbered_with_its_router() -> None:
    """``localaddress = "auto"`` has moved: its hosts hear in one advertisement of the prefix that they have
    now, and that the other is no more, and go on by it."""
    with Lab("inside", "router", "far") as lab:
        inside, router, far = lab["inside"], lab["router"], lab["far"]
        inside.link(router, address(4, LINK, 1), address(4, LINK, 2))
        router.link(far, f"{SITE}1", f"{SITE}2")
        router.forward()
        router.sysctl("net/ipv4/conf/all/promote_secondaries", 1)
        router.route("default", f"{SITE}2")
        (relay, _) = lab.serve(
            (router, table("site", "6to4", role="router", advertise=["to-inside"])),
            (far, table("six", "6to4", localaddress=f"{SITE}2")),
        )
        old = inside.until_address("to-router", OLD)
        inside.ping(six_to_four(f"{SITE}2"))

        with inside.capture("to-router", 6) as wire:
            router.ip("address", "add", f"{SITE}3/24", "dev", "to-far")
            router.ip("route", "replace", "default", "via", f"{SITE}2", "src", f"{SITE}3")
            router.ip("address", "del", f"{SITE}1/24", "dev", "to-far")
            assert f"local={SITE}3" in relay.said("a tunnel has moved")
            first(wire, lambda packet: _prefixes(packet) == {OLD: True, NEW: False})
        inside.until_address("to-router", NEW)
        shown = json.loads(inside.ip("-6", "-json", "address", "show", "dev", "to-router"))
        assert [one["local"] for one in shown[0]["addr_info"] if one.get("deprecated")] == [old]
        inside.ping(six_to_four(f"{SITE}2"))
        assert {one for one in router.addresses("to-inside") if one.startswith("2002")} == {f"{NEW}:1"}


@in_own_namespaces
def test_an_inside_address_that_a_neighbour_has_is_told() -> None:
    with Lab("inside", "router") as lab:
        inside, router = lab["inside"], lab["router"]
        inside.link(router, address(4, LINK, 1), address(4, LINK, 2))
        inside.ip("address", "add", f"{OLD}:1/64", "dev", "to-router")
        router.ip("address", "add", f"{SITE}1", "dev", "lo")
        router.forward()
        router.sysctl("net/ipv6/conf/to-inside/accept_dad", 1)
        here = table("site", "6to4", localaddress=f"{SITE}1", role="router", advertise=["to-inside"])
        line = lab.start(router, here).said("the kernel refused a tunnel", f"use {OLD}:1 on to-inside")
        assert "Address already in use" in line


@in_own_namespaces
def test_two_tunnels_may_lead_everywhere() -> None:
    """The one that was made first does, and when it goes, the other."""
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, f"{SITE}1", f"{SITE}2")
        b.ip("address", "add", f"{SITE}3/24", "dev", "to-a")
        both = [
            tunnel(
                TunnelType.V6V4TUNNEL, f"{SITE}{host}", address(6, host, 1), name=f"t{host}", route=["::/0"]
            )
            for host in (2, 3)
        ]
        (relay,) = lab.serve((a, "".join(both)))
        assert [_leads(a), relay.up("t2"), relay.up("t3")] == ["t2", True, True]
        relay.reload(both[1])
        assert _leads(a) == "t3"


def _leads(node: Node) -> str:
    (route,) = json.loads(node.ip("-6", "-json", "route", "get", "2001:db8:ffff::1"))
    return str(route["dev"])
