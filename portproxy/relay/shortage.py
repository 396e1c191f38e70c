"""Descriptors or kernel memory have run out: accepting pauses, and what relays goes on."""

from __future__ import annotations

import os
from collections.abc import Callable

from portproxy.dataplane.engine import Engine

PAUSE = 0.25
"""Seconds until accepting is tried again."""


class Shortage:
    """One for the process, as the limits are. ``say(error)`` hears of an episode when it begins, and with
    None when it is over.

    A descriptor is kept to spare: accepting a client may take the last one, and without another it could
    not be dialled for.
    """

    def __init__(self, engine: Engine, say: Callable[[OSError | None], None]) -> None:
        self._engine = engine
        self._say = say
        self._on = False
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.until = 0.0

    @property
    def on(self) -> bool:
        """Whether accepting has failed for it, and not been well since."""
        return self._on

    @property
    def lasts(self) -> bool:
        """Whether accepting is to wait for ``until`` (the engine's clock)."""
        if not self._on:
            return False
        now = self._engine.clock()
        if now >= self.until and not self._spare_is_back():
            self.until = now + PAUSE
        return now < self.until

    def begin(self, error: OSError) -> None:
        """``error`` showed that there is not enough; pooled pipes are given up for it."""
        self._engine.free_descriptors()
        self.until = self._engine.clock() + PAUSE
        if not self._on:
            self._on = True
            self._say(error)

    def lend_spare(self) -> bool:
        """Free the spare descriptor for one that is needed more; False where it is lent already."""
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        return True

    def end(self) -> None:
        """Accept found a descriptor: there is enough again, if there is one to spare as well."""
        if self._on and self._spare_is_back():
            self._on = False
            self._say(None)

    def close(self) -> None:
        """Close the spare descriptor."""
        self.lend_spare()

    def _spare_is_back(self) -> bool:
        if self._spare is None:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True
