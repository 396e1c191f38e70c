"""The inside of a 6to4 router while what it needs comes and goes, and what its hosts hear of that."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv6Interface

import trio
import trio.testing

from portproxy.tunnel import lan
from portproxy.tunnel.advertising import Site
from portproxy.tunnel.packet.discovery import PrefixInformation, RouterAdvertisement
from portproxy.tunnel.routing import Changes
from tests.package.namespaces import in_own_namespaces
from tests.tunnel.lab import PATIENCE, Lab, address
from tests.tunnel.test_lan import advertisement, heard, is_advertisement, solicit

MTU = 1400
FIRST, SECOND = "203.0.113.1", "203.0.113.2"
OLD, NEW = "2002:cb00:7101:1", "2002:cb00:7102:1"
OWN = f"{OLD}::1"
DEVICE = "to-host"


class Inside:
    """A ``site`` of this host, ``router``, and all that it says, and the wire to its host."""

    def __init__(self, lab: Lab) -> None:
        self.router, self.host = lab["router"], lab["host"]
        self.errors: list[str] = []
        self.problems: list[str] = []
        self.told = trio.Event()
        self.host.sysctl("net/ipv6/conf/default/accept_ra", 0)
        self.link()
        self.wire = self.host.capture("to-router", 6)
        self.site = Site(lambda what, error: self.errors.append(f"{what}: {error}"), self.tell)

    def link(self) -> None:
        self.router.link(self.host, address(4, 1, 1), address(4, 1, 2))

    def tell(self, problem: str) -> None:
        self.problems.append(problem)
        self.told.set()

    def has(self, problem: str) -> bool:
        return self.site.problem == problem

    def own(self) -> set[str]:
        """The router's addresses in either prefix."""
        return {one for one in self.router.addresses(DEVICE) if one.startswith("2002")}

    async def until(self, what: Callable[[], bool]) -> None:
        """Look whenever something changes at the router, and for what does not show there now and then."""
        changes = Changes()
        try:
            with trio.fail_after(PATIENCE):
                while not what():
                    with trio.move_on_after(0.1):
                        await changes.wait()
        finally:
            changes.close()

    async def something_else(self) -> None:
        """Happens, and is looked into."""
        self.router.ip("address", "add", "10.9.9.9/32", "dev", "lo")
        self.router.ip("address", "del", "10.9.9.9/32", "dev", "lo")
        await trio.testing.wait_all_tasks_blocked(0.05)

    async def hear(self, wanted: Callable[[bytes], bool] = is_advertisement) -> dict[str, bool]:
        """The prefixes of the next advertisement that is ``wanted``, and whether they are deprecated."""
        return prefixes(advertisement(await heard(self.wire, wanted)))


def prefixes(message: RouterAdvertisement) -> dict[str, bool]:
    found = [one for one in message.options if isinstance(one, PrefixInformation)]
    sites = (str(IPv6Interface((one.prefix, 64)).ip).rstrip(":") for one in found)
    return {site: one.preferred == 0 for site, one in zip(sites, found, strict=True)}


def is_router(packet: bytes, *, really: bool = True) -> bool:
    return is_advertisement(packet) and bool(advertisement(packet).lifetime) is really


is_none = partial(is_router, really=False)


def in_a_site(act: Callable[[Inside], Awaitable[None]]) -> None:
    """``act`` while the site is run, arranged at first for FIRST."""

    async def run(inside: Inside) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(inside.site.run)
            inside.site.arrange(FIRST, (DEVICE,), MTU)
            await inside.hear(is_router)
            await act(inside)
            nursery.cancel_scope.cancel()

    with Lab("router", "host") as lab, lab["router"].within():
        trio.run(run, Inside(lab))


@in_own_namespaces
def test_lost_and_found_at_another_address() -> None:
    """A host that has missed the farewell hears of the old prefix later, too."""
    in_a_site(_lose_and_find)


