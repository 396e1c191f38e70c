"""Explicit congestion notification through tunnels (RFC 6040)."""

from __future__ import annotations

from typing import Final

NOT_ECT, ECT_1, ECT_0, CE = range(4)
"""The two bits, as RFC 3168 (5) numbers them."""

DROP: Final = None

_OUT: tuple[tuple[int | None, ...], ...] = (
    # outer: Not-ECT  ECT(1)   ECT(0)   CE
    (NOT_ECT, NOT_ECT, NOT_ECT, DROP),  # inner Not-ECT
    (ECT_1, ECT_1, ECT_1, CE),  # inner ECT(1)
    (ECT_0, ECT_1, ECT_0, CE),  # inner ECT(0)
    (CE, CE, CE, CE),  # inner CE
)


def decapsulated(inner: int, outer: int) -> int | None:
    """What a packet leaves a tunnel with, or DROP (RFC 6040, 4.2); into a tunnel it is copied (4.1)."""
    return _OUT[inner & 3][outer & 3]
