"""Descriptors or kernel memory have run out: accepting pauses, and what relays goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

from portproxy.dataplane.engine import Engine

PAUSE = 0.25
"""Seconds until accepting is tried again."""


class Shortage:
    """One for the process, as the limits are. ``say(error)`` hears of an episode when it begins, and with
    None when it is over."""

    def __init__(self, engine: Engine, say: Callable[[OSError | None], None]) -> None:
        self._engine = engine
        self._say = say
        self._on = False
        self.until = -math.inf

    @property
    def lasts(self) -> bool:
        """Whether accepting is to wait for ``until`` (the engine's clock)."""
        return self._on and self._engine.clock() < self.until

    def begin(self, error: OSError) -> None:
        """``error`` showed that there is not enough; pooled pipes are given up for it."""
        self._engine.free_descriptors()
        self.until = self._engine.clock() + PAUSE
        if not self._on:
            self._on = True
            self._say(error)

    def end(self) -> None:
        """There is enough again."""
        if self._on:
            self._on = False
            self._say(None)
