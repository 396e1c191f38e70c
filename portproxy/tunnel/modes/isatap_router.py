"""``isatap``, as a router: tells each host of a site its prefixes as it asks for them (RFC 5214, 8.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from portproxy.tunnel.effects import Drop, Effect, SendWire
from portproxy.tunnel.modes.embedded import NOWHERE, Here, literal
from portproxy.tunnel.modes.isatap import ALL_ROUTERS, Hop, Isatap, Route, is_neighbour
from portproxy.tunnel.modes.telling import Limit
from portproxy.tunnel.packet import discovery
from portproxy.tunnel.packet.discovery import (
    Mtu,
    Preference,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
)
from portproxy.tunnel.reasons import Dropped

# In seconds.
ROUTER, VALID, PREFERRED = 1800, 86400, 14400
"""Lifetimes that are advertised unless others are asked for."""
_FORMER = 7200
"""How long a prefix is valid that is no more advertised: hosts go by nothing less (RFC 4862, 5.5.3 (e))."""

_HOP_LIMIT = 64
_MOST_FORMER = 16
"""More would not fit into the smallest MTU together with the others; hosts have been told of them before."""
_MOST = 1024
"""Hosts to tell of a change: as many neighbours as Linux keeps."""
_SOLICITATIONS, _INTERVAL = 3, 4.0
"""A host asks so often, so many seconds apart (RFC 4861, 10)."""

Prefix = tuple[bytes, int]


class _Solicitor(NamedTuple):
    """The link-local address of a host that goes ``until`` then by what it was told, and its limit."""

    source: bytes
    until: float
    answers: Limit


class IsatapRouter(Isatap):
    """A router that advertises ``prefixes``, packed and with their lengths, as on the link and to make
    addresses of. They are ``valid`` and ``preferred``, and it is a default router for ``lifetime``, all of it
    in seconds (RFC 4861, 6.2.1).

    Each host is answered as often as it is to ask: three times, and then every four seconds. So is who hears
    the answers to a host's questions that others forge. There is no limit to all hosts' answers together:
    forged solicitations would use it up, and an answer costs no more than any packet that is carried.
    """

    _elsewhere: ClassVar[Dropped] = Dropped.INNER_DESTINATION

    def __init__(
        self,
        local: str,
        own: bytes,
        *,
        mtu: int,
        prefixes: Sequence[Prefix],
        lifetime: int = ROUTER,
        valid: float = VALID,
        preferred: float = PREFERRED,
        routes: Sequence[Route] = (),
        clamp_mss: bool = False,
        here: Here = NOWHERE,
    ) -> None:
        super().__init__(local, own, mtu=mtu, routes=routes, clamp_mss=clamp_mss, here=here)
        self.prefixes = tuple(prefixes)
        self._former: dict[Prefix, float] = {}
        self._lifetime, self._valid, self._preferred = lifetime, valid, preferred
        self._solicitors: dict[bytes, _Solicitor] = {}

    def renumber(self, prefixes: Sequence[Prefix], now: float) -> Sequence[Effect]:
        """Advertise ``prefixes`` from now on, and tell those who have asked; what is none of them any more is
        deprecated, and for two hours still valid (RFC 4192, 2.5)."""
        former, self.prefixes = self.prefixes, tuple(prefixes)
        return self._replace(former, now)

    def succeed(self, other: IsatapRouter, now: float) -> Sequence[Effect]:
        """Go on in the place of ``other``, which had the same IPv4 address, likewise."""
        self._solicitors, self._former = dict(other._solicitors), other._former
        return self._replace(other.prefixes, now)

    def retire(self, now: float) -> Sequence[Effect]:
        """Be no router from now on, and tell those who have asked (RFC 4861, 6.2.5)."""
        self._lifetime = 0
        return self.renumber((), now)

    def _replace(self, former: Iterable[Prefix], now: float) -> Sequence[Effect]:
        ends = self._former | dict.fromkeys(former, now + min(_FORMER, self._valid))
        kept = [(one, end) for one, end in ends.items() if end > now and one not in self.prefixes]
        self._former = dict(kept[-_MOST_FORMER:])
        self._renew(now)
        return self._tell_all(now)

    def next_deadline(self) -> float:
        return math.inf

    def tick(self, now: float) -> Sequence[Effect]:
        return ()

    def _discover(
        self, message: RouterSolicitation | RouterAdvertisement, packet: bytes, outer: bytes, now: float
    ) -> Sequence[Effect]:
        source, destination = packet[8:24], packet[24:40]
        if isinstance(message, RouterAdvertisement) or not is_neighbour(source, outer):
            return (Drop(Dropped.DISCOVERY),)
        if destination != ALL_ROUTERS and not is_neighbour(destination, self._local):
            return (Drop(Dropped.DISCOVERY),)
        former = self._solicitors.get(outer)
        answers = former.answers if former else Limit(1 / _INTERVAL, _SOLICITATIONS)
        if not answers.allows(now):
            return (Drop(Dropped.DISCOVERY),)
        self._remember(outer, _Solicitor(source, now + max(self._lifetime, self._valid), answers))
        return (SendWire(self._advertisement(source, now), (literal(outer), 0)),)

    def _remember(self, outer: bytes, solicitor: _Solicitor) -> None:
        """In the place of who has not asked for longest."""
        self._solicitors.pop(outer, None)
        if len(self._solicitors) >= _MOST:
            del self._solicitors[next(iter(self._solicitors))]
        self._solicitors[outer] = solicitor

    def _tell_all(self, now: float) -> Sequence[Effect]:
        self._solicitors = {outer: one for outer, one in self._solicitors.items() if one.until > now}
        return [
            SendWire(self._advertisement(one.source, now), (literal(outer), 0))
            for outer, one in self._solicitors.items()
        ]

    def _advertisement(self, destination: bytes, now: float) -> bytes:
        options = [
            PrefixInformation(prefix, length, True, True, self._valid, self._preferred)
            for prefix, length in self.prefixes
        ]
        options += [
            PrefixInformation(prefix, length, True, True, until - now, 0.0)
            for (prefix, length), until in self._former.items()
            if until > now
        ]
        message = RouterAdvertisement(
            *(_HOP_LIMIT, False, False, Preference.MEDIUM, self._lifetime, 0, 0), (*options, Mtu(self.mtu))
        )
        return discovery.build(self._link_local, destination, message)

    def _said(self, now: float) -> tuple[Iterable[Hop], float]:
        former = {prefix: until for prefix, until in self._former.items() if until > now}
        return [Hop(*prefix) for prefix in (*self.prefixes, *former)], min(former.values(), default=math.inf)
