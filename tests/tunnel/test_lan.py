"""Advertising to hosts whose kernels are in namespaces of their own."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from ipaddress import IPv6Address, IPv6Interface
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from portproxy.tunnel.lan import Lan
from portproxy.tunnel.modes.advertiser import Advertiser, Prefix
from portproxy.tunnel.packet import discovery, icmpv6, ipv6
from portproxy.tunnel.packet.discovery import RouterAdvertisement, RouterSolicitation, SourceLinkLayerAddress
from portproxy.tunnel.routing import Changes
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import PATIENCE, Lab, Node, address

MTU = 1400
OLD, NEW = "2002:cb00:7101:1", "2002:cb00:7102:1"
ALL_ROUTERS = "ff02::2"
GONE = os.strerror(errno.ENODEV)


def prefix(site: str) -> Prefix:
    return IPv6Address(f"{site}::").packed, 64


def own(site: str) -> IPv6Interface:
    """The router's address there."""
    return IPv6Interface(f"{site}::1/64")


def link_local(node: Node, device: str) -> str:
    (found,) = (one for one in node.addresses(device) if one.startswith("fe80:"))
    return found


def has_link_local(node: Node, device: str) -> bool:
    return any(one.startswith("fe80:") for one in node.addresses(device))


def solicit(node: Node, device: str, to: str = ALL_ROUTERS, hop_limit: int = 255) -> None:
    """As the kernel of ``node`` does."""
    with node.socket(socket.AF_INET6, socket.SOCK_RAW, icmpv6.PROTOCOL) as sock, node.within():
        for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, hop_limit)
        sock.sendto(b"\x85\0\0\0\0\0\0\0", (to, 0, 0, socket.if_nametoindex(device)))


class Listening(Advertiser):
    """One that tells what it was asked, and whether it answers; and how often it began."""

    def __init__(self) -> None:
        super().__init__([prefix(OLD)], mtu=MTU, random=Random(1))
        self.heard: list[tuple[bytes, bool]] = []
        self.begun = 0

    def begin(self, link_local: bytes, link_layer: bytes | None, now: float) -> Sequence[bytes]:
        self.begun += 1
        return super().begin(link_local, link_layer, now)

    def solicited(self, packet: bytes, now: float) -> bool:
        answered = super().solicited(packet, now)
        self.heard.append((packet, answered))
        return answered


class Site:
    """A router and a host, which a wire links, and another node beside. Whoever uses it is ``within`` the
    router."""

    def __init__(self, lab: Lab) -> None:
        self.router, self.host, self.other = lab["router"], lab["host"], lab["other"]
        self.advertiser = Listening()
        self.errors: list[tuple[str, OSError]] = []
        self.problem = ""
        self.wire()

    def wire(self) -> None:
        self.router.link(self.host, address(4, 1, 1), address(4, 1, 2))

    def lan(self) -> Lan:
        return Lan("to-host", lambda what, error: self.errors.append((what, error)), self.tell)

    def tell(self, problem: str) -> None:
        self.problem = problem

    def addresses(self) -> dict[str, bool]:
        """The host's, by the sites that they are in, and whether they are deprecated."""
        (link,) = json.loads(self.host.ip("-json", "address", "show", "dev", "to-router"))
        return {
            str(IPv6Interface(f"{one['local']}/64").network.network_address).rstrip(":"): "deprecated" in one
            for one in link["addr_info"]
            if (one["family"], one["scope"]) == ("inet6", "global")
        }

    def gateways(self) -> list[dict[str, Any]]:
        """The host's default routes."""
        routes: list[dict[str, Any]] = json.loads(self.host.ip("-6", "-json", "route", "show", "default"))
        return routes

    def configured(self) -> bool:
        return self.addresses() == {OLD: False} and len(self.gateways()) == 1

    def configured_since(self, begun: int) -> bool:
        """Again, after the advertiser had begun so often."""
        return self.configured() and self.advertiser.begun > begun

    def unconfigured(self) -> bool:
        return self.addresses() == {OLD: True} and not self.gateways()

    async def until(self, what: Callable[[], bool], node: Node | None = None) -> None:
        """Look whenever something changes at the host, or ``node``."""
        with (node or self.host).within():
            changes = Changes()
        try:
            with trio.fail_after(PATIENCE):
                while not what():
                    await changes.wait()
        finally:
            changes.close()


@contextmanager
def _site(**settings: int) -> Iterator[Site]:
    """With ``settings`` of the router's and the host's interfaces; nothing unforeseen has happened in the
    end."""
    with Lab("router", "host", "other") as lab:
        for key, value in settings.items():
            for node in ("router", "host"):
                lab[node].sysctl(f"net/ipv6/conf/default/{key}", value)
        site = Site(lab)
        with lab["router"].within():
            yield site
        assert site.errors == []


