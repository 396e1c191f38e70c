"""Tunnels of the real program between network namespaces."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from portproxy.tunnel.model import TunnelType
from portproxy.tunnel.packet import icmpv4, icmpv6, ipv4, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import INNER, LINK, Lab, Node, Relay, address, first, network, pair, tunnel, with_prefix
from tests.tunnel.peer import Peer, family, link_local, set_tos
from tests.tunnel.transfer import transfer

MODES = pytest.mark.parametrize("mode", [one for one in TunnelType if not one.automatic])
ECT, CE = 2, 3
"""RFC 3168, 5: capable of congestion notification, and congestion experienced."""
LARGE = 100 << 20


@MODES
@in_own_namespaces
def test_two_nodes(mode: str) -> None:
    type_ = TunnelType(mode)
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        relays = pair(lab, type_)
        for node, peer in ((a, 2), (b, 1)):
            there = address(type_.inner, INNER, peer)
            node.ping(there)
            # Larger than the tunnel's MTU: the inner packets are fragments.
            node.ping(there, "-s", "3000")
        transfer(a, b, address(type_.inner, INNER, 2), LARGE, 1 << 20)
        transfer(b, a, address(type_.inner, INNER, 1), 1 << 20, 1 << 20)
        drops = [relay.dropped() for relay in relays]
        assert drops == [{}, {}], drops


@MODES
@in_own_namespaces
def test_routers_and_a_host(mode: str) -> None:
    """Sites behind two routers, and a host whose tunnel ends at one of them, on an address with another."""
    type_ = TunnelType(mode)
    outer, inner = type_.outer, type_.inner
    with Lab("left", "a", "b", "right", "host") as lab:
        left, a, b, right, host = (lab[name] for name in ("left", "a", "b", "right", "host"))
        a.link(b, address(outer, 1, 1), address(outer, 1, 2))
        host.link(b, address(outer, 2, 1), address(outer, 2, 2))
        host.route(network(outer, 1), address(outer, 2, 2))
        left.link(a, address(inner, 21, 2), address(inner, 21, 1))
        right.link(b, address(inner, 22, 2), address(inner, 22, 1))
        left.route("default", address(inner, 21, 1))
        right.route("default", address(inner, 22, 1))
        for router in (a, b):
            router.forward()
        hub = address(outer, 1, 2)
        to_a = tunnel(
            type_, address(outer, 1, 1), address(inner, 11, 2), localaddress=hub, route=[network(inner, 21)]
        )
        to_host = tunnel(type_, address(outer, 2, 1), address(inner, 12, 2), name="tun2", localaddress=hub)
        at_a = tunnel(type_, hub, address(inner, 11, 1), route=[network(inner, 22)])
        at_host = tunnel(type_, hub, address(inner, 12, 1), route=[network(inner, 22)])
        relays = lab.serve((a, at_a), (b, to_a + to_host), (host, at_host))
        transfer(left, right, address(inner, 22, 2), 1 << 20, 1 << 20)
        # By now both know the tunnel's MTU, from their routers.
        right.ping(address(inner, 21, 2), "-s", "3000")
        right.ping(address(inner, 12, 1))
        transfer(host, right, address(inner, 22, 2), 1 << 20, 1 << 20)
        drops = [relays[0].dropped(), relays[1].dropped(), relays[1].dropped("tun2"), relays[2].dropped()]
        assert drops == [{}] * 4, drops


def _without_ipv6(node: Node) -> bool:
    """Whether the kernel speaks no IPv6 on the interface of the tunnel there."""
    with node.within():
        return Path("/proc/sys/net/ipv6/conf/tun/disable_ipv6").read_text() == "1\n"


@in_own_namespaces
def test_what_carries_ipv4_has_no_ipv6() -> None:
    """A router's kernel would speak MLD there, which is nothing for the tunnel to carry."""
    with Lab("a", "b") as lab:
        a = lab["a"]
        a.forward()
        with Peer(lab, TunnelType.V4V6TUNNEL) as peer:
            assert _without_ipv6(a)
            assert peer.relay.dropped() == {}
            # Below 1280 bytes there is no IPv6, and from there on the kernel begins it anew.
            for mtu in (1000, 1280):
                peer.relay.reload(tunnel(TunnelType.V4V6TUNNEL, peer.local, peer.inner_remote, mtu=mtu))
            assert _without_ipv6(a)


@in_own_namespaces
def test_where_settings_of_the_kernel_are_read_only() -> None:
    """As in a container: the tunnel carries IPv4 all the same."""
    type_, read_only = TunnelType.V4V6TUNNEL, "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro"
    ours, theirs = (address(6, LINK, host) for host in (1, 2))
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, ours, theirs)
        lab.serve((b, tunnel(type_, ours, address(4, INNER, 2))))
        through = ("unshare", "--mount", "sh", "-c", f'{read_only} /proc/sys && exec "$@"', "sh")
        relay = lab.start(a, tunnel(type_, theirs, address(4, INNER, 1)), *through)
        relay.said(" ready ")
        a.ping(address(4, INNER, 2))
        assert not _without_ipv6(a)