async def _lose_and_find(inside: Inside) -> None:
    inside.site.arrange(None, (DEVICE,), MTU)
    assert await inside.hear(is_none) == {OLD: True}
    assert not inside.own()
    solicit(inside.host, "to-router")
    assert await inside.hear() == {OLD: True}
    inside.site.arrange(SECOND, (DEVICE,), MTU)
    assert await inside.hear(is_router) == {NEW: False, OLD: True}
    assert inside.own() == {f"{NEW}::1"}
    inside.site.arrange(SECOND, (), MTU)
    assert await inside.hear(is_none) == {NEW: True, OLD: True}
    await inside.until(lambda: not inside.own())
    # A site that was lost before is none of an interface.
    inside.site.arrange(None, (DEVICE,), MTU)
    await trio.testing.wait_all_tasks_blocked()
    assert (inside.errors, inside.problems) == ([], [])


@in_own_namespaces
def test_an_address_that_cannot_be_had_at_once() -> None:
    """Why not is said once; when it can be had it is, and there is no problem any more."""
    in_a_site(_go_without)


async def _go_without(inside: Inside) -> None:
    def refuse() -> None:
        inside.router.sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", 1)

    def allow() -> None:
        inside.router.sysctl(f"net/ipv6/conf/{DEVICE}/disable_ipv6", 0)

    def remove() -> None:
        inside.router.ip("link", "del", DEVICE)

    ways = (errno.EAFNOSUPPORT, refuse, allow), (errno.ENODEV, remove, inside.link)
    for times, (code, take, give) in enumerate(ways, 1):
        take()
        problem = f"advertise on {DEVICE}: {os.strerror(code)}"
        await inside.until(partial(inside.has, problem))
        for _ in range(3):
            await inside.something_else()
        assert len(inside.problems) == times
        give()
        await inside.until(lambda: not inside.site.problem and inside.own() == {OWN})
    assert inside.errors == []


@in_own_namespaces
def test_an_address_is_asked_for_again_though_nothing_happens() -> None:
    in_a_site(_run_short)


async def _run_short(inside: Inside) -> None:
    """Of descriptors: of more than rtnetlink leaves behind, and a look at the addresses takes."""
    lan._RETRY = 1.0
    inside.router.ip("address", "del", f"{OWN}/64", "dev", DEVICE)
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, most))
    with trio.fail_after(PATIENCE):
        await inside.told.wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    await inside.until(lambda: not inside.site.problem and inside.own() == {OWN})
    assert inside.problems == [f"advertise on {DEVICE}: {os.strerror(errno.EMFILE)}"]


@in_own_namespaces
def test_what_takes_root_that_was_dropped_is_asked_for_once() -> None:
    in_a_site(_drop_root)


async def _drop_root(inside: Inside) -> None:
    inside.router.ip("address", "del", f"{OWN}/64", "dev", DEVICE)
    os.seteuid(65534)
    with trio.fail_after(PATIENCE):
        await inside.told.wait()
    os.seteuid(0)  # or else nobody could tell
    await inside.something_else()
    assert (inside.own(), inside.has(f"advertise on {DEVICE}: {os.strerror(errno.EPERM)}")) == (set(), True)
    # Until somebody else has given it.
    inside.router.ip("address", "add", f"{OWN}/64", "dev", DEVICE)
    await inside.until(partial(inside.has, ""))


@in_own_namespaces
def test_what_cannot_be_sent_is_said_once() -> None:
    in_a_site(_send_in_vain)


async def _send_in_vain(inside: Inside) -> None:
    """Three farewells leave from an address that is gone, before anybody can look."""
    (link_local,) = (one for one in inside.router.addresses(DEVICE) if one.startswith("fe80:"))
    inside.router.ip("address", "del", f"{link_local}/64", "dev", DEVICE)
    inside.site.arrange(FIRST, (), MTU)
    await inside.until(lambda: not inside.own())
    assert len(inside.errors) == 1
    assert f"advertise on {DEVICE}" in inside.errors[0]
