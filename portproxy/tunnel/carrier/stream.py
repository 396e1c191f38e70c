"""A stream, as TLS is one: IPv6 packets back to back, with one other end."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Sequence

import trio

from portproxy.tunnel.effects import SendWire, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.packet.train import Train

_READ = 1 << 16
_WAITING = 1 << 18
"""Bytes that wait for a slow other end before more are lost, as an interface loses them: TCP inside has to
notice."""


class StreamCarrier:
    """Carries packets over ``stream`` to and from ``peer``, while it runs. Whoever made ``stream`` closes it.

    Packets that wait to be sent are bounded; those that have arrived are too: the other end is made to wait.
    """

    def __init__(self, stream: trio.abc.Stream, peer: Source) -> None:
        self._stream = stream
        self._peer = peer
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._to_send = trio.Event()
        self._arrived: deque[bytes] = deque()
        self._come = trio.Event()
        self._taken = trio.Event()

    async def run(self) -> None:
        """Until the other end ends the stream. Raises PacketError where that sends something else, and
        trio.BrokenResourceError where the stream breaks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            await self._receive()
            nursery.cancel_scope.cancel()

    def send(self, packets: Sequence[SendWire]) -> list[tuple[SendWire, OSError]]:
        lost = []
        for packet in packets:
            if self._size + len(packet.data) > _WAITING:
                lost.append((packet, OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))))
            else:
                self._waiting.append(packet.data)
                self._size += len(packet.data)
        self._to_send.set()
        return lost

    async def wait(self) -> None:
        while not self._arrived:
            self._come = trio.Event()
            await self._come.wait()

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        packets = [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]
        self._taken.set()
        return [(packet, self._peer) for packet in packets]

    def errors(self) -> Sequence[WireError]:
        """What goes wrong on the way, the stream makes up for."""
        return ()

    async def _send(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send = trio.Event()
            data, self._size = b"".join(self._waiting), 0
            self._waiting.clear()
            await self._stream.send_all(data)

    async def _receive(self) -> None:
        train = Train()
        while data := await self._stream.receive_some(_READ):
            self._arrived += train.cut(bytes(data))
            self._come.set()
            while self._arrived:
                self._taken = trio.Event()
                await self._taken.wait()
