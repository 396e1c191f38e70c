"""The encapsulation modes. Pure: packets, errors and the time go in, effects come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from portproxy.tunnel.effects import Effect, Source


class WireError(NamedTuple):
    """An ICMP error about something that was sent: its ``type`` and ``code``, the ``mtu`` that it gives (0
    where it gives none), who sent it, as much of the inner packet as it quotes, and the literal address that
    it was sent to."""

    type: int
    code: int
    mtu: int
    sender: str
    quoted: bytes
    destination: str


class Mode(Protocol):
    """One tunnel. ``now`` is in seconds of any one clock that never goes back."""

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        """This host's IP layer routes ``packet`` into the tunnel."""

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        """``data`` arrived, without the outer header, whole."""

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        """The network reports ``error``; nothing where that is about another tunnel's packet."""

    def next_deadline(self) -> float:
        """When ``tick`` has something to do; infinity where it has not."""

    def tick(self, now: float) -> Sequence[Effect]:
        """The deadline has come."""
