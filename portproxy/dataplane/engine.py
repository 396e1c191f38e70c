"""The engine: what relays two connected sockets, for as long as both directions take."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Set

from portproxy.dataplane.base import TURN_BYTES, Outcome
from portproxy.dataplane.leg import Leg, LegOwner
from portproxy.dataplane.loop import Loop
from portproxy.dataplane.pipes import PipePool
from portproxy.dataplane.transfer import Transfer
from portproxy.dataplane.wheel import Timed
from portproxy.model import DataPlaneChoice, Limits


class Engine(Loop):
    """A loop whose sockets are legs of transfers, which share pools of pipes."""

    def __init__(self, on_fault: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(on_fault, clock)
        self._pools: dict[int, PipePool] = {}

    def leg(self, sock: socket.SocketType, owner: LegOwner) -> Leg:
        """Make a leg of a connected socket, or of one whose connect(2) is under way, and watch it."""
        leg = Leg(sock, owner)
        self.watch(leg.fd, leg)
        return leg

    def start(
        self,
        a: Leg,
        b: Leg,
        limits: Limits,
        prefix: bytes,
        on_end: Callable[[Outcome], None],
        *,
        dataplane: DataPlaneChoice = DataPlaneChoice.AUTO,
        pipesize: int = TURN_BYTES,
        after: Timed | None = None,
    ) -> Transfer:
        """Relay between client ``a`` and upstream ``b`` until both directions have ended.

        ``prefix`` is what the client has sent already and goes first. ``limits`` gives the times;
        ``pipesize`` is in bytes. ``on_end`` is called once, possibly before this returns; both sockets
        are closed then, or about to be. The transfer takes the place in the wheel of ``after``, who kept
        time until now.
        """
        self.now = self.clock()
        transfer = Transfer(self, a, b, limits, on_end)
        if after is not None:
            self.wheel.hand_over(after, transfer)
        transfer.begin(dataplane, self._pool(pipesize), prefix)
        return transfer

    def free_descriptors(self) -> None:
        """Close every pooled pipe: somebody needs the descriptors more."""
        for pool in self._pools.values():
            pool.close()

    def keep_pools(self, sizes: Set[int]) -> None:
        """Retire the pools of pipes of other ``sizes`` (bytes): no rule asks for them anymore."""
        for size in self._pools.keys() - sizes:
            self._pools.pop(size).retire()

    def shut(self) -> None:
        """Close everything that is the engine's own. It has stopped."""
        super().shut()
        self.free_descriptors()

    def _pool(self, size: int) -> PipePool:
        return self._pools.get(size) or self._pools.setdefault(size, PipePool(size))
