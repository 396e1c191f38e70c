"""What a running relay looks like at one moment: values that metrics, health and status read."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from portproxy.model import Rule


class RuleState(enum.StrEnum):
    """Where a rule stands."""

    LISTENING = "listening"
    FAILED = "failed"
    SHADOWED = "shadowed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """One rule: its state, its last error for people (empty when there was none), its counters.

    ``block`` is laid out as ``portproxy.counters`` says, the bytes of live sessions included.
    """

    rule: Rule
    state: RuleState
    last_error: str
    block: Sequence[int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole process. ``lost_lines`` counts log lines dropped, by log; ``draining`` is set once
    the relay has been told to stop."""

    rules: tuple[RuleStatus, ...]
    accept_pauses: int
    lost_lines: dict[str, int]
    draining: bool

    @property
    def not_ready(self) -> str:
        """Why the relay is not ready, in one line; empty when every rule listens."""
        if self.draining:
            return "the relay is stopping"
        for status in self.rules:
            if status.state is RuleState.FAILED:
                return f"rule {status.rule.name}: {status.last_error}"
        return ""
