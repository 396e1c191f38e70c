"""Explanations in tests: asked of a relay, and judged by where they stop."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from portproxy.explain import explain
from portproxy.explain.explanation import Explanation, Outcome, Step
from portproxy.model import Rule
from tests.relay.rig import Relay


async def walk(relay: Relay, rule: Rule, source: str | None = None) -> Explanation:
    return await explain(rule, relay.supervisor, source)


def outcomes(explanation: Explanation) -> dict[str, Outcome]:
    return {step.name: step.outcome for step in explanation.steps}


def step_of(explanation: Explanation, name: str) -> Step:
    (step,) = [step for step in explanation.steps if step.name == name]
    return step


def all_ok(explanation: Explanation) -> None:
    assert {*outcomes(explanation).values()} == {Outcome.OK}, explanation.steps
    assert [step.errno for step in explanation.steps if step.errno] == []


def stops_at(explanation: Explanation, name: str, errno: str = "", *, unseen: tuple[str, ...] = ()) -> Step:
    """The step where it stops, which is this one; all before it are ok, but for those ``unseen``."""
    step = explanation.failed
    assert step is not None, explanation.steps
    assert (step.name, step.errno) == (name, errno), explanation.steps
    assert step.text
    assert step.advice
    before = explanation.steps[: explanation.steps.index(step)]
    assert [
        passed for passed in before if passed.outcome is not Outcome.OK and passed.name not in unseen
    ] == []
    return step


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open no descriptor more; those that it has go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
