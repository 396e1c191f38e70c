"""Tunnels reported: as data for programs, as tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TypedDict

from portproxy.columns import columns
from portproxy.errors import printable
from portproxy.options import Option
from portproxy.options.tunnels import SAYS_NOTHING, options_of
from portproxy.report import in_bytes
from portproxy.snapshot import TunnelStatus

_STATUS_HEAD = ("tunnel", "state", "local", "remote", "mtu", "packets in", "out", "in", "out", "dropped")
_SHOW_HEAD = ("tunnel", "type", "local", "remote", "options")
_IN_COLUMNS = ("name", "type", "localaddress", "remoteaddress")
_WAY_OUT = ("role", "relay", "router")
_NONE = "-"

Setting = str | int | bool | list[str]
"""A value as the configuration file has it, of TOML's types."""


class TunnelData(TypedDict):
    """One tunnel: the ``settings`` that it takes, which the file would be read with, too; ``local`` and
    ``mtu`` as they are by now.

    Packets and bytes are those of the inner packets; ``dropped`` has a reason once it occurred.
    """

    name: str
    settings: dict[str, Setting]
    state: str
    last_error: str
    local: str
    mtu: int
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int
    dropped: dict[str, int]


class TunnelsData(TypedDict):
    """Every tunnel, in the configuration's order."""

    tunnels: list[TunnelData]


def tunnels_data(statuses: Iterable[TunnelStatus]) -> TunnelsData:
    """``statuses`` as JSON can carry them."""
    return {"tunnels": [_data(status) for status in statuses]}


def _data(status: TunnelStatus) -> TunnelData:
    tunnel = status.tunnel
    return {
        "name": printable(tunnel.name),
        "settings": {
            option.name: _setting(option, getattr(tunnel, option.name)) for option in options_of(tunnel)
        },
        "state": str(status.state),
        "last_error": printable(status.last_error),
        "local": status.local,
        "mtu": status.mtu,
        "packets_in": status.packets_in,
        "bytes_in": status.bytes_in,
        "packets_out": status.packets_out,
        "bytes_out": status.bytes_out,
        "dropped": {reason: count for reason, count in status.drops.items() if count},
    }


def _setting(option: Option, value: object) -> Setting:
    if isinstance(value, tuple):
        return [printable(str(item)) for item in value]
    text = option.kind.show(value)
    # mss is a flag that is written in words.
    return value if isinstance(value, int) and text == json.dumps(value) else printable(text)


def show_text(data: TunnelsData, width: int | None = None) -> str:
    """How the tunnels are set up, for people; folded to ``width`` characters where given."""
    if not data["tunnels"]:
        return "no tunnels"
    return "\n".join(columns([_SHOW_HEAD, *map(_show_row, data["tunnels"])], width))


def _show_row(tunnel: TunnelData) -> tuple[str, ...]:
    settings = tunnel["settings"]
    options = _tags(settings, (name for name in settings if name not in _IN_COLUMNS))
    return (*(_written(settings.get(name, _NONE)) for name in _IN_COLUMNS), options)


def _tags(settings: Mapping[str, Setting], names: Iterable[str]) -> str:
    values = [(name, _written(settings.get(name, "off"))) for name in names]
    return " ".join(f"{name}={value}" for name, value in values if value not in SAYS_NOTHING)


def _written(setting: Setting) -> str:
    """As TOML has it, but for quotes around a text."""
    return printable(setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False))


def status_text(data: TunnelsData, width: int | None = None) -> str:
    """What the tunnels do, for people; folded to ``width`` characters where given."""
    tunnels = data["tunnels"]
    if not tunnels:
        return "no tunnels"
    notes = [note for one in tunnels for note in _notes(one)]
    table = columns([_STATUS_HEAD, *map(_status_row, tunnels)], width)
    return "\n".join([*table, *([""] if notes else []), *notes])


def _notes(tunnel: TunnelData) -> Iterator[str]:
    """What has no room in the table, each with what it is."""
    name = printable(tunnel["name"])
    if tunnel["last_error"]:
        yield f"{name} error: {printable(tunnel['last_error'])}"
    if way_out := _tags(tunnel["settings"], _WAY_OUT):
        yield f"{name} settings: {_tags(tunnel['settings'], ('type',))} {way_out}"
    if tunnel["dropped"]:
        reasons = ", ".join(f"{count} {printable(reason)}" for reason, count in tunnel["dropped"].items())
        yield f"{name} dropped: {reasons}"


def _status_row(tunnel: TunnelData) -> tuple[str, ...]:
    return (
        printable(tunnel["name"]),
        printable(tunnel["state"]),
        printable(tunnel["local"]) or _NONE,
        _written(tunnel["settings"].get("remoteaddress", _NONE)),
        str(tunnel["mtu"] or _NONE),
        str(tunnel["packets_in"]),
        str(tunnel["packets_out"]),
        in_bytes(tunnel["bytes_in"]),
        in_bytes(tunnel["bytes_out"]),
        str(sum(tunnel["dropped"].values())),
    )
