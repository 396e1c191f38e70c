"""The contract: both streams arrive whole and in order, and each end of stream on its own."""

from __future__ import annotations

import random
import socket
from contextlib import closing
from hashlib import sha256

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from portproxy.dataplane.base import BUFFER_BYTES, TURN_BYTES, Ledger
from portproxy.model import DataPlaneChoice
from portproxy.reasons import Ended
from tests.contract.rig import Families, Rig, Session, chunks, noise

SIZES = [
    *(0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 2 * BUFFER_BYTES),
    *(TURN_BYTES - 1, TURN_BYTES, TURN_BYTES + 1, (3 << 20) + 7),
]
FAMILIES: list[Families] = [
    (listen, connect)
    for listen in (socket.AF_INET, socket.AF_INET6)
    for connect in (socket.AF_INET, socket.AF_INET6)
]


class Sender:
    """Sends ``data`` in random chunks whenever asked, then the end of stream."""

    def __init__(self, sock: socket.socket, data: bytes, seed: int, largest: int) -> None:
        self._sock = sock
        self._chunks = chunks(data, random.Random(seed), largest)
        self._rest = b""
        self.done = False

    def push(self) -> None:
        while not self.done:
            self._rest = self._rest or next(self._chunks, b"")
            if not self._rest:
                self._sock.shutdown(socket.SHUT_WR)
                self.done = True
                return
            try:
                self._rest = self._rest[self._sock.send(self._rest) :]
            except BlockingIOError:
                return


async def exchange(rig: Rig, session: Session, up: bytes, down: bytes, largest: int) -> tuple[bytes, bytes]:
    """Send both streams and their ends at once; what the server and the client received."""
    senders = Sender(session.client, up, 1, largest), Sender(session.server, down, 2, largest)
    got = {session.server: bytearray(), session.client: bytearray()}
    open_ends = set(got)
    while open_ends:
        for sender in senders:
            sender.push()
        await rig.step()
        for sock in tuple(open_ends):
            try:
                chunk = sock.recv(100_000)
            except BlockingIOError:
                continue
            got[sock] += chunk
            if not chunk:
                open_ends.remove(sock)
    await rig.until(lambda: session.ended)
    return bytes(got[session.server]), bytes(got[session.client])


async def check_exchange(rig: Rig, session: Session, up: bytes, down: bytes, largest: int) -> None:
    at_server, at_client = await exchange(rig, session, up, down, largest)
    assert sha256(at_server).digest() == sha256(up).digest()
    assert sha256(at_client).digest() == sha256(down).digest()
    assert session.outcome.reason is Ended.FINISHED
    assert session.outcome.up == Ledger(len(up), len(up), 0)
    assert session.outcome.down == Ledger(len(down), len(down), 0)


@pytest.mark.parametrize("size", SIZES)
async def test_both_directions_at_once(rig: Rig, dataplane: DataPlaneChoice, size: int) -> None:
    session = rig.start(dataplane)
    await check_exchange(rig, session, noise(size, 1), noise(size, 2), 200_000)
    assert session.outcome.fallbacks == 0


@pytest.mark.parametrize("families", FAMILIES)
async def test_every_pair_of_families(rig: Rig, dataplane: DataPlaneChoice, families: Families) -> None:
    session = rig.start(dataplane, families=families)
    await check_exchange(rig, session, noise(300_001, 1), noise(500_003, 2), 70_000)


@pytest.mark.parametrize("pipesize", [1 << 16, 1 << 20])
@pytest.mark.parametrize("buffers", [4096, 20_000])
async def test_small_socket_buffers(
    rig: Rig, dataplane: DataPlaneChoice, buffers: int, pipesize: int
) -> None:
    session = rig.start(dataplane, buffers=buffers, pipesize=pipesize)
    await check_exchange(rig, session, noise(400_000, 1), noise(90_000, 2), 9000)


async def test_messages_that_fill_the_buffer_exactly(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane)
    for seed in range(20):
        message = noise(BUFFER_BYTES, seed)
        await rig.send(session.client, message)
        assert await rig.receive(session.server, len(message)) == message
        await rig.send(session.server, message)
        assert await rig.receive(session.client, len(message)) == message
    session.transfer.end(Ended.DRAIN)
    assert session.outcome.up == session.outcome.down == Ledger(20 * BUFFER_BYTES, 20 * BUFFER_BYTES, 0)


@pytest.mark.parametrize("polled", [False, True])
@pytest.mark.parametrize("size", [0, 1, 536, BUFFER_BYTES, 900_000])
async def test_the_prefix_goes_first(rig: Rig, dataplane: DataPlaneChoice, size: int, polled: bool) -> None:
    session = rig.open()
    await rig.send(session.client, b"behind the prefix")
    if polled:
        await rig.until(lambda: session.a.readable and session.b.writable)
    prefix = noise(size)
    rig.begin(session, dataplane, prefix=prefix)
    expected = prefix + b"behind the prefix"
    assert await rig.receive(session.server, len(expected)) == expected
    session.client.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.server) == b""
    session.server.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.client) == b""
    await rig.until(lambda: session.ended)
    assert session.outcome.up == Ledger(len(expected), len(expected), 0)


async def test_what_the_engine_had_seen_before_the_start_is_not_waited_for(
    rig: Rig, dataplane: DataPlaneChoice
) -> None:
    session = rig.open()
    await rig.send(session.server, b"220 ready")
    await rig.until(lambda: session.b.readable and session.b.writable and session.a.writable)
    rig.begin(session, dataplane, prefix=b"prefix")
    assert await rig.receive(session.client, 9) == b"220 ready"
    assert await rig.receive(session.server, 6) == b"prefix"


