"""A Config as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from portproxy.errors import printable
from portproxy.model import Config, Rule
from portproxy.options import RULE_OPTIONS


def print_config(config: Config) -> None:
    """Print what a relay with ``config`` would run: its rules, its server settings, its warnings."""
    console = Console(highlight=False)
    shadowed = dict(config.shadowed)
    table = Table("rule", "type", "listens on", "connects to", "options", "state", box=None, pad_edge=False)
    for rule in config.rules:
        by = shadowed.get(rule.name)
        state = f"shadowed by {by}" if by else "would listen"
        cells = (rule.name, rule.type, str(rule.listen), str(rule.connect), _options(rule), state)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table, soft_wrap=True)
    for line in _server(config):
        console.print(Text(line), soft_wrap=True)


def _options(rule: Rule) -> str:
    """What the rule sets otherwise than by default, as its tags."""
    holders = (rule, rule.limits, rule.acl)
    values = {
        option: getattr(next(holder for holder in holders if hasattr(holder, option.name)), option.name)
        for option in RULE_OPTIONS
    }
    given = [
        f"{option.name}={option.kind.show(value)}"
        for option, value in values.items()
        if value != option.default
    ]
    return " ".join(given) or "defaults"


def _server(config: Config) -> Iterator[str]:
    server = config.server
    yield ""
    yield (
        f"status {server.status or 'off'}, control {server.control or 'off'}, log {server.log}, "
        f"accesslog {server.accesslog or 'off'}, draintimeout {server.draintimeout:g} s"
    )
    for warning in config.warnings:
        yield f"warning: {warning}"
