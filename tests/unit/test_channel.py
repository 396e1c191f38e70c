"""Frames and descriptors over a real pair of sockets."""

from __future__ import annotations

import array
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portproxy.net.channel import Channel
from portproxy.wire.worker_frames import DESCRIPTORS, WorkerFrameError, frame
from tests.conftest import open_descriptors

LIMIT = 8 << 20

CHILD = """
import os, resource, socket, sys
sys.path[:] = sys.argv[2:]
import trio
from portproxy.net.channel import Channel

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

def leave_room(number):
    # RLIMIT_NOFILE is one more than the greatest number that a descriptor may get (getrlimit(2)).
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, free = 0, 0
    while free < number or is_open(limit):
        free += not is_open(limit)
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

async def main():
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), 1 << 20, takes_descriptors=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        while received := await channel.receive():
            payload, descriptors = received
            if payload.startswith(b"room "):
                leave_room(int(payload[5:]))
            names = [os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors]
            for fd in descriptors:
                os.close(fd)
            channel.send("\\n".join([payload.decode(), *names]).encode())
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@asynccontextmanager
async def pair(limit: int = LIMIT) -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends, sending."""
    one, other = (Channel(sock, limit, takes_descriptors=True) for sock in socket.socketpair())
    with closing(one), closing(other):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            nursery.start_soon(other.run)
            yield one, other
            nursery.cancel_scope.cancel()


@contextmanager
def files(number: int) -> Iterator[list[int]]:
    """Descriptors of as many different files."""
    with ExitStack() as stack:
        found = []
        for place in range(number):
            found.append(os.memfd_create(f"file-{place}"))
            stack.callback(os.close, found[-1])
        yield found


def taken(descriptors: list[int]) -> list[str]:
    """What they stand for; they are closed."""
    kinds = []
    for fd in descriptors:
        kinds.append(os.readlink(f"/proc/self/fd/{fd}").split(":")[-1].removesuffix(" (deleted)"))
        assert not os.get_inheritable(fd)
        os.close(fd)
    return kinds


async def next_frame(channel: Channel) -> tuple[bytes, list[int]]:
    received = await channel.receive()
    assert received
    return received


@pytest.mark.parametrize("size", [0, 1, 4, 5, 65_531, 65_532, 65_536, 1 << 20, 5 << 20])
async def test_frames_of_every_size_in_both_directions_at_once(size: int) -> None:
    payload = os.urandom(size)

    async def receive(channel: Channel) -> None:
        for _ in range(3):
            assert await next_frame(channel) == (payload, [])
        assert await next_frame(channel) == (b"last", [])

    async with pair() as ends:
        for channel in ends:
            for _ in range(3):
                channel.send(payload)
            channel.send(b"last")
        async with trio.open_nursery() as nursery:
            for channel in ends:
                nursery.start_soon(receive, channel)


sizes = st.sampled_from([0, 1, 100, 70_000, 300_000])


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(sizes, st.integers(0, 3)), min_size=1, max_size=12))
def test_descriptors_come_with_their_own_frame(frames: list[tuple[int, int]]) -> None:
    async def main() -> None:
        with files(3) as descriptors:
            async with pair() as (one, other):
                for place, (size, number) in enumerate(frames):
                    one.send(b"%d" % place + bytes(size), descriptors[:number])
                for place, (size, number) in enumerate(frames):
                    payload, came = await next_frame(other)
                    assert taken(came) == [f"file-{number}" for number in range(number)]
                    assert payload == b"%d" % place + bytes(size)

    trio.run(main)


