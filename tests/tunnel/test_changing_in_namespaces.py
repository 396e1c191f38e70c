"""Tunnels of the real program that change, fail and come back, between network namespaces."""

from __future__ import annotations

import json
import signal
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from portproxy.tunnel.model import TunnelType
from tests.package.namespaces import command, in_own_namespaces
from tests.tunnel.lab import INNER, LINK, Lab, Relay, address, network, pair, tunnel, with_prefix
from tests.tunnel.peer import Peer, family, link_local
from tests.tunnel.transfer import Connection, carry, connect

MODES = pytest.mark.parametrize("mode", [one for one in TunnelType if not one.automatic])


def _there_and_back(connection: Connection) -> None:
    carry(connection.near, connection.far, 1 << 20)
    carry(connection.far, connection.near, 1 << 20)


@MODES
@in_own_namespaces
def test_reloads_keep_a_connection(mode: str) -> None:
    type_ = TunnelType(mode)
    outer, inner = type_.outer, type_.inner
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        ends = [address(outer, LINK, host) for host in (1, 2, 3)]
        a.link(b, ends[0], ends[1])
        b.ip("address", "add", with_prefix(ends[2]), "dev", "to-a")

        def at_a(peer: str, **settings: object) -> str:
            return tunnel(type_, peer, address(inner, INNER, 1), **settings)

        def at_b(local: str) -> str:
            return tunnel(type_, ends[0], address(inner, INNER, 2), localaddress=local)

        ours, theirs = lab.serve((a, at_a(ends[1])), (b, at_b(ends[1])))
        connection = connect(a, b, address(inner, INNER, 2))
        try:
            _there_and_back(connection)
            ours.reload(at_a(ends[1], mtu=1300))
            assert a.interfaces()["tun"] == ours.mtu() == 1300
            _there_and_back(connection)
            ours.reload(at_a(ends[2], mtu=1300))
            theirs.reload(at_b(ends[2]))
            _there_and_back(connection)
        finally:
            connection.close()


@MODES
@in_own_namespaces
def test_a_reload_changes_addresses_and_routes(mode: str) -> None:
    """Those that stay are there afterwards too, whatever the kernel takes along with those that go."""
    type_ = TunnelType(mode)
    inner = type_.inner
    with Lab("a", "b") as lab, Peer(lab, type_) as peer:
        a, one, other = lab["a"], address(inner, INNER, 1), address(inner, INNER, 7)
        routes = [network(inner, 21), network(inner, 22)]
        for addresses, to in (
            ([one, other], routes),
            ([other], routes),
            ([other, one], routes[1:]),
            ([one], []),
        ):
            peer.relay.reload(tunnel(type_, peer.local, *addresses, route=to))
            assert {at for at in a.addresses("tun") if not at.startswith("fe80")} == set(addresses)
            found = json.loads(a.ip(f"-{inner}", "-json", "route", "show", "dev", "tun"))
            assert {route["dst"] for route in found} >= set(to)
            assert not {route["dst"] for route in found} & set(routes) - set(to)


