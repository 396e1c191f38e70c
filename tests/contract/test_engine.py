"""The engine: events go to whom they are for, a fault ends one session, parked costs nothing."""

from __future__ import annotations

import select

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from portproxy.dataplane import copy
from portproxy.dataplane.base import Outcome, Progress
from portproxy.dataplane.leg import Leg
from portproxy.dataplane.wheel import NOWHERE
from portproxy.model import DataPlaneChoice
from portproxy.reasons import Ended
from tests.contract.rig import Nobody, Rig, Session, noise, reset


async def check_alive(rig: Rig, session: Session) -> None:
    """Bytes still pass in both directions."""
    await rig.send(session.client, b"question")
    assert await rig.receive(session.server, 8) == b"question"
    await rig.send(session.server, b"answer")
    assert await rig.receive(session.client, 6) == b"answer"


async def failing_together(rig: Rig, one: Session, other: Session) -> None:
    """Both sessions' clients reset, and the engine has yet to hear of it, in one batch, in this order."""
    await check_alive(rig, one)
    await check_alive(rig, other)
    await rig.settle()
    for session in one, other:
        reset(session.client)
        await rig.shown(session.a, select.POLLERR)


# Stale events.


@pytest.mark.parametrize("deferred", [False, True])
async def test_a_stale_event_reaches_nobody(rig: Rig, dataplane: DataPlaneChoice, deferred: bool) -> None:
    """The first session's end ends the second within the batch that has an event for each of them."""
    second = rig.start(dataplane)
    numbers = {second.a.fd, second.b.fd}
    heirs: list[Session] = []

    def open_heirs() -> None:
        heirs.extend(rig.start(dataplane) for _ in range(4))

    def first_ended(_: Outcome) -> None:
        second.transfer.end(Ended.DRAIN)
        if deferred:
            rig.engine.defer(open_heirs, second.transfer)
        else:
            open_heirs()

    first = rig.begin(rig.open(), dataplane, on_end=first_ended)
    await failing_together(rig, first, second)
    await rig.until(lambda: bool(heirs))
    inherited = numbers & {leg.fd for heir in heirs for leg in (heir.a, heir.b)}
    # Only what is deferred may meet the numbers again: the batch is done with them by then.
    assert bool(inherited) == deferred
    for heir in heirs:
        await check_alive(rig, heir)
    assert first.outcome.reason is Ended.CLIENT_RESET
    assert second.outcome.reason is Ended.DRAIN


async def test_a_descriptor_is_open_until_the_batch_is_done(rig: Rig, dataplane: DataPlaneChoice) -> None:
    open_at_end: list[bool] = []

    def ended(_: Outcome) -> None:
        open_at_end.append(
            session.a.sock.fileno() == session.a.fd and session.b.sock.fileno() == session.b.fd
        )

    session = rig.begin(rig.open(), dataplane, on_end=ended)
    reset(session.server)
    await rig.until(lambda: session.ended)
    assert open_at_end == [True]
    assert session.a.sock.fileno() == session.b.sock.fileno() == -1


async def test_no_event_reaches_what_is_no_longer_watched(rig: Rig) -> None:
    near, far = rig.pair()
    masks: list[int] = []

    class Recorder:
        def on_events(self, mask: int) -> None:
            masks.append(mask)

        def on_fault(self) -> None:
            raise AssertionError("no fault was asked for")

    rig.engine.watch(near.fileno(), Recorder())
    await rig.until(lambda: bool(masks))
    rig.engine.unwatch(near.fileno())
    rig.engine.unwatch(near.fileno())
    del masks[:]
    far.send(b"unheard")
    await rig.settle()
    assert masks == []
    # The kernel has forgotten it too, or it would refuse this.
    rig.engine.watch(near.fileno(), Recorder())
    await rig.until(lambda: bool(masks))


# Faults.


def broken(leg: Leg) -> Progress:
    raise ZeroDivisionError


def take_faults(rig: Rig) -> str:
    """What was reported, which from here on counts as asked for."""
    reported = "\n".join(rig.faults)
    rig.faults.clear()
    return reported


