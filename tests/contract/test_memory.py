"""The contract: memory is bounded by the pipe; a pipe belongs to who has bytes in it, and to nobody else."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from hashlib import sha256

import pytest
import trio

from portproxy.dataplane.base import BUFFER_BYTES, TURN_BYTES
from portproxy.dataplane.leg import Leg
from portproxy.model import DataPlaneChoice
from portproxy.reasons import Ended
from tests.contract.rig import Rig, noise, reset


def pipe_ends() -> int:
    """How many descriptors of pipes this process holds."""
    held = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            held += os.readlink(f"/proc/self/fd/{number}").startswith("pipe:")
    return held


def most(leg: Leg, dataplane: DataPlaneChoice) -> int:
    """What may be in flight on ``leg`` now."""
    if dataplane is DataPlaneChoice.COPY:
        assert leg.pipe is None
    return leg.pipe.capacity if leg.pipe else BUFFER_BYTES


@pytest.mark.parametrize("pipesize", [1 << 16, 1 << 18, 1 << 20])
async def test_a_reader_that_stops_bounds_what_is_in_flight(
    rig: Rig, dataplane: DataPlaneChoice, side: str, pipesize: int
) -> None:
    session = rig.start(dataplane, pipesize=pipesize, buffers=1 << 18)
    sender, reader, leg = session.end(side), session.other(side), session.leg(side)
    data, sent, got = noise(6 << 20), 0, sha256()
    idle = 0
    while idle < 100 or not leg.pending:
        with suppress(BlockingIOError):
            sent += sender.send(data[sent : sent + 100_000])
        idle = 0 if rig.engine.turn() else idle + 1
        await rig.pause()
        assert leg.accepted - leg.delivered == leg.pending <= most(leg, dataplane)
    assert sent < len(data)
    while leg.delivered < len(data) or not leg.ended:
        with suppress(BlockingIOError):
            got.update(reader.recv(50_000))
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += sender.send(data[sent : sent + 100_000])
            if sent == len(data):
                sender.shutdown(socket.SHUT_WR)
        await rig.step()
        assert leg.accepted - leg.delivered == leg.pending <= most(leg, dataplane)
    got.update(await rig.receive_end(reader))
    assert got.digest() == sha256(data).digest()


async def test_one_stopped_direction_does_not_hold_the_other(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    await rig.stall(session, side, noise(32 << 20))
    data = noise(3 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.send, session.other(side), data)
        assert await rig.receive(session.end(side), len(data)) == data
    assert session.leg(side).pending


async def test_an_idle_connection_holds_no_pipe(rig: Rig, dataplane: DataPlaneChoice, side: str) -> None:
    before = pipe_ends()
    session = rig.start(dataplane)
    for size in (1, BUFFER_BYTES, 4 << 20, 10):
        data = noise(size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.send, session.end(side), data)
            assert await rig.receive(session.other(side), size) == data
        await rig.settle()
        assert session.a.pipe is session.b.pipe is None
        rig.engine.free_descriptors()
        assert pipe_ends() == before


async def test_a_half_closed_connection_holds_no_pipe(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    before = pipe_ends()
    session = rig.start(dataplane)
    data = noise(1 << 20)
    await rig.send_unturned(session.end(side), data)
    session.end(side).shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.other(side)) == data
    await rig.settle()
    assert session.a.pipe is session.b.pipe is None
    rig.engine.free_descriptors()
    assert pipe_ends() == before


async def test_a_stopped_reader_that_goes_on_gives_its_pipe_back(
    rig: Rig, dataplane: DataPlaneChoice
) -> None:
    before = pipe_ends()
    session = rig.start(dataplane)
    data = noise(32 << 20)
    sent = await rig.stall(session, "client", data)
    assert await rig.receive(session.server, sent) == data[:sent]
    await rig.until(lambda: session.a.pipe is None)
    rig.engine.free_descriptors()
    assert pipe_ends() == before


@pytest.mark.parametrize("reason", list(Ended))
async def test_a_pipe_with_bytes_in_it_is_closed(rig: Rig, dataplane: DataPlaneChoice, reason: Ended) -> None:
    before = pipe_ends()
    stopped = rig.start(dataplane)
    await rig.stall(stopped, "client", b"secret" * (4 << 20))
    stopped.transfer.end(reason)
    assert pipe_ends() == before
    session = rig.start(dataplane)
    data = noise(2 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.send, session.client, data)
        assert await rig.receive(session.server, len(data)) == data


async def test_pipes_are_shared_by_sessions_one_after_another(rig: Rig, dataplane: DataPlaneChoice) -> None:
    before = pipe_ends()
    for seed in range(6):
        session = rig.start(dataplane, buffers=1 << 17)
        data = noise(4 << 20, seed)
        sent = await rig.stall(session, "client", data)
        if seed % 2:
            reset(session.server)
            while not session.ended:
                await rig.step()
        else:
            assert await rig.receive(session.server, sent) == data[:sent]
        await rig.settle()
        assert pipe_ends() - before in (0, 2)


@pytest.mark.parametrize("pipesize", [1 << 16, TURN_BYTES])
async def test_a_pipe_that_is_full_by_slots(rig: Rig, dataplane: DataPlaneChoice, pipesize: int) -> None:
    session = rig.start(dataplane, pipesize=pipesize)
    tiny = noise(400)
    for byte in tiny:
        await rig.send_unturned(session.client, bytes([byte]))
    bulk = noise(16 << 20)
    sent = await rig.stall(session, "client", bulk)
    assert await rig.receive(session.server, 400 + sent) == tiny + bulk[:sent]


@pytest.mark.parametrize("pipesize", [1 << 16, TURN_BYTES])
async def test_one_byte_segments_behind_a_reader_that_stopped(
    rig: Rig, dataplane: DataPlaneChoice, pipesize: int
) -> None:
    session = rig.start(dataplane, buffers=1 << 16, pipesize=pipesize)
    # The relay is stopped by the reader, and has room left to take the segments one by one.
    bulk = noise(16 << 20)
    sent = 0
    while not session.a.pending:
        sent += session.client.send(bulk[sent : sent + 4096])
        await rig.step()
    tiny = noise(400)
    for byte in tiny:
        await rig.send(session.client, bytes([byte]))
        await rig.step()
    session.client.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.server) == bulk[:sent] + tiny


async def test_tiny_segments_all_along(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane)
    data = noise(3000)
    for at, byte in enumerate(data):
        await rig.send_unturned(session.client, bytes([byte]))
        if at % 100 == 99:
            await rig.step()
    session.client.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.server) == data