async def test_the_prefix_waits_for_a_full_upstream(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.open(buffers=4096)
    header = bytearray()
    while session.b.writable or not header:
        await rig.step()
        try:
            while True:
                header += b"h" * session.b.sock.send(b"h" * 1000)
        except BlockingIOError:
            session.b.writable = False
    session.client.sendall(b"data")
    session.client.shutdown(socket.SHUT_WR)
    await rig.until(lambda: session.a.readable)
    prefix = noise(30_000)
    rig.begin(session, dataplane, prefix=prefix)
    assert not session.a.ended
    assert await rig.receive_end(session.server) == header + prefix + b"data"


async def test_a_client_that_was_done_before_the_start(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.open()
    session.client.sendall(b"question")
    session.client.shutdown(socket.SHUT_WR)
    await rig.until(lambda: session.a.readable and session.a.read_on and session.b.writable)
    rig.begin(session, dataplane, prefix=b"the ")
    assert await rig.receive_end(session.server) == b"the question"
    await rig.send(session.server, b"answer")
    session.server.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(session.client) == b"answer"
    await rig.until(lambda: session.ended)
    assert session.outcome.reason is Ended.FINISHED


async def test_an_end_of_stream_leaves_the_other_direction_open(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    first, second = session.end(side), session.other(side)
    await rig.send(first, b"last words")
    first.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(second) == b"last words"
    for size in (1, 100, BUFFER_BYTES, 2 << 20):
        data = noise(size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.send, second, data)
            assert await rig.receive(first, size) == data
        assert not session.ended
    second.shutdown(socket.SHUT_WR)
    assert await rig.receive_end(first) == b""
    await rig.until(lambda: session.ended)
    assert session.outcome.reason is Ended.FINISHED


async def test_an_end_of_stream_waits_behind_what_is_in_flight(
    rig: Rig, dataplane: DataPlaneChoice, side: str
) -> None:
    session = rig.start(dataplane)
    sender, reader, leg = session.end(side), session.other(side), session.leg(side)
    data = noise(32 << 20)
    sent = await rig.stall(session, side, data)
    sender.shutdown(socket.SHUT_WR)
    await rig.settle()
    assert leg.pending
    assert not leg.ended
    assert sha256(await rig.receive_end(reader)).digest() == sha256(data[:sent]).digest()
    await rig.send(reader, b"thanks")
    assert await rig.receive(sender, 6) == b"thanks"


async def test_the_end_is_told_once_and_closes_both_sockets(rig: Rig, dataplane: DataPlaneChoice) -> None:
    session = rig.start(dataplane)
    session.client.shutdown(socket.SHUT_WR)
    session.server.shutdown(socket.SHUT_WR)
    await rig.until(lambda: session.ended)
    await rig.until(lambda: session.a.sock.fileno() == session.b.sock.fileno() == -1)
    session.transfer.end(Ended.DRAIN)
    session.transfer.on_fault()
    session.transfer.on_deadline(1e9)
    for leg in session.a, session.b:
        session.transfer.turn(leg)
    await rig.step()
    assert session.outcome.reason is Ended.FINISHED


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(["client", "server"]), st.integers(1, 150_000)),
        st.tuples(st.just("read"), st.sampled_from(["client", "server"]), st.integers(1, 150_000)),
        st.tuples(st.just("shut"), st.sampled_from(["client", "server"]), st.just(0)),
        st.tuples(st.just("turn"), st.just(""), st.integers(1, 5)),
    ),
    max_size=40,
)
Operation = tuple[str, str, int]


class Script:
    """Carries random operations out on one session, then ends both streams and reads on to their ends."""

    def __init__(self, rig: Rig, session: Session) -> None:
        self._rig = rig
        self._session = session
        self._sent = {"client": bytearray(), "server": bytearray()}
        self._got = {"client": bytearray(), "server": bytearray()}
        self._shut: set[str] = set()

    def perform(self, operation: Operation) -> None:
        verb, side, size = operation
        if verb == "turn":
            for _ in range(size):
                self._rig.engine.turn()
        elif verb == "shut":
            if side not in self._shut:
                self._session.end(side).shutdown(socket.SHUT_WR)
            self._shut.add(side)
        else:
            try:
                if verb == "read":
                    self._got[side] += self._session.end(side).recv(size)
                elif side not in self._shut:
                    data = noise(size, len(self._sent[side]))
                    self._sent[side] += data[: self._session.end(side).send(data)]
            except BlockingIOError:
                pass

    async def finish(self) -> None:
        for side in "client", "server":
            self.perform(("shut", side, 0))
        for side in "client", "server":
            self._got[side] += await self._rig.receive_end(self._session.end(side))
        await self._rig.until(lambda: self._session.ended)
        assert self._got["server"] == self._sent["client"]
        assert self._got["client"] == self._sent["server"]
        assert self._session.outcome.up.accepted == len(self._sent["client"])
        assert self._session.outcome.down.accepted == len(self._sent["server"])


@settings(max_examples=60)
@given(OPERATIONS, st.sampled_from(DataPlaneChoice), st.sampled_from([None, 4096]))
def test_any_order_of_sends_reads_and_ends(
    operations: list[Operation], dataplane: DataPlaneChoice, buffers: int | None
) -> None:
    async def play() -> None:
        with closing(Rig()) as rig, trio.fail_after(30):
            script = Script(rig, rig.start(dataplane, buffers=buffers))
            for operation in operations:
                script.perform(operation)
            await script.finish()

    trio.run(play)
