"""From a ``[[tunnel]]`` table to a Tunnel, and what is wrong between tunnels."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from portproxy.config.tables import Table, problem
from portproxy.errors import printable
from portproxy.options import by_name
from portproxy.options.kinds import RefusedError
from portproxy.options.tunnels import INTERFACE, LEAST_MTU, TUNNEL_OPTIONS
from portproxy.tunnel.model import AUTO, Tunnel, TunnelType

_KEYS = by_name(TUNNEL_OPTIONS)
_REQUIRED = ("name", "type", "remoteaddress")
_MTU = {TunnelType.V6V4TUNNEL: 1480, TunnelType.V4V6TUNNEL: 1460}


def read(tables: Sequence[Mapping[str, object]], source: str, problems: list[str]) -> tuple[Tunnel, ...]:
    """The tunnels of ``tables``; what is wrong with them is added to ``problems``."""
    placed: list[tuple[str, Tunnel]] = []
    for number, written in enumerate(tables, 1):
        name = written.get("name")
        named = f" ({printable(name[:60])})" if isinstance(name, str) and name else ""
        where = f"{source}: tunnel {number}{named}"
        tunnel = _build(Table(where, written, problems), problems)
        if tunnel is not None:
            placed.append((where, tunnel))
    _find_conflicts(placed, problems)
    return tuple(tunnel for _, tunnel in placed)


def _build(table: Table, problems: list[str]) -> Tunnel | None:
    before = len(problems)
    table.read(_KEYS)
    for key in _REQUIRED:
        if key not in table.written:
            table.lack(_KEYS[key])
    values = table.values
    if "name" in values and "interface" not in table.written:
        _interface_from_name(table)
    if "type" in values:
        _check_families(table, values["type"])
    if len(problems) > before:
        return None
    values.setdefault("localaddress", AUTO)
    values.setdefault("mtu", _MTU[values["type"]])
    return Tunnel(**values)


def _interface_from_name(table: Table) -> None:
    try:
        table.values["interface"] = INTERFACE.convert(table.values["name"])
    except RefusedError:
        table.refuse("name", f"the interface would be called so; {INTERFACE.accepts}; or set interface")


def _check_families(table: Table, type_: TunnelType) -> None:
    values = table.values
    for key in ("remoteaddress", "localaddress"):
        if (text := values.get(key, AUTO)) != AUTO and ipaddress.ip_address(text).version != type_.outer:
            table.refuse(key, f"{type_} goes over IPv{type_.outer}")
    for key, ip in (("address", "ip"), ("route", "prefix")):
        for one in values.get(key, ()):
            if getattr(one, ip).version != type_.inner:
                table.refuse(key, f"{one}: {type_} carries IPv{type_.inner}")
    mtu = values.get("mtu")
    least, most = LEAST_MTU[type_.inner], 65535 - (20 if type_.outer == 4 else 40)
    if mtu is not None and not least <= mtu <= most:
        table.refuse("mtu", f"{type_} takes {least} to {most}")
    if values.get("encaplimit") is not None and type_ is not TunnelType.V4V6TUNNEL:
        table.refuse("encaplimit", "only IPv6 has that option, so v4v6tunnel alone takes it")


def _find_conflicts(placed: Sequence[tuple[str, Tunnel]], problems: list[str]) -> None:
    for key, told in (
        ("name", "has this name already; each tunnel needs a name of its own"),
        ("interface", "has this interface already; each tunnel needs one of its own"),
    ):
        first: dict[Any, str] = {}
        for where, tunnel in placed:
            value = getattr(tunnel, key)
            other = first.setdefault(value, where)
            if other is not where:
                problems.append(problem(where, key, value, f"{other} {told}"))
    ends: dict[Any, str] = {}
    for where, tunnel in placed:
        other = ends.setdefault((tunnel.type, tunnel.localaddress, tunnel.remoteaddress), where)
        if other is not where:
            told = f"{other} has these two ends already; what arrives could be either's"
            problems.append(problem(where, "remoteaddress", tunnel.remoteaddress, told))