@pytest.mark.parametrize("step", [1, 3, 7])
async def test_descriptors_come_with_their_own_frame_in_small_pieces(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portproxy.net.channel._RECEIVE", step)
    with files(2) as descriptors:
        async with pair() as (one, other):
            for number in (0, 1, 0, 0, 2, 1, 0):
                one.send(b"with %d" % number, descriptors[:number])
            for number in (0, 1, 0, 0, 2, 1, 0):
                payload, came = await next_frame(other)
                assert taken(came) == ["file-0", "file-1"][:number]
                assert payload == b"with %d" % number


async def test_as_many_descriptors_as_one_message_takes() -> None:
    before = open_descriptors()
    with files(DESCRIPTORS) as descriptors:
        async with pair() as (one, other):
            for _ in range(2):
                one.send(b"all", descriptors)
                payload, came = await next_frame(other)
                assert payload == b"all"
                assert taken(came) == [f"file-{number}" for number in range(DESCRIPTORS)]
    assert open_descriptors() == before


@asynccontextmanager
async def another_process() -> AsyncIterator[Channel]:
    """A channel to a process that says what came: a frame's payload, then the names of its descriptors."""
    ours, theirs = socket.socketpair()
    with theirs, closing(Channel(ours, LIMIT, takes_descriptors=False)) as channel:
        command = [sys.executable, "-c", CHILD, str(theirs.fileno()), *sys.path]
        process = await trio.lowlevel.open_process(command, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run)
                yield channel
                nursery.cancel_scope.cancel()
        finally:
            channel.close()
            with trio.CancelScope(shield=True):
                assert await process.wait() == 0


async def test_a_receiver_without_descriptors_gets_what_there_is_room_for_and_keeps_the_order() -> None:
    with files(10) as descriptors:
        async with another_process() as channel:

            async def came(*frames: tuple[str, int]) -> list[int]:
                """How many descriptors came with each of ``frames``, sent with so many."""
                for payload, number in frames:
                    channel.send(payload.encode(), descriptors[:number])
                numbers = []
                for payload, _ in frames:
                    name, *links = (await next_frame(channel))[0].decode().split("\n")
                    assert name == payload
                    expected = [f"/memfd:file-{number} (deleted)" for number in range(len(links))]
                    assert links == expected
                    numbers.append(len(links))
                return numbers

            for _ in range(2):
                assert await came(("room 100", 0)) == [0]
                assert await came(("all", 10)) == [10]
                assert await came(("room 3", 0)) == [0]
                # What is queued at once arrives in one go, and none of it is taken for another's.
                some = ("short", 10), ("without", 0), ("fits", 1), ("short again", 4), ("last", 0)
                assert await came(*some) == [3, 0, 1, 3, 0]
                assert await came(("room 0", 0)) == [0]
                assert await came(("none", 10), ("without", 0), ("neither", 1)) == [0, 0, 0]


async def test_the_others_end_is_the_end_after_what_it_sent() -> None:
    async with pair() as (one, other):
        one.send(b"last words")
        assert await next_frame(other) == (b"last words", [])
        one.close()
        assert await other.receive() is None
        other.send(b"too late")
        assert await other.receive() is None


async def test_sending_ends_when_the_other_end_is_gone() -> None:
    one, other = (Channel(sock, LIMIT, takes_descriptors=False) for sock in socket.socketpair())
    with closing(one):
        one.send(bytes(1 << 20))
        other.close()
        await one.run()


async def test_a_process_that_dies_in_the_middle_of_a_frame() -> None:
    ours, theirs = socket.socketpair()
    with theirs, closing(Channel(ours, LIMIT, takes_descriptors=False)) as channel:
        script = "import os, sys; os.write(int(sys.argv[1]), bytes.fromhex(sys.argv[2])); os._exit(9)"
        half = frame(b"whole").hex() + frame(b"half")[:-1].hex()
        command = [sys.executable, "-c", script, str(theirs.fileno()), half]
        process = await trio.lowlevel.open_process(command, pass_fds=[theirs.fileno()])
        theirs.close()
        assert await next_frame(channel) == (b"whole", [])
        assert await channel.receive() is None
        assert await process.wait() == 9


async def test_closing_wakes_who_receives() -> None:
    async with pair() as (_, other), trio.open_nursery() as nursery:
        got: list[object] = []

        async def receive() -> None:
            got.append(await other.receive())

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        other.close()
        await trio.testing.wait_all_tasks_blocked()
        assert got == [None]


async def test_a_frame_over_the_limit_is_refused() -> None:
    async with pair(limit=100) as (one, other):
        one.send(bytes(100))
        one.send(bytes(101))
        assert await next_frame(other) == (bytes(100), [])
        with pytest.raises(WorkerFrameError, match="a frame of 101 bytes; at most 100 are allowed"):
            await other.receive()


async def test_closing_closes_what_came_and_was_not_taken() -> None:
    ours, theirs = socket.socketpair()
    before = open_descriptors().keys()
    with ours, files(3) as descriptors:
        channel = Channel(theirs, LIMIT, takes_descriptors=True)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        ours.sendmsg([frame(b"x" * 9, with_descriptors=True)[:-1]], rights)
        with trio.move_on_after(0):
            await channel.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            await trio.testing.wait_all_tasks_blocked()
            assert len(open_descriptors().keys() - before) == 6
            channel.close()
        assert len(open_descriptors().keys() - before) == 3


async def test_descriptors_for_who_takes_none_are_closed() -> None:
    ours, theirs = socket.socketpair()
    before = open_descriptors()
    with theirs, files(3) as descriptors, closing(Channel(ours, LIMIT, takes_descriptors=False)) as channel:
        here = open_descriptors()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        for payload in (b"one", b"two"):
            theirs.sendmsg([frame(payload)], rights)
        for payload in (b"one", b"two"):
            assert await next_frame(channel) == (payload, [])
            assert open_descriptors() == here
        theirs.sendmsg([frame(b"three", with_descriptors=True)], rights)
        with pytest.raises(WorkerFrameError, match=r"^a frame that came without its descriptors$"):
            await channel.receive()
        assert open_descriptors() == here
    assert open_descriptors().keys() <= before.keys()


@pytest.mark.parametrize("takes_descriptors", [True, False])
async def test_a_frame_without_the_descriptors_that_it_speaks_of_is_refused(takes_descriptors: bool) -> None:
    ours, theirs = socket.socketpair()
    with theirs, closing(Channel(ours, LIMIT, takes_descriptors=takes_descriptors)) as channel:
        theirs.send(frame(b"before") + frame(b"", with_descriptors=True))
        assert await next_frame(channel) == (b"before", [])
        with pytest.raises(WorkerFrameError, match=r"^a frame that came without its descriptors$"):
            await channel.receive()
