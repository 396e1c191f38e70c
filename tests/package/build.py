"""Builds a Dockerfile's image without Docker: its RUN and COPY, in order, on a stand-in of its base."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.package import context, dockerfile
from tests.package.base import ENVIRON, Root
from tests.package.dockerfile import Instruction, Settings
from tests.package.namespaces import command

_PATIENCE = 90.0
"""Seconds for one RUN."""
_INDEX = "mnt"
"""Where a build finds the packages that the index would give."""


def build(top: Path, wheels: Path, directory: Path) -> None:
    """Build every stage of ``top``'s Dockerfile into ``directory``, a folder for each, by number.

    ``wheels`` stands for the package index: there is no network. Needs namespaces of its own.
    """
    base = Root(directory / "base")
    base.make()
    roots: dict[str, Root] = {}
    for number, stage in enumerate(dockerfile.read(top / "Dockerfile")):
        root = roots[stage.name] = base.begin(directory / str(number))
        command("mount", "--bind", wheels, root.path / _INDEX)
        (root.path / "dev/shm").mkdir()
        command("mount", "-t", "tmpfs", "tmpfs", root.path / "dev/shm")
        settings = Settings(dict(ENVIRON))
        for instruction in stage.instructions:
            settings.take(instruction)
            match instruction.name:
                case "RUN":
                    _run(root, instruction, settings)
                case "COPY" if "from" in instruction.flags:
                    _copy_from(roots[instruction.flags["from"]], root, instruction)
                case "COPY":
                    _copy(top, root, instruction, settings)
                case "WORKDIR":
                    _inside(root, settings.workdir).mkdir(parents=True, exist_ok=True)


def _inside(root: Root, *parts: str | Path) -> Path:
    path = Path(*parts)
    assert path.is_absolute(), path
    return root.path / path.relative_to("/")


def _run(root: Root, instruction: Instruction, settings: Settings) -> None:
    assert settings.user == "0:0", "RUN after USER is not understood here"
    done = subprocess.run(
        ["unshare", "--root", root.path, "--wd", settings.workdir, *instruction.command],
        check=False,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        env={**settings.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/{_INDEX}"},
    )
    assert done.returncode == 0, f"RUN {instruction.text}\n{done.stdout}{done.stderr}"


def _copy(top: Path, root: Root, instruction: Instruction, settings: Settings) -> None:
    """Copy what the context holds of the sources, a folder's contents without the folder."""
    *sources, target = instruction.text.split()
    for source in sources:
        found = [path for path in context.files(top) if path.is_relative_to(source)]
        assert found, f"COPY {instruction.text}: the context has no {source}"
        for path in found:
            into = _inside(root, settings.workdir, target, path.relative_to(source))
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(top / path, into)


def _copy_from(origin: Root, root: Root, instruction: Instruction) -> None:
    """Copy a folder of an earlier stage; without its files' times and capabilities, as some builders do."""
    source, target = instruction.text.split()
    _inside(root, target).mkdir(parents=True)
    command("cp", "-R", "--preserve=mode,links", f"{_inside(origin, source)}/.", _inside(root, target))
