"""How many inputs a fuzz target takes: always the same ones, or other ones at random.

PORTPROXY_FUZZ_EXAMPLES sets their number for every target, and makes them random.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from random import Random
from typing import Concatenate, ParamSpec

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

P = ParamSpec("P")

_ASKED = os.environ.get("PORTPROXY_FUZZ_EXAMPLES")


def seeded(target: Callable[Concatenate[Random, P], object]) -> Callable[P, None]:
    """Decorates a target that draws its input from its first parameter: it is called with 5,000 generators.

    That takes a tenth of the time that hypothesis would take. Nothing shrinks: where the target fails, a note
    tells the seed that draws the same again.
    """

    @functools.wraps(target)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        first = Random().getrandbits(63) if _ASKED else 0
        for seed in range(first, first + int(_ASKED or 5000)):
            try:
                target(Random(seed), *args, **kwargs)
            except BaseException as error:
                error.add_note(f"Drawn by Random({seed}).")
                raise

    signature = inspect.signature(target)
    # The generator is no fixture.
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]
    return run


def binary(random: Random, most: int) -> bytes:
    """Any bytes, up to ``most`` of them."""
    return random.randbytes(random.randrange(most + 1))


def text(random: Random, most: int) -> str:
    """Any characters that UTF-8 has, up to ``most`` of them, half of them of ASCII."""
    ends = random.choices((0x80, 0x80, 0x3000, 0x110000), k=random.randrange(most + 1))
    return "".join(map(chr, map(random.randrange, ends))).encode(errors="ignore").decode()


def fuzz(number: int) -> settings:
    """Settings, to decorate a target with whose input hypothesis draws, for ``number`` examples."""
    return settings(
        max_examples=int(_ASKED or number),
        deadline=None,
        database=None,
        derandomize=not _ASKED,
        suppress_health_check=list(HealthCheck),
    )


seeds = st.integers(0, 2**64 - 1).map(Random)
"""Generators: what they draw takes a tenth of the time that hypothesis would take to draw it."""
