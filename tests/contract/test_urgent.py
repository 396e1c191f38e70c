"""The contract: an urgent byte (MSG_OOB) is one of the stream, and nothing stalls behind it."""

from __future__ import annotations

import select
import socket

import pytest
import trio

from portproxy.dataplane.base import BUFFER_BYTES, TURN_BYTES
from portproxy.model import DataPlaneChoice
from portproxy.reasons import Ended
from tests.contract.rig import Rig, noise


async def send_urgent(rig: Rig, sock: socket.socket, byte: bytes) -> None:
    """Send ``byte`` as urgent data; the engine turns while there is no room for it."""
    while True:
        try:
            assert sock.send(byte, socket.MSG_OOB) == 1
        except BlockingIOError:
            await rig.step()
        else:
            return


async def test_alone(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    for byte in b"!", b"?":
        await send_urgent(rig, session.end(side), byte)
        assert await rig.receive(session.other(side), 1) == byte


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("before", [0, 1, BUFFER_BYTES, BUFFER_BYTES + 1, TURN_BYTES + 1000])
@pytest.mark.parametrize("after", [0, 1, 300_000])
async def test_amid_the_stream_with_its_end_behind(
    rig: Rig, dataplane: DataPlaneChoice, before: int, after: int, turned: bool
) -> None:
    session = rig.start(dataplane)
    ahead, behind = noise(before, 1), noise(after, 2)

    async def upload() -> None:
        send = rig.send if turned else rig.send_unturned
        await send(session.client, ahead)
        await send_urgent(rig, session.client, b"!")
        await send(session.client, behind)
        session.client.shutdown(socket.SHUT_WR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        if not turned and before + after < 1 << 18:  # what the queue takes
            await rig.shown(session.a, select.POLLRDHUP)
        assert await rig.receive_end(session.server) == ahead + b"!" + behind
    session.server.shutdown(socket.SHUT_WR)
    await rig.until(lambda: session.ended)
    assert session.outcome.reason is Ended.FINISHED
    assert session.outcome.up.delivered == before + 1 + after


async def test_more_bulk_behind_it_without_an_end(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    session = rig.start(dataplane)
    for seed in range(5):
        data = noise(700_000, seed)

        async def upload(data: bytes = data) -> None:
            await rig.send(session.end(side), data)
            await send_urgent(rig, session.end(side), b"!")
            await rig.send(session.end(side), data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            expected = data + b"!" + data
            assert await rig.receive(session.other(side), len(expected)) == expected


async def test_before_the_session(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.open()
    session.client.send(b"abc")
    session.client.send(b"!", socket.MSG_OOB)
    session.client.send(b"def")
    await rig.until(lambda: session.a.readable and session.b.writable)
    rig.begin(session, dataplane, prefix=b"prefix ")
    assert await rig.receive(session.server, 14) == b"prefix abc!def"


async def test_that_came_after_the_edge_for_what_is_before_it(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane)
    await rig.until(lambda: session.a.writable and session.b.writable)
    session.client.send(b"abc")
    await rig.shown(session.a, select.POLLIN)
    session.client.send(b"!", socket.MSG_OOB)
    await rig.shown(session.a, select.POLLPRI)
    session.client.send(b"def")
    # The edge was collected when only what is before the urgent byte had come.
    session.a.on_events(select.EPOLLIN)
    assert await rig.receive(session.server, 7) == b"abc!def"


async def test_while_the_reader_is_stopped(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane, buffers=1 << 16)
    bulk, sent = noise(8 << 20), 0
    while not session.a.pending:
        sent += session.client.send(bulk[sent : sent + 4096])
        await rig.step()
    await send_urgent(rig, session.client, b"!")
    for _ in range(20):
        await rig.step()
    session.client.send(b"tail")
    assert await rig.receive(session.server, sent + 5) == bulk[:sent] + b"!tail"
