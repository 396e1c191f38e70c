"""Telling inner sources what became of their packets, and how often a tunnel may (RFC 4443, 2.4 (f);
RFC 1812, 4.3.2.8)."""

from __future__ import annotations

from portproxy.tunnel.effects import SendTun

_RATE = 100.0
"""Errors a second, in the long run."""
_BURST = 50.0


class Limit:
    """A token bucket: ``burst`` at once, and in the long run ``rate`` a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, 0.0

    def allows(self, now: float) -> bool:
        """Whether there may be one more at ``now``, which is then taken as done."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Telling:
    """A limited number of ICMP errors."""

    def __init__(self) -> None:
        self._limit = Limit(_RATE, _BURST)

    def tell(self, error: bytes | None, now: float) -> tuple[SendTun, ...]:
        """Send ``error``, a packet for an inner source, if there is one and it is allowed at ``now``."""
        return (SendTun(error),) if error is not None and self._limit.allows(now) else ()
