"""One end of a tunnel: joins a device, a mode and a sender, and keeps the mode's time."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import trio

from portproxy.tunnel.effects import Configure, Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import Mode, WireError
from portproxy.tunnel.reasons import Dropped
from portproxy.tunnel.traffic import Traffic

AT_ONCE = 64
"""Packets from one side until the other side, and the other tasks of the process, get their turn."""
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
T = TypeVar("T")
_BUSY = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}


class Device(Protocol):
    """The tunnel's interface: what this host's IP layer routes into it is read, what is written arrives."""

    async def wait(self) -> None:
        """Until there may be something to read."""

    def read(self, most: int) -> Sequence[bytes]:
        """The packets that are there by now, ``most`` and a few more at the most. Raises OSError."""

    def write(self, packets: Sequence[bytes]) -> Sequence[tuple[bytes, OSError]]:
        """The packets that were not taken, and why."""

    def set_mtu(self, mtu: int) -> None:
        """In bytes. Raises OSError."""

    def configure(self, wanted: Configure) -> None:
        """Raises OSError."""


class Sender(Protocol):
    """What carries the tunnel's packets to the other end."""

    def send(self, packets: Sequence[SendWire]) -> Sequence[OSError]:
        """An error for each packet that was not sent."""


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
        self._taken: list[Effect] = []
        self._deadline = math.inf
        self._timer = trio.CancelScope()

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._carry_out)

    async def _carry_out(self) -> None:
        device, from_tun = self._device, self._mode.from_tun
        while True:
            await device.wait()
            now = trio.current_time()
            packets = device.read(AT_ONCE)
            self._traffic.count_out(len(packets), sum(map(len, packets)))
            effects: list[Effect] = []
            for packet in packets:
                effects += from_tun(packet, now)
            self.do(effects)

    async def _keep_time(self) -> None:
        while True:
            self._deadline = self._mode.next_deadline()
            with trio.CancelScope(deadline=self._deadline) as self._timer:
                await trio.sleep_forever()
            self._perform(self._mode.tick(trio.current_time()))

    def do(self, effects: Sequence[Effect]) -> None:
        """Carry ``effects`` out that the mode has of something else than packets, errors and time."""
        self._perform(effects)
        self._look_at_the_time()

    # What a Reception calls.

    def take(self, data: bytes, source: Source, now: float) -> Dropped | None:
        """Carry in ``data``, which arrived from ``source``, at the next ``carry_in``; or else say why that is
        not for this tunnel."""
        effects = self._mode.from_wire(data, source, now)
        if len(effects) == 1 and type(effects[0]) is Drop:
            return effects[0].reason
        self._taken += effects
        return None

    def refuse(self, reason: Dropped) -> None:
        """Count what no tunnel took and this one was nearest to taking."""
        self._traffic.drop(reason)

    def take_error(self, error: WireError, now: float) -> bool:
        """Heed ``error`` likewise; whether it was about a packet of this tunnel's."""
        effects = self._mode.from_error(error, now)
        self._taken += effects
        return bool(effects)

    def carry_in(self) -> None:
        """What was taken."""
        taken, self._taken = self._taken, []
        self.do(taken)

    def _look_at_the_time(self) -> None:
        deadline = self._mode.next_deadline()
        if deadline != self._deadline:
            self._deadline = self._timer.deadline = deadline

    # Carrying effects out.

    def _perform(self, effects: Sequence[Effect]) -> None:
        wire: list[SendWire] = []
        tun: list[bytes] = []
        for effect in effects:
            if type(effect) is SendWire:
                wire.append(effect)
            elif type(effect) is SendTun:
                tun.append(effect.packet)
            elif type(effect) is Drop:
                self._traffic.drop(effect.reason)
            elif type(effect) is SetMtu:
                self._try("set the MTU", self._device.set_mtu, effect.mtu)
            elif type(effect) is Configure:
                self._try("configure the interface", self._device.configure, effect)
        if wire:
            self._send(wire)
        if tun:
            self._deliver(tun)

    def _send(self, packets: Sequence[SendWire]) -> None:
        for error in self._sender.send(packets):
            self._traffic.drop(_why(error))
            if error.errno not in _BUSY:
                self._on_error("send", error)

    def _deliver(self, packets: Sequence[bytes]) -> None:
        lost = self._device.write(packets)
        for packet, error in lost:
            self._traffic.count_in(-1, -len(packet))
            self._traffic.drop(_why(error))
            self._on_error("deliver", error)
        self._traffic.count_in(len(packets), sum(map(len, packets)))

    def _try(self, what: str, act: Callable[[T], None], argument: T) -> None:
        try:
            act(argument)
        except OSError as error:
            self._on_error(what, error)


def _why(error: OSError) -> Dropped:
    if error.errno in _BUSY:
        return Dropped.BUSY
    return Dropped.NO_ROUTE if error.errno in _NO_ROUTE else Dropped.REFUSED


def first(group: BaseExceptionGroup[OSError]) -> OSError:
    """One of the errors of ``group``, of tasks that ended together; which does not matter."""
    one: BaseException = group
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    assert isinstance(one, OSError)
    return one
