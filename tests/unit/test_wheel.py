"""The wheel: nothing comes early, nothing comes much too late, and the buckets stay few."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from portproxy.dataplane.wheel import FINEST, NOWHERE, Wheel

times = st.floats(0, 1e7)
distances = st.floats(-10, 1e6)


class Item:
    """What sits in the wheel."""

    def __init__(self) -> None:
        self.bucket = NOWHERE

    def on_deadline(self, now: float) -> None:
        raise AssertionError("the wheel only hands items out")

    def on_fault(self) -> None:
        raise AssertionError("the wheel only hands items out")


def latest(deadline: float, now: float) -> float:
    """When an item set at ``now`` has come at the latest: what the wheel's docstrings promise."""
    return deadline + max(FINEST, (deadline - now) / 64)


@given(times, distances)
def test_never_early_and_hardly_late(now: float, distance: float) -> None:
    wheel, item = Wheel(), Item()
    deadline = now + distance
    wheel.schedule(item, deadline, now)
    due = wheel.next_deadline()
    assert deadline < due <= latest(deadline, now)
    assert wheel.expired(math.nextafter(due, -math.inf)) == []
    assert wheel.expired(due) == [item]
    assert item.bucket == NOWHERE
    assert wheel.next_deadline() == math.inf


@given(times, st.lists(st.tuples(st.integers(0, 9), st.floats(0.001, 1e5), st.floats(0, 1e4)), max_size=60))
def test_as_a_list_of_deadlines_would(start: float, script: list[tuple[int, float, float]]) -> None:
    """Items set, set anew and expired at random come up once each, in their time."""
    wheel, items, now = Wheel(), [Item() for _ in range(10)], start
    expected: dict[Item, tuple[float, float]] = {}
    for number, distance, passed in script:
        item = items[number]
        if item in expected and number % 3 == 0:
            wheel.cancel(item)
            del expected[item]
        else:
            wheel.schedule(item, now + distance, now)
            expected[item] = now + distance, latest(now + distance, now)
        now += passed
        for due in wheel.expired(now):
            assert isinstance(due, Item)
            assert expected.pop(due)[0] <= now
        assert all(late > now for _, late in expected.values())
        assert all((item.bucket != NOWHERE) == (item in expected) for item in items)


def test_a_cancelled_item_does_not_come() -> None:
    wheel, item, other = Wheel(), Item(), Item()
    wheel.schedule(item, 100.0, 0.0)
    wheel.schedule(other, 100.0, 0.0)
    wheel.cancel(item)
    wheel.cancel(item)
    assert wheel.expired(200.0) == [other]


def test_an_item_set_anew_comes_once() -> None:
    wheel, item = Wheel(), Item()
    for deadline in (100.0, 10.0, 10.0, 5000.0, 50.0):
        wheel.schedule(item, deadline, 0.0)
    assert wheel.expired(49.9) == []
    assert wheel.expired(60.0) == [item]
    assert wheel.expired(10_000.0) == []


def test_what_was_handed_out_can_be_set_again() -> None:
    wheel, item = Wheel(), Item()
    for now in range(0, 1000, 100):
        wheel.schedule(item, now + 50.0, float(now))
        assert wheel.expired(now + 60.0) == [item]


def test_next_deadline_of_an_empty_wheel() -> None:
    assert Wheel().next_deadline() == math.inf
    assert Wheel().expired(1e9) == []


def test_buckets_are_shared() -> None:
    """One limit, set again and again as time passes, needs a bucket for each 128th of it at most."""
    wheel = Wheel()
    due = set()
    for step in range(100_000):
        item, now = Item(), step * 0.01
        wheel.schedule(item, now + 3600.0, now)
        due.add(item.bucket)
    assert len(due) <= 1000 / (3600 / 128) + 2


def test_a_hundred_thousand_random_deadlines_need_few_buckets() -> None:
    wheel, due, random_ = Wheel(), set(), random.Random(1)
    for _ in range(100_000):
        item = Item()
        wheel.schedule(item, 1e6 + 10 ** random_.uniform(-3, 6), 1e6)
        due.add(item.bucket)
    # Between 64 and 128 for each doubling of the distance, from FINEST on.
    assert len(due) <= 128 * math.log2(1e6 / FINEST)
    assert len(wheel.expired(1e7)) == 100_000
