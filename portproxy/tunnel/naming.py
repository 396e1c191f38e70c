"""The routers and relays of automatic tunnels, by name."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import trio

REFRESH = 3600.0
"""Seconds after which names are looked up again (RFC 5214, 8.3.2: PrlRefreshInterval)."""
RETRY_FIRST, RETRY_LAST = 4.0, 300.0
"""Seconds until a name that was not found is looked up again: doubled from the first to the last."""


class Names:
    """Keeps the IPv4 addresses of ``names``, which may be literals; a name that is not found any more keeps
    what it had.

    ``on_change`` hears of them, literals all, in the order of the names. ``problem`` says which were not
    found the last time, and why; ``on_problem`` hears of it once for every one in a row.
    """

    def __init__(
        self,
        names: Sequence[str],
        on_change: Callable[[tuple[str, ...]], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._on_change, self._on_problem = on_change, on_problem
        self._found: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
        self.problem = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for found in self._found.values() for one in found))

    async def run(self) -> None:
        """For ever; cancel it to stop."""
        delay = RETRY_FIRST
        while True:
            before, problem = self.addresses, self.problem
            self.problem = "; ".join(filter(None, [await self._look_up(name) for name in self._found]))
            if self.addresses != before:
                self._on_change(self.addresses)
            if self.problem and self.problem != problem:
                self._on_problem(self.problem)
            if not self.problem:
                delay = RETRY_FIRST
                await trio.sleep(REFRESH)
            else:
                await trio.sleep(delay)
                delay = min(2 * delay, RETRY_LAST)

    async def _look_up(self, name: str) -> str:
        """Why ``name`` has no address, empty where it has."""
        try:
            found = await trio.socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_RAW)
        except OSError as error:
            return f"{name}: {error.strerror or error}"
        self._found[name] = tuple(sockaddr[0] for *_, sockaddr in found if isinstance(sockaddr[0], str))
        return ""
