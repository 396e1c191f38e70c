"""``portproxy serve`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from portproxy.model import Rule
from tests.relay.rig import PATIENCE, eventually

TOP = Path(__file__).parents[2]

Line = dict[str, Any]

SERVER = '[server]\nlog = "json"\n'
"""What every file begins with, so that ``Served`` understands what the relay says."""


def table(rule: Rule, **options: object) -> str:
    """``rule``'s type, name and endpoints as a ``[[rule]]`` of a configuration file, and ``options``."""
    options = {
        "type": str(rule.type),
        "name": rule.name,
        "listenaddress": rule.listen.address,
        "listenport": rule.listen.port,
        "connectaddress": rule.connect.address,
        "connectport": rule.connect.port,
        **options,
    }
    return "[[rule]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())


class Served:
    """A running relay, its configuration file, and all it has said."""

    def __init__(self, path: Path, process: trio.Process) -> None:
        self.path = path
        self.process = process
        self.events: list[Line] = []
        self.records: list[Line] = []

    def write(self, *tables: str) -> None:
        """Fill the configuration file."""
        self.path.write_text("\n".join(tables))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def said(self, event: str, count: int = 1) -> list[Line]:
        """The events with ``event`` in them, once there are ``count``."""
        await eventually(lambda: len(self._heard(event)) >= count)
        return self._heard(event)

    async def reload(self, *tables: str) -> Line:
        """Have it read ``tables``; what it says of that."""
        before = len(self._heard("reloaded"))
        self.write(*tables)
        self.signal(signal.SIGHUP)
        return (await self.said("reloaded", before + 1))[before]

    def _heard(self, event: str) -> list[Line]:
        return [line for line in self.events if event in line["event"]]


async def _read(stream: trio.abc.ReceiveStream | None, take: Callable[[Line], None]) -> None:
    assert stream
    buffer = b""
    async for chunk in stream:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            take(json.loads(line))
    assert not buffer


def command(*arguments: str, module: str = "portproxy") -> list[str]:
    return [sys.executable, "-m", module, "serve", "--control", "off", *arguments]


@asynccontextmanager
async def serving(
    path: Path,
    *tables: str,
    arguments: Sequence[str] = (),
    module: str = "portproxy",
    until: str = "ready",
    within: Sequence[str] = (),
) -> AsyncIterator[Served]:
    """A relay that has said ``until``, with ``tables`` in the file ``path``, run by ``module``.

    ``within`` is a command that runs another.

    A test that leaves it running kills it.
    """
    await trio.Path(path).write_text("\n".join(tables))
    process = await trio.lowlevel.open_process(
        [*within, *command("-c", str(path), *arguments, module=module)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=TOP,
    )
    served = Served(path, process)
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, process.stdout, served.records.append)
                nursery.start_soon(_read, process.stderr, served.events.append)
                await served.said(until)
                yield served
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream
                await stream.aclose()


async def start_failure(words: Sequence[str]) -> tuple[int, str]:
    """The exit code and the standard error of a relay that is not to start."""
    done = await trio.run_process(list(words), capture_stdout=True, capture_stderr=True, check=False, cwd=TOP)
    return done.returncode, done.stderr.decode()
