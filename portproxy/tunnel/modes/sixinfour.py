"""``v6v4tunnel``: IPv6 in IPv4 between two configured ends (RFC 4213, 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.allowance import Allowance
from portproxy.tunnel.modes.pathmtu import PathMtu
from portproxy.tunnel.packet import icmpv6, mss
from portproxy.tunnel.packet.ecn import decapsulated
from portproxy.tunnel.packet.icmpv6 import Unreachable
from portproxy.tunnel.reasons import Dropped

OVERHEAD = 20
"""Bytes of the outer header."""
LEAST = 1280
"""What every IPv6 link takes (RFC 8200, 5), in fragments of the outer protocol where need be."""
MOST = 65535 - OVERHEAD

_PATH_LEAST = 68
"""No IPv4 path is narrower (RFC 791, 3.2)."""
_HEADER = 40
_SPECIAL = bytes(10)
"""How sources begin that are ::/96 or ::ffff:0:0/96."""
_MAPPED = bytes(10) + b"\xff\xff"

# ICMP types and codes (RFC 792).
_DESTINATION_UNREACHABLE, _TIME_EXCEEDED = 3, 11
_FRAGMENTATION_NEEDED = 4


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
        self._path = None if mtu else PathMtu(link, _PATH_LEAST)
        self._clamp_mss = clamp_mss
        self._errors = Allowance()
        self.mtu = mtu or 0
        self._dont_fragment = False
        if self._path:
            self._follow(self._path)

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        if len(packet) < _HEADER or packet[0] >> 4 != 6:
            return (Drop(Dropped.NOT_IP),)
        if len(packet) > self.mtu:
            return (Drop(Dropped.TOO_BIG), *self._report(icmpv6.too_big(packet, self._own, self.mtu), now))
        if self._clamp_mss:
            packet = mss.clamp6(packet, self.mtu)
        # The two bits of ECN are copied, the rest of the TOS is 0 (RFC 4213, 3.5; RFC 6040, 4.1).
        return (SendWire(packet, self._peer, packet[1] >> 4 & 3, self._dont_fragment),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        if source.host != self._remote:
            return (Drop(Dropped.SOURCE),)
        if len(data) < _HEADER or data[0] >> 4 != 6:
            return (Drop(Dropped.NOT_IP),)
        length = _HEADER + (data[4] << 8 | data[5])
        if length > len(data):
            return (Drop(Dropped.TRUNCATED),)
        if length < len(data):
            data = data[:length]
        if data[8] == 0xFF or (data.startswith(_SPECIAL, 8) and _forbidden(data[8:24])):
            return (Drop(Dropped.INNER_SOURCE),)
        if source.tos & 3:
            ecn = decapsulated(data[1] >> 4, source.tos)
            if ecn is None:
                return (Drop(Dropped.ECN),)
            data = bytes((data[0], data[1] & 0xCF | ecn << 4)) + data[2:]
        if self._clamp_mss:
            data = mss.clamp6(data, self.mtu)
        return (SendTun(data),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        """RFC 4213, 3.4: what quotes enough is told to the inner source; what is too big narrows the path."""
        if error.type == _DESTINATION_UNREACHABLE and error.code == _FRAGMENTATION_NEEDED:
            return self._narrowed(error, now)
        if error.type == _DESTINATION_UNREACHABLE or error.type == _TIME_EXCEEDED:
            # Linux says no more either: why the tunnel does not carry is of no use to the inner source.
            return self._report(icmpv6.unreachable(error.quoted, self._own, Unreachable.ADDRESS), now)
        return ()

    def next_deadline(self) -> float:
        return self._path.next_deadline() if self._path else math.inf

    def tick(self, now: float) -> Sequence[Effect]:
        if self._path and self._path.tick(now):
            return self._follow(self._path)
        return ()

    def _follow(self, path: PathMtu) -> Sequence[Effect]:
        """RFC 4213, 3.2.2: below the least MTU of IPv6 the outer packet is left to be fragmented."""
        self.mtu = min(max(LEAST, path.mtu - OVERHEAD), MOST)
        self._dont_fragment = path.mtu - OVERHEAD >= LEAST
        return (SetMtu(self.mtu),)

    def _narrowed(self, error: WireError, now: float) -> Sequence[Effect]:
        if not self._path or not self._path.learn(error.mtu, now):
            return ()
        return self._follow(self._path)

    def _report(self, error: bytes | None, now: float) -> Sequence[Effect]:
        """An ICMPv6 error to an inner source, if one may be sent."""
        return (SendTun(error),) if error and self._errors.take(now) else ()


def _forbidden(source: bytes) -> bool:
    """RFC 4213, 3.6: ::1 and whatever embeds an IPv4 address by its first 96 bits; :: is let through."""
    return source.startswith(_MAPPED) or (source.startswith(bytes(12)) and any(source))
