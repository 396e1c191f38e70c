"""What routers have advertised, for as long as it lasts (RFC 4861, 6.3.4; RFC 4862, 5.5.3; RFC 4191, 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from portproxy.tunnel.packet.discovery import (
    Mtu,
    Preference,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
)

_TWO_HOURS = 7200.0
"""Nobody may make an address's time shorter than that by an advertisement that could be forged."""
_MOST = 16
"""Prefixes on the link, addresses, and routes for each router: Linux makes as many addresses."""
_EVERYWHERE = bytes(16)
_SHORTEST = 16
"""Bits of a prefix that is not everywhere: 6to4's. A shorter one would be there to catch what has a native
route."""

_Prefix = tuple[bytes, int]


class Routed(NamedTuple):
    """The first ``length`` bits of ``prefix`` are behind ``router``."""

    prefix: bytes
    length: int
    router: bytes


@dataclass(slots=True)
class _OnLink:
    until: float
    routers: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class _Address:
    valid_until: float
    preferred_until: float
    routers: set[bytes] = field(default_factory=set)


class _Way(NamedTuple):
    preference: Preference
    until: float


class Advertised:
    """One link's. Whoever hears an advertisement makes sure first that it may be believed, and says which
    router it is from by any bytes of its own."""

    def __init__(self) -> None:
        self._on_link: dict[_Prefix, _OnLink] = {}
        self._addresses: dict[bytes, _Address] = {}
        self._ways: dict[Routed, _Way] = {}
        self._mtus: dict[bytes, int] = {}

    # What holds.

    def on_link(self, now: float) -> list[_Prefix]:
        return sorted(prefix for prefix, held in self._on_link.items() if held.until > now)

    def addresses(self, now: float) -> list[tuple[bytes, bool]]:
        """Prefixes of 64 bits, as 8 bytes, to make addresses of, and whether these are deprecated."""
        return sorted(
            (prefix, held.preferred_until <= now)
            for prefix, held in self._addresses.items()
            if held.valid_until > now
        )

    def routes(self, now: float) -> list[Routed]:
        """The preferred ones first, among equals the one that has lived longest: what is answered again does
        not move packets from one router to another."""
        living = [(routed, way) for routed, way in self._ways.items() if way.until > now]
        return [routed for routed, _ in sorted(living, key=lambda one: -one[1].preference)]

    def leads_everywhere(self, router: bytes, now: float) -> bool:
        """Whether ``router`` is a default router."""
        way = self._ways.get(Routed(_EVERYWHERE, 0, router))
        return way is not None and way.until > now

    def mtu(self, most: int) -> int:
        """What the link takes, in bytes; ``most`` where nobody says that it is less."""
        return min((most, *self._mtus.values()))

    def next_change(self, now: float) -> float:
        """When something of it will hold no longer; infinity for never."""
        moments = [held.until for held in self._on_link.values()]
        moments += [way.until for way in self._ways.values()]
        for held in self._addresses.values():
            moments += (held.valid_until, held.preferred_until)
        return min((moment for moment in moments if moment > now), default=math.inf)

    # What changes it.

    def hear(self, router: bytes, advertisement: RouterAdvertisement, most: int, now: float) -> None:
        """``router`` says ``advertisement``; ``most`` is the MTU that the link cannot go beyond."""
        self.expire(now)
        self._lead(Routed(_EVERYWHERE, 0, router), advertisement.preference, advertisement.lifetime, now)
        for option in advertisement.options:
            if isinstance(option, PrefixInformation) and _may_be(option):
                if option.on_link:
                    self._put_on_link(router, option, now)
                if option.autonomous:
                    self._make_address(router, option, now)
            elif isinstance(option, RouteInformation) and (_may_be(option) or option.length == 0):
                # RFC 4191, 3.1: one of length 0 comes after the header, and counts instead.
                routed = Routed(option.prefix, option.length, router)
                self._lead(routed, option.preference, option.lifetime, now)
            elif isinstance(option, Mtu) and 1280 <= option.mtu <= most:
                self._mtus[router] = option.mtu

    def forget(self, router: bytes) -> None:
        """``router`` is none any more: nor does anything hold that only it has said."""
        self._mtus.pop(router, None)
        self._ways = {routed: way for routed, way in self._ways.items() if routed.router != router}
        for prefix in self._on_link.values():
            prefix.routers.discard(router)
        for address in self._addresses.values():
            address.routers.discard(router)
        self._on_link = {prefix: held for prefix, held in self._on_link.items() if held.routers}
        self._addresses = {prefix: held for prefix, held in self._addresses.items() if held.routers}

    def expire(self, now: float) -> None:
        """Forget what holds no longer."""
        self._on_link = {prefix: held for prefix, held in self._on_link.items() if held.until > now}
        self._addresses = {prefix: held for prefix, held in self._addresses.items() if held.valid_until > now}
        self._ways = {routed: way for routed, way in self._ways.items() if way.until > now}

    def _lead(self, routed: Routed, preference: Preference, lifetime: float, now: float) -> None:
        if not lifetime:
            self._ways.pop(routed, None)
        elif routed in self._ways or sum(one.router == routed.router for one in self._ways) < _MOST:
            self._ways[routed] = _Way(preference, now + lifetime)

    def _put_on_link(self, router: bytes, option: PrefixInformation, now: float) -> None:
        """RFC 4861, 6.3.4."""
        prefix = option.prefix, option.length
        if not option.valid:
            self._on_link.pop(prefix, None)
        elif prefix in self._on_link or len(self._on_link) < _MOST:
            held = self._on_link.setdefault(prefix, _OnLink(0.0))
            held.until = now + option.valid
            held.routers.add(router)

    def _make_address(self, router: bytes, option: PrefixInformation, now: float) -> None:
        """RFC 4862, 5.5.3, (c) to (e)."""
        if option.preferred > option.valid or option.length != 64:
            return
        held = self._addresses.get(option.prefix[:8])
        if held is None:
            if option.valid and len(self._addresses) < _MOST:
                made = _Address(now + option.valid, now + option.preferred, {router})
                self._addresses[option.prefix[:8]] = made
            return
        held.routers.add(router)
        held.preferred_until = now + option.preferred
        remaining = held.valid_until - now
        if option.valid > _TWO_HOURS or option.valid > remaining:
            held.valid_until = now + option.valid
        elif remaining > _TWO_HOURS:
            held.valid_until = now + _TWO_HOURS


def _may_be(option: PrefixInformation | RouteInformation) -> bool:
    """Not link-local, of which everybody has one, nor multicast, nor a great part of the world."""
    first, second = option.prefix[:2]
    return option.length >= _SHORTEST and first != 0xFF and (first != 0xFE or second & 0xC0 != 0x80)
