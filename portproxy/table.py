"""A Config as a table for people."""

from __future__ import annotations

from portproxy.columns import columns
from portproxy.model import Config, Rule
from portproxy.options import SERVER_OPTIONS, option_tags

_HEAD = ("rule", "type", "listens on", "connects to", "options", "state")


def show(config: Config, width: int | None = None) -> str:
    """What a relay with ``config`` would run: its rules, its server settings, its warnings.

    No value is cut: cells are folded where a row is wider than ``width`` characters, and with
    ``width`` None a rule is a line, for programs.
    """
    shadowed = dict(config.shadowed)
    rows = [_HEAD, *(_row(rule, shadowed.get(rule.name)) for rule in config.rules)]
    settings = [option.tag(getattr(config.server, option.name)) for option in SERVER_OPTIONS]
    lines = [
        *columns(rows, width),
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
