"""A session in one state or another, and its far ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import trio

from portproxy.model import Limits
from tests.relay.rig import Relay, dial, eventually, relaying, to, upstream

UNLIMITED = Limits(idletimeout=None, halfclosetimeout=None)


@contextmanager
def deaf_upstream() -> Iterator[trio.socket.SocketType]:
    """A listening socket whose queue is full: the kernel drops every SYN (listen(2))."""
    with upstream(backlog=0) as service, ExitStack() as fillers:
        for _ in range(2):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(service.getsockname())
        yield service


@asynccontextmanager
async def dialling(draintimeout: float = 30.0) -> AsyncIterator[tuple[Relay, trio.socket.SocketType]]:
    """A client whose upstream is being dialled, without an answer."""
    with deaf_upstream() as service:
        rule = to(service, limits=Limits(connecttimeout=600))
        async with relaying(rule, draintimeout=draintimeout) as relay:
            with dial(rule) as client:
                await eventually(lambda: relay.supervisor.sessions)
                yield relay, client


@asynccontextmanager
async def session(
    limits: Limits = UNLIMITED,
    *,
    draintimeout: float = 30.0,
    faults: int = 0,
    usertimeout: float | None = None,
) -> AsyncIterator[tuple[Relay, trio.socket.SocketType, trio.socket.SocketType]]:
    """A session that relays, and its far ends."""
    with upstream() as service:
        rule = to(service, limits=limits, usertimeout=usertimeout)
        async with relaying(rule, draintimeout=draintimeout, faults=faults) as relay:
            with dial(rule) as client:
                server, _ = await service.accept()
                with server:
                    # The kernel has connected it; that the relay knows takes a turn more.
                    await eventually(lambda: relay.metric("portproxy_connect_seconds_count", rule="rule"))
                    yield relay, client, server
