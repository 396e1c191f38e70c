"""One end of a tunnel: joins a device, a mode and a carrier, and keeps the mode's time."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import Mode, WireError
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.traffic import Traffic

_AT_ONCE = 64
"""Packets from one side until the other side, and the other tasks of the process, get their turn."""
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
_BUSY = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}


class Device(Protocol):
    """The tunnel's interface: what this host's IP layer routes into it is read, what is written arrives."""

    async def wait(self) -> None:
        """Until there may be something to read."""

    def read(self) -> bytes | None:
        """The next packet, if there is one by now. Raises OSError."""

    def write(self, packet: bytes) -> None:
        """Raises OSError."""

    def set_mtu(self, mtu: int) -> None:
        """In bytes. Raises OSError."""


class Carrier(Protocol):
    """What carries the tunnel's packets to the other end."""

    async def wait(self) -> None:
        """Until there may be something to receive."""

    def receive(self) -> tuple[bytes, Source] | None:
        """The next packet, without the outer header, and its source, if there is one. Raises OSError."""

    def send(self, packet: SendWire) -> None:
        """Raises OSError."""

    def errors(self) -> Iterable[WireError]:
        """What the network has reported since."""


class Endpoint:
    """Runs ``mode`` between ``device`` and ``carrier``, counts in ``traffic``, and gives every error of the
    kernel's that was not foreseen to ``on_error``."""

    def __init__(
        self,
        device: Device,
        mode: Mode,
        carrier: Carrier,
        traffic: Traffic,
        on_error: Callable[[str, OSError], None],
    ) -> None:
        self._device = device
        self._mode = mode
        self._carrier = carrier
        self._traffic = traffic
        self._on_error = on_error
        self._deadline = math.inf
        self._timer = trio.CancelScope()

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._carry_out)
            nursery.start_soon(self._carry_in)

    async def _carry_out(self) -> None:
        device, mode, count = self._device, self._mode, self._traffic.count_out
        while True:
            await device.wait()
            now = trio.current_time()
            for _ in range(_AT_ONCE):
                packet = device.read()
                if packet is None:
                    break
                count(len(packet))
                self._perform(mode.from_tun(packet, now))
            self._look_at_the_time()

    async def _carry_in(self) -> None:
        carrier, mode = self._carrier, self._mode
        while True:
            await carrier.wait()
            now = trio.current_time()
            for error in carrier.errors():
                self._perform(mode.from_error(error, now))
            for _ in range(_AT_ONCE):
                received = self._receive()
                if received is None:
                    break
                self._perform(mode.from_wire(*received, now))
            self._look_at_the_time()

    def _receive(self) -> tuple[bytes, Source] | None:
        try:
            return self._carrier.receive()
        except OSError as error:
            # raw(7): an error that the network has reported comes up here too, once.
            self._on_error("receive", error)
            return None

    async def _keep_time(self) -> None:
        while True:
            self._deadline = self._mode.next_deadline()
            with trio.CancelScope(deadline=self._deadline) as self._timer:
                await trio.sleep_forever()
            self._perform(self._mode.tick(trio.current_time()))

    def _look_at_the_time(self) -> None:
        deadline = self._mode.next_deadline()
        if deadline != self._deadline:
            self._deadline = self._timer.deadline = deadline

    # Carrying effects out.

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if type(effect) is SendWire:
                self._send(effect)
            elif type(effect) is SendTun:
                self._deliver(effect.packet)
            elif type(effect) is Drop:
                self._traffic.drop(effect.reason)
            elif type(effect) is SetMtu:
                self._set_mtu(effect.mtu)

    def _send(self, packet: SendWire) -> None:
        try:
            self._carrier.send(packet)
        except OSError as error:
            self._traffic.drop(_why(error))
            if error.errno not in _BUSY:
                self._on_error("send", error)

    def _deliver(self, packet: bytes) -> None:
        try:
            self._device.write(packet)
        except OSError as error:
            self._traffic.drop(_why(error))
            self._on_error("deliver", error)
        else:
            self._traffic.count_in(len(packet))

    def _set_mtu(self, mtu: int) -> None:
        try:
            self._device.set_mtu(mtu)
        except OSError as error:
            self._on_error("set the MTU", error)


def _why(error: OSError) -> Dropped:
    if error.errno in _BUSY:
        return Dropped.BUSY
    return Dropped.NO_ROUTE if error.errno in _NO_ROUTE else Dropped.REFUSED