async def _during(lan: Lan, site: Site, act: Callable[[], Awaitable[None]]) -> None:
    """``act`` while ``lan`` runs; it is closed after."""
    with closing(lan):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lan.run, site.advertiser)
            await act()
            nursery.cancel_scope.cancel()


async def heard(sock: socket.socket, wanted: Callable[[bytes], bool]) -> bytes:
    """The first packet that is ``wanted`` of those that ``sock`` receives."""
    sock.setblocking(False)
    with trio.fail_after(PATIENCE):
        while True:
            await trio.lowlevel.wait_readable(sock)
            packet = sock.recv(1 << 16)
            if wanted(packet):
                return packet


def is_advertisement(packet: bytes) -> bool:
    return packet[6] == icmpv6.PROTOCOL and packet[40] == 134


def advertisement(packet: bytes) -> RouterAdvertisement:
    message = discovery.parse(packet)
    assert isinstance(message, RouterAdvertisement)
    return message


@in_own_namespaces
def test_a_host_is_told_everything() -> None:
    """It has an address, a default route and an MTU; then another address, and in the end none of it."""
    with _site() as site:
        trio.run(_tell, site)


async def _tell(site: Site) -> None:
    lan, advertiser = site.lan(), site.advertiser
    await lan.arrange([own(OLD)])

    async def act() -> None:
        await site.until(site.configured)
        (gateway,) = site.gateways()
        assert gateway["gateway"] == link_local(site.router, "to-host")
        assert gateway["pref"] == "low"
        assert site.host.run("cat", "/proc/sys/net/ipv6/conf/to-router/mtu") == (0, f"{MTU}\n")
        site.host.ping(str(own(OLD).ip))

        await lan.arrange([own(NEW)])
        assert str(own(OLD).ip) not in site.router.addresses("to-host")
        lan.send(advertiser.renumber([prefix(NEW)], MTU, trio.current_time()))
        await site.until(lambda: site.addresses() == {OLD: True, NEW: False})
        site.host.ping(str(own(NEW).ip))

    await _during(lan, site, act)
    await site.until(lambda: site.addresses() == {OLD: True, NEW: True} and not site.gateways())
    assert str(own(NEW).ip) not in site.router.addresses("to-host")


@in_own_namespaces
def test_what_is_on_the_wire() -> None:
    with _site(accept_ra=0) as site:
        trio.run(_look_at_the_wire, site)


async def _look_at_the_wire(site: Site) -> None:
    (link,) = json.loads(site.router.ip("-json", "link", "show", "to-host"))
    await site.until(partial(has_link_local, site.router, "to-host"), site.router)
    own_address = link_local(site.router, "to-host")
    # The kernel would take this one, which is newer.
    site.router.ip("address", "add", "fe80::ffff:ffff:ffff:ffff/64", "dev", "to-host")
    with (
        site.host.capture("to-router", 6) as sock,
        site.router.socket(socket.AF_INET6, socket.SOCK_RAW, icmpv6.PROTOCOL) as looped,
    ):

        async def act() -> None:
            packet = await heard(sock, is_advertisement)
            header = ipv6.parse(packet)
            assert str(IPv6Address(header.source)) == own_address
            assert header.destination == IPv6Address("ff02::1").packed
            assert header.hop_limit == 255
            mac = SourceLinkLayerAddress(bytes.fromhex(link["address"].replace(":", "")))
            assert advertisement(packet).options[0] == mac
            assert advertisement(packet).lifetime == 1800

        await _during(site.lan(), site, act)
        for _ in range(3):
            assert advertisement(await heard(sock, is_advertisement)).lifetime == 0
        # To this host it is nothing.
        looped.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                assert looped.recv(1 << 16)[0] != 134


@in_own_namespaces
def test_a_solicitation_is_answered() -> None:
    """One that was forwarded is not, nor is one from elsewhere even heard of."""
    with _site(accept_ra=0) as site:
        site.other.sysctl("net/ipv6/conf/default/accept_ra", 0)
        site.router.link(site.other, address(4, 2, 1), address(4, 2, 2))
        trio.run(_ask, site)


async def _ask(site: Site) -> None:
    with site.host.capture("to-router", 6) as sock:

        async def act() -> None:
            await heard(sock, is_advertisement)
            for node in (site.host, site.other):
                # Its kernel makes itself at home on the link when it likes.
                await site.until(partial(has_link_local, node, "to-router"), node)
            solicit(site.other, "to-router", link_local(site.router, "to-other"))
            solicit(site.host, "to-router", hop_limit=254)
            solicit(site.host, "to-router")
            # The next one that nobody has asked for comes after 16.
            with trio.fail_after(10):
                await heard(sock, is_advertisement)

        await _during(site.lan(), site, act)
    (forwarded, refused), (asked, answered) = site.advertiser.heard
    assert (forwarded[7], refused, asked[7], answered) == (254, False, 255, True)
    header = ipv6.parse(asked)
    assert str(IPv6Address(header.source)) == link_local(site.host, "to-router")
    assert header.destination == IPv6Address(ALL_ROUTERS).packed
    assert isinstance(discovery.parse(asked), RouterSolicitation)