def _over_narrow_path(lab: Lab, type_: TunnelType, mtu: int | str) -> list[Relay]:
    """A tunnel between a and b, and between them two routers whose wire takes 1400 bytes."""
    a, left, right, b = (lab[name] for name in ("a", "left", "right", "b"))
    outer, inner = type_.outer, type_.inner
    ends = [address(outer, net, 1) for net in (1, 3)]
    a.link(left, ends[0], address(outer, 1, 9))
    left.link(right, address(outer, 2, 8), address(outer, 2, 9), 1400)
    b.link(right, ends[1], address(outer, 3, 9))
    left.forward()
    right.forward()
    a.route("default", address(outer, 1, 9))
    b.route("default", address(outer, 3, 9))
    left.route(network(outer, 3), address(outer, 2, 9))
    right.route(network(outer, 1), address(outer, 2, 8))
    return lab.serve(
        (a, tunnel(type_, ends[1], address(inner, INNER, 1), mtu=mtu)),
        (b, tunnel(type_, ends[0], address(inner, INNER, 2), mtu=mtu)),
    )


@MODES
@in_own_namespaces
def test_path_mtu_is_followed(mode: str) -> None:
    type_ = TunnelType(mode)
    overhead = {4: 20, 6: 40}[type_.outer]
    with Lab("a", "left", "right", "b") as lab:
        a, b = lab["a"], lab["b"]
        relays = _over_narrow_path(lab, type_, "auto")
        assert [relay.mtu() for relay in relays] == [1500 - overhead] * 2
        transfer(a, b, address(type_.inner, INNER, 2), 2 << 20, 1 << 20)
        for node, relay in zip((a, b), relays, strict=True):
            assert node.interfaces()["tun"] == relay.mtu() == 1400 - overhead
        # What is known of the path outlives a change somewhere else, which is no reason to ask again.
        a.ip("address", "add", "192.0.2.1/32", "dev", "lo")
        a.ping(address(type_.inner, INNER, 2), "-s", "3000")
        assert relays[0].mtu() == 1400 - overhead
        _, said = relays[0].end(signal.SIGTERM)
        assert "moved" not in said, said


@MODES
@in_own_namespaces
def test_fixed_mtu_over_a_narrow_path(mode: str) -> None:
    """The outer packets are fragmented, by the router in IPv4 and by this end in IPv6 (RFC 8200, 5)."""
    type_ = TunnelType(mode)
    mtu = {4: 1480, 6: 1460}[type_.outer]
    with Lab("a", "left", "right", "b") as lab:
        a, b = lab["a"], lab["b"]
        relays = _over_narrow_path(lab, type_, mtu)
        with b.capture("to-right", type_.outer) as capture:
            transfer(a, b, address(type_.inner, INNER, 2), 1 << 20, 1 << 20)
            first(capture, _is_fragment)
        assert [relay.mtu() for relay in relays] == [mtu, mtu]


def _is_fragment(packet: bytes) -> bool:
    if packet[0] >> 4 == 6:
        return packet[6] == ipv6.FRAGMENT
    return bool(int.from_bytes(packet[6:8]) & (ipv4.MORE_FRAGMENTS | ipv4.OFFSET))


@MODES
@in_own_namespaces
def test_unreachable_peer(mode: str) -> None:
    """What a router says of the outer packets is told to the inner source of that tunnel, and of no other."""
    type_ = TunnelType(mode)
    outer, inner = type_.outer, type_.inner
    with Lab("a", "router") as lab:
        a, router = lab["a"], lab["router"]
        a.link(router, address(outer, 1, 1), address(outer, 1, 9))
        router.forward()
        a.route("default", address(outer, 1, 9))
        gone, other = address(outer, 2, 1), address(outer, 3, 1)
        router.ip("route", "add", "unreachable", gone)
        (relay,) = lab.serve(
            (
                a,
                tunnel(type_, gone, address(inner, INNER, 1))
                + tunnel(type_, other, address(inner, INNER + 1, 1), name="tun2"),
            )
        )
        code, said = a.run("ping", "-n", "-c", "3", "-i", "0.01", "-W", "20", address(inner, INNER, 2))
        assert code == 1
        assert "+3 errors" in said, said
        assert {4: "Destination Host Unreachable", 6: "Address unreachable"}[inner] in said
        assert relay.metrics()['portproxy_tunnel_packets_total{direction="in",tunnel="tun2"}'] == 0


@in_own_namespaces
def test_errors_reach_a_source_behind_a_router() -> None:
    """From a global address of the tunnel's: no router forwards a link-local one (RFC 4291, 2.5.6)."""
    with Lab("host", "a", "router") as lab:
        host, a, router = (lab[name] for name in ("host", "a", "router"))
        host.link(a, address(6, 21, 2), address(6, 21, 1))
        a.link(router, address(4, 1, 1), address(4, 1, 9))
        host.route("default", address(6, 21, 1))
        a.route("default", address(4, 1, 9))
        a.forward()
        router.forward()
        gone = address(4, 2, 1)
        router.ip("route", "add", "unreachable", gone)
        lab.serve((a, tunnel(TunnelType.V6V4TUNNEL, gone, "fe80::5", address(6, INNER, 1))))
        _, said = host.run("ping", "-n", "-c", "1", "-W", "20", address(6, INNER, 2))
        assert f"From {address(6, INNER, 1)} icmp_seq=1 Destination unreachable: Address unreachable" in said


