"""Changes that are refused, and changes that exchange something."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from portproxy.tunnel.model import TunnelType
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import INNER, LINK, Lab, address, network, tunnel
from tests.tunnel.peer import Peer

_RTMGRP_IPV6_IFADDR, _RTM_DELADDR = 0x100, 21
SIX = TunnelType.V6V4TUNNEL
TAKEN = network(6, 21)


@in_own_namespaces
def test_a_change_that_is_refused_takes_nothing() -> None:
    """The addresses that the tunnel goes on with are never gone, and nor is its MTU."""
    with Lab("a", "b") as lab, Peer(lab, SIX) as peer:
        a, relay = lab["a"], peer.relay
        a.ip("route", "add", TAKEN, "dev", "to-b", "metric", "1024")
        with a.socket(socket.AF_NETLINK, socket.SOCK_RAW) as changes:
            changes.bind((0, _RTMGRP_IPV6_IFADDR))
            (line,) = relay.refuses(tunnel(SIX, peer.local, address(6, INNER, 5), route=[TAKEN], mtu=1300))
            assert f"{TAKEN} is there already" in line
            changes.setblocking(False)
            gone = set()
            with suppress(BlockingIOError):
                while message := changes.recv(1 << 16):
                    if struct.unpack_from("=4xH", message) == (_RTM_DELADDR,):
                        gone.add(socket.inet_ntop(socket.AF_INET6, message[28:44]))
        assert gone == {address(6, INNER, 5)}
        assert a.addresses("tun") >= {address(6, INNER, 1)}
        assert a.interfaces()["tun"] == 1480


@in_own_namespaces
def test_a_new_name_is_refused_and_then_the_interface_is_removed() -> None:
    """It is made anew under its new name, once it can be."""
    with Lab("a", "b") as lab:
        a = lab["a"]
        a.link(lab["b"], address(4, LINK, 1), address(4, LINK, 2))
        peer, own = address(4, LINK, 2), address(6, INNER, 1)
        (relay,) = lab.serve((a, tunnel(SIX, peer, own, name="old", interface="tun")))
        a.ip("route", "add", TAKEN, "dev", "to-b", "metric", "1024")
        relay.refuses(tunnel(SIX, peer, own, name="new", interface="tun", route=[TAKEN]))
        a.ip("link", "set", "tun", "down")
        relay.said("a tunnel is not up", "tunnel=new", "was set down")
        a.ip("link", "del", "tun")
        relay.said("a tunnel is not up", "tunnel=new", "was removed")
        a.ip("route", "del", TAKEN, "dev", "to-b")
        relay.said("a tunnel is up", "tunnel=new")
        assert relay.up("new")


@in_own_namespaces
def test_ends_and_routes_are_exchanged() -> None:
    with Lab("a", "b") as lab:
        a = lab["a"]
        a.link(lab["b"], address(4, LINK, 1), address(4, LINK, 2))

        def tunnels(*hosts: int) -> str:
            return "".join(
                tunnel(
                    SIX,
                    address(4, LINK, host),
                    address(6, net, host),
                    name=f"t{net}",
                    route=[network(6, 20 + host)],
                )
                for net, host in zip((11, 12), hosts, strict=True)
            )

        (relay,) = lab.serve((a, tunnels(2, 3)))
        relay.reload(tunnels(3, 2))
        assert (relay.up("t11"), relay.up("t12")) == (True, True)
        for name, host in (("t11", 3), ("t12", 2)):
            assert network(6, 20 + host) in a.ip("-6", "route", "show", "dev", name)
