"""How late a 10 ms timer comes in the relay's own event loop: the relay and the timer share this process.

python lateness.py LISTEN-HOST LISTEN-PORT CONNECT-HOST CONNECT-PORT SESSIONS

Ticks count while SESSIONS sessions run; once those have ended it prints how late each was, in ms, as JSON.
Without the engine's yielding the timer would wait for as long as there is anything to relay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import trio

from portproxy import config
from portproxy.log import Event, Log
from portproxy.supervisor import Supervisor

TICK = 0.010
"""Seconds."""


async def lateness(rule: str, sessions: int) -> list[float]:
    """Of every tick beside so many sessions, in ms, until there are fewer again."""
    loaded = config.read(None, [rule]).config()
    supervisor = Supervisor(Log(_ignore))
    late: list[float] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, loaded)
        while not late or supervisor.sessions == sessions:
            due = trio.current_time() + TICK
            await trio.sleep_until(due)
            if supervisor.sessions == sessions:
                late.append((trio.current_time() - due) * 1e3)
        nursery.cancel_scope.cancel()
    return late


def _ignore(event: Event) -> None:
    """Nobody reads this relay's log."""


def main(arguments: Sequence[str]) -> None:
    """Print the ticks' lateness."""
    host, port, connect_host, connect_port, sessions = arguments
    families = [6 if ":" in address else 4 for address in (host, connect_host)]
    tags = f"listenaddress={host} listenport={port} connectaddress={connect_host} connectport={connect_port}"
    rule = f"v{families[0]}tov{families[1]} {tags}"
    print(json.dumps(trio.run(lateness, rule, int(sessions))))


if __name__ == "__main__":
    main(sys.argv[1:])
