"""How many ICMP errors a tunnel may send (RFC 4443, 2.4 (f); RFC 1812, 4.3.2.8)."""

from __future__ import annotations

_RATE = 100.0
"""A second, in the long run."""
_BURST = 50.0


class Allowance:
    """A token bucket."""

    def __init__(self) -> None:
        self._left = _BURST
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more is allowed at ``now``."""
        self._left = min(_BURST, self._left + (now - self._at) * _RATE)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
