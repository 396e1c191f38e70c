"""From a ``[[tunnel]]`` table to a Tunnel, and what is wrong between tunnels."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from portproxy.config.tables import Table, problem
from portproxy.errors import printable
from portproxy.options import by_name
from portproxy.options.kinds import RefusedError
from portproxy.options.tunnels import INTERFACE, LEAST_MTU, ROLES, TUNNEL_OPTIONS, TYPES
from portproxy.tunnel.model import AUTO, Role, Tunnel, TunnelType
from portproxy.tunnel.modes.embedded import isatap, public
from portproxy.tunnel.packet.icmpv4 import single

_KEYS = by_name(TUNNEL_OPTIONS)
_MTU = {TunnelType.V6V4TUNNEL: 1480, TunnelType.V4V6TUNNEL: 1460}
_ANY_PATH = 1280
"""The MTU of the others (RFC 3056, 4; RFC 4213, 3.2.1)."""
_ROUTER = "isatap"
"""RFC 5214, 8.3.2: what the resolver makes of it in its search domains."""
_ANYCAST = "192.88.99.1"

_INSTEAD = {
    TunnelType.V6V4TUNNEL: {"relay": "remoteaddress", "router": "remoteaddress"},
    TunnelType.V4V6TUNNEL: {"relay": "remoteaddress", "router": "remoteaddress"},
    TunnelType.ISATAP: {"remoteaddress": "router", "relay": "router", "advertise": "prefix"},
    TunnelType.SIXTOFOUR: {"remoteaddress": "relay", "router": "relay", "prefix": "advertise"},
    TunnelType.V4COMPAT: {},
}
"""Of the keys that a type does not take, those that it has another one for."""


def read(
    tables: Sequence[Mapping[str, object]], source: str, problems: list[str], warnings: list[str]
) -> tuple[Tunnel, ...]:
    """The tunnels of ``tables``; what is wrong with them is added to ``problems``, what may be to
    ``warnings``."""
    placed: list[tuple[str, Tunnel]] = []
    for number, written in enumerate(tables, 1):
        name = written.get("name")
        named = f" ({printable(name[:60])})" if isinstance(name, str) and name else ""
        where = f"{source}: tunnel {number}{named}"
        tunnel = _build(Table(where, written, problems), problems)
        if tunnel is not None:
            placed.append((where, tunnel))
    _find_conflicts(placed, problems)
    for where, tunnel in placed:
        if tunnel.relay == _ANYCAST:
            told = "whoever is nearest answers there, and RFC 7526 deprecated it; name a relay that you know"
            warnings.append(problem(where, "relay", _ANYCAST, told))
    return tuple(tunnel for _, tunnel in placed)


def _build(table: Table, problems: list[str]) -> Tunnel | None:
    before = len(problems)
    _read(table)
    values = table.values
    if "name" in values and "interface" not in table.written:
        _interface_from_name(table)
    if "type" in values:
        _check_families(table, values["type"])
        _check_role(table, values["type"])
        if values["type"].automatic:
            _check_automatic(table, values["type"])
            _check_gateways(table, values["type"])
        elif values.get("localaddress", AUTO) == values.get("remoteaddress"):
            table.refuse("remoteaddress", "it is localaddress as well; the other end is another host")
    if len(problems) > before:
        return None
    return Tunnel(**(_defaults(values["type"], values.get("role", Role.HOST)) | values))


def _read(table: Table) -> None:
    """What is written, by the keys of its type where it says which that is."""
    try:
        type_: TunnelType | None = _KEYS["type"].kind.convert(table.written.get("type"))
    except RefusedError:
        type_ = None
    misplaced = _misplaced(type_) if type_ else {}
    table.read({key: option for key, option in _KEYS.items() if key not in misplaced}, misplaced)
    required = ["name", "type"]
    if type_ and not type_.automatic:
        required.append("remoteaddress")
    for key in required:
        if key not in table.written:
            table.lack(_KEYS[key])


def _misplaced(type_: TunnelType) -> dict[str, str]:
    """The keys that ``type_`` does not take, and what would be right."""
    told = {}
    for key, types in TYPES.items():
        if type_ not in types:
            instead = _INSTEAD[type_].get(key)
            right = f"did you mean {instead}?" if instead else _who_does(types)
            told[key] = f"{type_} does not take it; {right}"
    return told


def _who_does(others: Sequence[StrEnum]) -> str:
    return f"{' and '.join(others)} {'do' if len(others) > 1 else 'does'}"


def _defaults(type_: TunnelType, role: Role) -> dict[str, Any]:
    """What stands for keys that are left out, where it is not for every tunnel what the model has."""
    values: dict[str, Any] = {"localaddress": AUTO, "remoteaddress": "", "mtu": _MTU.get(type_, _ANY_PATH)}
    if type_ is TunnelType.ISATAP and role is Role.HOST:
        values["router"] = (_ROUTER,)
    return values


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


def _check_role(table: Table, type_: TunnelType) -> None:
    if "role" in table.written and "role" not in table.values:
        return
    role = table.values.get("role", Role.HOST)
    if role is Role.RELAY and type_ is TunnelType.ISATAP:
        table.refuse("role", f"isatap has no relays; {Role.HOST} or {Role.ROUTER}")
        return
    for key, roles in ROLES.items():
        if key in table.values and role not in roles:
            table.refuse(key, f"the role {role} does not take it; {_who_does(roles)}")
    if type_ is TunnelType.ISATAP and role is Role.ROUTER:
        if "prefix" not in table.written:
            table.lack(_KEYS["prefix"])
        elif table.values.get("prefix") == ():
            table.refuse("prefix", f"a router needs one; {_KEYS['prefix'].kind.accepts}")


def _check_automatic(table: Table, type_: TunnelType) -> None:
    values = table.values
    if values.get("mtu", _ANY_PATH) is None:
        table.refuse("mtu", f"it has many peers, each at the end of another path; {_ANY_PATH} suits any")
    if type_ in TYPES["private"] and not values.get("private"):
        for key in ("localaddress", "relay"):
            if _is_private(values.get(key) or AUTO):
                told = f"{type_} needs public IPv4 addresses; in a lab, private = true admits others"
                table.refuse(key, told)
    local = values.get("localaddress", AUTO)
    if local != AUTO and local == values.get("relay"):
        table.refuse("relay", 'it is localaddress as well; the relay is another host, or role = "relay"')
    if local != AUTO and local in values.get("router", ()) and values.get("role", Role.HOST) is Role.HOST:
        table.refuse("router", 'localaddress is there as well; a router is another host, or role = "router"')
    named = values.get("advertise", ())
    if "lo" in named:
        table.refuse("advertise", "nobody is behind lo; name interfaces inside the site")
    if len(set(named)) < len(named):
        table.refuse("advertise", "one interface is there twice; each gets one subnet")
    if values.get("interface") in named:
        table.refuse("advertise", "the tunnel's own interface is there; name those inside the site")


def _check_gateways(table: Table, type_: TunnelType) -> None:
    """The modes see where a packet goes to, not the kernel's next hop; isatap is told what it stands for."""
    for route in table.values.get("route", ()):
        if route.via and type_ is not TunnelType.ISATAP:
            table.refuse("route", f"{route}: {type_} goes by the packet's destination; leave out the gateway")
        elif route.via and not single(isatap(route.via.packed) or bytes(4)):
            table.refuse("route", f"{route}: a gateway has an ISATAP address, like fe80::5efe:192.0.2.1")


