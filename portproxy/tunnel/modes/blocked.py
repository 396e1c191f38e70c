"""A tunnel whose way leads back into it: nothing goes in (RFC 2473, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from portproxy.tunnel.effects import Drop, Effect, Source
from portproxy.tunnel.modes import Mode, WireError
from portproxy.tunnel.reasons import Dropped


class Blocked:
    """``mode``, as long as what it sends would come back to it, larger each time, and never end."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def from_tun(self, packet: bytes, now: float) -> Sequence[Effect]:
        return (Drop(Dropped.LOOP),)

    def from_wire(self, data: bytes, source: Source, now: float) -> Sequence[Effect]:
        return self._mode.from_wire(data, source, now)

    def from_error(self, error: WireError, now: float) -> Sequence[Effect]:
        return self._mode.from_error(error, now)

    def next_deadline(self) -> float:
        return self._mode.next_deadline()

    def tick(self, now: float) -> Sequence[Effect]:
        return self._mode.tick(now)
