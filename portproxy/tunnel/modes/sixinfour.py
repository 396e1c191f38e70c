"""``v6v4tunnel``: IPv6 in IPv4 between two configured ends (RFC 4213, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.embedded import NOWHERE, Here
from portproxy.tunnel.modes.pathmtu import PathMtu, below
from portproxy.tunnel.modes.protocol41 import (
    FRAGMENTATION_NEEDED,
    HEADER,
    LEAST,
    LEAST_PATH,
    MOST,
    OVERHEAD,
    may_speak_of_routers,
    opened,
    told,
)
from portproxy.tunnel.modes.telling import Telling
from portproxy.tunnel.packet import icmpv6, mss
from portproxy.tunnel.reasons import Dropped

_PLAIN = frozenset({6, 17, 50})
"""TCP, UDP and ESP, one of which nearly every packet carries: behind them there is nothing to look for."""
_LINK_LOCAL = b"\xfe\x80"
_REMEMBERED = 1024
"""Pairs of addresses, for each direction, of which a tunnel knows whether they loop."""


class SixInFour:
    """A configured tunnel to ``remote``, a literal IPv4 address.

    ``own`` is the address of this end, packed, that errors are sent from.
    ``mtu`` is fixed, in bytes of the inner packet; or else ``link`` is the MTU of the first hop, in bytes of
    the outer one, and the tunnel's follows the path. ``clamp_mss`` keeps TCP segments below the MTU.
    ``here`` may be set at any time.
    """

    def __init__(
        self,
        remote: str,
        own: bytes,
        *,
        mtu: int | None = None,
        link: int = 1500,
        clamp_mss: bool = False,
        here: Here = NOWHERE,
    ) -> None:
        self._peer = (remote, 0)
        self._remote = remote
        self._own = own
        self._path = PathMtu(mtu + OVERHEAD if mtu else link, LEAST_PATH, fixed=bool(mtu))
        self._clamp_mss = clamp_mss
        self._telling = Telling()
        self.mtu = 0
        self._dont_fragment = False
        self._follow()
        self._loops_out = lru_cache(_REMEMBERED)(self._would_loop)
        self._loops_in = lru_cache(_REMEMBERED)(self._has_looped)
        self.here = here

    @property
    def here(self) -> Here:
        """What is known of this host, to which ``own`` belongs in any case."""
        return self._here

    @here.setter
    def here(self, here: Here) -> None:
        self._here = here._replace(own=here.own | {self._own})
        self._loops_out.cache_clear()
        self._loops_in.cache_clear()
        self._may_loop = bool(here.addresses)
        # Mostly it is the same pair again: to look it up takes four times as long as to see that.
        self._sent = self._received = b""

    def _would_loop(self, addresses: bytes) -> bool:
        """RFC 6324, 3.3, for the inner ``addresses``, source and destination."""
        return self._here.loops(addresses[:16]) or self._here.loops(addresses[16:])

    def _has_looped(self, addresses: bytes) -> bool:
        """Likewise; and nobody else sends from an address of this host's. Link-local ones the other end may
        have as well."""
        ours = addresses[:16] in self._here.own and not addresses.startswith(_LINK_LOCAL)
        return ours or self._would_loop(addresses)

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        size = len(packet)
        if size < HEADER or packet[0] >> 4 != 6:
            return (Drop(Dropped.NOT_IP),)
        if self._may_loop and (addresses := packet[8:40]) != self._sent:
            if self._loops_out(addresses):
                return (Drop(Dropped.LOOP),)
            self._sent = addresses
        if size > self.mtu:
            return (
                Drop(Dropped.TOO_BIG),
                *self._telling.tell(icmpv6.too_big(packet, self._own, self.mtu), now),
            )
        if self._clamp_mss:
            packet = mss.clamp6(packet, self.mtu)
        # The two bits of ECN are copied, the rest of the TOS is 0 (RFC 4213, 3.5; RFC 6040, 4.1).
        return (SendWire(packet, self._peer, packet[1] >> 4 & 3, self._dont_fragment),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        if source.host != self._remote:
            return (Drop(Dropped.SOURCE),)
        packet = opened(data, source.tos)
        if not isinstance(packet, bytes):  # to ask for the enum takes five times as long
            return (Drop(packet),)
        # The kernel would believe any router, in whoever's name it comes.
        if packet[6] not in _PLAIN and may_speak_of_routers(packet):
            return (Drop(Dropped.DISCOVERY),)
        if self._may_loop and (addresses := packet[8:40]) != self._received:
            if self._loops_in(addresses):
                return (Drop(Dropped.LOOP),)
            self._received = addresses
        if self._clamp_mss:
            packet = mss.clamp6(packet, self.mtu)
        return (SendTun(packet),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        """RFC 4213, 3.4: what quotes enough is told to the inner source; what is too big narrows the path."""
        if error.destination != self._remote:
            return ()
        if (error.type, error.code) == FRAGMENTATION_NEEDED:
            lost = _outer_length(error.quoted)
            learned = self._path.learn(error.mtu or below(lost), lost, now)
            return self._follow() if learned else ()
        return self._telling.tell(told(error.type, error.quoted, self._own), now)

    def next_deadline(self) -> float:
        return self._path.next_deadline()

    def tick(self, now: float) -> Sequence[Effect]:
        return self._follow() if self._path.tick(now) else ()

    def _follow(self) -> Sequence[Effect]:
        """RFC 4213, 3.2: an MTU that is fixed says nothing of the path, and below the least of IPv6 the outer
        packet is left to be fragmented."""
        inner = self._path.mtu - OVERHEAD
        self.mtu = min(max(LEAST, inner), MOST)
        self._dont_fragment = inner >= LEAST and not self._path.fixed
        return (SetMtu(self.mtu),)


def _outer_length(quoted: bytes) -> int:
    """Bytes of the outer packet whose payload begins with ``quoted``, 0 where that does not say.

    The least that an error quotes is enough (RFC 792: 64 bits)."""
    if len(quoted) < 8 or quoted[0] >> 4 != 6:
        return 0
    return OVERHEAD + HEADER + int.from_bytes(quoted[4:6])
