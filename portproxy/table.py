"""A Config as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from portproxy.model import Config, Rule
from portproxy.options import RULE_OPTIONS, SERVER_OPTIONS, Option

_HEAD = ("rule", "type", "listens on", "connects to", "options", "state")
_GAP = "  "


def show(config: Config, width: int | None = None) -> str:
    """What a relay with ``config`` would run: its rules, its server settings, its warnings.

    No value is cut: cells are folded where a row is wider than ``width`` characters, and with
    ``width`` None a rule is a line, for programs.
    """
    shadowed = dict(config.shadowed)
    rows = [_HEAD, *(_row(rule, shadowed.get(rule.name)) for rule in config.rules)]
    settings = [_tag(option, getattr(config.server, option.name)) for option in SERVER_OPTIONS]
    lines = [
        *_columns(rows, width),
        "",
        f"server: {' '.join(settings)}",
        *(f"warning: {warning}" for warning in config.warnings),
    ]
    return "\n".join(lines)


def _row(rule: Rule, shadowed_by: str | None) -> tuple[str, ...]:
    state = "would listen" if shadowed_by is None else f"shadowed by {shadowed_by}"
    return rule.name, rule.type, str(rule.listen), str(rule.connect), _options(rule), state


def _options(rule: Rule) -> str:
    """What the rule sets otherwise than by default, as its tags."""
    holders = (rule, rule.limits, rule.acl)
    values = {
        option: getattr(next(holder for holder in holders if hasattr(holder, option.name)), option.name)
        for option in RULE_OPTIONS
    }
    given = [_tag(option, value) for option, value in values.items() if value != option.default]
    return " ".join(given) or "defaults"


def _tag(option: Option, value: object) -> str:
    """The setting as ``--rule`` takes it."""
    # A list is written out here, where an error line shows its first items.
    written = ",".join(map(str, value)) if isinstance(value, tuple) else option.kind.show(value)
    return f"{option.name}={written}"


def _columns(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        return _folded(rows, width)
    return [
        _GAP.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _folded(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0))
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console = Console(width=width, color_system=None)
    lines = console.render_lines(table, console.options)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]
