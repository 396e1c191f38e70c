"""Blocks of counters: laid out, added up, closed when their writer is killed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from portproxy import counters
from portproxy.model import Rule
from portproxy.reasons import ConnectFailed, Ended, Refused
from tests.relay.rig import beside, dial, echo, make_rule, relaying, round_trip, to, upstream

Write = tuple[int, int]
"""A slot, and what is added to it."""

Moved = tuple[int, int, int]
"""Bytes of one direction: accepted, delivered, discarded."""


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


# A writer that is killed. What a rule's instance writes, in its order: a kill comes between any two of these.


class Life:
    """One session, as the counters see it."""

    def __init__(self) -> None:
        self.connected = False
        self.up: Moved = (0, 0, 0)
        self.down: Moved = (0, 0, 0)
        self.counted: tuple[Moved, Moved] = (self.up, self.down)

    def connect(self) -> Iterator[Write]:
        self.connected = True
        yield counters.CONNECT_HISTOGRAM + 3, 1
        yield counters.CONNECT_MICROSECONDS, 4000

    def count(self) -> Iterator[Write]:
        up_then, down_then = self.counted
        for offset in range(3):
            yield counters.UP + offset, self.up[offset] - up_then[offset]
        for offset in range(3):
            yield counters.DOWN + offset, self.down[offset] - down_then[offset]
        self.counted = (self.up, self.down)

    def fail(self, reason: ConnectFailed) -> Iterator[Write]:
        yield counters.CONNECT_FAILED + reason.slot, 1
        yield counters.ACTIVE, -1

    def end(self, reason: Ended) -> Iterator[Write]:
        yield counters.ENDED + reason.slot, 1
        yield counters.SPLICED if self.up[0] % 2 else counters.COPIED, 1
        self.up, self.down = (
            (accepted, delivered, accepted - delivered) for accepted, delivered, _ in (self.up, self.down)
        )
        yield from self.count()
        yield counters.ACTIVE, -1


def admit() -> Iterator[Write]:
    yield counters.CONNECTIONS, 1
    yield counters.ACTIVE, 1


def refuse(slot: int) -> Iterator[Write]:
    yield counters.CONNECTIONS, 1
    yield slot, 1


REFUSALS = [
    *(counters.REFUSED + reason.slot for reason in Refused),
    counters.CONNECT_FAILED + ConnectFailed.DESCRIPTORS.slot,
]

moves = st.tuples(st.integers(0, 9), st.integers(0, 9))


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[list[Write], int, int]]:
    """What happens, one event after another: its writes, and the sessions that dial and relay after it."""
    alive: list[Life] = []
    events: list[tuple[list[Write], int, int]] = []
    for _ in range(draw(st.integers(0, 25))):
        what = draw(st.sampled_from(["refuse", "admit", "admit", "connect", "connect", "count", "end"]))
        if what == "refuse":
            writes = list(refuse(draw(st.sampled_from(REFUSALS))))
        elif what == "admit" or not alive:
            alive.append(Life())
            writes = list(admit())
        else:
            writes = _step(draw, what, alive)
        connected = sum(life.connected for life in alive)
        events.append((writes, len(alive) - connected, connected))
    return events


def _step(draw: st.DrawFn, what: str, alive: list[Life]) -> list[Write]:
    """One of those that are ``alive`` goes on, and is taken out where that is its end."""
    life = draw(st.sampled_from(alive))
    if not life.connected and what == "connect":
        return list(life.connect())
    if life.connected:
        for direction in ("up", "down"):
            (accepted, delivered, _), (more, of_it) = getattr(life, direction), draw(moves)
            setattr(life, direction, (accepted + more, min(accepted + more, delivered + of_it), 0))
        if what != "end":
            return list(life.count())
    alive.remove(life)
    if life.connected:
        return list(life.end(draw(st.sampled_from(list(Ended)))))
    return list(life.fail(draw(st.sampled_from(list(ConnectFailed)))))


def whole(block: memoryview) -> bool:
    """Whether every connection has one fate, and every byte too."""
    return (
        block[counters.CONNECTIONS] == sum(block[counters.REFUSED : counters.SLOTS])
        and block[counters.ACTIVE] == 0
        and all(block[base] == block[base + 1] + block[base + 2] for base in (counters.UP, counters.DOWN))
    )


def close_books(block: memoryview) -> int:
    """Write off what ``block``'s writer had in hand; what holds of that however it died."""
    before = list(block)
    lost = counters.write_off(block)
    assert whole(block)
    block_but_active = [count for slot, count in enumerate(block) if slot != counters.ACTIVE]
    del before[counters.ACTIVE]
    assert all(now >= then for now, then in zip(block_but_active, before, strict=True))
    after = list(block)
    assert counters.write_off(block) == 0
    assert list(block) == after
    return lost


