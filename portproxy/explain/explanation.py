"""What an explanation says: steps, each with its outcome, as data and as text for people. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import asdict, dataclass

_GAP = "  "


class Outcome(enum.StrEnum):
    """How a step went. A connection stops at ``fail``; ``skipped`` could not be looked at."""

    OK = "ok"
    FAIL = "fail"
    WARNING = "warning"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a connection's way, and what would mend it.

    ``errno`` is the name of what the kernel said (or getaddrinfo(3), "EAI_..."), empty where it said nothing;
    ``advice`` may have several lines.
    """

    name: str
    outcome: Outcome
    text: str
    errno: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One connection's way through the rule of this name. ``source`` is empty where no client was named."""

    rule: str
    source: str
    steps: tuple[Step, ...]

    @property
    def failed(self) -> Step | None:
        """The step where a connection would stop, None where it would get through."""
        return next((step for step in self.steps if step.outcome is Outcome.FAIL), None)

    @property
    def verdict(self) -> str:
        """One sentence: whether a connection would get through, or where it would fail."""
        who = f"a connection from {self.source}" if self.source else "a connection"
        if self.failed:
            return f"{who} would fail at step `{self.failed.name}`: {_said(self.failed)}"
        warnings = sum(step.outcome is Outcome.WARNING for step in self.steps)
        return f"{who} would get through" + (f" (warnings: {warnings})" if warnings else "")


def as_data(explanation: Explanation) -> dict[str, object]:
    """The explanation in JSON's types; ``failed`` is the failing step's name, empty where there is none."""
    return {
        "rule": explanation.rule,
        "source": explanation.source,
        "failed": explanation.failed.name if explanation.failed else "",
        "verdict": explanation.verdict,
        "steps": [asdict(step) | {"outcome": step.outcome.value} for step in explanation.steps],
    }


def as_text(explanation: Explanation) -> str:
    """The explanation for people: a line a step, advice under it, the verdict last."""
    return "\n".join(_lines(explanation))


def _lines(explanation: Explanation) -> Iterator[str]:
    outcomes = max(len(outcome) for outcome in Outcome)
    names = max((len(step.name) for step in explanation.steps), default=0)
    for step in explanation.steps:
        yield f"{step.outcome:{outcomes}}{_GAP}{step.name:{names}}{_GAP}{_said(step)}"
        for line in step.advice.splitlines():
            yield f"{'':{outcomes + names + 2 * len(_GAP)}}{_GAP}{line}"
    yield ""
    yield explanation.verdict


def _said(step: Step) -> str:
    return f"{step.errno}: {step.text}" if step.errno else step.text
