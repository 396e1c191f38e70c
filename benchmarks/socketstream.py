"""The plain relay that trio's SocketStream gives: two copy loops, and no more.

python socketstream.py LISTEN-HOST LISTEN-PORT CONNECT-HOST CONNECT-PORT
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import trio

BLOCK = 256 * 1024


async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """All that comes, then its end."""
    while block := await source.receive_some(BLOCK):
        await sink.send_all(block)
    await sink.send_eof()


async def session(connect: tuple[str, int], client: trio.SocketStream) -> None:
    """Relay one client; whoever breaks off ends both sides."""
    try:
        async with await trio.open_tcp_stream(*connect) as upstream, trio.open_nursery() as nursery:
            nursery.start_soon(copy, client, upstream)
            nursery.start_soon(copy, upstream, client)
    except* (OSError, trio.BrokenResourceError):
        pass


async def main(arguments: Sequence[str]) -> None:
    """Relay until the process ends."""
    host, port, connect_host, connect_port = arguments
    listeners = await trio.open_tcp_listeners(int(port), host=host, backlog=4096)
    await trio.serve_listeners(functools.partial(session, (connect_host, int(connect_port))), listeners)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
