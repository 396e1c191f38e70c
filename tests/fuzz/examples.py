"""How many examples a fuzz target takes: always the same ones, or other ones at random.

PORTPROXY_FUZZ_EXAMPLES sets their number for every target, and makes them random.
"""

from __future__ import annotations

import os
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_ASKED = os.environ.get("PORTPROXY_FUZZ_EXAMPLES")


def fuzz(number: int = 5000) -> settings:
    """Settings, to decorate a target with, for ``number`` examples."""
    return settings(
        max_examples=int(_ASKED or number),
        deadline=None,
        database=None,
        derandomize=not _ASKED,
        suppress_health_check=list(HealthCheck),
    )


seeds = st.integers(0, 2**64 - 1).map(Random)
"""Generators: what they draw takes a tenth of the time that hypothesis would take to draw it."""
