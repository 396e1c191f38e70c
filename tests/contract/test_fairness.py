"""The contract: one busy connection cannot starve the rest. Counted in turns of the engine, not in time."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from contextlib import suppress

import pytest

from portproxy.dataplane.base import TURN_BYTES
from portproxy.model import DataPlaneChoice
from tests.contract.rig import Rig, Session

MOST_TURNS = 4
FILL = bytes(1 << 20)


def waiting(sock: socket.SocketType) -> int:
    """Bytes in the receive queue (tcp(7), SIOCINQ)."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    return int(count)


class Upload:
    """A client that always has more to send, and a server that always takes it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.leg = session.a

    def feed(self) -> None:
        """Leave the near socket readable and the pipe's other side empty."""
        self.drain()
        with suppress(BlockingIOError):
            while True:
                self.session.client.send(FILL)

    def drain(self) -> None:
        """Take what has come through."""
        with suppress(BlockingIOError):
            while True:
                self.session.server.recv(1 << 20)


async def busy(rig: Rig, uploads: list[Upload]) -> None:
    """Run the uploads until bytes wait in each."""
    while not all(waiting(upload.leg.sock) for upload in uploads):
        for upload in uploads:
            upload.feed()
        await rig.pause()
    rig.engine.turn()


async def turns_to_pass(rig: Rig, echo: Session, side: str, uploads: list[Upload]) -> int:
    """Turns from a message's being there until it was passed on, while every upload goes on."""
    leg, turns = echo.leg(side), 0
    delivered = leg.delivered
    echo.end(side).send(b"ping")
    await rig.shown(leg, select.POLLIN)
    while leg.delivered == delivered:
        for upload in uploads:
            upload.feed()
            assert waiting(upload.leg.sock)
        rig.engine.turn()
        turns += 1
    while waiting(echo.other(side)) < len(b"ping"):
        await rig.pause()
    assert echo.other(side).recv(10) == b"ping"
    return turns


@pytest.mark.parametrize("many", [1, 50])
async def test_an_echo_beside_endless_uploads(rig: Rig, dataplane: DataPlaneChoice, many: int) -> None:
    echo = rig.start(dataplane)
    uploads = [Upload(rig.start(dataplane)) for _ in range(many)]
    await rig.send(echo.client, b"warm")
    assert await rig.receive(echo.server, 4) == b"warm"
    await busy(rig, uploads)
    for _ in range(10):
        there = await turns_to_pass(rig, echo, "client", uploads)
        back = await turns_to_pass(rig, echo, "server", uploads)
        assert there + back <= MOST_TURNS


@pytest.mark.parametrize("pipesize", [1 << 16, TURN_BYTES, 1 << 20])
async def test_a_turn_moves_so_much_and_no_more(rig: Rig, dataplane: DataPlaneChoice, pipesize: int) -> None:
    upload = Upload(rig.start(dataplane, pipesize=pipesize, buffers=4 << 20))
    await busy(rig, [upload])
    for _ in range(30):
        upload.feed()
        before = upload.leg.accepted
        rig.engine.turn()
        # Its edge and its place in the ready queue: two turns of its own at most in one of the engine's.
        assert upload.leg.accepted - before <= 2 * max(pipesize, TURN_BYTES)
        await rig.pause()
    before = upload.leg.accepted
    for _ in range(30):
        upload.feed()
        rig.engine.turn()
        await rig.pause()
    assert upload.leg.accepted - before <= 31 * max(pipesize, TURN_BYTES)


async def there(rig: Rig, upload: Upload, size: int) -> None:
    """Have ``size`` bytes of an upload waiting to be read, all at once."""
    assert upload.session.client.send(FILL[:size]) == size
    while waiting(upload.leg.sock) < size:
        await rig.pause()


async def test_one_upload_has_its_turn_at_a_time(rig: Rig) -> None:
    uploads = [Upload(rig.start(DataPlaneChoice.AUTO, buffers=4 << 20)) for _ in range(8)]
    for upload in uploads:
        # A whole read and a whole pipe's worth after it: copy finds it to be bulk, and splice leaves it so.
        await there(rig, upload, 200_000)
        await rig.settle()
        assert upload.leg.bulk
        upload.drain()
    for _ in range(4):
        for upload in uploads:
            # An edge for each of them, and less than a turn's bytes: nobody is queued already.
            await there(rig, upload, 100_000)
        for _ in uploads:
            before = [upload.leg.accepted for upload in uploads]
            rig.engine.turn()
            moved = [upload.leg.accepted - then for upload, then in zip(uploads, before, strict=True)]
            assert sum(map(bool, moved)) == 1
        await rig.settle()
        for upload in uploads:
            upload.drain()


async def test_of_many_whose_receivers_stall_one_has_its_turn_at_a_time(rig: Rig) -> None:
    uploads = [Upload(rig.start(DataPlaneChoice.AUTO)) for _ in range(8)]
    for upload in uploads:
        # Nobody receives until all is full on the way: the next edge is the receiver's.
        while not upload.leg.pending or upload.leg.queued:
            with suppress(BlockingIOError):
                upload.session.client.send(FILL)
            rig.engine.turn()
            await rig.pause()
    await rig.settle()
    for upload in uploads:
        assert upload.leg.bulk
        upload.drain()
        await rig.shown(upload.session.b, select.POLLOUT)
    for _ in uploads:
        before = [upload.leg.delivered for upload in uploads]
        rig.engine.turn()
        moved = [upload.leg.delivered - then for upload, then in zip(uploads, before, strict=True)]
        assert sum(map(bool, moved)) == 1


async def test_a_message_after_a_long_answer_does_not_wait_behind_bulk(rig: Rig) -> None:
    asked = rig.start(DataPlaneChoice.AUTO)
    uploads = [Upload(rig.start(DataPlaneChoice.AUTO)) for _ in range(20)]
    await busy(rig, uploads)
    # More than copy reads at once, so it goes by splice, and back to copy when there is no more of it.
    await rig.send(asked.server, bytes(100_000))
    assert len(await rig.receive(asked.client, 100_000)) == 100_000
    await busy(rig, uploads)
    assert await turns_to_pass(rig, asked, "server", uploads) <= MOST_TURNS
