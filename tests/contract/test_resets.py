"""The contract: the first error ends the session, under its right name; the other side sees a reset too."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

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


async def test_after_the_other_sides_end_of_stream(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
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


async def delivered_to(leg_socket: socket.socket, mask: int) -> None:
    """Wait until the kernel shows ``mask`` on a near end, without the engine's looking."""
    import select

    poll = select.poll()
    poll.register(leg_socket, mask)
    while not any(event & mask for _, event in poll.poll(0)):
        await trio.lowlevel.checkpoint()