def _is_private(text: str) -> bool:
    try:
        return not public(ipaddress.IPv4Address(text).packed)
    except ipaddress.AddressValueError:
        return False  # what it stands for is known once the tunnel runs


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
    used: dict[Any, str] = {}
    for where, tunnel in placed:
        # A link-local address is one link's (RFC 4007, 6).
        for address in {one.ip for one in tunnel.address if not one.ip.is_link_local}:
            if (other := used.setdefault(address, where)) is not where:
                told = f"{other} has this address already; each interface needs one of its own"
                problems.append(problem(where, "address", str(address), told))
        for inside in tunnel.advertise:
            if (other := used.setdefault(inside, where)) is not where:
                told = f"{other} advertises there already; an interface is of one site"
                problems.append(problem(where, "advertise", inside, told))
    ends: dict[Any, str] = {}
    for where, tunnel in placed:
        other = ends.setdefault((tunnel.type, tunnel.localaddress, tunnel.remoteaddress), where)
        if other is not where and tunnel.type.automatic:
            told = f"{other} is {tunnel.type} on this address already; what arrives could be either's"
            problems.append(problem(where, "localaddress", tunnel.localaddress, told))
        elif other is not where:
            told = f"{other} has these two ends already; what arrives could be either's"
            problems.append(problem(where, "remoteaddress", tunnel.remoteaddress, told))
