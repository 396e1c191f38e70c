"""UDP and streams as carriers: on real sockets of the loopback addresses, and back to back in memory."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

import pytest
import trio
import trio.testing

from portproxy.tunnel.carrier.stream import StreamCarrier
from portproxy.tunnel.carrier.udp import UdpCarrier
from portproxy.tunnel.effects import SendWire, Source
from portproxy.tunnel.packet import PacketError, ipv6

T = TypeVar("T")
HOME = {4: "127.0.0.1", 6: "::1"}
PEER = Source("192.0.2.1", 443)
each = pytest.mark.parametrize("version", [4, 6])


def packet(size: int, tag: int = 0) -> bytes:
    return ipv6.build(bytes(16), bytes(15) + bytes((tag,)), 59, bytes(size - ipv6.HEADER))


async def heard(carrier: UdpCarrier, look: Callable[[], Sequence[T]]) -> Sequence[T]:
    """What ``look`` has found, once ``carrier`` has heard it."""
    with trio.fail_after(10):
        while not (found := look()):
            await carrier.wait()
    return found


@each
async def test_datagrams_arrive_as_they_were_sent(version: int) -> None:
    home = HOME[version]
    with closing(UdpCarrier(home, 0, 64)) as one, closing(UdpCarrier(home, 0, 7)) as other:
        sent = [SendWire(bytes((number,)) * size, (home, other.port), tos) for number, size, tos in (
            (1, 1, 0), (2, 1280, 3), (3, 9000, 0xB8), (4, 40_000, 0),
        )]  # fmt: skip
        assert one.send(sent) == []
        received: list[tuple[bytes, Source]] = []
        while len(received) < len(sent):
            with trio.fail_after(10):
                await other.wait()
            received += other.receive(2)
        assert received == [(wire.data, Source(home, one.port, wire.tos)) for wire in sent]
        assert (other.receive(2), other.missed(), list(other.errors())) == ([], 0, [])


@each
async def test_a_port_that_nobody_has_is_reported(version: int) -> None:
    """It is told with what was sent, and what arrives meanwhile arrives nonetheless."""
    home = HOME[version]
    with closing(UdpCarrier(home, 0, 64)) as one, closing(UdpCarrier(home, 0, 64)) as gone:
        port = gone.port
        gone.close()
        assert one.send([SendWire(b"to nobody", (home, port))]) == []
        (error,) = await heard(one, lambda: list(one.errors()))
        assert (error.type, error.code) == ((3, 3) if version == 4 else (1, 4))
        assert (error.quoted, error.destination) == (b"to nobody", home)
        one.send([SendWire(b"to nobody", (home, port)), SendWire(b"to itself", (home, one.port))])
        (arrived,) = await heard(one, lambda: one.receive(2))
        assert arrived == (b"to itself", Source(home, one.port, 0))


def test_what_cannot_be_sent_is_told() -> None:
    with closing(UdpCarrier(HOME[4], 0, 64)) as one:
        large, fits = (SendWire(bytes(size), (HOME[4], one.port)) for size in (65_508, 65_507))
        ((lost, error),) = one.send([large, fits])
        assert (lost, error.errno) == (large, errno.EMSGSIZE)


def test_a_port_that_somebody_has() -> None:
    with closing(UdpCarrier(HOME[4], 0, 64)) as one, pytest.raises(OSError, match="in use"):
        UdpCarrier(HOME[4], one.port, 64)


async def test_a_stream_carries_packets_both_ways() -> None:
    ends = trio.socket.socketpair()
    near, far = (StreamCarrier(trio.SocketStream(end), PEER) for end in ends)
    packets = [packet(size, size % 251) for size in (40, 41, 1280, 65_575, 1500)]
    async with trio.open_nursery() as nursery:
        for carrier in (near, far):
            nursery.start_soon(carrier.run)
        for sender, receiver in ((near, far), (far, near)):
            assert sender.send([SendWire(one, ("", 0)) for one in packets]) == []
            received: list[tuple[bytes, Source]] = []
            while len(received) < len(packets):
                with trio.fail_after(10):
                    await receiver.wait()
                received += receiver.receive(2)
            assert received == [(one, PEER) for one in packets]
        assert list(near.errors()) == []
        ends[0].shutdown(socket.SHUT_WR)
        # Its end is the end of both.
        ends[1].shutdown(socket.SHUT_WR)
    for end in ends:
        end.close()


async def test_a_slow_other_end_is_not_waited_for() -> None:
    """And one that sends more than is taken waits."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    carrier = StreamCarrier(ours, PEER)
    large = SendWire(packet(65_536), ("", 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier.run)
        assert carrier.send([large]) == []
        await trio.testing.wait_all_tasks_blocked()  # it is being sent, and nobody reads it
        lost = carrier.send([large] * 6)
        assert [(one, error.errno) for one, error in lost] == [(large, errno.ENOBUFS)] * 2
        with trio.move_on_after(10):
            await theirs.send_all(packet(40) * 3)
        assert len(carrier.receive(2)) == 2
        sending = trio.Event()

        async def send_more() -> None:
            await theirs.send_all(packet(40))
            sending.set()

        nursery.start_soon(send_more)
        await trio.testing.wait_all_tasks_blocked()
        assert not sending.is_set()
        assert len(carrier.receive(2)) == 1
        await sending.wait()
        nursery.cancel_scope.cancel()


async def test_what_is_no_packet_ends_it() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    carrier = StreamCarrier(ours, PEER)
    await theirs.send_all(packet(40) + b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.RaisesGroup(pytest.RaisesExc(PacketError, match="version 4")):
        await carrier.run()
