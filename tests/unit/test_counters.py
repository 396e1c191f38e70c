"""Blocks of counters: laid out, added up."""

from __future__ import annotations

from portproxy import counters


def test_adding_goes_slot_by_slot_and_leaves_the_other_alone() -> None:
    one, other = counters.new_block(), counters.new_block()
    for slot in range(counters.SLOTS):
        one[slot], other[slot] = slot, 1000 * slot
    counters.add(one, other)
    assert list(one) == [1001 * slot for slot in range(counters.SLOTS)]
    assert list(other) == [1000 * slot for slot in range(counters.SLOTS)]


def test_a_list_takes_a_block_in() -> None:
    block = counters.new_block()
    counters.observe_connect(block, 0.002)
    total = [1] * counters.SLOTS
    counters.add(total, block)
    assert total[counters.CONNECT_MICROSECONDS] == 2001
    assert sum(total) == counters.SLOTS + 2000 + 1
