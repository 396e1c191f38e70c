"""What somebody else does to a tunnel that runs, and to the host that it is on."""

from __future__ import annotations

import json
import signal

import pytest

from portproxy.tunnel.model import TunnelType
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import INNER, LINK, Lab, Node, Relay, address, network, pair, tunnel
from tests.tunnel.test_automatic_in_namespaces import SITE, table


def routes(node: Node, version: int, device: str) -> set[str]:
    """Where a device leads, but for link-local addresses."""
    found = json.loads(node.ip(f"-{version}", "-json", "route", "show", "dev", device))
    return {one["dst"] for one in found if not one["dst"].startswith("fe80")}


@pytest.mark.parametrize("mode", [TunnelType.V6V4TUNNEL, TunnelType.V4V6TUNNEL])
@in_own_namespaces
def test_what_is_taken_is_given_again(mode: str) -> None:
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        type_ = TunnelType(mode)
        ours, theirs = (address(type_.outer, LINK, host) for host in (1, 2))
        inner, more = address(type_.inner, INNER, 1), network(type_.inner, 21)
        a.link(b, ours, theirs)
        (relay,) = lab.serve((a, tunnel(type_, theirs, inner, route=[more], mtu=1400)))

        def whole() -> bool:
            has_routes = routes(a, type_.inner, "tun") == {network(type_.inner, INNER), more}
            return has_routes and inner in a.addresses("tun") and a.interfaces()["tun"] == 1400

        assert whole()
        for taken in (
            ("address", "flush", "dev", "tun"),
            ("route", "del", more, "dev", "tun"),
            ("link", "set", "tun", "mtu", "1300"),
        ):
            a.ip(f"-{type_.inner}", *taken)
            a.until(whole)
        relay.said("is restored", "tunnel=tun")
        a.ip("link", "set", "tun", "down")
        relay.said("a tunnel is not up", "the interface tun was set down: ip link set dev tun up")
        # Nothing else that happens sets it up.
        a.ip("route", "add", "203.0.113.0/24", "dev", "lo")
        assert not relay.up()
        a.ip("link", "set", "tun", "up")
        relay.said("a tunnel is up")
        assert relay.up()
        assert whole()


@in_own_namespaces
def test_tunnels_that_lead_through_one_another_lead_nowhere() -> None:
    """RFC 2473, 4.1. Without a route of its own the outer one's peer is reached through the inner one."""
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, address(6, LINK, 1), address(6, LINK, 2))
        b.ip("address", "add", f"{address(6, 99, 1)}/128", "dev", "lo")
        native = ("route", "add", network(6, 99), "via", address(6, LINK, 2))
        a.ip(*native)
        outer, inner = TunnelType.V4V6TUNNEL, TunnelType.V6V4TUNNEL
        here, there = address(4, INNER, 1), address(4, INNER, 2)
        relay, _ = lab.serve(
            (
                a,
                tunnel(outer, address(6, 99, 1), here, name="outer", route=["0.0.0.0/0"])
                + tunnel(inner, there, address(6, 12, 1), name="inner", route=["::/0"]),
            ),
            (
                b,
                tunnel(outer, address(6, LINK, 1), there, name="outer", localaddress=address(6, 99, 1))
                + tunnel(inner, here, address(6, 12, 2), name="inner", localaddress=there),
            ),
        )
        a.ping(address(6, 12, 2))
        a.ip("route", "del", network(6, 99))
        relay.said("a tunnel is not up", "leads through the interface inner, and from there back")
        relay.said("a tunnel is not up", "leads through the interface outer, and from there back")
        assert a.run("ping", "-n", "-c", "1", "-W", "1", address(6, 12, 2))[0] == 1
        before, dropped = relay.metrics(), relay.dropped("inner")["loop"]
        assert dropped >= 1
        assert a.run("ping", "-n", "-c", "1", "-W", "1", address(6, 12, 2))[0] == 1
        sent = "portproxy_tunnel_packets_total"
        assert {key: value for key, value in relay.metrics().items() if key.startswith(sent)} == {
            key: value for key, value in before.items() if key.startswith(sent)
        }
        assert relay.dropped("inner")["loop"] <= dropped + 8
        a.ip(*native)
        relay.said("a tunnel is up")
        relay.said("a tunnel is up")
        a.ping(address(6, 12, 2))


@in_own_namespaces
def test_a_router_that_is_none_any_more_says_so() -> None:
    """It has no IPv4 address, or does not forward: hosts go elsewhere (RFC 4861, 6.2.5), for a while."""
    with Lab("inside", "router") as lab:
        inside, router = lab["inside"], lab["router"]
        inside.link(router, address(4, LINK, 1), address(4, LINK, 2))
        router.ip("address", "add", f"{SITE}1", "dev", "lo")
        router.forward()
        here = table("site", "6to4", localaddress=f"{SITE}1", role="router", advertise=["to-inside"])
        (relay,) = lab.serve((router, here))
        inside.until_address("to-router", "2002:")
        for why, away, back in (
            (
                f"localaddress {SITE}1 is no address of this host",
                lambda: router.ip("address", "del", f"{SITE}1/32", "dev", "lo"),
                lambda: router.ip("address", "add", f"{SITE}1", "dev", "lo"),
            ),
            (
                "a router forwards packets, and this host does not",
                lambda: router.sysctl("net/ipv6/conf/all/forwarding", 0),
                lambda: router.sysctl("net/ipv6/conf/all/forwarding", 1),
            ),
        ):
            away()
            relay.said("a tunnel is not up", why)
            inside.until_gateways(0)
            assert not relay.up("site")
            back()
            relay.said("a tunnel is up")
            inside.until_gateways(1)


@in_own_namespaces
def test_what_a_killed_router_left_inside_is_removed() -> None:
    with Lab("inside", "router") as lab:
        inside, router = lab["inside"], lab["router"]
        inside.link(router, address(4, LINK, 1), address(4, LINK, 2))
        router.forward()
        relays = []
        for host in (1, 2):
            router.ip("address", "add", f"{SITE}{host}", "dev", "lo")
            here = table("site", "6to4", localaddress=f"{SITE}{host}", role="router", advertise=["to-inside"])
            relays += lab.serve((router, here))
            inside.until_address("to-router", f"2002:c633:640{host}")
            if host == 1:
                relays[0].end(signal.SIGKILL)
        assert [one for one in router.addresses("to-inside") if one[:4] == "2002"] == ["2002:c633:6402:1::1"]


@in_own_namespaces
def test_the_interface_of_another_relay_is_not_taken() -> None:
    with Lab("a", "b") as lab:
        a = lab["a"]
        a.link(lab["b"], address(4, LINK, 1), address(4, LINK, 2))
        (relay,) = lab.serve((a, tunnel(TunnelType.V6V4TUNNEL, address(4, LINK, 2), address(6, INNER, 1))))
        code, said = Relay(a, tunnel(TunnelType.V6V4TUNNEL, address(4, LINK, 3))).wait()
        assert (code, "there is an interface tun already" in said) == (1, True)
        assert relay.up()
        assert address(6, INNER, 1) in a.addresses("tun")


@in_own_namespaces
def test_nobody_in_the_tunnel_is_the_kernel_s_router() -> None:
    with Lab("a", "b") as lab:
        a = lab["a"]
        pair(lab, TunnelType.V6V4TUNNEL)
        with a.within():
            for setting in ("accept_ra", "accept_redirects"):
                with open(f"/proc/sys/net/ipv6/conf/tun/{setting}") as file:
                    assert file.read() == "0\n"
