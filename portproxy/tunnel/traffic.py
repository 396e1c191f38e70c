"""What one tunnel has carried, and what it has not."""

from __future__ import annotations

from collections.abc import Mapping

from portproxy.tunnel.reasons import Dropped


class Traffic:
    """Packets and bytes, of the inner packets: ``out`` have left by the wire, ``in`` have arrived by it and
    were delivered. ICMP errors that a tunnel makes for its own host's side are neither."""

    __slots__ = ("_drops", "bytes_in", "bytes_out", "packets_in", "packets_out")

    def __init__(self) -> None:
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0
        self._drops = [0] * len(Dropped)

    def count_in(self, packets: int, length: int) -> None:
        self.packets_in += packets
        self.bytes_in += length

    def count_out(self, packets: int, length: int) -> None:
        self.packets_out += packets
        self.bytes_out += length

    def drop(self, reason: Dropped, packets: int = 1) -> None:
        self._drops[reason.slot] += packets

    @property
    def drops(self) -> Mapping[Dropped, int]:
        return dict(zip(Dropped, self._drops, strict=True))
