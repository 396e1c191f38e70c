"""One worker, in the supervisor's own process."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from portproxy.reasons import Ended
from portproxy.relay.worker import Worker
from portproxy.snapshot import SessionStatus
from portproxy.wire import worker_frames as wire


class Alone:
    """A crew of one, asked without a detour: see ``Crew``."""

    size, missing, deaths = 1, 0, 0

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def tell(self, request: wire.Request) -> None:
        """Have the worker do as ``request`` says."""
        await self.worker.handle(request)

    async def ask(self, request: wire.Request) -> list[wire.Reply]:
        """What the worker says."""
        return [await self.worker.handle(request)]

    async def serve(
        self, known: Sequence[wire.Listening], new: Sequence[tuple[wire.Listening, socket.socket]]
    ) -> Mapping[int, int]:
        """Accept on these."""
        request = wire.Serve(tuple(known), tuple(listening for listening, _ in new))
        reply = await self.worker.handle(request, [sock for _, sock in new])
        assert isinstance(reply, wire.Served)
        return dict.fromkeys(reply.missing, reply.error)

    async def release(self, numbers: Sequence[int]) -> None:
        """Accept what is queued on these, and close them."""
        await self.worker.handle(wire.Release(tuple(numbers)))

    async def end(self, reason: Ended) -> None:
        """Reset every session now."""
        await self.worker.handle(wire.End(reason))

    def hurry(self) -> None:
        """Nobody is waited for."""

    async def stop(self) -> None:
        """It ends with the supervisor."""

    async def sessions(self, rule: str | None) -> tuple[SessionStatus, ...]:
        """The sessions of the rule of this name, or of all."""
        reply = await self.worker.handle(wire.Sessions(rule, self.worker.engine.clock()))
        assert isinstance(reply, wire.Found)
        return tuple(reply.sessions)

    async def kill(self, id: str) -> SessionStatus | None:
        """Reset both sides of a session."""
        reply = await self.worker.handle(wire.Kill(id))
        assert isinstance(reply, wire.Found)
        return reply.sessions[0] if reply.sessions else None
