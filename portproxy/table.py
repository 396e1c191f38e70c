"""A Config as a table for people."""

from __future__ import annotations

from portproxy.columns import columns
from portproxy.model import Config, Rule
from portproxy.options import SERVER_OPTIONS, option_tags
from portproxy.tunnel.model import Tunnel

_TUNNEL_HEAD = ("tunnel", "type", "from", "to", "options", "state")
_HEAD = ("rule", "type", "listens on", "connects to", "options", "state")


def show(config: Config, width: int | None = None) -> str:
    """What a relay with ``config`` would run: its rules, its tunnels, its server settings, its warnings.

    No value is cut: cells are folded where a row is wider than ``width`` characters, and with
    ``width`` None a rule is a line, for programs.
    """
    shadowed = dict(config.shadowed)
    rows = [_HEAD, *(_row(rule, shadowed.get(rule.name)) for rule in config.rules)]
    settings = [option.tag(getattr(config.server, option.name)) for option in SERVER_OPTIONS]
    tunnels = [_TUNNEL_HEAD, *map(_tunnel_row, config.tunnels)]
    lines = [
        *([*columns(rows, width), ""] if config.rules or not config.tunnels else []),
        *([*columns(tunnels, width), ""] if config.tunnels else []),
        f"server: {' '.join(settings)}",
        *(f"warning: {warning}" for warning in config.warnings),
    ]
    return "\n".join(lines)


def _tunnel_row(tunnel: Tunnel) -> tuple[str, ...]:
    # Here, because most configurations have none.
    from portproxy.options.tunnels import tags

    return (
        tunnel.name,
        tunnel.type,
        tunnel.localaddress,
        tunnel.remoteaddress or "-",
        " ".join(tags(tunnel)),
        "would run",
    )


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
