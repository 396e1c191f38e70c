"""IPv6 packets back to back in a stream of bytes: each ends where its header says ([MS-IPHTTPS], 3.1.5)."""

from __future__ import annotations

from portproxy.tunnel.packet import PacketError
from portproxy.tunnel.packet.ipv6 import HEADER

_VERSION = 6


class Train:
    """Takes the packets out of what has arrived so far."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def cut(self, data: bytes) -> list[bytes]:
        """The packets that ``data`` completes. Raises PacketError for what is none; where another begins
        nobody can say then."""
        rest, packets = self._rest, []
        rest += data
        at = 0
        while len(rest) > at:
            if rest[at] >> 4 != _VERSION:
                raise PacketError(f"a packet of version {rest[at] >> 4} in a stream of IPv6 packets")
            end = at + HEADER + int.from_bytes(rest[at + 4 : at + 6])
            if len(rest) < at + HEADER or len(rest) < end:
                break
            packets.append(bytes(rest[at:end]))
            at = end
        del rest[:at]
        return packets
