"""Tests that change the network: each runs in a child process that has a network of its own.

``python -m tests.relay.namespaces WORKERS MODULE FUNCTION ARGUMENT...`` is that child.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec

import pytest
import trio

from tests.relay import rig

P = ParamSpec("P")

_UNSHARE = ("unshare", "--net", "--map-root-user")
"""A new user namespace too, so that root is not needed where the kernel lets users have one."""


@functools.cache
def _hindrance() -> str:
    """Why there can be no network of our own; empty where there can."""
    for tool in ("unshare", "ip", "nft"):
        if not shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin"):
            return f"no {tool} on this machine"
    done = subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True, text=True)
    return f"no namespaces here: {done.stderr.strip()}" if done.returncode else ""


def in_own_network(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make of an async function a test that runs it where only an empty loopback interface is.

    Arguments have to be strings.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if hindrance := _hindrance():
            pytest.skip(hindrance)
        bound = inspect.signature(test).bind(*args, **kwargs)
        call = map(str, (rig.workers, test.__module__, test.__name__, *bound.args))
        done = subprocess.run(
            [*_UNSHARE, sys.executable, "-X", "dev", "-W", "error", "-m", __name__, *call],
            check=False,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def command(line: str) -> None:
    """Run one of the tools that set a network up."""
    subprocess.run(line.split(), check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})


def lose(match: str) -> None:
    """Have the kernel lose silently what is to be sent and matches, in nft(8)'s words."""
    _filter(match, "drop")


def answer(match: str, icmp: str) -> None:
    """Have the kernel answer what is to be received and matches with an ICMP error."""
    _filter(match, f"reject with {icmp}")


def _filter(match: str, verdict: str) -> None:
    rules = f"table inet test {{ chain in {{ type filter hook input priority 0; {match} {verdict}; }}; }}"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def _main(workers: str, module: str, function: str, *arguments: str) -> None:
    command("ip link set lo up")
    rig.workers = int(workers)
    test = getattr(importlib.import_module(module), function)
    trio.run(test.__wrapped__, *arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
