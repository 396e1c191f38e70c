"""What is asked of the relay's speed, and whether a run's figures reach it.

A target is a ratio to HAProxy in the same run, one worker against one thread, or to another ``yardstick``;
where it is ``absolute``, a figure of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

OURS = "portproxy"
YARDSTICK = "HAProxy"
SOCAT_TUN = "socat, TUN to UDP"
"""That of tunnels."""


class Target(NamedTuple):
    """The name of a measure, what is due of it, and what would be good."""

    measure: str
    due: float
    goal: float
    absolute: bool = False
    yardstick: str = YARDSTICK


class Verdict(StrEnum):
    GOAL = "goal reached"
    DUE = "due reached"
    MISSED = "missed"
    UNKNOWN = "not measured"


class Finding(NamedTuple):
    """A target, the medians of its yardstick and of this relay, and ``value``, which is held against it.

    ``ratios`` are those of the rounds in which both have a figure.
    """

    target: Target
    unit: str
    yardstick: float | None
    ours: float | None
    value: float | None
    verdict: Verdict
    ratios: Sequence[float] = ()


TARGETS = (
    *(
        Target(f"bulk, {streams}, {way}", due=0.90, goal=1.0)
        for streams in ("one stream", "eight streams")
        for way in ("client to server", "server to client")
    ),
    *(
        Target(f"CPU per GiB, {streams}, {way}", due=1.05, goal=0.9)
        for streams in ("one stream", "eight streams")
        for way in ("client to server", "server to client")
    ),
    Target("keep-alive requests, 32 clients", due=0.95, goal=1.05),
    Target("keep-alive requests, 512 clients", due=0.95, goal=1.05),
    Target("new connections", due=0.60, goal=1.0),
    Target("64 B round trip, p50", due=0.85, goal=0.65),
    Target("64 B round trip, p99", due=1.15, goal=0.8),
    Target("memory per idle connection", due=0.5, goal=0.25),
    Target("p99 under bulk load", due=1.0, goal=0.7),
    Target("start to listening, 1 rule", due=0.4, goal=0.25, absolute=True),
    Target("PSS at rest", due=40, goal=30, absolute=True),
    Target("tunnel, one TCP stream", due=1.0, goal=1.5, yardstick=SOCAT_TUN),
    Target("tunnel, 64 B datagrams received", due=1.0, goal=1.5, yardstick=SOCAT_TUN),
)


def findings(measures: Mapping[str, Any], wanted: Sequence[Target] = TARGETS) -> list[Finding]:
    """Every target beside what the ``measures`` of a run (as in speed.json) say of it."""
    return [_finding(target, measures.get(target.measure)) for target in wanted]


def median(measure: Mapping[str, Any], subject: str) -> float | None:
    """A subject's median, None where it has no figure."""
    figure = measure["subjects"].get(subject)
    return None if figure is None else float(figure["median"])


def _finding(target: Target, measure: Mapping[str, Any] | None) -> Finding:
    if measure is None:
        return Finding(target, "", None, None, None, Verdict.UNKNOWN)
    yardstick, ours = median(measure, target.yardstick), median(measure, OURS)
    value = ours if target.absolute else ratio(ours, yardstick)
    verdict = Verdict.UNKNOWN if value is None else _verdict(target, value, measure["more_is_better"])
    return Finding(target, measure["unit"], yardstick, ours, value, verdict, _ratios(target, measure))


def _ratios(target: Target, measure: Mapping[str, Any]) -> list[float]:
    """Round by round."""
    subjects = (OURS, target.yardstick)
    both = [measure["subjects"].get(subject, {"values": ()})["values"] for subject in subjects]
    ratios = (ratio(*pair) for pair in zip(*both, strict=False))
    return [found for found in ratios if found is not None]


def ratio(value: float | None, yardstick: float | None) -> float | None:
    """``value`` as a multiple of ``yardstick``; None where there is none."""
    return value / yardstick if value is not None and yardstick else None


def _verdict(target: Target, value: float, more_is_better: bool) -> Verdict:
    def reaches(bound: float) -> bool:
        return value >= bound if more_is_better else value <= bound

    if reaches(target.goal):
        return Verdict.GOAL
    return Verdict.DUE if reaches(target.due) else Verdict.MISSED
