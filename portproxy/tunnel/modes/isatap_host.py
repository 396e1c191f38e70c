"""``isatap``, as a host: addresses, prefixes and a default route, as its routers say (RFC 5214, 8.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from portproxy.tunnel.effects import Configure, Drop, Effect, SendWire, SetMtu
from portproxy.tunnel.modes.advertised import Advertised
from portproxy.tunnel.modes.embedded import NOWHERE, Here, literal
from portproxy.tunnel.modes.isatap import ALL_NODES, ALL_ROUTERS, Hop, Isatap, Route, is_neighbour
from portproxy.tunnel.packet import discovery
from portproxy.tunnel.packet.discovery import (
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
    RouterSolicitation,
)
from portproxy.tunnel.reasons import Dropped

# In seconds.
_AT_FIRST, _APART = 3, 4.0
"""How many solicitations go to a router at first, and their interval (RFC 4861, 10)."""
_LEAST = 120.0
"""Between any others: MinRouterSolicitInterval (RFC 5214, 8.3.4)."""
_MOST = 3600.0
"""However long it lasts, what a router says may have changed: PrlRefreshInterval (RFC 5214, 8.3.2)."""


@dataclass(slots=True)
class _Asking:
    """A router that is asked next ``at`` a time, and how many times more in quick succession."""

    at: float
    soon: int = _AT_FIRST


class IsatapHost(Isatap):
    """A host; what it is to know of its routers, it hears by ``know_routers``.

    Of routers that are equally preferred it takes the one that has been a router for longest.
    """

    _elsewhere: ClassVar[Dropped] = Dropped.NO_ROUTER

    def __init__(
        self,
        local: str,
        own: bytes,
        *,
        mtu: int,
        routes: Sequence[Route] = (),
        clamp_mss: bool = False,
        here: Here = NOWHERE,
    ) -> None:
        self._most = mtu
        self._advertised = Advertised()
        self._asking: dict[bytes, _Asking] = {}
        self._configured = Configure((), ())
        self._follow_at = math.inf
        super().__init__(local, own, mtu=mtu, routes=routes, clamp_mss=clamp_mss, here=here)

    def _know(self, here: Here) -> Here:
        """What was asked to be configured is this host's, whoever sets ``here`` knows of it yet or not."""
        self._given = here
        here = super()._know(here)
        return here._replace(own=here.own.union(address for address, _, _ in self._configured.addresses))

    @property
    def unanswered(self) -> bool:
        """Whether it has routers, and nothing that one of them has said holds."""
        return bool(self._routers) and self._configured == Configure((), ())

    def succeed(self, other: IsatapHost) -> None:
        """Go on by what ``other``, which had the same routers, was told."""
        self._advertised, self._configured = other._advertised, other._configured
        self.here = self._given
        self.mtu = self._advertised.mtu(self._most)
        self._changes_at = -math.inf

    def know_routers(self, literals: Sequence[str], now: float) -> Sequence[Effect]:
        """Ask those at once that are new; nothing holds any more that only those have said that are gone."""
        super().know_routers(literals, now)
        for router in self._asking.keys() - set(self._routers):
            self._advertised.forget(router)
        self._asking = {one: self._asking.get(one) or _Asking(now) for one in self._routers}
        return self.tick(now)

    def next_deadline(self) -> float:
        return min((self._follow_at, *(asking.at for asking in self._asking.values())))

    def tick(self, now: float) -> Sequence[Effect]:
        return (*self._solicit(now), *self._follow(now))

    def _solicit(self, now: float) -> list[SendWire]:
        sent = []
        for router, asking in self._asking.items():
            if now >= asking.at:
                asking.soon = max(0, asking.soon - 1)
                asking.at = now + (_APART if asking.soon else _LEAST)
                packet = discovery.build(self._link_local, ALL_ROUTERS, RouterSolicitation())
                sent.append(SendWire(packet, (literal(router), 0)))
        return sent

    def _discover(
        self, message: RouterSolicitation | RouterAdvertisement, packet: bytes, outer: bytes, now: float
    ) -> Sequence[Effect]:
        destination = packet[24:40]
        if isinstance(message, RouterSolicitation):
            return (Drop(Dropped.DISCOVERY),)
        if outer not in self._routers or not is_neighbour(packet[8:24], outer):
            return (Drop(Dropped.DISCOVERY),)
        if destination != ALL_NODES and not is_neighbour(destination, self._local):
            return (Drop(Dropped.DISCOVERY),)
        led = self._advertised.leads_everywhere(outer, now)
        self._advertised.hear(outer, message, self._most, now)
        gone = led and not self._advertised.leads_everywhere(outer, now)
        # One that stops may be about to start again.
        self._asking[outer] = _Asking(now + (_LEAST if gone else _lasts(message)), 0)
        return self._follow(now)

    def _follow(self, now: float) -> list[Effect]:
        """What is to be told where that is not what was told last."""
        effects: list[Effect] = []
        self._renew(now)
        self._follow_at = self._advertised.next_change(now)
        wanted = self._wanted(now)
        if wanted != self._configured:
            self._configured = wanted
            self.here = self._given
            effects.append(wanted)
        mtu = self._advertised.mtu(self._most)
        if mtu != self.mtu:
            self.mtu = mtu
            effects.append(SetMtu(mtu))
        return effects

    def _wanted(self, now: float) -> Configure:
        addresses = self._advertised.addresses(now)
        routes = {(prefix, length) for prefix, length, _ in self._advertised.routes(now)}
        return Configure(
            tuple((prefix + self._identifier, 64, deprecated) for prefix, deprecated in addresses),
            tuple(sorted(routes.union(self._advertised.on_link(now)))),
        )

    def _said(self, now: float) -> tuple[Iterable[Hop], float]:
        said = self._advertised
        on_link = [Hop(prefix, length) for prefix, length in said.on_link(now)]
        return [*on_link, *(Hop(*routed) for routed in said.routes(now))], said.next_change(now)


def _lasts(advertisement: RouterAdvertisement) -> float:
    """Seconds after which to ask anew, so that several solicitations may get lost before anything ends."""
    lifetimes: list[float] = [advertisement.lifetime]
    for option in advertisement.options:
        if isinstance(option, PrefixInformation):
            # One that is deprecated is meant to end.
            lifetimes.append(min(option.valid, option.preferred) if option.autonomous else option.valid)
        elif isinstance(option, RouteInformation):
            lifetimes.append(option.lifetime)
    shortest = min(filter(None, lifetimes), default=0.0)
    return max(_LEAST, min(shortest / 2, _MOST))
