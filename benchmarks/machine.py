"""Where, and with what, figures are made."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.pinning import EVERY


def machine(packages: Sequence[str] = (), tools: Sequence[str] = ()) -> dict[str, str]:
    """The time, the machine, the versions of Python's ``packages`` and of Debian's that hold ``tools``."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{cpu}, {len(EVERY)} cores",
        "memory": f"{memory / (1 << 20):.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
        **{tool: debian(tool) for tool in tools},
    }


def debian(package: str) -> str:
    """The version of a package of Debian's, or a word where there is none."""
    words = ["dpkg-query", "--show", "--showformat=${Version}", package]
    try:
        done = subprocess.run(words, capture_output=True, check=False, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout or "not from Debian"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