@given(stories())
def test_a_writer_killed_at_any_write_leaves_whole_books(story: list[tuple[list[Write], int, int]]) -> None:
    block = counters.new_block()
    close_books(block)
    for writes, _, _ in story:
        for slot, more in writes:
            block[slot] += more
            close_books(memoryview(bytearray(block)).cast("Q"))


@given(stories())
def test_a_writer_killed_between_events_loses_what_it_had_in_hand(
    story: list[tuple[list[Write], int, int]],
) -> None:
    block = counters.new_block()
    lost_slots = (
        counters.CONNECT_FAILED + ConnectFailed.WORKER_LOST.slot,
        counters.ENDED + Ended.WORKER_LOST.slot,
    )
    for writes, dialling, connected in story:
        for slot, more in writes:
            block[slot] += more
        copy = memoryview(bytearray(block)).cast("Q")
        assert close_books(copy) == dialling + connected
        assert [copy[slot] - block[slot] for slot in lost_slots] == [dialling, connected]


@given(st.lists(st.tuples(stories(), st.integers(0, 100)), min_size=2, max_size=3))
def test_a_successor_goes_on_in_the_same_row(
    lives: list[tuple[list[tuple[list[Write], int, int]], int]],
) -> None:
    block = counters.new_block()
    for story, cut in lives:
        for slot, more in [write for writes, _, _ in story for write in writes][:cut]:
            block[slot] += more
        close_books(block)


class Recorder(list[int]):
    """A block that remembers in which order its slots are written to."""

    def __init__(self) -> None:
        super().__init__([0] * counters.SLOTS)
        self.written: list[int] = []

    def __setitem__(self, slot: Any, count: Any) -> None:
        self.written.append(slot)
        super().__setitem__(slot, count)


async def written(rule: Rule, *, connected: bool) -> list[int]:
    """The slots that a relay writes to for one session of ``rule``, which it is to connect or not."""
    async with relaying(rule) as relay:
        recorder = Recorder()
        relay.instance("rule").block = recorder  # type: ignore[assignment]
        with dial(rule) as client:
            if connected:
                await round_trip(client)
                client.shutdown(socket.SHUT_WR)
            await relay.record()
        return [_kind(slot) for slot in recorder.written]


async def test_an_instance_writes_in_the_order_that_is_supposed_here() -> None:
    life = Life()
    expected = [*admit(), *life.connect(), *life.end(Ended.FINISHED)]
    with upstream() as listener:
        async with beside(lambda: echo(listener)):
            assert await written(to(listener), connected=True) == [_kind(slot) for slot, _ in expected]
    expected = [*admit(), *Life().fail(ConnectFailed.REFUSED)]
    assert await written(make_rule(), connected=False) == [_kind(slot) for slot, _ in expected]


def _kind(slot: int) -> int:
    """A slot, or the first of those that differ in what was seen only."""
    firsts = (counters.ENDED, counters.CONNECT_FAILED, counters.REFUSED, counters.CONNECT_HISTOGRAM)
    if slot in (counters.SPLICED, counters.COPIED):
        return counters.SPLICED
    return next((first for first in firsts if slot >= first), slot)
