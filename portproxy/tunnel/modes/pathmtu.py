"""How large a packet may be that goes into a tunnel."""

from __future__ import annotations

import math

_FORGET = 600.0
"""Seconds until a path that was found to be narrow is tried again at its full width (RFC 1191, 6.3)."""


class PathMtu:
    """What the path to the peer takes, as far as anybody has said.

    ``link`` is what the first hop takes. All in bytes of the outer packet.
    """

    def __init__(self, link: int, least: int) -> None:
        self._link = link
        self._least = least
        self._forget_at = math.inf
        self.mtu = link

    def learn(self, mtu: int, now: float) -> bool:
        """A router says that it takes ``mtu``; whether that is news. What raises it, or is absurd, is not."""
        if not self._least <= mtu < self.mtu:
            return False
        self.mtu = mtu
        self._forget_at = now + _FORGET
        return True

    def next_deadline(self) -> float:
        return self._forget_at

    def tick(self, now: float) -> bool:
        """Whether what was learned is too old to go by."""
        if now < self._forget_at:
            return False
        self.mtu, self._forget_at = self._link, math.inf
        return True
