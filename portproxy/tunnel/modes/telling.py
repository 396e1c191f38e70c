"""Telling inner sources what became of their packets, and how often a tunnel may (RFC 4443, 2.4 (f);
RFC 1812, 4.3.2.8)."""

from __future__ import annotations

from portproxy.tunnel.effects import SendTun

_RATE = 100.0
"""Errors a second, in the long run."""
_BURST = 50.0


class Telling:
    """A token bucket of ICMP errors."""

    def __init__(self) -> None:
        self._left = _BURST
        self._at = 0.0

    def tell(self, error: bytes | None, now: float) -> tuple[SendTun, ...]:
        """Send ``error``, a packet for an inner source, if there is one and it is allowed at ``now``."""
        if error is None:
            return ()
        self._left = min(_BURST, self._left + (now - self._at) * _RATE)
        self._at = now
        if self._left < 1:
            return ()
        self._left -= 1
        return (SendTun(error),)
