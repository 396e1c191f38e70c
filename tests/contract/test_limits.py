"""The contract: idle, half-closed and lifetime limits, in virtual time."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from portproxy.dataplane.base import Ledger
from portproxy.dataplane.wheel import NOWHERE
from portproxy.model import DataPlaneChoice, Limits
from portproxy.reasons import Ended
from tests.contract.rig import UNLIMITED, Rig, Session, noise

LATE = 1 + 1 / 32
"""A deadline comes late by a small part of its distance: see the wheel."""


class Timed:
    """A session in a running engine whose time the test moves on."""

    def __init__(self, session: Session, clock: MockClock) -> None:
        self.session = session
        self._clock = clock

    async def after(self, seconds: float) -> None:
        """Let so much time pass, and all that follows from it happen."""
        self._clock.jump(seconds)
        for _ in range(3):
            await wait_all_tasks_blocked()

    async def say(self, side: str) -> None:
        """A byte passes from ``side`` to the other."""
        await trio.socket.from_stdlib_socket(self.session.end(side)).send(b"!")
        assert await trio.socket.from_stdlib_socket(self.session.other(side)).recv(1) == b"!"

    async def finish(self, side: str) -> None:
        """``side`` ends its stream, and the other has seen that."""
        self.session.end(side).shutdown(socket.SHUT_WR)
        assert await trio.socket.from_stdlib_socket(self.session.other(side)).recv(1) == b""

    async def check_ended(self, reason: Ended) -> None:
        """The session has ended for ``reason``, and both sides were reset."""
        assert self.session.outcome.reason is reason
        assert self.session.outcome.error == 0
        for sock in self.session.client, self.session.server:
            with pytest.raises(ConnectionResetError):
                await trio.socket.from_stdlib_socket(sock).recv(1)


async def test_idle(rig: Rig, dataplane: DataPlaneChoice, mock_clock: MockClock) -> None:
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=replace(UNLIMITED, idletimeout=60.0)), mock_clock)
        await timed.after(59.9)
        assert not timed.session.ended
        await timed.after(60 * LATE - 59.9)
        await timed.check_ended(Ended.IDLE)


async def test_any_byte_postpones_idle(
    rig: Rig, dataplane: DataPlaneChoice, side: str, mock_clock: MockClock
) -> None:
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=replace(UNLIMITED, idletimeout=60.0)), mock_clock)
        for _ in range(10):
            await timed.after(59)
            await timed.say(side)
        assert not timed.session.ended
        await timed.after(59)
        assert not timed.session.ended
        await timed.after(60 * LATE - 59)
        await timed.check_ended(Ended.IDLE)


async def test_idle_with_a_reader_that_stopped(
    rig: Rig, dataplane: DataPlaneChoice, side: str, mock_clock: MockClock
) -> None:
    session = rig.start(dataplane, limits=replace(UNLIMITED, idletimeout=60.0))
    await rig.stall(session, side, noise(32 << 20))
    pending = session.leg(side).pending
    async with rig.running():
        timed = Timed(session, mock_clock)
        await timed.after(60 * LATE)
        assert session.outcome.reason is Ended.IDLE
        ledger = session.outcome.up if side == "client" else session.outcome.down
        assert ledger.discarded == pending > 0


async def test_half_closed(rig: Rig, dataplane: DataPlaneChoice, side: str, mock_clock: MockClock) -> None:
    limits = Limits(idletimeout=3600.0, halfclosetimeout=10.0)
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=limits), mock_clock)
        await timed.after(100)
        assert not timed.session.ended
        await timed.finish(side)
        await timed.after(9.9)
        assert not timed.session.ended
        await timed.after(10 * LATE - 9.9)
        assert timed.session.outcome.reason is Ended.HALFCLOSE
        with pytest.raises(ConnectionResetError):
            await trio.socket.from_stdlib_socket(timed.session.end(side)).recv(1)


async def test_any_byte_postpones_half_closed(
    rig: Rig, dataplane: DataPlaneChoice, side: str, mock_clock: MockClock
) -> None:
    limits = Limits(idletimeout=3600.0, halfclosetimeout=10.0)
    other = "server" if side == "client" else "client"
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=limits), mock_clock)
        await timed.finish(side)
        for _ in range(10):
            await timed.after(9)
            await timed.say(other)
        assert not timed.session.ended
        await timed.after(10 * LATE)
        assert timed.session.outcome.reason is Ended.HALFCLOSE


async def test_lifetime_whatever_moves(rig: Rig, dataplane: DataPlaneChoice, mock_clock: MockClock) -> None:
    limits = Limits(idletimeout=20.0, maxlifetime=100.0)
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=limits), mock_clock)
        for _ in range(9):
            await timed.after(11)
            await timed.say("client")
        assert not timed.session.ended
        await timed.after(100 * LATE - 99)
        await timed.check_ended(Ended.LIFETIME)
        assert timed.session.outcome.up == Ledger(9, 9, 0)


async def test_the_first_limit_reached_gives_the_reason(
    rig: Rig, dataplane: DataPlaneChoice, mock_clock: MockClock
) -> None:
    limits = Limits(idletimeout=50.0, halfclosetimeout=70.0, maxlifetime=90.0)
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=limits), mock_clock)
        await timed.finish("client")
        # Long after all three, as when the machine was suspended.
        await timed.after(1000)
        assert timed.session.outcome.reason is Ended.IDLE


async def test_off(rig: Rig, dataplane: DataPlaneChoice, mock_clock: MockClock) -> None:
    async with rig.running():
        timed = Timed(rig.start(dataplane), mock_clock)
        await timed.after(1e8)
        await timed.say("client")
        await timed.finish("client")
        await timed.after(1e8)
        await timed.say("server")
        assert not timed.session.ended


async def test_a_finished_session_has_no_deadline(
    rig: Rig, dataplane: DataPlaneChoice, mock_clock: MockClock
) -> None:
    async with rig.running():
        timed = Timed(rig.start(dataplane, limits=Limits(idletimeout=60.0)), mock_clock)
        await timed.finish("client")
        assert timed.session.transfer.bucket != NOWHERE
        await timed.finish("server")
        assert timed.session.transfer.bucket == NOWHERE
        await timed.after(1000)
        assert timed.session.outcome.reason is Ended.FINISHED


async def test_sessions_ended_by_another_at_their_common_deadline(
    rig: Rig, dataplane: DataPlaneChoice, mock_clock: MockClock
) -> None:
    """All are taken out of the wheel together; the first is due and ends the others, which are not."""
    sessions: list[Session] = []

    def end_all(_: object) -> None:
        for session in sessions:
            session.transfer.end(Ended.DRAIN)

    limits = replace(UNLIMITED, idletimeout=60.0)
    async with rig.running():
        sessions += (rig.begin(rig.open(), dataplane, limits=limits, on_end=end_all) for _ in range(9))
        mock_clock.jump(30)
        for session in sessions[1:]:
            await Timed(session, mock_clock).say("client")
        await Timed(sessions[0], mock_clock).after(60 * LATE - 30)
        assert sessions[0].outcome.reason is Ended.IDLE
        assert {session.outcome.reason for session in sessions[1:]} == {Ended.DRAIN}
        assert {session.transfer.bucket for session in sessions} == {NOWHERE}
