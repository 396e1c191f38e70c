"""A worker's process as its supervisor sees it, whatever the process sends."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from portproxy.net.channel import Channel
from portproxy.wire import worker_frames as wire
from portproxy.workers.member import Member
from tests.conftest import open_descriptors

LIMIT = 100
DONE = wire.frame(wire.encode_reply(wire.Done()))


@asynccontextmanager
async def member() -> AsyncIterator[tuple[Member, socket.socket]]:
    """One of a process that does nothing, and what would be that process's socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await trio.lowlevel.open_process(["sleep", "1000"])
        made = Member(1, process, Channel(ours, LIMIT, takes_descriptors=False))
        try:
            yield made, theirs
        finally:
            await made.end(0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (wire.frame(b"", with_descriptors=True), "a frame that came without its descriptors"),
        (struct.pack(">I?", 1 << 31, False), "a frame of 2147483648 bytes; at most 100 are allowed"),
        (wire.frame(b"\xc1"), "not a worker's reply: "),
        (DONE + DONE, "an answer that nobody asked for"),
    ],
)
async def test_nonsense_ends_who_sends_it_and_nobody_else(data: bytes, why: str) -> None:
    async with member() as (made, theirs):
        first, second = made.send(b"first"), made.send(b"second") if data[:5] != DONE[:5] else None
        theirs.send(data)
        await made.run(lambda number: pytest.fail("it is not idle"))
        await made.process.wait()
        assert made.fate.startswith(f"killed by SIGKILL: {why}")
        assert first.arrived.is_set()
        assert first.reply == (None if second else wire.Done())
        assert second is None or (second.arrived.is_set() and second.reply is None)
        assert made.waiting_since is None
        # Nobody hears a question now.
        assert made.send(b"late").arrived.is_set()


async def test_descriptors_from_a_worker_are_closed() -> None:
    async with member() as (made, theirs):
        before = open_descriptors()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 5))]
        theirs.sendmsg([wire.frame(wire.encode_reply(wire.Idle(1)))], rights)
        theirs.sendmsg([wire.frame(b"", with_descriptors=True)], rights)
        heard: list[int] = []
        await made.run(heard.append)
        assert heard == [1]
        assert open_descriptors().keys() <= before.keys()


async def test_who_cannot_be_sent_to_is_killed_and_it_is_said_why() -> None:
    async with member() as (made, theirs):
        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)
        answer = made.send(b"", [reader])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run, lambda number: None)
            await made.process.wait()
            theirs.close()
        assert made.fate == f"killed by SIGKILL: nothing can be sent to it: {os.strerror(errno.EBADF)}"
        assert answer.reply is None


async def test_the_first_reason_to_give_it_up_is_told() -> None:
    async with member() as (made, _):
        assert made.fate == "still there"
        made.give_up("first")
        made.give_up("second")
        await made.process.wait()
        assert made.fate == "killed by SIGKILL: first"


async def test_how_long_the_oldest_question_waits(mock_clock: trio.testing.MockClock) -> None:
    async with member() as (made, theirs):
        assert made.waiting_since is None
        began = trio.current_time()
        answers = []
        for _ in range(2):
            answers.append(made.send(b""))
            mock_clock.jump(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run, lambda number: None)
            for answer, since in zip(answers, (began + 1, None), strict=True):
                assert made.waiting_since == answer.asked_at
                theirs.send(DONE)
                await answer.arrived.wait()
                assert made.waiting_since == since
            nursery.cancel_scope.cancel()