@in_own_namespaces
def test_before_its_address_is_its_own() -> None:
    """The link-local address is probed for at first; there is another one all the while."""
    with _site(accept_dad=1) as site:
        trio.run(_wait_for_address, site)


async def _wait_for_address(site: Site) -> None:
    lan = site.lan()
    await lan.arrange([own(OLD)])
    with site.host.capture("to-router", 6) as sock:

        async def act() -> None:
            assert "tentative" in site.router.ip("address", "show", "dev", "to-host", "scope", "link")
            source = IPv6Address((await heard(sock, is_advertisement))[8:24])
            assert str(source) == link_local(site.router, "to-host")

        await _during(lan, site, act)


@in_own_namespaces
def test_an_interface_comes_back() -> None:
    with _site() as site:
        trio.run(_come_back, site)


async def _come_back(site: Site) -> None:
    """Whichever way, and after any other."""
    lan = site.lan()
    await lan.arrange([own(OLD)])

    async def act() -> None:
        await site.until(site.configured)
        for how in (_unplugged, _down_and_up, _made_anew):
            begun = site.advertiser.begun
            await how(site)
            await site.until(partial(site.configured_since, begun))
            await site.until(lambda: str(own(OLD).ip) in site.router.addresses("to-host"), site.router)
            site.host.ping(str(own(OLD).ip))
            # What is for all routers still arrives.
            del site.advertiser.heard[:]
            with site.host.capture("to-router", 6) as sock:
                solicit(site.host, "to-router")
                await heard(sock, is_advertisement)
            assert site.advertiser.heard[-1][1]

    await _during(lan, site, act)
    await site.until(site.unconfigured)


async def _unplugged(site: Site) -> None:
    site.host.ip("link", "set", "to-router", "down")
    await site.until(lambda: "state UP" not in site.router.ip("link", "show", "to-host"), site.router)
    await trio.testing.wait_all_tasks_blocked()
    site.host.ip("link", "set", "to-router", "up")


async def _down_and_up(site: Site) -> None:
    """With the interface go all of its addresses and routes, on both sides."""
    site.host.ip("link", "set", "to-router", "down")
    site.router.ip("link", "set", "to-host", "down")
    site.router.ip("link", "set", "to-host", "up")
    assert str(own(OLD).ip) not in site.router.addresses("to-host")
    site.host.ip("link", "set", "to-router", "up")


async def _made_anew(site: Site) -> None:
    site.router.ip("link", "del", "to-host")
    site.wire()


@in_own_namespaces
def test_an_interface_goes_for_good() -> None:
    with _site() as site:
        trio.run(_go, site)


async def _go(site: Site) -> None:
    lan = site.lan()
    await lan.arrange([own(OLD)])

    async def act() -> None:
        await site.until(site.configured)
        site.router.ip("link", "del", "to-host")
        await trio.testing.wait_all_tasks_blocked()

    await _during(lan, site, act)


@in_own_namespaces
def test_an_address_of_somebody_else() -> None:
    with _site() as site:
        trio.run(_share, site)


async def _share(site: Site) -> None:
    """It does as well, and stays; without it there is one that goes."""
    lan = site.lan()
    site.router.ip("address", "add", str(own(OLD)), "dev", "to-host")
    await lan.arrange([own(OLD)])
    await lan.arrange([own(NEW)])
    assert {str(own(OLD).ip), str(own(NEW).ip)} <= site.router.addresses("to-host")
    await lan.arrange([own(OLD)])

    async def act() -> None:
        await site.until(site.configured)
        site.router.ip("address", "del", str(own(OLD)), "dev", "to-host")
        await site.until(lambda: str(own(OLD).ip) in site.router.addresses("to-host"), site.router)

    await _during(lan, site, act)
    assert not {str(own(OLD).ip), str(own(NEW).ip)} & site.router.addresses("to-host")


@in_own_namespaces
def test_no_such_interface() -> None:
    with _site() as site:
        with pytest.raises(OSError, match=GONE):
            Lan("nothing", lambda what, error: None, site.tell)
        lan = site.lan()
        site.router.ip("link", "del", "to-host")
        trio.run(lan.arrange, [own(OLD)])
        assert GONE in site.problem
        lan.close()
