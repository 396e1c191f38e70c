"""How large a packet may be that goes into a tunnel."""

from __future__ import annotations

import math

_FORGET = 600.0
"""Seconds until a path that was found to be narrow is tried again at its full width (RFC 1191, 6.3)."""
_PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)
"""What paths are mostly as wide as, for routers that do not say (RFC 1191, 7.1)."""


class PathMtu:
    """What the path to the peer takes, as far as anybody has said; or else ``fixed``, whatever they say.

    ``link`` is what the first hop takes, ``least`` what every path does. All in bytes of the outer packet.
    """

    def __init__(self, link: int, least: int, *, fixed: bool = False) -> None:
        self._link = link
        self._least = least
        self._forget_at = math.inf
        self.fixed = fixed
        self.mtu = link

    def learn(self, mtu: int, lost: int, now: float) -> bool:
        """A router that was sent ``lost`` bytes says that it takes ``mtu``; whether that is news.

        What raises it is none, and neither what cannot be so: less than every path takes, or enough for what
        was lost (RFC 5927, 7).
        """
        if self.fixed or not self._least <= mtu < min(self.mtu, lost):
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


def below(lost: int) -> int:
    """What to try where a router took less than ``lost`` bytes, and does not say how much (RFC 1191, 5).

    Of several that were on their way each gives the same, and not less than the one before.
    """
    return next((plateau for plateau in _PLATEAUS if plateau < lost), 0)
