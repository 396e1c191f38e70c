"""A Config as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from portproxy.model import Config, Rule
from portproxy.options import SERVER_OPTIONS, option_tags

_HEAD = ("rule", "type", "listens on", "connects to", "options", "state")
_GAP = "  "


def show(config: Config, width: int | None = None) -> str:
    """What a relay with ``config`` would run: its rules, its server settings, its warnings.

    No value is cut: cells are folded where a row is wider than ``width`` characters, and with
    ``width`` None a rule is a line, for programs.
    """
    shadowed = dict(config.shadowed)
    rows = [_HEAD, *(_row(rule, shadowed.get(rule.name)) for rule in config.rules)]
    settings = [option.tag(getattr(config.server, option.name)) for option in SERVER_OPTIONS]
    lines = [
        *_columns(rows, width),
        "",
        f"server: {' '.join(settings)}",
        *(f"warning: {warning}" for warning in config.warnings),
    ]
    return "\n".join(lines)


def _row(rule: Rule, shadowed_by: str | None) -> tuple[str, ...]:
    state = "would listen" if shadowed_by is None else f"shadowed by {shadowed_by}"
    return (
        rule.name,
        rule.type,
        str(rule.listen),
        str(rule.connect),
        " ".join(option_tags(rule)) or "defaults",
        state,
    )


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
