"""An interactive shell in a terminal of its own, for tests of what a key does there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TAB = "\t"
SHOW = "\x07"
"""Ctrl-G, which the shell under test binds to print its line, as ``<<line>>``, or more of what it knows."""
CLEAR = "\x15"
"""Ctrl-U."""


class Terminal:
    """What a person would type into, and read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.read_until("ready> ")

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def read_until(self, end: str) -> str:
        """What the shell writes, up to the first ``end``, which is waited for."""
        data = b""
        while not data.endswith(end.encode()):
            data += os.read(self._descriptor, 1)
        return data.decode()

    def completed(self, line: str) -> str:
        """What the key SHOW says after ``line`` and TAB."""
        self.type(line + TAB + SHOW)
        said = self.read_until(">>")
        self.type(CLEAR)
        return said.rpartition("<<")[2].removesuffix(">>")


@contextlib.contextmanager
def terminal(argv: Sequence[str], environ: Mapping[str, str], directory: Path) -> Iterator[Terminal]:
    """A shell that says ``ready> `` where it waits for a command."""
    outer, inner = os.openpty()
    try:
        # A shell has job control, and so is interactive, where the terminal is its own.
        with subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=directory,
            env={**environ, "TERM": "dumb"},
        ) as process:
            os.close(inner)
            try:
                yield Terminal(outer)
            finally:
                process.kill()
    finally:
        os.close(outer)
