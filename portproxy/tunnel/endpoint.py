"""One end of a tunnel: joins a device, a mode and a sender, and keeps the mode's time."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import Mode, WireError
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.traffic import Traffic

AT_ONCE = 64
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


class Sender(Protocol):
    """What carries the tunnel's packets to the other end."""

    def send(self, packet: SendWire) -> None:
        """Raises OSError."""


class Endpoint:
    """Runs ``mode`` between ``device`` and ``sender``, counts in ``traffic``, and gives every error of the
    kernel's that was not foreseen to ``on_error``. What arrives, a ``Reception`` gives it."""

    def __init__(
        self,
        device: Device,
        mode: Mode,
        sender: Sender,
        traffic: Traffic,
        on_error: Callable[[str, OSError], None],
    ) -> None:
        self._device = device
        self._mode = mode
        self._sender = sender
        self._traffic = traffic
        self._on_error = on_error
        self._deadline = math.inf
        self._timer = trio.CancelScope()

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._carry_out)

    async def _carry_out(self) -> None:
        device, mode, count = self._device, self._mode, self._traffic.count_out
        while True:
            await device.wait()
            now = trio.current_time()
            for _ in range(AT_ONCE):
                packet = device.read()
                if packet is None:
                    break
                count(len(packet))
                self._perform(mode.from_tun(packet, now))
            self.look_at_the_time()

    async def _keep_time(self) -> None:
        while True:
            self._deadline = self._mode.next_deadline()
            with trio.CancelScope(deadline=self._deadline) as self._timer:
                await trio.sleep_forever()
            self._perform(self._mode.tick(trio.current_time()))

    # What a Reception calls.

    def take(self, data: bytes, source: Source, now: float) -> Dropped | None:
        """Carry in ``data``, which arrived from ``source``; or else say why that is not for this tunnel."""
        effects = self._mode.from_wire(data, source, now)
        if len(effects) == 1 and type(effects[0]) is Drop:
            return effects[0].reason
        self._perform(effects)
        return None

    def refuse(self, reason: Dropped) -> None:
        """Count what no tunnel took and this one was nearest to taking."""
        self._traffic.drop(reason)

    def take_error(self, error: WireError, now: float) -> bool:
        """Heed ``error``; whether it was about a packet of this tunnel's."""
        effects = self._mode.from_error(error, now)
        self._perform(effects)
        return bool(effects)

    def look_at_the_time(self) -> None:
        """What was taken may have changed when the mode has something to do next."""
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
            self._sender.send(packet)
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
