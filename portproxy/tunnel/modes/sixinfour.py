"""``v6v4tunnel``: IPv6 in IPv4 between two configured ends (RFC 4213, 3)."""

from __future__ import annotations

from collections.abc import Sequence

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.pathmtu import PathMtu
from portproxy.tunnel.modes.protocol41 import (
    FRAGMENTATION_NEEDED,
    HEADER,
    LEAST,
    LEAST_PATH,
    MOST,
    OVERHEAD,
    opened,
    told,
)
from portproxy.tunnel.modes.telling import Telling
from portproxy.tunnel.packet import icmpv6, mss
from portproxy.tunnel.reasons import Dropped


class SixInFour:
    """A configured tunnel to ``remote``, a literal IPv4 address.

    ``own`` is the address of this end, packed, that errors are sent from.
    ``mtu`` is fixed, in bytes of the inner packet; or else ``link`` is the MTU of the first hop, in bytes of
    the outer one, and the tunnel's follows the path. ``clamp_mss`` keeps TCP segments below the MTU.
    """

    def __init__(
        self,
        remote: str,
        own: bytes,
        *,
        mtu: int | None = None,
        link: int = 1500,
        clamp_mss: bool = False,
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

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        if len(packet) < HEADER or packet[0] >> 4 != 6:
            return (Drop(Dropped.NOT_IP),)
        if len(packet) > self.mtu:
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
        if isinstance(packet, Dropped):
            return (Drop(packet),)
        if self._clamp_mss:
            packet = mss.clamp6(packet, self.mtu)
        return (SendTun(packet),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        """RFC 4213, 3.4: what quotes enough is told to the inner source; what is too big narrows the path."""
        if error.destination != self._remote:
            return ()
        if (error.type, error.code) == FRAGMENTATION_NEEDED:
            learned = self._path.learn(error.mtu or self._path.below(), now)
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