@MODES
@in_own_namespaces
def test_local_address_is_followed(mode: str) -> None:
    type_ = TunnelType(mode)
    with Lab("a", "b") as lab, Peer(lab, type_) as peer:
        a, moved = lab["a"], address(type_.outer, LINK, 7)
        a.ip("address", "add", with_prefix(moved), "dev", "to-b")
        a.ip("address", "del", with_prefix(peer.remote), "dev", "to-b")
        if type_.outer == 4:  # went with the first address of its prefix
            a.ip("address", "add", with_prefix(moved), "dev", "to-b")
        assert f"local={moved}" in peer.relay.said("a tunnel has moved")
        with a.socket(family(type_.inner), socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", (peer.inner_local, 9))
        peer.arriving(b"hello", moved)
        if type_.outer == 4:
            assert str(ip_address(link_local(moved))) in a.addresses("tun")


@in_own_namespaces
def test_killed_and_started_again() -> None:
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        ours, _ = pair(lab, TunnelType.V6V4TUNNEL)
        there = address(6, INNER, 2)
        b.ping(address(6, INNER, 1))
        assert ours.end(signal.SIGKILL)[0] == -signal.SIGKILL
        assert set(a.interfaces()) == {"lo", "to-b"}
        # What one that was not closed with its process would look like.
        a.ip("tuntap", "add", "dev", "tun", "mode", "tun")
        a.ip("link", "set", "tun", "alias", "portproxy")
        lab.serve((a, tunnel(TunnelType.V6V4TUNNEL, address(4, LINK, 2), address(6, INNER, 1))))
        a.ping(there)


def _hindered(**settings: object) -> str:
    """A tunnel over IPv4 that nothing but ``settings`` can keep from being."""
    peer = str(settings.pop("peer", address(4, LINK, 2)))
    return tunnel(TunnelType.V6V4TUNNEL, peer, **settings)


_WITHOUT_DEVICE = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
TAKEN = "there is an interface taken already; set another name with interface ="
NO_ROUTE = "there is no route to remoteaddress 10.0.3.1"
ENDS = "has these ends already; what arrives could be either's"
NO_ADDRESS = "localaddress 10.0.1.7 is no address of this host"


@in_own_namespaces
def test_cannot_start() -> None:
    with Lab("a", "b") as lab:
        a = lab["a"]
        a.link(lab["b"], address(4, LINK, 1), address(4, LINK, 2))
        a.ip("tuntap", "add", "dev", "taken", "mode", "tun")
        here, far = address(4, LINK, 1), f"{network(6, 21)} via {address(6, 22, 1)}"
        no_host, others = f"remoteaddress {address(4, LINK, 255)} is", ", and no other host's"
        missing = "there is no /dev/net/tun here: load the module tun, or give the container the device"
        needed = "making the interface tun and its socket needs CAP_NET_ADMIN and CAP_NET_RAW"
        for config, why, through in (
            (_hindered(interface="taken"), TAKEN, ()),
            (_hindered(peer=address(4, 3, 1)), NO_ROUTE, ()),
            (_hindered(localaddress=address(4, LINK, 7)), NO_ADDRESS, ()),
            (_hindered(peer=address(4, LINK, 255)), f"{no_host} a broadcast address{others}", ()),
            (_hindered(peer=address(4, LINK, 1)), f"remoteaddress {here} is this host's own{others}", ()),
            (_hindered(name="a") + _hindered(localaddress=here), f"a {ENDS}", ()),
            (
                _hindered(route=[far]),
                f"no address of the tunnel has the gateway of route {far} in its prefix",
                (),
            ),
            (_hindered(), needed, ("setpriv", "--bounding-set=-net_admin")),
            (_hindered(), needed, ("setpriv", "--bounding-set=-net_raw")),
            (_hindered(), missing, ("unshare", "--mount", "sh", "-c", _WITHOUT_DEVICE, "sh")),
        ):
            code, said = Relay(a, config, *through).wait()
            assert code == 1, said
            assert said.splitlines()[-1] == f"portproxy: tunnel tun: {why}"
            assert said.count("portproxy: ") == said.count(why) == 1, said
            assert "Traceback" not in said
            assert set(a.interfaces()) == {"lo", "to-b", "taken"}
        a.ip("tuntap", "del", "dev", "taken", "mode", "tun")


@in_own_namespaces
def test_fails_in_a_reload_and_comes_up() -> None:
    """The tunnel that runs has no part in it."""
    with Lab("a", "b") as lab, Peer(lab, TunnelType.V4V6TUNNEL) as peer:
        a, relay = lab["a"], peer.relay
        a.ip("address", "add", with_prefix(address(4, LINK, 1)), "dev", "to-b")
        a.ip("tuntap", "add", "dev", "taken", "mode", "tun")
        reasons = {
            "taken": (_hindered(name="taken"), TAKEN),
            "route": (_hindered(name="route", peer=address(4, 3, 1)), NO_ROUTE),
            "address": (_hindered(name="address", localaddress=address(4, LINK, 7)), NO_ADDRESS),
        }
        runs = tunnel(TunnelType.V4V6TUNNEL, peer.local, peer.inner_remote)
        errors = relay.refuses(runs + "".join(config for config, _ in reasons.values()))
        meanwhile = "it is tried again, and the relay's next start fails where it cannot be up then"
        told = [f"tunnel {name} is not up: {why}; {meanwhile}" for name, (_, why) in reasons.items()]
        assert sorted(errors) == sorted(told)
        for name, (_, why) in reasons.items():
            relay.said("a tunnel is not up", f"tunnel={name} ", why)
        assert [relay.up(name) for name in ("tun", *reasons)] == [True, False, False, False]
        assert relay.cli("health")[0] == 1
        a.ip("tuntap", "del", "dev", "taken", "mode", "tun")
        a.route(network(4, 3), address(4, LINK, 2))
        a.ip("address", "add", with_prefix(address(4, LINK, 7)), "dev", "to-b")
        for name in reasons:
            relay.said("a tunnel is up", f"tunnel={name} ")
        assert relay.cli("health")[0] == 0


@in_own_namespaces
def test_a_reload_without_root() -> None:
    """What needs it is said to have been given up with it; the tunnel that runs goes on."""
    # Only here: it brings in all of the relay, which each test's child would import.
    from tests.relay.test_user import closed_to_others, open_to_others

    command("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    for path in closed_to_others():
        open_to_others(path, Path("/mnt/overlays"))
    with Lab("a", "b") as lab:
        a = lab["a"]
        a.link(lab["b"], address(4, LINK, 1), address(4, LINK, 2))
        runs = 'user = "nobody"\n' + _hindered()
        (relay,) = lab.serve((a, runs))
        (line,) = relay.refuses(runs + _hindered(name="later", peer=address(4, LINK, 3)))
        needed = "making the interface later and its socket needs CAP_NET_ADMIN and CAP_NET_RAW"
        dropped = "root was dropped to user nobody after the start"
        given_up = f"{dropped}, so a tunnel can be made or changed at a start only"
        assert line.startswith(f"tunnel later is not up: {needed}; {given_up}; ")
        assert (relay.up(), relay.up("later")) == (True, False)
        a.ip("link", "del", "tun")
        relay.said("a tunnel is not up", "tunnel=tun ", given_up)


@in_own_namespaces
def test_a_change_fails_and_is_made_once_it_can_be() -> None:
    """A route that is there already displaces none, and is no reason to do without it later."""
    with Lab("a", "b") as lab, Peer(lab, TunnelType.V6V4TUNNEL) as peer:
        a, relay, taken = lab["a"], peer.relay, network(6, 21)
        a.ip("route", "add", taken, "dev", "to-b", "metric", "1024")
        config = tunnel(
            TunnelType.V6V4TUNNEL, peer.local, *(address(6, INNER, host) for host in (1, 5)), route=[taken]
        )
        (line,) = relay.refuses(config)
        assert line.startswith("tunnel tun is not up: ")
        assert f"{taken} is there already; a tunnel displaces none" in line
        assert not relay.up()
        a.ip("route", "del", taken, "dev", "to-b")
        relay.said("a tunnel is up", "tunnel=tun ")
        assert relay.up()
        (route,) = json.loads(a.ip("-6", "-json", "route", "show", taken))
        assert route["dev"] == "tun"
        assert address(6, INNER, 5) in a.addresses("tun")


@in_own_namespaces
def test_the_interface_is_removed_by_somebody() -> None:
    with Lab("a", "b") as lab:
        a = lab["a"]
        ours, _ = pair(lab, TunnelType.V6V4TUNNEL)
        a.ip("link", "del", "tun")
        ours.said("a tunnel is not up", "the interface tun was removed")
        ours.said("a tunnel is up")
        a.ping(address(6, INNER, 2))


@in_own_namespaces
def test_names_are_exchanged() -> None:
    """Each interface stays, and has the other's name and peer."""
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, address(4, LINK, 1), address(4, LINK, 2))
        peers = [address(4, LINK, host) for host in (2, 3)]

        def tunnels(*names: str) -> str:
            return "".join(
                tunnel(
                    TunnelType.V6V4TUNNEL, peer, address(6, net, 1), name=name, interface=f"if{net}", mtu=mtu
                )
                for name, peer, net, mtu in zip(names, peers, (11, 12), (1300, 1400), strict=True)
            )

        (relay,) = lab.serve((a, tunnels("one", "two")))
        assert (relay.mtu("one"), relay.mtu("two")) == (1300, 1400)
        relay.reload(tunnels("two", "one"))
        assert (relay.mtu("one"), relay.mtu("two")) == (1400, 1300)
        assert (relay.up("one"), relay.up("two")) == (True, True)


@in_own_namespaces
def test_tunnels_are_listed_in_the_order_of_the_file() -> None:
    """Whatever a reload does to them: stop, keep, change or start."""
    with Lab("a", "b") as lab:
        a, b = lab["a"], lab["b"]
        a.link(b, address(4, LINK, 1), address(4, LINK, 2))
        hosts = {"one": 2, "two": 3, "three": 4, "four": 5}

        def tunnels(*names: str, **settings: object) -> str:
            return "".join(
                _hindered(name=name, peer=address(4, LINK, hosts[name]), **settings) for name in names
            )

        (relay,) = lab.serve((a, tunnels("one", "two", "three")))
        for config, order in (
            (tunnels("three", "one", "two"), ["three", "one", "two"]),
            (tunnels("four", "three", "one"), ["four", "three", "one"]),
            (tunnels("four", mtu=1300) + tunnels("one", "three"), ["four", "one", "three"]),
            (tunnels("two", "four") + tunnels("one", mtu=1300), ["two", "four", "one"]),
        ):
            relay.reload(config)
            for command_ in ("show", "status"):
                listed = json.loads(relay.cli("tunnel", command_, "--json")[1])["tunnels"]
                assert [one["name"] for one in listed] == order
            up = 'portproxy_tunnel_up{tunnel="'
            names = [series.removeprefix(up)[:-2] for series in relay.metrics() if series.startswith(up)]
            assert names == order


@in_own_namespaces
def test_reloads_close_what_they_replace() -> None:
    with Lab("a", "b") as lab, Peer(lab, TunnelType.V6V4TUNNEL) as peer:
        for mtu in (1300, 1400, 1300):
            config = tunnel(TunnelType.V6V4TUNNEL, peer.local, peer.inner_remote, mtu=mtu)
            peer.relay.reload(config)
            # By what goes through it, the tunnel has taken its new socket up.
            with lab["a"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"by %d" % mtu, (peer.inner_local, 9))
            peer.arriving(b"by %d" % mtu)
            _, *raw = Path(f"/proc/{peer.relay.pid}/net/raw").read_text().splitlines()
            assert len(raw) == 2, raw  # one to send, one to receive
