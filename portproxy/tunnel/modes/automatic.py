"""``v4compat``: automatic tunnelling between hosts that are ::w.x.y.z (RFC 2893, 5). And what it does like
others that find the outer addresses in the inner ones."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.embedded import COMPATIBLE, NOWHERE, Here, compatible, literal, packed
from portproxy.tunnel.modes.protocol41 import FRAGMENTATION_NEEDED, HEADER, opened, told
from portproxy.tunnel.modes.telling import Telling
from portproxy.tunnel.packet import icmpv6, mss
from portproxy.tunnel.reasons import Dropped

_MULTICAST = 0xFF
_REMEMBERED = 1024
"""Pairs of addresses, for each direction, of which a tunnel knows what it has found out."""


class Embedding(ABC):
    """A tunnel that finds the outer destination of a packet in its inner addresses.

    ``local``, a literal IPv4 address, and ``own``, packed, are the addresses of this end; ``own`` is what
    errors are sent from. ``mtu`` is fixed, in bytes of the inner packet, and the outer one may be fragmented
    (RFC 4213, 3.2.1). ``private`` admits IPv4 addresses that are not public; that ``local`` is so only then,
    whoever makes the tunnel sees to. ``here`` may be set at any time.
    """

    _compatible: ClassVar[bool] = False
    """Whether sources in ::/96 may be inside."""

    def __init__(
        self, local: str, own: bytes, *, mtu: int, private: bool = False, clamp_mss: bool = False, here: Here
    ) -> None:
        self._local = packed(local)
        self._own = own
        self._private = private
        self._clamp_mss = clamp_mss
        self._telling = Telling()
        self.mtu = mtu
        # Each takes ten times as long as all the rest, and goes by nothing but its arguments and what
        # forgets it when it is set.
        self._way = lru_cache(_REMEMBERED)(self._find_way)
        self._verdict = lru_cache(_REMEMBERED)(self._judge)
        self.here = here

    @property
    def here(self) -> Here:
        """What is known of this host, to which ``local`` and ``own`` belong in any case."""
        return self._here

    @here.setter
    def here(self, here: Here) -> None:
        self._here = self._know(here)
        self._forget()

    def _know(self, here: Here) -> Here:
        return here._replace(addresses=here.addresses | {self._local}, own=here.own | {self._own})

    def _forget(self) -> None:
        """What the verdicts on addresses depend on has changed."""
        self._way.cache_clear()
        self._verdict.cache_clear()

    @abstractmethod
    def _next_hop(self, source: bytes, destination: bytes) -> bytes | Dropped:
        """The outer destination of a packet with these inner addresses, or why there is none. What is wrong
        with the source comes first: for some reasons it is told."""

    @abstractmethod
    def _refused(self, outer: bytes, source: bytes, destination: bytes) -> Dropped | None:
        """Why what came from ``outer``, which may be another end's, with these inner addresses may go no
        further."""

    def _find_way(self, addresses: bytes) -> tuple[str, int] | Dropped:
        hop = self._next_hop(addresses[:16], addresses[16:])
        return hop if isinstance(hop, Dropped) else (literal(hop), 0)

    def _judge(self, host: str, addresses: bytes) -> Dropped | None:
        outer = packed(host)
        if outer in self._here.addresses or not self._here.admits(outer, self._private):
            return Dropped.SOURCE
        return self._refused(outer, addresses[:16], addresses[16:])

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        if len(packet) < HEADER or packet[0] >> 4 != 6:
            return (Drop(Dropped.NOT_IP),)
        if packet[24] == _MULTICAST:
            return (Drop(Dropped.MULTICAST),)
        way = self._way(packet[8:40])
        if isinstance(way, Dropped):
            return (Drop(way), *self._no_way(way, packet, now))
        if len(packet) > self.mtu:
            too_big = icmpv6.too_big(packet, self._own, self.mtu)
            return (Drop(Dropped.TOO_BIG), *self._telling.tell(too_big, now))
        if self._clamp_mss:
            packet = mss.clamp6(packet, self.mtu)
        return (SendWire(packet, way, packet[1] >> 4 & 3),)

    def _no_way(self, why: Dropped, packet: bytes, now: float) -> Sequence[Effect]:
        """Who sent it without ill intent learns at once that there is no way."""
        if why is not Dropped.NO_ROUTER and why is not Dropped.INNER_DESTINATION:
            return ()
        return self._telling.tell(icmpv6.unreachable(packet, self._own, icmpv6.Unreachable.NO_ROUTE), now)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        packet = opened(data, source.tos, compatible=self._compatible)
        if isinstance(packet, Dropped):
            return (Drop(packet),)
        if refused := self._verdict(source.host, packet[8:40]):
            return (Drop(refused),)
        if self._clamp_mss:
            packet = mss.clamp6(packet, self.mtu)
        return (SendTun(packet),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        """RFC 4213, 3.4, where it is about what this tunnel sends, of which nothing is too large to go in
        fragments."""
        quoted = error.quoted
        if len(quoted) < HEADER or (error.type, error.code) == FRAGMENTATION_NEEDED:
            return ()
        if self._way(quoted[8:40]) != (error.destination, 0):
            return ()
        return self._telling.tell(told(error.type, quoted, self._own), now)

    def next_deadline(self) -> float:
        return math.inf

    def tick(self, now: float) -> Sequence[Effect]:
        return ()


class Automatic(Embedding):
    """The tunnel of the one host that has ``local``, a literal IPv4 address: it is ::``local``, and reaches
    every other such host directly. ``mtu`` is fixed, in bytes.

    Only ::w.x.y.z is believed as an inner source, and only from w.x.y.z. A router once was to tunnel for
    others to such hosts too (RFC 2893, 5), which nothing tells from a stranger who forges their addresses;
    and there are none left since RFC 4213 and RFC 4291 (2.5.5.1) have done away with it.

    ``private`` admits IPv4 addresses that are not public. ``here`` may be set at any time.
    """

    _compatible: ClassVar[bool] = True

    def __init__(
        self, local: str, *, mtu: int, private: bool = False, clamp_mss: bool = False, here: Here = NOWHERE
    ) -> None:
        own = COMPATIBLE + packed(local)
        super().__init__(local, own, mtu=mtu, private=private, clamp_mss=clamp_mss, here=here)

    def _next_hop(self, source: bytes, destination: bytes) -> bytes | Dropped:
        """RFC 2893, 5.3 and 5.5."""
        if source != self._own:
            return Dropped.INNER_SOURCE
        hop = compatible(destination)
        if hop in self.here.addresses:
            return Dropped.LOOP
        if hop is None or not self.here.admits(hop, self._private):
            return Dropped.INNER_DESTINATION
        return hop

    def _refused(self, outer: bytes, source: bytes, destination: bytes) -> Dropped | None:
        if compatible(source) != outer:
            return Dropped.INNER_SOURCE
        return None if destination == self._own else Dropped.INNER_DESTINATION
