"""Reads what is written, wherever it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from portproxy.config import document
from portproxy.config.rules import Origin, Place, Written
from portproxy.config.source import File, Source
from portproxy.config.tables import Table, problem
from portproxy.errors import ConfigError, printable, shown
from portproxy.model import Server
from portproxy.options import SERVER_OPTIONS, by_name
from portproxy.options.kinds import RefusedError, nearest
from portproxy.tunnel.model import Tunnel

_TABLES = ("server", "defaults", "rule", "tunnel")
_COMMAND = re.compile(r"""(?:[^;"'\\]|\\.?|"(?:\\.|[^"\\])*["\\]?|'[^']*'?)+""")
"""Up to a semicolon in no quotes; a quote without its end takes the rest, for the grammar to refuse."""
_SERVER_KEYS = by_name(SERVER_OPTIONS)


class Reader:
    """Gathers what was written, wherever it was, and the problems on the way."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._warnings: list[str] = []
        self._server: dict[str, Any] = {}
        self._defaults = Table("[defaults]", {}, self._problems)
        self._rules: list[Written] = []
        self._tunnels: tuple[Tunnel, ...] = ()
        self._file: File | None = None
        self._unread: list[str] = []

    def file(self, path: str) -> None:
        """Read the TOML file at ``path``."""
        data = document.read(path, self._unread)
        self._file = File(path, document.digest(data))
        self.document(document.decode(data, path, self._unread), path)

    def document(self, text: str, source: str) -> None:
        """Read a TOML document that ``source`` names for people."""
        where = printable(source)
        tables = document.tables(text, where, self._unread)
        self._problems += self._unread
        for key, value in tables.items():
            if key not in _TABLES:
                told = f"unknown table or key; {nearest(key, _TABLES)}"
                self._problems.append(problem(where, key, value, told))
        server = self._table(tables, "server", where)
        server.read(_SERVER_KEYS)
        self._server |= server.values
        self._defaults = self._table(tables, "defaults", where)
        self._rules += [
            Written(Place(where, number), rule, Origin.FILE)
            for number, rule in enumerate(self._tables(tables, "rule", where), 1)
        ]
        if "tunnel" in tables:
            # Here, because most relays have none, and every start would pay for it.
            from portproxy.config.tunnels import read

            written = self._tables(tables, "tunnel", where)
            self._tunnels = read(written, where, self._problems, self._warnings)

    def _table(self, tables: dict[str, Any], key: str, where: str) -> Table:
        written = tables.get(key, {})
        if not isinstance(written, dict):
            self._problems.append(problem(where, key, written, f"a table, headed [{key}]"))
            written = {}
        return Table(f"{where}: [{key}]", written, self._problems)

    def _tables(self, tables: dict[str, Any], key: str, where: str) -> list[dict[str, object]]:
        written = tables.get(key, [])
        if not isinstance(written, list) or not all(isinstance(table, dict) for table in written):
            told = f"each {key} is a table of its own, headed [[{key}]]"
            self._problems.append(problem(where, key, written, told))
            return []
        return written

    def environment(self, text: str) -> None:
        """Read the rules of PORTPROXY_RULES."""
        for number, command in enumerate(_commands(text), 1):
            self._rules.append(Written(Place("PORTPROXY_RULES", number), command, Origin.ENVIRONMENT))

    def command(self, text: str, source: str) -> None:
        """Read one rule in netsh's words."""
        self._rules.append(Written(Place(source), text, Origin.COMMAND_LINE))

    def setting(self, where: str, key: str, written: str | None) -> None:
        """Read one key of ``[server]`` that was written elsewhere; it goes before what was read until now."""
        if written is None:
            return
        kind = _SERVER_KEYS[key].kind
        try:
            self._server[key] = kind.convert(written)
        except RefusedError as refusal:
            self._problems.append(f"{where} = {shown(written)}: {str(refusal) or kind.accepts}")

    def default_control(self, path: str | None, warning: str) -> None:
        """Where the control socket is, and what to warn of, if nothing that was read says where."""
        if "control" not in self._server:
            self._server["control"] = path
            self._warnings += [warning] if warning else []

    def pass_over_problems(self, *, unread: bool) -> None:
        """Do not hold the problems found until now against what is read; with ``unread``, not even those for
        which nothing was."""
        self._problems[:] = [] if unread else self._unread

    def server(self) -> Server:
        """What ``[server]`` holds; raises ConfigError with every problem but those of rules."""
        if self._problems:
            raise ConfigError(self._problems)
        return Server(**self._server)

    def source(self) -> Source:
        """Everything that was read, to be checked as a whole."""
        return Source(
            rules=tuple(self._rules),
            tunnels=self._tunnels,
            server=self._server,
            defaults=self._defaults.written,
            defaults_where=self._defaults.where,
            problems=tuple(self._problems),
            warnings=tuple(self._warnings),
            file=self._file,
        )


def _commands(text: str) -> Iterator[str]:
    """The rules of PORTPROXY_RULES: one a line or separated by ``;``, comments and empty ones left out."""
    for line in text.split("\n"):
        for command in _COMMAND.findall(line):
            if command.lstrip().startswith("#"):
                break
            if command.strip():
                yield command
