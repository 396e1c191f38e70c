"""The build context: the files of a directory that its .dockerignore lets through."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


def files(top: Path) -> Iterator[Path]:
    """The files that COPY can copy, relative to ``top``."""
    patterns = [_pattern(line) for line in _lines(top / ".dockerignore")]
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name).relative_to(top)
            if not _ignored(path, patterns):
                yield path


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _pattern(line: str) -> tuple[bool, re.Pattern[str]]:
    """Whether a line lets through, and of what: a file, or a folder with all that is in it."""
    lets_through = line.startswith("!")
    parts = re.split(r"(\*\*/|\*)", line.removeprefix("!"))
    known = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return lets_through, re.compile("".join(known.get(part, re.escape(part)) for part in parts) + "(?:/.*)?")


def _ignored(path: Path, patterns: list[tuple[bool, re.Pattern[str]]]) -> bool:
    """The last line that matches counts."""
    ignored = False
    for lets_through, pattern in patterns:
        if pattern.fullmatch(path.as_posix()):
            ignored = not lets_through
    return ignored
