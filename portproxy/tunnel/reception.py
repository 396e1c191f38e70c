"""What arrives at an address of this host: its tunnels are asked in turn whose it is."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import trio

from portproxy.tunnel.effects import Source
from portproxy.tunnel.endpoint import AT_ONCE, Complaints, Endpoint
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.reasons import Dropped


class Receiver(Protocol):
    """Where packets of one outer protocol arrive."""

    async def wait(self) -> None:
        """Until there may be something to receive."""

    def receive(self, most: int) -> Sequence[tuple[bytes, Source]]:
        """The packets that are there by now, ``most`` of them, each without its outer header and with its
        source. Raises OSError."""

    def errors(self) -> Iterable[WireError]:
        """What the network has reported since of packets that were sent, which may be without end."""


class Socket(Receiver, Protocol):
    """A receiver of the kernel's."""

    def missed(self) -> int:
        """How many packets have arrived since this was last asked that its queue had no room for."""

    def close(self) -> None: ...


class Key(NamedTuple):
    """What a receiver is for: the version of the outer protocol, and a literal address of this host's."""

    outer: int
    local: str


class _Member(NamedTuple):
    rank: int
    endpoint: Endpoint


class Reception:
    """Gives what ``receiver`` receives to the first tunnel that takes it; ``on_error`` hears what else the
    kernel says, and ``missed`` says how many packets were lost since it was last asked."""

    def __init__(
        self,
        receiver: Receiver,
        on_error: Callable[[str, OSError], None],
        missed: Callable[[], int] = lambda: 0,
    ) -> None:
        self._receiver = receiver
        self._complain = Complaints(on_error)
        self._missed = missed
        self._members: list[_Member] = []

    def join(self, endpoint: Endpoint, rank: int = 0) -> None:
        """Ask ``endpoint`` too, after those of a lower ``rank``."""
        bisect.insort(self._members, _Member(rank, endpoint), key=lambda member: member.rank)

    def leave(self, endpoint: Endpoint) -> None:
        self._members = [member for member in self._members if member.endpoint is not endpoint]

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        receiver = self._receiver
        while True:
            await receiver.wait()
            now = trio.current_time()
            for error in islice(receiver.errors(), AT_ONCE):
                self._report(error, now)
            for data, source in self._receive():
                self._offer(data, source, now)
            self._count_missed()
            for _, endpoint in self._members:
                endpoint.carry_in()

    def _receive(self) -> Sequence[tuple[bytes, Source]]:
        try:
            return self._receiver.receive(AT_ONCE)
        except OSError as error:
            self._complain("receive", error)
            return ()

    def _count_missed(self) -> None:
        """Whose they were nobody knows, as with a stranger's: the first counts them."""
        if self._members and (missed := self._missed()):
            self._members[0].endpoint.refuse(Dropped.QUEUE, missed)

    def _offer(self, data: bytes, source: Source, now: float) -> None:
        """A check that fails means the next tunnel, and only then a drop: for the reason of the first that
        knows the sender, or else of the first."""
        nearest: tuple[Endpoint, Dropped] | None = None
        for _, endpoint in self._members:
            refused = endpoint.take(data, source, now)
            if refused is None:
                return
            if nearest is None or (nearest[1] is Dropped.SOURCE and refused is not Dropped.SOURCE):
                nearest = endpoint, refused
        if nearest:
            endpoint, reason = nearest
            endpoint.refuse(reason)

    def _report(self, error: WireError, now: float) -> None:
        for _, endpoint in self._members:
            if endpoint.take_error(error, now):
                return


class Receptions:
    """The receptions of this process, one for every ``key``; ``open`` makes the receiver of one, and whoever
    has called ``hold`` for it lets go of it by ``release``.

    ``open`` raises OSError, and so does ``hold``.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        open: Callable[[Key], Socket],
        on_error: Callable[[str, OSError], None],
    ) -> None:
        self._nursery = nursery
        self._open = open
        self._on_error = on_error
        self._held: dict[Key, _Held] = {}

    def hold(self, key: Key) -> Reception:
        held = self._held.get(key)
        if held is None:
            receiver = self._open(key)
            held = self._held[key] = _Held(receiver, Reception(receiver, self._on_error, receiver.missed))
            self._nursery.start_soon(held.run)
        held.holders += 1
        return held.reception

    def release(self, key: Key) -> None:
        held = self._held[key]
        held.holders -= 1
        if not held.holders:
            del self._held[key]
            held.stopped.cancel()


class _Held:
    def __init__(self, receiver: Socket, reception: Reception) -> None:
        self._receiver = receiver
        self.reception = reception
        self.holders = 0
        self.stopped = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self.stopped:
                await self.reception.run()
        finally:
            self._receiver.close()
