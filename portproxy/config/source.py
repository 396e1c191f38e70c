"""What was written, wherever it was, before it is checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from portproxy.config.conflicts import find
from portproxy.config.rules import Defaults, Place, Placed, Written, build
from portproxy.config.tables import Table
from portproxy.errors import ConfigError
from portproxy.loops import IsLocal
from portproxy.model import Config, Server
from portproxy.tunnel.model import Tunnel


@dataclass(frozen=True, slots=True)
class File:
    """The configuration file: its path, and what tells one version of it from another."""

    path: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration, and everything that is wrong with it: ``by_rule`` what concerns one rule."""

    config: Config
    problems: tuple[str, ...]
    by_rule: Mapping[Place, list[str]]


@dataclass(frozen=True, slots=True)
class Source:
    """Rules and defaults as they were written, the rules in their order, tunnels, and the server's settings.

    ``problems`` and ``warnings`` were found on the way here.
    """

    rules: tuple[Written, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    server: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    defaults_where: object = "[defaults]"
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    file: File | None = None

    def config(self, is_local: IsLocal | None = None) -> Config:
        """The configuration, if it is sound; raises ConfigError with every problem."""
        checked = self.check(is_local)
        lines = [*checked.problems, *(line for lines in checked.by_rule.values() for line in lines)]
        if lines:
            raise ConfigError(lines)
        return checked.config

    def check(self, is_local: IsLocal | None = None) -> Checked:
        """All of it, checked as a whole.

        ``is_local`` says whether an address is this host's, which finds more rules that connect to
        themselves.
        """
        problems = list(self.problems)
        defaults = self.read_defaults(problems)
        by_rule: dict[Place, list[str]] = {written.place: [] for written in self.rules}
        placed = []
        for written in self.rules:
            rule = written.made(self.defaults) or build(written, defaults, by_rule[written.place])
            if rule is not None:
                placed.append(Placed(written, rule))
        # Building rules is what finds a default that does not fit, and the next check has to find it as well.
        if not problems:
            for here in placed:
                here.written.makes(self.defaults, here.rule)
        server = Server(**self.server)
        findings = find(placed, server, is_local, by_rule)
        config = Config(
            server=server,
            rules=tuple(here.rule for here in placed),
            tunnels=self.tunnels,
            shadowed=tuple(findings.shadowed),
            warnings=(*self.warnings, *findings.warnings),
        )
        return Checked(config, tuple(problems), by_rule)

    def read_defaults(self, problems: list[str]) -> Defaults:
        """``[defaults]``, for rules to be built with; what is wrong there is added to ``problems``."""
        return Defaults(Table(self.defaults_where, self.defaults, problems))
