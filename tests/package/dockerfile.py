"""A Dockerfile, read: its stages, and the configuration of the image that one describes.

It knows what this project's file uses, and refuses the rest, so that nothing is passed over in silence.
https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_FLAG = re.compile(r"--(\S+?)=(\S+)\s+")


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``name`` in capitals, its ``--flags``, and the rest of it as it stands."""

    name: str
    flags: dict[str, str]
    text: str

    @property
    def exec_form(self) -> bool:
        """Whether a command is given as words, which need no shell."""
        return self.text.startswith("[")

    @property
    def command(self) -> list[str]:
        """What RUN, ENTRYPOINT, CMD, HEALTHCHECK run, and what VOLUME lists."""
        if not self.exec_form:
            return ["/bin/sh", "-c", self.text]
        words = json.loads(self.text)
        assert all(isinstance(word, str) for word in words), self.text
        return list(words)

    @property
    def pairs(self) -> dict[str, str]:
        """What ENV and LABEL set."""
        return dict(word.split("=", 1) for word in shlex.split(self.text))


@dataclass
class Stage:
    """What is between one FROM and the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def of(self, *names: str) -> list[Instruction]:
        """The instructions of these names, in order."""
        return [instruction for instruction in self.instructions if instruction.name in names]


@dataclass
class Settings:
    """What an image says about how it runs; RUN sees the first three as they are by then."""

    environ: dict[str, str]
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"

    def take(self, instruction: Instruction) -> None:
        """Do as ``instruction`` says, if it concerns these."""
        match instruction.name:
            case "ENV":
                pairs = instruction.pairs
                self.environ |= {name: expand(value, self.environ) for name, value in pairs.items()}
            case "WORKDIR":
                self.workdir = instruction.text
            case "USER":
                self.user = instruction.text
            case "ENTRYPOINT":
                self.entrypoint = instruction.command
            case "CMD":
                self.command = instruction.command
            case "HEALTHCHECK":
                self.health = _after_cmd(instruction).command
            case "VOLUME":
                self.volumes += instruction.command
            case "STOPSIGNAL":
                self.stop_signal = instruction.text
            case "LABEL" | "RUN" | "COPY":
                pass
            case unknown:
                raise ValueError(f"{unknown} is not understood here")


def read(path: Path) -> list[Stage]:
    """The stages of the Dockerfile at ``path``; its ARGs have their defaults."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(path.read_text(encoding="utf-8")):
        if instruction.name == "FROM":
            base, _, name = expand(instruction.text, arguments).partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif instruction.name == "ARG":
            arguments |= instruction.pairs
        else:
            raise ValueError(f"{instruction.name} before FROM")
    return stages


def settings(stage: Stage, environ: dict[str, str]) -> Settings:
    """What the image of ``stage`` says, whose base image sets ``environ``."""
    found = Settings(dict(environ))
    for instruction in stage.instructions:
        found.take(instruction)
    return found


def expand(text: str, environ: dict[str, str]) -> str:
    """``text`` with the variables in it; raises KeyError for one that is not set."""
    return _VARIABLE.sub(lambda match: environ[match[1] or match[2]], text)


def _after_cmd(health: Instruction) -> Instruction:
    name, _, text = health.text.partition(" ")
    assert name == "CMD", health
    return Instruction(name, health.flags, text)


def _instructions(text: str) -> Iterator[Instruction]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if not line.strip():
            continue
        name, _, rest = line.strip().partition(" ")
        rest, flags = rest.lstrip(), {}
        while flag := _FLAG.match(rest):
            flags[flag[1]] = flag[2]
            rest = rest[flag.end() :]
        yield Instruction(name.upper(), flags, rest)
