"""ISATAP: a link over a site's IPv4, whose interface identifiers hold IPv4 addresses (RFC 5214). What hosts
and routers do alike."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from portproxy.tunnel.effects import Drop, Effect, Source
from portproxy.tunnel.modes.automatic import Embedding
from portproxy.tunnel.modes.embedded import NOWHERE, Here, isatap, packed, public
from portproxy.tunnel.modes.protocol41 import opened
from portproxy.tunnel.packet import PacketError, discovery
from portproxy.tunnel.packet.discovery import RouterAdvertisement, RouterSolicitation
from portproxy.tunnel.reasons import Dropped

LINK_LOCAL = b"\xfe\x80" + bytes(6)
ALL_NODES, ALL_ROUTERS = (b"\xff\x02" + bytes(13) + bytes((last,)) for last in (1, 2))
_MULTICAST = 0xFF
_TCP, _UDP = 6, 17

Route = tuple[bytes, int, bytes]
"""A prefix, packed, its length, and the ISATAP address of the router that leads there."""


class Hop(NamedTuple):
    """Where the first ``length`` bits of ``prefix`` are: behind the IPv4 address ``via``, or on the link."""

    prefix: bytes
    length: int
    via: bytes | None = None


class Hops:
    """The longest prefix counts, among equal ones the first."""

    def __init__(self, hops: Iterable[Hop]) -> None:
        ranked = sorted(hops, key=lambda hop: -hop.length)
        self._hops = [(128 - length, int.from_bytes(prefix), via) for prefix, length, via in ranked]

    def find(self, address: bytes) -> bytes | None:
        """The IPv4 address to send to what is for ``address``: b"" where ``address`` itself, which is on the
        link, holds none, and None where it is nowhere."""
        number = int.from_bytes(address)
        for shift, prefix, via in self._hops:
            if not (number ^ prefix) >> shift:
                return via if via is not None else isatap(address) or b""
        return None

    def on_link(self, address: bytes) -> bool:
        number = int.from_bytes(address)
        return any(via is None and not (number ^ prefix) >> shift for shift, prefix, via in self._hops)


class Isatap(Embedding):
    """The literal IPv4 address ``local`` on an ISATAP link. ``own``, packed, is what errors are sent from.
    ``mtu`` is fixed, in bytes. ``routes`` come before what routers say, but for longer prefixes.

    ``here`` may be set at any time.
    """

    _elsewhere: ClassVar[Dropped]
    """Why what is for nobody on the link, and in no route's prefix, goes nowhere."""

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
        self._identifier = identifier(packed(local))
        self._link_local = LINK_LOCAL + self._identifier
        self._routes = [Hop(prefix, length, via[12:16]) for prefix, length, via in routes]
        self._routers: tuple[bytes, ...] = ()
        self._hops = Hops(())
        self._changes_at = -math.inf
        super().__init__(local, own, mtu=mtu, private=True, clamp_mss=clamp_mss, here=here)

    @abstractmethod
    def _said(self, now: float) -> tuple[Iterable[Hop], float]:
        """What is on the link beside the link-local prefix, and what is behind routers by their own account;
        and when that changes by itself."""

    @abstractmethod
    def _discover(
        self, message: RouterSolicitation | RouterAdvertisement, packet: bytes, outer: bytes, now: float
    ) -> Sequence[Effect]:
        """``message``, in ``packet``, has come from ``outer``."""

    def _know(self, here: Here) -> Here:
        here = super()._know(here)
        return here._replace(own=here.own | {self._link_local})

    def know_routers(self, literals: Sequence[str], now: float) -> Sequence[Effect]:
        """The potential router list is ``literals``, IPv4 addresses (RFC 5214, 8.3.2)."""
        self._routers = tuple(filter(self._may_be_far, map(packed, literals)))
        self._forget()
        return ()

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        self._keep_up(now)
        return super().from_tun(packet, now)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        self._keep_up(now)
        if len(data) > 6 and data[6] not in (_TCP, _UDP):
            effects = self._hear(data, source, now)
            if effects is not None:
                return effects
        return super().from_wire(data, source, now)

    def _hear(self, data: bytes, source: Source, now: float) -> Sequence[Effect] | None:
        """None for what is no business between hosts and routers, or has not come from where it says."""
        packet, outer = opened(data, source.tos), packed(source.host)
        if isinstance(packet, Dropped) or not self._may_be_far(outer) or not self._sends(outer, packet[8:24]):
            return None
        try:
            message = discovery.parse(packet)
        except PacketError:
            return (Drop(Dropped.DISCOVERY),)
        if isinstance(message, RouterSolicitation | RouterAdvertisement):
            return self._discover(message, packet, outer, now)
        return None

    def _next_hop(self, source: bytes, destination: bytes) -> bytes | Dropped:
        if self.here.loops(source):
            return Dropped.LOOP
        if _is_link_local(destination) and destination[:8] != LINK_LOCAL:
            return Dropped.INNER_DESTINATION  # no router leads to what is on another link
        hop = self._hops.find(destination)
        if hop is None:
            return self._elsewhere
        if hop in self.here.addresses or self.here.loops(destination):
            return Dropped.LOOP
        return hop if hop and self.here.admits(hop, self._private) else Dropped.INNER_DESTINATION

    def _refused(self, outer: bytes, source: bytes, destination: bytes) -> Dropped | None:
        if not self._sends(outer, source):
            return Dropped.SOURCE
        if source in self.here.own or self.here.loops(source):
            return Dropped.LOOP
        if destination[0] == _MULTICAST:
            return Dropped.INNER_DESTINATION
        return Dropped.LOOP if self.here.loops(destination) else None

    def _sends(self, outer: bytes, source: bytes) -> bool:
        """Whether ``outer`` may send what is from ``source`` (RFC 5214, 7.3)."""
        return outer in self._routers or (isatap(source) == outer and self._hops.on_link(source))

    def _may_be_far(self, outer: bytes) -> bool:
        return outer not in self.here.addresses and self.here.admits(outer, self._private)

    def _keep_up(self, now: float) -> None:
        if now >= self._changes_at:
            self._renew(now)

    def _renew(self, now: float) -> None:
        said, self._changes_at = self._said(now)
        self._hops = Hops((Hop(LINK_LOCAL + bytes(8), 64), *self._routes, *said))
        self._forget()


def identifier(local: bytes) -> bytes:
    """The interface identifier of the packed IPv4 address ``local`` (RFC 5214, 6.1)."""
    return (b"\x02\x00\x5e\xfe" if public(local) else b"\x00\x00\x5e\xfe") + local


def is_neighbour(address: bytes, outer: bytes) -> bool:
    """Whether ``address`` is link-local, and its identifier, of either form, is that of ``outer``."""
    return address[:8] == LINK_LOCAL and isatap(address) == outer


def _is_link_local(address: bytes) -> bool:
    """fe80::/10 (RFC 4291, 2.5.6)."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
