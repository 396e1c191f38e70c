"""The contract: the first error ends the session, under its right name; the other side sees a reset too."""

from __future__ import annotations

import errno
import select
import socket

import pytest

from portproxy.dataplane.base import BUFFER_BYTES, Ledger
from portproxy.model import DataPlaneChoice
from portproxy.reasons import Ended
from tests.contract.rig import Rig, Session, error_of, noise, reset

RESET_BY = {"client": Ended.CLIENT_RESET, "server": Ended.UPSTREAM_RESET}
OTHER = {"client": "server", "server": "client"}


async def check_reset(rig: Rig, session: Session, side: str, code: int) -> None:
    """The session has ended, or will, because ``side`` reset it with errno ``code``."""
    await rig.until(lambda: session.ended)
    assert session.outcome.reason is RESET_BY[side]
    assert session.outcome.error == code
    await rig.until(lambda: session.a.sock.fileno() == session.b.sock.fileno() == -1)


async def half_close(rig: Rig, session: Session, side: str) -> None:
    """``side`` ends its stream, and the other side has read that."""
    session.end(side).shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.other(side)) == b""


async def test_while_idle(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    await rig.send(session.client, b"hello")
    assert await rig.receive(session.server, 5) == b"hello"
    reset(session.end(side))
    await check_reset(rig, session, side, errno.ECONNRESET)
    assert await rig.receive_reset(session.other(side)) == b""
    assert session.outcome.up == Ledger(5, 5, 0)
    assert session.outcome.down == Ledger(0, 0, 0)


async def test_before_the_first_turn(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane, prefix=b"never delivered")
    reset(session.end(side))
    await check_reset(rig, session, side, errno.ECONNRESET)
    assert session.outcome.up.accepted == 15
    await rig.receive_reset(session.other(side))


@pytest.mark.parametrize("sender", ["client", "server"])
async def test_with_a_full_pipe(rig: Rig, dataplane: DataPlaneChoice, side: str, sender: str) -> None:
    session = rig.start(dataplane)
    data = noise(32 << 20)
    sent = await rig.stall(session, sender, data)
    leg = session.leg(sender)
    accepted, in_flight = leg.accepted, leg.pending
    assert in_flight
    reset(session.end(side))
    await check_reset(rig, session, side, errno.ECONNRESET)
    ledger = session.outcome.up if sender == "client" else session.outcome.down
    assert ledger == Ledger(accepted, accepted - in_flight, in_flight)
    assert accepted <= sent
    got = await rig.receive_reset(session.other(side))
    assert got == (data[: len(got)] if side == sender else b"")


async def test_after_its_own_end_of_stream(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    await half_close(rig, session, side)
    reset(session.end(side))
    await check_reset(rig, session, side, errno.EPIPE)
    # It has read the end of stream, so a reset shows to it too as nothing but an error.
    await rig.until(lambda: error_of(session.other(side)) == errno.EPIPE)


async def test_after_the_other_sides_end_of_stream(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    await half_close(rig, session, OTHER[side])
    reset(session.end(side))
    await check_reset(rig, session, side, errno.ECONNRESET)
    assert await rig.receive_reset(session.other(side)) == b""


@pytest.mark.parametrize("sender", ["client", "server"])
async def test_with_a_full_pipe_after_the_readers_end_of_stream(
    rig: Rig, dataplane: DataPlaneChoice, side: str, sender: str
) -> None:
    session = rig.start(dataplane)
    reader = OTHER[sender]
    await half_close(rig, session, reader)
    data = noise(32 << 20)
    await rig.stall(session, sender, data)
    in_flight = session.leg(sender).pending
    reset(session.end(side))
    await check_reset(rig, session, side, errno.EPIPE if side == reader else errno.ECONNRESET)
    ledger = session.outcome.up if sender == "client" else session.outcome.down
    assert ledger.discarded == in_flight > 0


async def test_with_a_full_pipe_and_the_end_of_stream_behind_it(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    await rig.stall(session, side, noise(32 << 20))
    session.end(side).shutdown(socket.SHUT_WR)
    reset(session.end(side))
    # The kernel drops the unsent end of stream with the data before it, so it is a plain reset.
    await check_reset(rig, session, side, errno.ECONNRESET)
    ledger = session.outcome.up if side == "client" else session.outcome.down
    assert ledger.discarded
    await rig.receive_reset(session.other(side))


async def quiet(rig: Rig, session: Session) -> None:
    """The engine has taken every edge up to now, so that those to come keep their order."""
    await rig.send(session.client, b"1")
    assert await rig.receive(session.server, 1) == b"1"
    await rig.settle()


async def test_data_end_of_stream_and_reset_in_one_event(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    await quiet(rig, session)
    sock = session.end(side)
    sock.send(b"data")
    sock.shutdown(socket.SHUT_WR)
    await rig.shown(session.leg(side), select.POLLRDHUP)
    reset(sock)
    await rig.shown(session.leg(side), select.POLLERR)
    await check_reset(rig, session, side, errno.EPIPE)
    # Nothing of it, above all no end of stream that would make a cut message look whole.
    assert await rig.receive_reset(session.other(side)) == b""


async def test_data_and_reset_in_one_event(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    await quiet(rig, session)
    session.end(side).send(b"data")
    await rig.shown(session.leg(side), select.POLLIN)
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    await check_reset(rig, session, side, errno.ECONNRESET)
    await rig.receive_reset(session.other(side))


@pytest.mark.parametrize("size", [5, BUFFER_BYTES, 3 * BUFFER_BYTES])
@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_send_that_meets_the_reset_first(
    rig: Rig, dataplane: DataPlaneChoice, side: str, half_closed: bool, size: int
) -> None:
    session = rig.start(dataplane)
    if half_closed:
        await half_close(rig, session, side)
    sender = session.leg(OTHER[side])
    before = sender.accepted
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    await rig.send_unturned(session.other(side), noise(size))
    await rig.shown(sender, select.POLLIN)
    # The edge was collected before the reset came; the event that tells of the reset is still waiting.
    sender.on_events(select.EPOLLIN)
    if sender.queued:  # bulk waits for its turn
        sender.queued = False
        sender.owner.turn(sender)
    await check_reset(rig, session, side, errno.EPIPE if half_closed else errno.ECONNRESET)
    ledger = session.outcome.down if side == "client" else session.outcome.up
    assert ledger.delivered == before
    assert ledger.discarded > 0
    assert error_of(session.other(side)) in (errno.ECONNRESET, errno.EPIPE)


async def test_a_read_that_meets_the_reset_first(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    await quiet(rig, session)
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    session.leg(side).on_events(select.EPOLLIN)
    await check_reset(rig, session, side, errno.ECONNRESET)
    assert await rig.receive_reset(session.other(side)) == b""


async def test_an_end_of_stream_that_meets_the_reset_first(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    await quiet(rig, session)
    session.other(side).shutdown(socket.SHUT_WR)
    await rig.shown(session.leg(OTHER[side]), select.POLLRDHUP)
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    session.leg(OTHER[side]).on_events(select.EPOLLIN | select.EPOLLRDHUP)
    await check_reset(rig, session, side, errno.ECONNRESET)
    assert await rig.receive_reset(session.other(side)) == b""


async def test_the_last_end_of_stream_that_meets_the_reset_first(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    await half_close(rig, session, side)
    await rig.settle()
    session.other(side).shutdown(socket.SHUT_WR)
    await rig.shown(session.leg(OTHER[side]), select.POLLRDHUP)
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    session.leg(OTHER[side]).on_events(select.EPOLLIN | select.EPOLLRDHUP)
    await check_reset(rig, session, side, errno.EPIPE)


async def test_a_drain_that_meets_the_reset_first(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    sender = OTHER[side]
    await rig.stall(session, sender, noise(32 << 20))
    in_flight = session.leg(sender).pending
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    session.leg(side).on_events(select.EPOLLOUT)
    await check_reset(rig, session, side, errno.ECONNRESET)
    ledger = session.outcome.up if sender == "client" else session.outcome.down
    assert ledger.discarded == in_flight > 0


async def test_both_sides_at_once(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    await quiet(rig, session)
    reset(session.end(side))
    await rig.shown(session.leg(side), select.POLLERR)
    reset(session.other(side))
    await rig.shown(session.leg(OTHER[side]), select.POLLERR)
    await check_reset(rig, session, side, errno.ECONNRESET)


@pytest.mark.parametrize("reason", [Ended.DRAIN, Ended.SHUTDOWN, Ended.INTERNAL])
async def test_a_kill_resets_both_sides(rig: Rig, dataplane: DataPlaneChoice, reason: Ended) -> None:
    session = rig.start(dataplane)
    await rig.stall(session, "client", noise(32 << 20))
    in_flight = session.a.pending
    session.transfer.end(reason)
    assert session.outcome.reason is reason
    assert session.outcome.up.discarded == in_flight > 0
    await rig.receive_reset(session.server)
    await rig.receive_reset(session.client)
