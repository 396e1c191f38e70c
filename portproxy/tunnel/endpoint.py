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
_QUIET = 60.0
"""Seconds."""
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

    def send(self, packets: Sequence[SendWire]) -> Sequence[tuple[SendWire, OSError]]:
        """The packets that were not sent, and why."""


class Complaints:
    """Gives errors on to ``on_error``, of each errno of a kind of action one a minute at the most: others may
    set one off with every packet they send, and what is lost is counted anyhow."""

    def __init__(self, on_error: Callable[[str, OSError], None]) -> None:
        self._on_error = on_error
        self._quiet_until: dict[tuple[str, int | None], float] = {}

    def __call__(self, what: str, error: OSError) -> None:
        kind, now = (what, error.errno), trio.current_time()
        if now >= self._quiet_until.get(kind, now):
            self._quiet_until[kind] = now + _QUIET
            self._on_error(what, error)


class Endpoint:
    """Runs ``mode`` between ``device`` and ``sender``, counts in ``traffic``, and complains to ``on_error``
    of every error of the kernel's that was not foreseen. What arrives, a ``Reception`` gives it."""

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
        self._complain = Complaints(on_error)
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
            effects: list[Effect] = []
            for packet in device.read(AT_ONCE):
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

    def refuse(self, reason: Dropped, packets: int = 1) -> None:
        """Count what no tunnel took and this one was nearest to taking."""
        self._traffic.drop(reason, packets)

    def take_error(self, error: WireError, now: float) -> bool:
        """Heed ``error``; whether it was about a packet of this tunnel's."""
        effects = self._mode.from_error(error, now)
        if effects:
            self.do(effects)
        return bool(effects)

    def carry_in(self) -> None:
        """What was taken."""
        taken, self._taken = self._taken, []
        self._perform(taken, arrived=True)
        self._look_at_the_time()

    def _look_at_the_time(self) -> None:
        deadline = self._mode.next_deadline()
        if deadline != self._deadline:
            self._deadline = self._timer.deadline = deadline

    # Carrying effects out.

    def _perform(self, effects: Sequence[Effect], *, arrived: bool = False) -> None:
        """``arrived``: what is to be delivered came by the wire, and was not made here."""
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
            self._deliver(tun, arrived)

    def _send(self, packets: Sequence[SendWire]) -> None:
        lost = self._sender.send(packets)
        for _, error in lost:
            self._lose("send", error)
        length = sum(len(packet.data) for packet in packets) - sum(len(packet.data) for packet, _ in lost)
        self._traffic.count_out(len(packets) - len(lost), length)

    def _deliver(self, packets: Sequence[bytes], arrived: bool) -> None:
        lost = self._device.write(packets)
        for _, error in lost:
            self._lose("deliver", error)
        if arrived:
            length = sum(map(len, packets)) - sum(len(packet) for packet, _ in lost)
            self._traffic.count_in(len(packets) - len(lost), length)

    def _lose(self, doing: str, error: OSError) -> None:
        self._traffic.drop(_why(error))
        if error.errno not in _BUSY:
            self._complain(doing, error)

    def _try(self, what: str, act: Callable[[T], None], argument: T) -> None:
        try:
            act(argument)
        except OSError as error:
            self._complain(what, error)


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
