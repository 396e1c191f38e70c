"""What a router tells the hosts of a link: its prefixes, and that it leads elsewhere (RFC 4861, 6.2; of a
6to4 site, RFC 3056, 5.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from portproxy.tunnel.packet import PacketError, discovery
from portproxy.tunnel.packet.discovery import (
    Mtu,
    Option,
    Preference,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
)

# In seconds.
INTERVAL = 200.0, 600.0
"""Between advertisements that nobody has asked for: MinRtrAdvInterval and MaxRtrAdvInterval."""
ROUTER = 1800
"""AdvDefaultLifetime: two advertisements in a row may get lost."""
VALID, PREFERRED = 5400, 2700
"""RFC 9096's limits for a prefix that can change without notice. A router that loses power together with its
IPv4 address never gets to deprecate the old prefix: for so long do hosts then go by it."""
_FORMER = 7200
"""How long a prefix is valid that is no more advertised: hosts go by nothing less (RFC 4862, 5.5.3 (e))."""

# RFC 4861, 10.
_AT_FIRST, _AT_FIRST_APART = 3, 16.0
_AT_LAST = 3
_LEAST_APART = 3.0
_MOST_DELAY = 0.5

_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_HOP_LIMIT = 64
_MOST_FORMER = 16
"""More would not fit into the smallest MTU together with the others; hosts have been told of them before."""

Prefix = tuple[bytes, int]


class Random(Protocol):
    """Where chance comes from, as random.Random is."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number from ``a`` to ``b``."""


class Advertiser:
    """Advertises ``prefixes``, packed and with their lengths, as on the link and to make addresses of.

    They are ``valid`` and ``preferred``, and the router is a default router for ``lifetime``, unless it has
    no prefix. ``mtu`` is the tunnel's, in bytes: a host that knows it asks the other end of a connection for
    segments that fit, and neither has to wait for errors, which get lost. Advertisements that nobody asked
    for are ``interval`` apart, from the least to the most, by ``random``. All times are in seconds.

    Packets that it returns are whole ones, to be sent at once. Answers go to all nodes: hosts that ask at a
    time, as they do when power returns, get one together, those without an address too, and however many
    solicitations come, the link carries no more than an answer in three seconds.
    """

    def __init__(
        self,
        prefixes: Sequence[Prefix],
        *,
        mtu: int,
        random: Random,
        interval: tuple[float, float] = INTERVAL,
        lifetime: int = ROUTER,
        valid: float = VALID,
        preferred: float = PREFERRED,
    ) -> None:
        self._prefixes = tuple(prefixes)
        self._former: dict[Prefix, float] = {}
        self._mtu = mtu
        self._random = random
        self._interval = interval
        self._lifetime, self._valid, self._preferred = lifetime, valid, preferred
        self._link_local: bytes | None = None
        self._link_layer: bytes | None = None
        self._soon = 0
        self._last, self._next = -math.inf, math.inf

    def begin(self, link_local: bytes, link_layer: bytes | None, now: float) -> Sequence[bytes]:
        """Advertise from the address ``link_local``, packed, and tell the link-layer address that it has, if
        there is one. Before, nothing is sent. Once more where the interface is back, or has others."""
        self._link_local, self._link_layer = link_local, link_layer
        return self._hurry(now)

    def renumber(self, prefixes: Sequence[Prefix], mtu: int, now: float) -> Sequence[bytes]:
        """Advertise ``prefixes`` and ``mtu`` from now on; what is none of them any more is deprecated, and
        advertised as such until it is valid no longer (RFC 7084, 4.3, L-13)."""
        if (tuple(prefixes), mtu) == (self._prefixes, self._mtu):
            return ()
        self._replace(prefixes, now)
        self._mtu = mtu
        return self._hurry(now)

    def retire(self, now: float) -> Sequence[bytes]:
        """Be no router from now on, and deprecate every prefix (RFC 4861, 6.2.5). The same several times:
        what gets lost is not sent again."""
        if self._link_local is None:
            return ()
        self._replace((), now)
        final = self._advertisement(self._link_local, now)
        self._link_local = None
        return (final,) * _AT_LAST

    def solicited(self, packet: bytes, now: float) -> bool:
        """``packet`` arrived, a whole one with its IPv6 header; whether it is a solicitation that ``tick`` is
        going to answer. Where an advertisement is due sooner anyhow, that is the answer (RFC 4861, 6.2.6)."""
        try:
            message = discovery.parse(packet)
        except PacketError:
            return False
        if not isinstance(message, RouterSolicitation) or self._link_local is None:
            return False
        self._next = min(self._next, self._soonest(now) + self._random.uniform(0.0, _MOST_DELAY))
        return True

    def next_deadline(self) -> float:
        """When ``tick`` has something to do; infinity where it has not."""
        return math.inf if self._link_local is None else self._next

    def tick(self, now: float) -> Sequence[bytes]:
        """The deadline has come."""
        if self._link_local is None or now < self._next:
            return ()
        wait = self._random.uniform(*self._interval)
        self._soon = max(0, self._soon - 1)
        self._last, self._next = now, now + (min(wait, _AT_FIRST_APART) if self._soon else wait)
        return (self._advertisement(self._link_local, now),)

    def _hurry(self, now: float) -> Sequence[bytes]:
        """The next advertisements follow each other as they do at first (RFC 4861, 6.2.4)."""
        self._soon = _AT_FIRST
        self._next = self._soonest(now)
        return self.tick(now)

    def _soonest(self, now: float) -> float:
        return max(now, self._last + _LEAST_APART)

    def _replace(self, prefixes: Sequence[Prefix], now: float) -> None:
        former = self._former | dict.fromkeys(self._prefixes, now + min(_FORMER, self._valid))
        kept = [(one, until) for one, until in former.items() if one not in prefixes]
        self._former = dict(kept[-_MOST_FORMER:])
        self._prefixes = tuple(prefixes)

    def _advertisement(self, source: bytes, now: float) -> bytes:
        options: list[Option] = [SourceLinkLayerAddress(self._link_layer)] if self._link_layer else []
        options += [
            PrefixInformation(*one, True, True, self._valid, self._preferred) for one in self._prefixes
        ]
        options += [
            PrefixInformation(*one, True, True, until - now, 0.0)
            for one, until in self._former.items()
            if until > now
        ]
        # RFC 7084, 4.1, G-4: without a prefix it leads nowhere. A router that is there besides it, which
        # needs no tunnel, is the better one (RFC 4191, 2.1).
        lifetime = self._lifetime if self._prefixes else 0
        message = RouterAdvertisement(
            *(_HOP_LIMIT, False, False, Preference.LOW, lifetime, 0, 0), (*options, Mtu(self._mtu))
        )
        return discovery.build(source, _ALL_NODES, message)
