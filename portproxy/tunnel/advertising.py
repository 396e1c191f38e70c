"""The inside of a 6to4 router: the subnets of its site, on interfaces of this host (RFC 3056, 5.1)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import IPv6Interface
from random import Random

import trio

from portproxy.tunnel.endpoint import Complaints, first
from portproxy.tunnel.lan import Lan
from portproxy.tunnel.modes.advertiser import Advertiser, Prefix
from portproxy.tunnel.modes.embedded import SIX_TO_FOUR, packed
from portproxy.tunnel.routing import Changes

_RETRY = 10.0
"""Seconds until an interface is tried again that is not there, or cannot be had."""


class Site:
    """The hosts behind a 6to4 router. ``problem`` says on which interfaces it is no router, and why;
    ``on_problem`` hears of each once, and ``on_error`` of what the kernel refuses."""

    def __init__(self, on_error: Callable[[str, OSError], None], on_problem: Callable[[str], None]) -> None:
        self._on_error, self._on_problem = on_error, on_problem
        self._subnets: dict[str, _Subnet] = {}
        self._nursery: trio.Nursery

    @property
    def problem(self) -> str:
        return "; ".join(subnet.problem for subnet in self._subnets.values() if subnet.problem)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be their router until cancelled; then tell them that it is none."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def arrange(self, local: str | None, interfaces: tuple[str, ...], mtu: int) -> None:
        """Be the router of the site of ``local`` on each of ``interfaces`` and no others; the first is subnet
        1. ``mtu`` is the tunnel's, in bytes. Hosts hear of what has changed. Without ``local`` be no router
        for now: hosts go on to hear so, and which prefixes are no more, then and when there is one again."""
        for interface in self._subnets.keys() - set(interfaces):
            self._subnets.pop(interface).running.cancel()
        for number, interface in enumerate(interfaces, 1):
            network = SIX_TO_FOUR + packed(local) + number.to_bytes(2) if local else None
            if interface in self._subnets:
                self._subnets[interface].renumber(network, mtu)
            elif network:
                subnet = _Subnet(interface, network, mtu, self._on_error, self._on_problem)
                self._subnets[interface] = subnet
                self._nursery.start_soon(subnet.run)


class _Subnet:
    """The hosts on ``interface``, whose prefix of 64 bits is ``network``, as 8 bytes; None while they have
    none."""

    def __init__(
        self,
        interface: str,
        network: bytes | None,
        mtu: int,
        on_error: Callable[[str, OSError], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self.running = trio.CancelScope()
        self.problem = ""
        self._interface = interface
        self._network, self._mtu = network, mtu
        self._complain, self._on_problem = Complaints(on_error), on_problem
        self._renumbered = trio.Event()

    def renumber(self, network: bytes | None, mtu: int) -> None:
        if (network, mtu) != (self._network, self._mtu):
            self._network, self._mtu = network, mtu
            self._renumbered.set()

    async def run(self) -> None:
        with self.running:
            while True:
                changes = Changes()
                try:
                    await self._be_router(Lan(self._interface, self._complain, self._tell))
                except* OSError as group:
                    error = first(group)
                    self._tell(f"advertise on {self._interface}: {error.strerror}")
                    with trio.move_on_after(_RETRY):
                        await _until_it_may_be_there(error, changes)
                finally:
                    changes.close()

    def _tell(self, problem: str) -> None:
        """Once of every one in a row."""
        if problem and problem != self.problem:
            self._on_problem(problem)
        self.problem = problem

    async def _be_router(self, lan: Lan) -> None:
        try:
            await lan.arrange(_own(self._network))
            advertiser = Advertiser(_prefixes(self._network), mtu=self._mtu, random=Random())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lan.run, advertiser)
                while True:
                    await self._follow(lan, advertiser)
        finally:
            with trio.CancelScope(shield=True):
                await self._close(lan)

    async def _follow(self, lan: Lan, advertiser: Advertiser) -> None:
        """Wait for another prefix, or another MTU, and tell."""
        await self._renumbered.wait()
        self._renumbered = trio.Event()
        prefixes, mtu = _prefixes(self._network), self._mtu
        await lan.arrange(_own(self._network))
        lan.send(advertiser.renumber(prefixes, mtu, trio.current_time()))

    async def _close(self, lan: Lan) -> None:
        try:
            await trio.to_thread.run_sync(lan.close)
        except OSError as error:
            self._complain(f"take back the addresses of {self._interface}", error)


async def _until_it_may_be_there(error: OSError, changes: Changes) -> None:
    """``changes`` were looked for from before ``error`` on."""
    if error.errno != errno.ENODEV:
        await trio.sleep_forever()
    await changes.wait()


def _own(network: bytes | None) -> tuple[IPv6Interface, ...]:
    """The router's address there, the first."""
    return (IPv6Interface((network + bytes(7) + b"\x01", 64)),) if network else ()


def _prefixes(network: bytes | None) -> tuple[Prefix, ...]:
    return ((network + bytes(8), 64),) if network else ()
