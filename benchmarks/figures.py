"""What was measured, of whom, in every round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """What is measured; ``more_is_better`` says which way is ahead."""

    name: str
    unit: str
    more_is_better: bool


class Figures:
    """Values by measure, subject and round, what could not be measured, and what a reader must know.

    ``round`` counts from 0; whoever measures several sets it before each.
    """

    def __init__(self) -> None:
        self.round = 0
        self._values: dict[Measure, dict[str, dict[int, float]]] = {}
        self._failed: list[dict[str, str]] = []
        self._notes: dict[str, None] = {}

    def add(self, measure: Measure, subject: str, value: float) -> None:
        """This round's value."""
        self._values.setdefault(measure, {}).setdefault(subject, {})[self.round] = value

    def note(self, text: str) -> None:
        """How something was measured, where that depends on the machine; to be said once."""
        self._notes[text] = None

    def notes(self) -> list[str]:
        """In the order they came."""
        return list(self._notes)

    def fail(self, measure: str, subject: str, why: str) -> None:
        """A step that gave no value; ``measure`` names one measure, or the step where it gives several."""
        self._failed.append({"measure": measure, "subject": subject, "why": why})

    def failed(self) -> list[dict[str, str]]:
        """In the order they came: ``measure``, ``subject``, ``why``."""
        return list(self._failed)

    def summary(self) -> dict[str, Any]:
        """By measure: unit, more_is_better, and by subject the median, least, most and all of the values.

        Of the latter there is one for each round so far, None where it gave none: places pair.
        """
        return {
            measure.name: {
                "unit": measure.unit,
                "more_is_better": measure.more_is_better,
                "subjects": {subject: self._spread(values) for subject, values in subjects.items()},
            }
            for measure, subjects in self._values.items()
        }

    def _spread(self, values: Mapping[int, float]) -> dict[str, Any]:
        return {
            "median": statistics.median(values.values()),
            "min": min(values.values()),
            "max": max(values.values()),
            "values": [values.get(number) for number in range(self.round + 1)],
        }
