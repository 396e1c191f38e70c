"""Tests that mount: each runs in a child process that has mounts, processes and a network of its own.

What they mount and start is gone when the child is. ``python -m tests.package.namespaces MODULE FUNCTION
ARGUMENT...`` is that child, as root of its namespaces.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import pytest

P = ParamSpec("P")

_TOP = Path(__file__).parents[2]
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_PATIENCE = 100.0
"""Seconds a child has, less than a test; no test's outcome depends on them."""
_NEW_USERS = () if os.geteuid() == 0 else ("--map-root-user", "--map-auto")
"""Who is not root needs the user numbers of subuid(5): a map of oneself alone has none for the relay."""
UNSHARE = ("unshare", *_NEW_USERS, "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


@functools.cache
def _hindrance() -> str:
    """Why there can be no namespaces of our own; empty where there can."""
    for tool in ("unshare", "nsenter", "setpriv", "mount", "ip"):
        if not shutil.which(tool, path=_PATH):
            return f"no {tool} on this machine"
    done = subprocess.run(
        [*UNSHARE, "setpriv", "--reuid=65532", "mount", "--version"],
        check=False,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


def in_own_namespaces(test: Callable[P, None]) -> Callable[P, None]:
    """Make of a function one that runs as root of namespaces of its own. Arguments have to be strings."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if hindrance := _hindrance():
            pytest.skip(hindrance)
        bound = inspect.signature(test).bind(*args, **kwargs)
        call = (test.__module__, test.__name__, *map(str, bound.args))
        done = subprocess.run(
            [*UNSHARE, sys.executable, "-X", "dev", "-W", "error", "-m", __name__, *call],
            check=False,
            capture_output=True,
            text=True,
            cwd=_TOP,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def command(*words: str | Path) -> str:
    """Run one of the system's tools; returns what it prints. Raises AssertionError where it fails."""
    done = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def _main(module: str, function: str, *arguments: str) -> None:
    command("ip", "link", "set", "lo", "up")
    getattr(importlib.import_module(module), function).__wrapped__(*arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
