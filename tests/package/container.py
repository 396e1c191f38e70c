"""A container of a built image: its command as PID 1, as an engine with ``--read-only`` would run it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from tests.package import dockerfile
from tests.package.base import ENVIRON, Root
from tests.package.dockerfile import Settings
from tests.package.namespaces import command

PATIENCE = 60.0
"""Seconds until a test that waits for an event gives up; no test's outcome depends on less."""

DOCKERS = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap"),
)
"""The bounding set that Docker gives unless told otherwise."""


class Image:
    """What ``build`` left in ``directory``, mounted read-only but for the volumes."""

    def __init__(self, top: Path, directory: Path) -> None:
        stages = dockerfile.read(top / "Dockerfile")
        self.settings: Settings = dockerfile.settings(stages[-1], ENVIRON)
        self.root = Root(directory / str(len(stages) - 1))
        self.path = self.root.path
        self.root.mount()
        self.root.seal()
        for volume in self.settings.volumes:
            # A volume is as the image has the folder; an engine copies owner and mode.
            path = self.path / volume.lstrip("/")
            is_ = path.stat()
            options = f"uid={is_.st_uid},gid={is_.st_gid},mode={is_.st_mode & 0o7777:o}"
            command("mount", "-t", "tmpfs", "-o", options, "tmpfs", path)

    def words(self, capabilities: Sequence[str] = DOCKERS, *, no_new_privileges: bool = False) -> list[str]:
        """What runs a command as the image's user, with no more than ``capabilities`` in its bounding set.

        A second exec, of env(1), takes away the permitted ones, which are root's: so do the engines.
        """
        uid, gid = self.settings.user.split(":")
        bounding = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        return [
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"),
            *("--inh-caps=-all", f"--bounding-set={bounding}"),
            *("env", "setpriv", "--inh-caps=-all"),
            *(("--no-new-privs",) if no_new_privileges else ()),
        ]


class Container:
    """A running container; ``pid`` is its PID 1 as the test sees it."""

    def __init__(self, image: Image, process: subprocess.Popen[str]) -> None:
        self._image = image
        self._process = process
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=[process.stderr])
        self._reader.start()

    @property
    def pid(self) -> int:
        (child,) = self._children()
        return child

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def said(self, text: str) -> str:
        """The next line on standard error with ``text`` in it. Raises AssertionError if it ends before."""
        heard = []
        while line := self._lines.get(timeout=PATIENCE):
            heard.append(line)
            if text in line:
                return line
        raise AssertionError("".join(heard))

    def ended(self) -> int:
        """The exit code, once PID 1 has ended; not 0 where a signal ended it."""
        return self._process.wait(PATIENCE)

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command in it too, as ``docker exec`` and health checks do: exit code, and what it says."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self.pid}", "--mount", "--pid", "--root", "--wd"),
                *self._image.words(),
                *words,
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._image.settings.environ,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout

    def close(self) -> None:
        """End it, if it runs still.

        By its PID 1: what unshare's --kill-child asks for is forgotten where a file with capabilities is
        executed (prctl(2), PR_SET_PDEATHSIG).
        """
        for child in self._children():
            os.kill(child, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stderr
        self._process.stderr.close()

    def _children(self) -> list[int]:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(child) for child in children.read_text().split()] if children.exists() else []

    def _read(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._lines.put(line)
        self._lines.put("")


@contextlib.contextmanager
def container(
    image: Image,
    environ: Mapping[str, str],
    capabilities: Sequence[str] = DOCKERS,
    *,
    no_new_privileges: bool = False,
    command: Sequence[str] = (),
) -> Iterator[Container]:
    """Run the image's ENTRYPOINT and CMD, or ``command`` for that, with ``environ`` added to its ENV."""
    settings = image.settings
    process = subprocess.Popen(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(f"--root={image.path}", f"--wd={settings.workdir}"),
            *image.words(capabilities, no_new_privileges=no_new_privileges),
            *settings.entrypoint,
            *(command or settings.command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**settings.environ, **environ},
    )
    running = Container(image, process)
    try:
        yield running
    finally:
        running.close()
