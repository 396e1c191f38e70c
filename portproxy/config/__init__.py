"""The configuration: TOML, ``--rule`` and the environment to a Config, with every problem at once.

The union of the rules counts, those of the file first, then those of PORTPROXY_RULES, then those of
``--rule``; ``[defaults]`` holds for all of them. For everything else the command line goes before
the environment, and the environment before the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from portproxy.config.reader import Reader
from portproxy.config.source import Source
from portproxy.model import Config, Server

DEFAULT_PATH = "/etc/portproxy/portproxy.toml"
"""What a relay without ``-c`` reads, if it exists."""

_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


class DefaultControl(NamedTuple):
    """The control socket where nothing that was read names one: its path, or None, and a warning if any."""

    path: str | None = None
    warning: str = ""


_NO_CONTROL = DefaultControl()


def read(
    path: str | None,
    rules: Sequence[str] = (),
    environ: Mapping[str, str] = _NO_ENVIRONMENT,
    *,
    status: str | None = None,
    control: str | None = None,
    user: str | None = None,
    workers: str | None = None,
    default_control: DefaultControl = _NO_CONTROL,
) -> Source:
    """What a relay is to do: the file at ``path``, ``--rule`` strings, and PORTPROXY_* of ``environ``.

    ``status``, ``control``, ``user`` and ``workers`` are the command line's. Raises nothing: problems are in
    what is returned.
    """
    reader = Reader()
    if path is not None:
        reader.file(path)
    reader.environment(environ.get("PORTPROXY_RULES", ""))
    for number, rule in enumerate(rules, 1):
        reader.command(rule, f"--rule {number}")
    _settings(reader, environ, status=status, control=control, user=user, workers=workers)
    reader.default_control(*default_control)
    return reader.source()


def load_server(
    path: str | None,
    environ: Mapping[str, str] = _NO_ENVIRONMENT,
    *,
    status: str | None = None,
    control: str | None = None,
    default_control: DefaultControl = _NO_CONTROL,
    meant: bool = False,
) -> Server:
    """The settings of the process alone, whatever is wrong with the file at ``path``.

    For those who ask a relay that runs: it may have read an earlier, sound version of the file, so
    what is wrong there does not keep them from asking. The file is not read where the command line or the
    environment names the socket. Raises ConfigError for what is wrong with those; and where the file was
    ``meant``, not just there, for one that cannot be read at all: the relay that it names is not the default.
    """
    reader = Reader()
    if path is not None and not (status or control or environ.get("PORTPROXY_CONTROL")):
        reader.file(path)
        reader.pass_over_problems(unread=not meant)
    _settings(reader, environ, status=status, control=control)
    reader.default_control(*default_control)
    return reader.server()


def _settings(reader: Reader, environ: Mapping[str, str], **on_command_line: str | None) -> None:
    for key, given in on_command_line.items():
        variable = f"PORTPROXY_{key.upper()}"
        # An empty variable is how a composed environment says "not set".
        reader.setting(variable, key, environ.get(variable) or None)
        reader.setting(f"--{key}", key, given)


def parse(text: str, source: str) -> Config:
    """What the document ``text`` says by itself; ``source`` names it in problems. Raises ConfigError."""
    reader = Reader()
    reader.document(text, source)
    return reader.source().config()
