"""``6to4``: IPv6 sites whose prefixes hold the IPv4 addresses of their routers (RFC 3056, RFC 3964)."""

from __future__ import annotations

from portproxy.tunnel.modes.automatic import Embedding
from portproxy.tunnel.modes.embedded import NOWHERE, SIX_TO_FOUR, Here, literal, packed, six_to_four
from portproxy.tunnel.reasons import Dropped


class SixToFour(Embedding):
    """The tunnel of the site behind the literal IPv4 address ``local``; ``own`` is the address of this end,
    packed, that errors are sent from. ``mtu`` is fixed, in bytes (RFC 3056, 4).

    ``relay`` is the literal IPv4 address that leads to the rest of IPv6, if one is known; whoever drives the
    mode sets it as it is resolved. As ``is_relay`` it leads there itself, and to no other site than its own
    from 6to4. ``here`` is set likewise. ``private`` admits IPv4 addresses that are not public.
    """

    def __init__(
        self,
        local: str,
        own: bytes,
        *,
        mtu: int,
        is_relay: bool = False,
        relay: str | None = None,
        private: bool = False,
        clamp_mss: bool = False,
        here: Here = NOWHERE,
    ) -> None:
        self._is_relay = is_relay
        self._relay = packed(relay) if relay else None
        super().__init__(local, own, mtu=mtu, private=private, clamp_mss=clamp_mss, here=here)

    @property
    def relay(self) -> str | None:
        return literal(self._relay) if self._relay else None

    @relay.setter
    def relay(self, relay: str | None) -> None:
        self._relay = packed(relay) if relay else None
        self._forget()

    def _know(self, here: Here) -> Here:
        here = super()._know(here)
        return here._replace(sites=here.sites | {SIX_TO_FOUR + self._local})

    def _next_hop(self, source: bytes, destination: bytes) -> bytes | Dropped:
        """RFC 3964, 5.1."""
        from_site, to_site = six_to_four(source), six_to_four(destination)
        if from_site != self._local and (from_site is not None or not self._is_relay):
            return Dropped.INNER_SOURCE
        if _never_inside(source):
            return Dropped.INNER_SOURCE
        if self.here.loops(source):
            return Dropped.LOOP
        if _never_inside(destination) or (to_site is None and self._is_relay):
            return Dropped.INNER_DESTINATION
        hop = to_site or self._relay
        if hop is None:
            return Dropped.NO_ROUTER
        if hop in self.here.addresses or self.here.loops(destination):
            return Dropped.LOOP
        if not self.here.admits(hop, self._private):
            return Dropped.INNER_DESTINATION if to_site else Dropped.NO_ROUTER
        return hop

    def _refused(self, outer: bytes, source: bytes, destination: bytes) -> Dropped | None:
        """RFC 3964, 5.2, and of 5.3.3 that nobody else sends what is from an address of this host's."""
        from_site, to_site = six_to_four(source), six_to_four(destination)
        if _never_inside(source) or (from_site is not None and from_site != outer):
            return Dropped.INNER_SOURCE
        if _never_inside(destination) or (to_site is not None and to_site != self._local):
            return Dropped.INNER_DESTINATION
        if from_site is None and to_site is None:
            return Dropped.INNER_SOURCE
        if to_site is None and not self._is_relay:
            return Dropped.INNER_DESTINATION
        if source in self.here.own or self.here.loops(source) or self.here.loops(destination):
            return Dropped.LOOP
        return None


def _never_inside(address: bytes) -> bool:
    """RFC 3964, 5.3.2: ::/16, fe80::/10, fec0::/10 and multicast."""
    return address[0] == 0xFF or address[:2] == bytes(2) or (address[0] == 0xFE and address[1] >= 0x80)
