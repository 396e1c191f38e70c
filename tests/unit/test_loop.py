"""The loop's bursts: how long the other tasks of the process may have to wait, and when it parks."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from portproxy.dataplane import loop
from portproxy.dataplane.leg import Leg
from portproxy.dataplane.loop import Loop


class Work:
    """A clock, and something to do in ``turns`` turns, each of which takes ``seconds`` of it."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.now = 100.0
        self.turns = 0
        self._seconds = seconds
        self.loop = Loop(self._fault, lambda: self.now)

    def give(self, turns: int) -> None:
        self.turns = turns
        self.loop.defer(self._do, self)

    def on_fault(self) -> None:
        raise AssertionError("nothing here fails")

    def _fault(self, what: str) -> None:
        raise AssertionError(what)

    def _do(self) -> None:
        self.now += self._seconds
        self.turns -= 1
        if self.turns:
            self.loop.defer(self._do, self)


@pytest.fixture
def work(seconds: float) -> Iterator[Work]:
    work = Work(seconds)
    yield work
    work.loop.shut()


# The figures are written out, not taken from the module: changing them shall be noticed.


@pytest.mark.parametrize(
    ("seconds", "turns"),
    [(0.0, 64), (0.00003, 64), (0.0004, 5), (0.0009, 3), (0.0021, 1), (10.0, 1)],
)
def test_a_burst_ends_after_64_turns_or_2_ms(work: Work, turns: int) -> None:
    work.give(150)
    assert work.loop._burst()
    assert work.loop.turns == turns
    assert work.turns == 150 - turns
    assert work.loop._burst()
    assert work.loop.turns == 2 * turns


@pytest.mark.parametrize("seconds", [0.0])
def test_a_burst_gives_up_after_20_polls_that_find_nothing(work: Work) -> None:
    assert not work.loop._burst()
    assert work.loop.turns == 20


@pytest.mark.parametrize("seconds", [0.0])
def test_polls_that_find_nothing_are_counted_anew_after_one_that_does(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = work.loop.turn

    def turn_with_work_at_the_tenth(wait: float = 0.0) -> bool:
        if work.loop.turns == 9:
            work.give(1)
        return turn(wait)

    monkeypatch.setattr(work.loop, "turn", turn_with_work_at_the_tenth)
    assert not work.loop._burst()
    assert work.loop.turns == 10 + 20


class Pipeful:
    """A session's leg in bulk: it has a turn in the queue whenever it is asked."""

    queued = False

    def __init__(self, loop: Loop) -> None:
        self.owner = self
        self._loop = loop
        self.turns = 0

    def turn(self, leg: Leg) -> None:
        self.turns += 1


@pytest.mark.parametrize("seconds", [0.0])
def test_it_rests_beside_bulk_alone(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        work.now += seconds

    monkeypatch.setattr(loop, "time", SimpleNamespace(sleep=rest))
    bulk = Pipeful(work.loop)

    def bulk_turn() -> bool:
        work.loop.again(cast(Leg, bulk))
        return work.loop._burst()

    assert not bulk_turn()
    assert (bulk.turns, rests) == (1, [0.0005])
    # Not once bulk is over; and not beside it either where there was something else just now.
    work.now += 0.011
    work.give(1)
    assert not work.loop._burst()
    assert not bulk_turn()
    assert (bulk.turns, rests) == (2, [0.0005])
    work.now += 0.011
    assert not bulk_turn()
    assert (bulk.turns, rests) == (3, [0.0005] * 2)