async def test_a_fault_in_an_event_ends_its_session_only(
    rig: Rig, dataplane: DataPlaneChoice, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, sound = rig.start(dataplane), rig.start(dataplane)
    await check_alive(rig, faulty)
    monkeypatch.setattr(copy, "move", broken)  # bulk waits for a turn
    faulty.leg(side).mover = broken
    await rig.send(faulty.end(side), b"the last")
    await rig.until(lambda: faulty.ended)
    assert faulty.outcome.reason is Ended.INTERNAL
    assert "an event: Traceback" in take_faults(rig)
    monkeypatch.undo()
    await rig.receive_reset(faulty.other(side))
    await check_alive(rig, sound)


async def test_a_fault_in_a_later_turn_ends_its_session_only(rig: Rig, dataplane: DataPlaneChoice) -> None:
    faulty, sound = rig.start(dataplane), rig.start(dataplane)
    await check_alive(rig, faulty)
    faulty.a.mover = broken
    faulty.a.readable = True
    rig.engine.again(faulty.a)
    rig.engine.turn()
    assert faulty.outcome.reason is Ended.INTERNAL
    assert "a turn: Traceback" in take_faults(rig)
    await check_alive(rig, sound)


async def test_a_fault_in_on_end_leaves_the_others_running(rig: Rig, dataplane: DataPlaneChoice) -> None:
    def fail(_: Outcome) -> None:
        raise ZeroDivisionError

    sound = rig.start(dataplane)
    for mover in None, broken:
        faulty = rig.begin(rig.open(), dataplane, on_end=fail)
        await check_alive(rig, faulty)
        if mover:
            # A fault whose handling fails as well.
            faulty.a.mover = mover
            faulty.client.send(b"last")
        else:
            reset(faulty.client)
        while faulty.a.sock.fileno() != -1:
            await rig.step()
        assert "ZeroDivisionError" in take_faults(rig)
        assert faulty.outcome.reason is (Ended.INTERNAL if mover else Ended.CLIENT_RESET)
    await check_alive(rig, sound)


async def test_a_fault_in_a_deferred_action_ends_whom_it_concerns_and_the_next_runs(
    rig: Rig, dataplane: DataPlaneChoice
) -> None:
    done: list[str] = []
    session = rig.start(dataplane)
    rig.engine.defer(lambda: done.append(str(1 // len(done))), session.transfer)
    rig.engine.defer(lambda: done.append("next"), Nobody())
    rig.engine.turn()
    assert done == ["next"]
    assert "an action: Traceback" in take_faults(rig)
    assert session.outcome.reason is Ended.INTERNAL


class Late:
    """What waits for a deadline, and fails at it or not."""

    def __init__(self, fails: bool) -> None:
        self.bucket = NOWHERE
        self.called = trio.Event()
        self._fails = fails

    def on_deadline(self, now: float) -> None:
        if self._fails:
            raise ZeroDivisionError
        self.called.set()

    def on_fault(self) -> None:
        self.called.set()


async def test_a_fault_at_a_deadline_is_told_to_its_owner_only(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    both = [Late(fails=True), Late(fails=False)]
    async with rig.running():
        for item in both:
            rig.engine.schedule(item, rig.engine.clock() + 5)
        for item in both:
            await item.called.wait()
    assert "a deadline: Traceback" in take_faults(rig)


# Parked.


async def test_parked_it_does_nothing(rig: Rig, dataplane: DataPlaneChoice) -> None:
    sessions = [rig.start(dataplane) for _ in range(5)]
    for session in sessions:
        await check_alive(rig, session)
    async with rig.running():
        await wait_all_tasks_blocked()
        turns = rig.engine.turns
        for _ in range(20):
            await wait_all_tasks_blocked()
        assert rig.engine.turns == turns


async def parked(rig: Rig) -> None:
    """The engine has no more to do."""
    turns = -1
    while turns != rig.engine.turns:
        turns = rig.engine.turns
        await wait_all_tasks_blocked()


async def read(sock: trio.SocketStream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        chunk = await sock.receive_some()
        assert chunk
        got += chunk
    return got


async def test_a_start_wakes_it(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.open(buffers=4 << 20)
    data = noise(1 << 20)
    await rig.send_unturned(session.client, data)
    async with rig.running():
        await parked(rig)
        # More than a turn's bytes are there already, so no edge will come to go on by.
        rig.begin(session, dataplane)
        server = trio.SocketStream(trio.socket.from_stdlib_socket(session.server))
        with trio.fail_after(20):
            assert await read(server, len(data)) == data


async def test_an_end_wakes_it(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane)
    await check_alive(rig, session)
    async with rig.running():
        await parked(rig)
        session.transfer.end(Ended.DRAIN)
        with trio.fail_after(20), pytest.raises(ConnectionResetError):
            await trio.socket.from_stdlib_socket(session.client).recv(1)


async def test_a_deferred_action_wakes_it(rig: Rig) -> None:
    done = trio.Event()
    async with rig.running():
        await parked(rig)
        rig.engine.defer(done.set, Nobody())
        with trio.fail_after(20):
            await done.wait()


async def test_events_wake_it(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane)
    async with rig.running():
        client = trio.SocketStream(trio.socket.from_stdlib_socket(session.client))
        server = trio.SocketStream(trio.socket.from_stdlib_socket(session.server))
        for _ in range(5):
            await parked(rig)
            with trio.fail_after(20):
                await client.send_all(b"question")
                assert await read(server, 8) == b"question"
