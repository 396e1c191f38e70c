"""What was measured, of whom, in every round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """What is measured; ``more_is_better`` says which way is ahead."""

    name: str
    unit: str
    more_is_better: bool


class Figures:
    """Values by measure and subject, and what could not be measured."""

    def __init__(self) -> None:
        self._values: dict[Measure, dict[str, list[float]]] = {}
        self._failed: list[dict[str, str]] = []

    def add(self, measure: Measure, subject: str, value: float) -> None:
        """One more round's value."""
        self._values.setdefault(measure, {}).setdefault(subject, []).append(value)

    def fail(self, measure: str, subject: str, why: str) -> None:
        """A step that gave no value; ``measure`` names one measure, or the step where it gives several."""
        self._failed.append({"measure": measure, "subject": subject, "why": why})

    def failed(self) -> list[dict[str, str]]:
        """In the order they came: ``measure``, ``subject``, ``why``."""
        return list(self._failed)

    def summary(self) -> dict[str, Any]:
        """By measure: unit, more_is_better, and by subject the median, least, most and all of the values."""
        return {
            measure.name: {
                "unit": measure.unit,
                "more_is_better": measure.more_is_better,
                "subjects": {subject: _spread(values) for subject, values in subjects.items()},
            }
            for measure, subjects in self._values.items()
        }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }
