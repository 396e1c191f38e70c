"""The executable as a user starts it, in a directory and an environment of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

SCRIPTS = sysconfig.get_path("scripts")
PORTPROXY = f"{SCRIPTS}/portproxy"

Said = tuple[int, str, list[str]]
"""An exit code, standard output, and the lines on standard error."""

_NO_MORE: Mapping[str, str] = MappingProxyType({})


class Shell:
    """Runs commands in ``directory``; whatever they say, it is no traceback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = directory / "control.sock"
        self.environ = {
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            "PORTPROXY_CONTROL": str(self.control),
            "LC_ALL": "C.UTF-8",
        }

    def __call__(
        self, *argv: str, environ: Mapping[str, str] = _NO_MORE, stdout: int = subprocess.PIPE
    ) -> Said:
        """What ``portproxy`` with these arguments says; ``environ`` is added to the environment."""
        return self.run([PORTPROXY, *argv], environ=environ, stdout=stdout)

    def run(
        self, argv: Sequence[str], *, environ: Mapping[str, str] = _NO_MORE, stdout: int = subprocess.PIPE
    ) -> Said:
        """The same for any command."""
        done = subprocess.run(
            argv,
            cwd=self.directory,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert "Traceback" not in (done.stdout or "") + done.stderr
        return done.returncode, done.stdout or "", done.stderr.splitlines()

    @contextlib.contextmanager
    def started(self, *argv: str, environ: Mapping[str, str] = _NO_MORE) -> Iterator[subprocess.Popen[str]]:
        """A command that runs until the block ends at most, with its output in pipes."""
        with subprocess.Popen(
            argv,
            cwd=self.directory,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def serving(self, *argv: str, environ: Mapping[str, str] = _NO_MORE) -> Iterator[subprocess.Popen[str]]:
        """``portproxy serve``, every rule listening; it ends cleanly, on SIGTERM unless before."""
        with self.started(PORTPROXY, "serve", *argv, environ=environ) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if " ready " in line:
                    break
            else:
                pytest.fail("".join(lines))
            yield process
            if process.returncode is None:
                ended = stopped(process, signal.SIGTERM)
                assert ended.code == 0, ended.errors


class Ended:
    """How a process ended: its exit code, and what it still said."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code, self.output, self.errors = code, output, errors


def stopped(process: subprocess.Popen[str], number: signal.Signals) -> Ended:
    """The end of ``process`` after signal ``number``, without a traceback."""
    process.send_signal(number)
    output, errors = process.communicate()
    assert "Traceback" not in output + errors
    return Ended(process.returncode, output, errors)


def free_port() -> int:
    """A port that nothing uses now, on either loopback address."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        return int(probe.getsockname()[1])
