"""Names of routers and relays: when they are looked up, and what stays of them when they are not found."""

from __future__ import annotations

import math
import socket
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from portproxy.tunnel.naming import REFRESH, RETRY_FIRST, RETRY_LAST, Names


class Zone(trio.abc.HostnameResolver):
    """What names have; one that has nothing is not found. ``asked`` says what was looked up when."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names
        self.asked: list[tuple[float, str]] = []

    async def getaddrinfo(
        self, host: bytes | None, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        assert host
        name = host.decode()
        self.asked.append((trio.current_time(), name))
        if not self.names.get(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_RAW, 0, "", (address, 0)) for address in self.names[name]]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


class Heard:
    """What a ``Names`` has told, and when."""

    def __init__(self, *names: str) -> None:
        self.changes: list[tuple[float, tuple[str, ...]]] = []
        self.problems: list[tuple[float, str]] = []
        self.names = Names(
            names,
            lambda addresses: self.changes.append((trio.current_time(), addresses)),
            lambda problem: self.problems.append((trio.current_time(), problem)),
        )


@pytest.fixture
async def zone() -> Zone:
    made = Zone()
    trio.socket.set_custom_hostname_resolver(made)
    return made


async def test_literals_are_their_own_addresses(
    zone: Zone, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    heard = Heard("192.0.2.1", "192.0.2.2")
    nursery.start_soon(heard.names.run)
    await trio.sleep(10 * REFRESH)
    assert heard.changes == [(0.0, ("192.0.2.1", "192.0.2.2"))]
    assert (heard.problems, heard.names.problem) == ([], "")


async def test_names_are_looked_up_again(
    zone: Zone, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    zone.names = {"isatap": ["192.0.2.1", "192.0.2.2"], "other": ["192.0.2.2", "192.0.2.3"]}
    heard = Heard("isatap", "other")
    nursery.start_soon(heard.names.run)
    await trio.sleep(1)
    zone.names["isatap"] = ["192.0.2.9"]
    await trio.sleep(2 * REFRESH)
    assert heard.changes == [
        (0.0, ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
        (REFRESH, ("192.0.2.9", "192.0.2.2", "192.0.2.3")),
    ]
    assert [at for at, name in zone.asked if name == "isatap"] == [0.0, REFRESH, 2 * REFRESH]


async def test_what_was_found_is_kept_with_the_cause(
    zone: Zone, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A resolver that fails takes no router away."""
    zone.names = {"isatap": ["192.0.2.1"]}
    heard = Heard("isatap")
    nursery.start_soon(heard.names.run)
    await trio.sleep(1)
    del zone.names["isatap"]
    await trio.sleep(REFRESH)
    assert heard.names.addresses == ("192.0.2.1",)
    assert heard.names.problem == "isatap: Name or service not known"
    assert heard.problems == [(REFRESH, heard.names.problem)]
    await trio.sleep(REFRESH)
    assert len(heard.problems) == 1, "it is said once"
    zone.names["isatap"] = ["192.0.2.5"]
    await trio.sleep(RETRY_LAST)
    assert (heard.names.addresses, heard.names.problem) == (("192.0.2.5",), "")


async def test_it_tries_ever_more_patiently(
    zone: Zone, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    heard = Heard("isatap")
    nursery.start_soon(heard.names.run)
    await trio.sleep(3000)
    times = [at for at, _ in zone.asked]
    waits = [after - before for before, after in pairwise(times)]
    assert waits == [min(RETRY_FIRST * 2**tried, RETRY_LAST) for tried in range(len(waits))], (
        "doubled from the first to the last"
    )
    assert len(waits) > math.log2(RETRY_LAST / RETRY_FIRST) + 2
    assert heard.changes == []
