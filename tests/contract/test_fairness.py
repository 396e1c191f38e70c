"""The contract: one busy connection cannot starve the rest. Counted in turns of the engine, not in time."""

from __future__ import annotations

import fcntl
import struct
import termios
from contextlib import suppress

import pytest
import trio

from portproxy.dataplane.base import TURN_BYTES, Leg
from portproxy.model import DataPlaneChoice
from tests.contract.rig import Rig, Session

MOST_TURNS = 4
FILL = bytes(1 << 20)


def waiting(leg: Leg) -> int:
    """Bytes in the receive queue of a near end (tcp(7), SIOCINQ)."""
    (count,) = struct.unpack("i", fcntl.ioctl(leg.sock, termios.FIONREAD, bytes(4)))
    return int(count)


class Upload:
    """A client that always has more to send, and a server that always takes it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.leg = session.a

    def feed(self) -> None:
        """Leave the near socket readable and the pipe's other side empty."""
        with suppress(BlockingIOError):
            while True:
                self._session.server.recv(1 << 20)
        with suppress(BlockingIOError):
            while True:
                self._session.client.send(FILL)


async def busy(rig: Rig, uploads: list[Upload], size: int) -> None:
    """Run the uploads until ``size`` bytes wait in each: the kernel's buffers grow with their use."""
    while True:
        for upload in uploads:
            upload.feed()
        await rig.pause()
        if all(waiting(upload.leg) >= size for upload in uploads):
            return
        rig.engine.turn()


async def turns_until_echoed(rig: Rig, echo: Session, uploads: list[Upload]) -> int:
    """Turns between a client's sending and its reading the echo, while every upload goes on."""
    turns = 0
    reply = b""
    echo.client.send(b"ping")
    while reply != b"ping":
        # What the kernel has not delivered yet is no turn of the engine's; it only has to be there.
        for upload in uploads:
            upload.feed()
            assert waiting(upload.leg)
        rig.engine.turn()
        turns += 1
        with suppress(BlockingIOError):
            echo.server.send(echo.server.recv(10))
        with suppress(BlockingIOError):
            reply += echo.client.recv(10)
        await rig.pause()
    return turns


@pytest.mark.parametrize("many", [1, 50])
async def test_an_echo_beside_endless_uploads(rig: Rig, dataplane: DataPlaneChoice, many: int) -> None:
    echo = rig.start(dataplane)
    uploads = [Upload(rig.start(dataplane)) for _ in range(many)]
    await rig.send(echo.client, b"warm")
    assert await rig.receive(echo.server, 4) == b"warm"
    await busy(rig, uploads, TURN_BYTES if many == 1 else 1)
    for _ in range(10):
        assert await turns_until_echoed(rig, echo, uploads) <= MOST_TURNS


@pytest.mark.parametrize("pipesize", [1 << 16, TURN_BYTES, 1 << 20])
async def test_a_turn_moves_so_much_and_no_more(
    rig: Rig, dataplane: DataPlaneChoice, pipesize: int
) -> None:
    upload = Upload(rig.start(dataplane, pipesize=pipesize))
    await busy(rig, [upload], 3 * TURN_BYTES)
    for _ in range(30):
        upload.feed()
        before = upload.leg.accepted
        rig.engine.turn()
        # Its edge and its place in the ready queue: two turns of its own at most in one of the engine's.
        assert upload.leg.accepted - before <= 2 * TURN_BYTES
        await rig.pause()
    before = upload.leg.accepted
    for _ in range(30):
        upload.feed()
        rig.engine.turn()
        await rig.pause()
    assert upload.leg.accepted - before <= 31 * TURN_BYTES
