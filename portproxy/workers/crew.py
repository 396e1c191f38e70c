"""What a supervisor asks of its workers, however many there are."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

from portproxy.reasons import Ended
from portproxy.snapshot import SessionStatus
from portproxy.wire.worker_frames import Listening, Reply, Request


class Crew(Protocol):
    """Workers that all run the same rules and accept on the same listening sockets."""

    async def tell(self, request: Request) -> None:
        """Have every worker do as ``request`` says, now and when it is replaced."""

    async def ask(self, request: Request) -> list[Reply]:
        """What the workers say who answer in time; nothing changes by it."""

    async def serve(
        self, known: Sequence[Listening], new: Sequence[tuple[Listening, socket.socket]]
    ) -> Mapping[int, int]:
        """Accept on these; ``new`` sockets are taken over, and closed where no worker can accept on them.

        Returns the errno for the number of each of those.
        """

    async def release(self, numbers: Sequence[int]) -> None:
        """Accept what is queued on these listening sockets, and close them: their ports are free then.

        What is queued is reset where there is no worker.
        """

    async def end(self, reason: Ended) -> None:
        """Reset every session now; a worker that does not answer to that is ended with them."""

    def hurry(self) -> None:
        """Have less patience from now on: the relay stops."""

    async def stop(self) -> None:
        """End the workers, and wait until all that they leave is counted."""

    async def sessions(self, rule: str | None) -> tuple[SessionStatus, ...]:
        """The sessions of the rule of this name, or of all, the oldest first.

        Raises PortproxyError where a worker does not say what it has.
        """

    async def kill(self, id: str) -> SessionStatus | None:
        """Reset both sides of a session; what it was, or None where there is none of this id.

        Raises PortproxyError where its worker does not answer.
        """

    @property
    def size(self) -> int:
        """How many workers there are to be."""

    @property
    def missing(self) -> int:
        """How many of them are not there."""

    @property
    def deaths(self) -> int:
        """How many have died so far."""
