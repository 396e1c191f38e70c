"""``v4v6tunnel``: IPv4 in IPv6 between two configured ends (RFC 2473)."""

from __future__ import annotations

from collections.abc import Sequence

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.pathmtu import PathMtu
from portproxy.tunnel.modes.telling import Telling
from portproxy.tunnel.packet import icmpv4, icmpv6, ipv4, mss
from portproxy.tunnel.packet.checksum import checksum
from portproxy.tunnel.packet.ecn import decapsulated
from portproxy.tunnel.reasons import Dropped

OVERHEAD = 40
"""Bytes of the outer header."""
LIMIT_OPTION = 8
"""Bytes of the destination options header with the tunnel encapsulation limit (RFC 2473, 4.1.1)."""

_PATH_LEAST = 1280


class FourInSix:
    """A configured tunnel to ``remote``, a literal IPv6 address.

    ``own`` is the address of this end, packed, that errors are sent from. ``overhead`` is what is put before
    a packet, in bytes. ``mtu`` is fixed, in bytes of the inner packet; or else ``link`` is the MTU of the
    first hop, in bytes of the outer one, and the tunnel's follows the path. ``clamp_mss`` keeps TCP segments
    below the MTU.
    """

    def __init__(
        self,
        remote: str,
        own: bytes,
        *,
        mtu: int | None = None,
        link: int = 1500,
        overhead: int = OVERHEAD,
        clamp_mss: bool = False,
    ) -> None:
        self._peer = (remote, 0)
        self._remote = remote
        self._own = own
        self._overhead = overhead
        self._path = PathMtu(mtu + overhead if mtu else link, _PATH_LEAST, fixed=bool(mtu))
        self._clamp_mss = clamp_mss
        self._telling = Telling()
        self.mtu = self._path.mtu - overhead

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        if len(packet) < ipv4.HEADER or packet[0] >> 4 != 4:
            return (Drop(Dropped.NOT_IP),)
        # RFC 2473, 7.2 (b): without DF it is the outer packet that is fragmented.
        if len(packet) > self.mtu and packet[6] & 0x40:
            return (
                Drop(Dropped.TOO_BIG),
                *self._telling.tell(icmpv4.too_big(packet, self._own, self.mtu), now),
            )
        if self._clamp_mss:
            packet = mss.clamp4(packet, self.mtu)
        return (SendWire(packet, self._peer, packet[1] & 3),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        if source.host != self._remote:
            return (Drop(Dropped.SOURCE),)
        if len(data) < ipv4.HEADER or data[0] >> 4 != 4:
            return (Drop(Dropped.NOT_IP),)
        length = data[2] << 8 | data[3]
        if not ipv4.HEADER <= (data[0] & 0xF) * 4 <= length <= len(data):
            return (Drop(Dropped.TRUNCATED),)
        if length < len(data):
            data = data[:length]
        if not icmpv4.single(data[12:16]) and any(data[12:16]):
            return (Drop(Dropped.INNER_SOURCE),)
        if source.tos & 3:
            ecn = decapsulated(data[1], source.tos)
            if ecn is None:
                return (Drop(Dropped.ECN),)
            data = _with_tos(data, data[1] & 0xFC | ecn)
        if self._clamp_mss:
            data = mss.clamp4(data, self.mtu)
        return (SendTun(data),)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        """RFC 2473, 8: what the tunnel cannot do is told to the inner source, in its own protocol's words."""
        if error.destination != self._remote:
            return ()
        if error.type == icmpv6.PACKET_TOO_BIG:
            return self._narrowed(error, now)
        if error.type in (icmpv6.DESTINATION_UNREACHABLE, icmpv6.TIME_EXCEEDED, icmpv6.PARAMETER_PROBLEM):
            unreachable = icmpv4.unreachable(error.quoted, self._own, icmpv4.Unreachable.HOST)
            return self._telling.tell(unreachable, now)
        return ()

    def next_deadline(self) -> float:
        return self._path.next_deadline()

    def tick(self, now: float) -> Sequence[Effect]:
        return self._follow() if self._path.tick(now) else ()

    def _follow(self) -> Sequence[Effect]:
        self.mtu = self._path.mtu - self._overhead
        return (SetMtu(self.mtu),)

    def _narrowed(self, error: WireError, now: float) -> Sequence[Effect]:
        quoted = error.quoted
        lost = self._overhead + int.from_bytes(quoted[2:4]) if quoted[:1] and quoted[0] >> 4 == 4 else 0
        if not self._path.learn(error.mtu, lost, now):
            return ()
        followed = self._follow()
        if len(quoted) < ipv4.HEADER or not quoted[6] & 0x40:
            return followed
        return (*followed, *self._telling.tell(icmpv4.too_big(quoted, self._own, self.mtu), now))


def _with_tos(packet: bytes, tos: int) -> bytes:
    """RFC 1624, 3: the checksum follows the change; a wrong one, of which no outer one knows, stays wrong."""
    was = 0xFFFF - int.from_bytes(packet[10:12]), 0xFFFF - int.from_bytes(packet[:2]), packet[0] << 8 | tos
    sum_ = checksum(b"".join(word.to_bytes(2) for word in was))
    return packet[:1] + bytes((tos,)) + packet[2:10] + sum_.to_bytes(2) + packet[12:]
