"""``portproxy serve`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from portproxy.model import Rule
from tests.relay import rig
from tests.relay.rig import PATIENCE, eventually, read_lines

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
        self.gone = trio.Event()
        """It and its workers are gone, and all that they have said is here."""

    @property
    def pids(self) -> list[int]:
        """The processes that relay."""
        return [line["pid"] for line in self._heard("a worker relays")] or [self.process.pid]

    async def read(self) -> None:
        """Take down what they say, until they are gone."""
        async with trio.open_nursery() as nursery:
            for stream, lines in ((self.process.stdout, self.records), (self.process.stderr, self.events)):
                assert stream
                nursery.start_soon(read_lines, stream, lambda line, to=lines: to.append(json.loads(line)))
        self.gone.set()

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


def command(*arguments: str, module: str = "portproxy") -> list[str]:
    workers = ["--workers", str(rig.workers)]
    return [sys.executable, "-m", module, "serve", "--control", "off", *workers, *arguments]


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
                nursery.start_soon(served.read)
                await served.said(until)
                yield served
                process.kill()  # and what it has said comes to an end when its workers do
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def start_failure(words: Sequence[str]) -> tuple[int, str]:
    """The exit code and the standard error of a relay that is not to start, though its workers may."""
    done = await trio.run_process(list(words), capture_stdout=True, capture_stderr=True, check=False, cwd=TOP)
    lines = done.stderr.decode().splitlines(keepends=True)
    return done.returncode, "".join(line for line in lines if "a worker relays" not in line)
