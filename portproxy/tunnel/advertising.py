"""The inside of a 6to4 router: the subnets of its site, on interfaces of this host (RFC 3056, 5.1)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Interface
from random import Random

import trio

from portproxy.tunnel.endpoint import first
from portproxy.tunnel.lan import Lan
from portproxy.tunnel.modes.advertiser import Advertiser
from portproxy.tunnel.modes.embedded import SIX_TO_FOUR, packed

_RETRY = 10.0
"""Seconds until an interface is tried again that is not there, or cannot be had."""


async def advertise(
    local: str, interfaces: tuple[str, ...], mtu: int, on_error: Callable[[str, OSError], None]
) -> None:
    """Be the router of the site of ``local`` on each of ``interfaces``, the first of which is subnet 1, until
    cancelled; then tell its hosts. ``mtu`` is the tunnel's, in bytes. ``on_error`` hears of what the kernel
    refuses."""
    async with trio.open_nursery() as nursery:
        for number, interface in enumerate(interfaces, 1):
            network = SIX_TO_FOUR + packed(local) + number.to_bytes(2)
            nursery.start_soon(_advertise_on, interface, network, mtu, on_error)


async def _advertise_on(
    interface: str, network: bytes, mtu: int, on_error: Callable[[str, OSError], None]
) -> None:
    said: int | None = None
    while True:
        try:
            await _be_router(Lan(interface, on_error), network, mtu)
        except* OSError as group:
            error = first(group)
            if error.errno != said:  # once for every one in a row
                on_error(f"advertise on {interface}", error)
            said = error.errno
        await trio.sleep(_RETRY)


async def _be_router(lan: Lan, network: bytes, mtu: int) -> None:
    own = IPv6Interface((network + bytes(7) + b"\x01", 64))
    try:
        await trio.to_thread.run_sync(lan.add_addresses, (own,))
        await lan.run(Advertiser(((network + bytes(8), 64),), mtu=mtu, random=Random()))
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lan.close)
