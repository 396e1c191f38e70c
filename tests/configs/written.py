"""What configs/ and the Dockerfile say, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from portproxy import config
from portproxy.cli.group import portproxy
from portproxy.control.client import TIMEOUT
from portproxy.model import Config
from portproxy.status.app import PAGES

TOP = Path(__file__).parents[2]
CONFIGS = TOP / "configs"

VARIABLES = {"PORTPROXY_RULES", "PORTPROXY_STATUS", "PORTPROXY_CONTROL"}
"""All that portproxy reads; it passes over others, and so over one that is misspelt."""

Table = dict[str, Any]


def documents(path: Path) -> list[Table]:
    """The documents of a YAML file. A key that is given twice is an error."""
    return list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))


class Image(NamedTuple):
    """What a container of the image starts with, unless it is told otherwise."""

    user: int
    group: int
    control: str


def image() -> Image:
    """What the Dockerfile says."""
    text = (TOP / "Dockerfile").read_text(encoding="utf-8")
    ((user, group),) = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    (control,) = re.findall(r"PORTPROXY_CONTROL=(\S+)", text)
    return Image(int(user), int(group), control)


def relay(environ: Mapping[str, str], file: Path | None = None) -> Config:
    """What a relay with this environment and this file runs; nothing is wrong with it, or to be warned of."""
    assert {name for name in environ if name.startswith("PORTPROXY_")} <= VARIABLES
    told = config.read(str(file) if file else None, environ=environ).config()
    assert told.rules
    assert not told.warnings
    return told


def check_command(argv: list[str], seconds: int) -> None:
    """A probe that runs ``argv``, and waits ``seconds``, asks what it should, and hears why it fails."""
    assert argv == ["portproxy", "health"]
    assert argv[1] in portproxy.commands
    assert seconds >= 2 * TIMEOUT, "twice as much, for the start of Python"


def check_page(path: str) -> None:
    """The status endpoint has a page at ``path``."""
    assert path in PAGES