@MODES
@in_own_namespaces
def test_outer_header(mode: str) -> None:
    """TTL as it is set, DF where the MTU follows the path (RFC 4213, 3.2.2), ECN (RFC 6040, 4.1)."""
    type_ = TunnelType(mode)
    with Lab("a", "b") as lab, Peer(lab, type_, ttl=77, mtu="auto") as peer:
        for ecn in (0, ECT):
            sock = lab["a"].socket(family(type_.inner), socket.SOCK_DGRAM)
            with sock:
                set_tos(sock, type_.inner, ecn)
                sock.sendto(b"marked %d" % ecn, (peer.inner_local, 9))
            packet = peer.arriving(b"marked %d" % ecn)
            if type_.outer == 4:
                assert (packet[8], packet[1], packet[6] & 0x40) == (77, ecn, 0x40)
                assert packet[20] >> 4 == 6
            else:
                assert (packet[7], ipv6.parse(packet).traffic_class) == (77, ecn)
                assert packet[40] >> 4 == 4


@in_own_namespaces
def test_what_a_peer_sends_over_ipv6() -> None:
    with Lab("a", "b") as lab, Peer(lab, TunnelType.V4V6TUNNEL) as peer:
        _congestion_on_the_way(lab["a"], peer)
        assert peer.relay.dropped() == {"ecn": 1}


@in_own_namespaces
def test_what_a_peer_and_others_send_over_ipv4() -> None:
    with Lab("a", "b") as lab, Peer(lab, TunnelType.V6V4TUNNEL) as peer:
        assert not _without_ipv6(lab["a"])
        _congestion_on_the_way(lab["a"], peer)
        assert peer.relay.dropped() == {"ecn": 1}
        _neighbour_unreachability_detection_is_answered(peer)
        _what_others_send_is_dropped_without_a_word(lab["a"], peer)
        assert peer.relay.dropped() == {"ecn": 1, "source": 1}


def _congestion_on_the_way(a: Node, peer: Peer) -> None:
    """A packet that is marked outside arrives marked inside, if it can be, or not at all (RFC 6040, 4.2)."""
    with a.socket(family(peer.type.inner), socket.SOCK_DGRAM) as sock:
        level, option = {
            4: (socket.IPPROTO_IP, socket.IP_RECVTOS),
            6: (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS),
        }[peer.type.inner]
        sock.setsockopt(level, option, 1)
        sock.bind((peer.inner_remote, 0))
        port = sock.getsockname()[1]
        for tos, outer, said in ((0, 0, b"plain"), (0, CE, b"lost"), (ECT, CE, b"marked")):
            peer.send(peer.datagram(port, said, tos), outer)
        got = [sock.recvmsg(100, 100)[:2] for _ in range(2)]
    marks = [(data, ancillary[0][2][0]) for data, ancillary in got]
    assert marks == [(b"plain", 0), (b"marked", CE)]


def _neighbour_unreachability_detection_is_answered(peer: Peer) -> None:
    """RFC 4213, 3.8: by the kernel, to a solicitation from and to the tunnel's link-local addresses."""
    ours, theirs = map(link_local, (peer.local, peer.remote))
    solicitation = bytes((135, 0, 0, 0)) + bytes(4) + theirs
    sum_ = upper_layer(ours, theirs, icmpv6.PROTOCOL, solicitation)
    message = solicitation[:2] + sum_.to_bytes(2) + solicitation[4:]
    peer.send(ipv6.build(ours, theirs, icmpv6.PROTOCOL, message, hop_limit=255))
    answer = peer.arriving(theirs + ours)[20:]
    header = ipv6.parse(answer)
    assert (header.source, header.destination, header.hop_limit) == (theirs, ours, 255)
    # RFC 4861, 4.4: an advertisement, of the target, that was solicited.
    assert answer[40] == 136
    assert answer[44] & 0x40
    assert answer[48:64] == theirs


def _what_others_send_is_dropped_without_a_word(a: Node, peer: Peer) -> None:
    """RFC 4213, 3.6: no ICMP error is sent, which would tell a prober that there is a tunnel."""
    other = address(4, LINK, 3)
    peer.node.ip("address", "add", with_prefix(other), "dev", "to-a")
    with (
        a.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock,
        peer.node.socket(socket.AF_INET, socket.SOCK_RAW, 41) as stranger,
    ):
        sock.bind((peer.inner_remote, 0))
        port = sock.getsockname()[1]
        stranger.bind((other, 0))
        stranger.sendto(peer.datagram(port, b"forged"), (peer.remote, 0))
        peer.send(peer.datagram(port, b"hello"))
        assert sock.recv(100) == b"hello"
    peer.capture.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            assert peer.capture.recv(1 << 16)[9] != icmpv4.PROTOCOL
