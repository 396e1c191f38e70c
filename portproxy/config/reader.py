"""From what was written, wherever it was, to a Config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portproxy.config import document
from portproxy.config.conflicts import find
from portproxy.config.rules import Defaults, Place, Written, build
from portproxy.config.tables import Table, problem
from portproxy.errors import ConfigError, printable, shown
from portproxy.loops import IsLocal
from portproxy.model import Config, Server
from portproxy.options import SERVER_OPTIONS, by_name
from portproxy.options.kinds import RefusedError, nearest

_TABLES = ("server", "defaults", "rule")
_SERVER_KEYS = by_name(SERVER_OPTIONS)


class Reader:
    """Gathers what was written, wherever it was, and the problems on the way."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._warnings: list[str] = []
        self._server: dict[str, Any] = {}
        self._defaults = Table("[defaults]", {}, self._problems)
        self._rules: list[Written] = []

    def file(self, path: str) -> None:
        """Read the TOML file at ``path``."""
        self.document(document.read(path, self._problems), path)

    def document(self, text: str, source: str) -> None:
        """Read a TOML document that ``source`` names for people."""
        where = printable(source)
        tables = document.tables(text, where, self._problems)
        for key, value in tables.items():
            if key not in _TABLES:
                told = f"unknown table or key; {nearest(key, _TABLES)}"
                self._problems.append(problem(where, key, value, told))
        server = self._table(tables, "server", where)
        server.read(_SERVER_KEYS)
        self._server |= server.values
        self._defaults = self._table(tables, "defaults", where)
        rules = tables.get("rule", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            told = "each rule is a table of its own, headed [[rule]]"
            self._problems.append(problem(where, "rule", rules, told))
            return
        self._rules += [Written(Place(where, number), rule) for number, rule in enumerate(rules, 1)]

    def _table(self, tables: dict[str, Any], key: str, where: str) -> Table:
        written = tables.get(key, {})
        if not isinstance(written, dict):
            self._problems.append(problem(where, key, written, f"a table, headed [{key}]"))
            written = {}
        return Table(f"{where}: [{key}]", written, self._problems)

    def environment(self, text: str) -> None:
        """Read the rules of PORTPROXY_RULES."""
        for number, command in enumerate(_commands(text), 1):
            self._rules.append(Written(Place("PORTPROXY_RULES", number), command))

    def command(self, text: str, source: str) -> None:
        """Read one rule in netsh's words."""
        self._rules.append(Written(Place(source), text))

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

    def pass_over_problems(self) -> None:
        """Do not hold the problems found until now against what is read."""
        self._problems.clear()

    def server(self) -> Server:
        """What ``[server]`` holds; raises ConfigError with every problem but those of rules."""
        if self._problems:
            raise ConfigError(self._problems)
        return Server(**self._server)

    def config(self, is_local: IsLocal | None = None) -> Config:
        """Everything that was read, checked as a whole; raises ConfigError with every problem."""
        defaults = Defaults(self._defaults)
        by_rule: dict[Place, list[str]] = {written.place: [] for written in self._rules}
        built = [build(written, defaults, by_rule[written.place]) for written in self._rules]
        placed = [rule for rule in built if rule is not None]
        server = Server(**self._server)
        findings = find(placed, server.status, is_local, by_rule)
        problems = self._problems + [line for lines in by_rule.values() for line in lines]
        if problems:
            raise ConfigError(problems)
        return Config(
            server=server,
            rules=tuple(here.rule for here in placed),
            shadowed=tuple(findings.shadowed),
            warnings=(*self._warnings, *findings.warnings),
        )


def _commands(text: str) -> Iterator[str]:
    """The rules of PORTPROXY_RULES: one a line or separated by ``;``, comments and empty ones left out."""
    for line in text.split("\n"):
        for command in line.split(";"):
            if command.lstrip().startswith("#"):
                break
            if command.strip():
                yield command
