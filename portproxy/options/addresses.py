"""Addresses and paths of a configuration: what may be written, and which rule types it fits."""

from __future__ import annotations

import re

from portproxy.errors import shown
from portproxy.model import ANY, Endpoint, Family, IPAddress, IPNetwork, RuleType, literal
from portproxy.options.kinds import Kind, RefusedError, text

SOCKET_PATH_BYTES = 107 - len(".4194303")
"""unix(7): sun_path holds 108 bytes, one of them the terminating NUL. The socket is bound with the process's
number behind its name and then renamed; proc_sys_kernel(5): pid_max is at most 2**22."""

# RFC 1123 section 2.1 and RFC 1035 section 2.3.4; the underscore is in no host name, but in many a zone.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NAME_CHARACTERS = 253
# netdevice(7): IFNAMSIZ is 16 with the NUL, and dev_valid_name() refuses "/" and white space.
_INTERFACE = re.compile(r"[!-.0-~]{1,15}")
# What inet_aton(3) takes for an IPv4 address, so the resolver would never look it up as a name.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_BRACKETED = re.compile(r"\[([^\[\]]+)\]")
_ENDPOINT = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+)):([0-9]{1,5})")
_BROADCAST = literal("255.255.255.255")


def is_host_name(name: str) -> bool:
    """Whether ``name`` is a syntactically valid host name that no resolver reads as a number."""
    labels = name.removesuffix(".").split(".")
    return (
        len(name.removesuffix(".")) <= _NAME_CHARACTERS
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMERIC_LABEL.fullmatch(labels[-1])
    )


def _listen(value: object) -> str:
    address = text(value)
    if address != ANY:
        _host(address, "listenport")
    return address


def _connect(value: object) -> str:
    address = text(value)
    ip = _host(address, "connectport")
    if ip is not None and ip.is_unspecified:
        loopback = Family(f"v{ip.version}").loopback
        raise RefusedError(f"the unspecified address names no host; the local computer is {loopback}")
    return address


def _source(value: object) -> str | None:
    if value == "off":
        return None
    address = text(value)
    ip = _literal(address)
    if ip is None:
        raise RefusedError
    if ip.is_unspecified:
        raise RefusedError('the unspecified address is no source; "off" lets the kernel choose one')
    return address


def _host(address: str, port_key: str) -> IPAddress | None:
    """The address that is written, None for a host name; raises RefusedError for anything else.

    ``port_key`` is the key that takes the port.
    """
    ip = _literal(address)
    if ip is not None or is_host_name(address):
        return ip
    if bracketed := _BRACKETED.fullmatch(address):
        raise RefusedError(f"an address has no brackets here; write {shown(bracketed[1])}")
    if endpoint := _ENDPOINT.fullmatch(address):
        host = shown(endpoint[1] or endpoint[2])
        raise RefusedError(f"a port has a key of its own; write {host} here, and {endpoint[3]} as {port_key}")
    raise RefusedError


def _literal(address: str) -> IPAddress | None:
    """The address that is written, None for a name; raises RefusedError where TCP cannot use it."""
    ip = literal(address)
    if ip is None:
        return None
    if ip.is_multicast or ip == _BROADCAST:
        raise RefusedError("a multicast or broadcast address carries no TCP; write a unicast address")
    if ip.version == 6:
        _check_scope(ip.scope_id, ip.is_link_local)
    return ip


def _check_scope(scope: str | None, link_local: bool) -> None:
    # ipv6(7): sin6_scope_id is needed for a link-local address, and means nothing for any other.
    if link_local and scope is None:
        raise RefusedError("a link-local address needs its interface, like fe80::1%eth0")
    if scope is not None and not link_local:
        raise RefusedError("only a link-local address (fe80::/10) takes an interface")
    if scope is not None and not _INTERFACE.fullmatch(scope):
        raise RefusedError("the interface after the % is its name or its number, like fe80::1%eth0")


def fit_listen(address: str, rule_type: RuleType) -> None:
    """Raises RefusedError where ``address`` is a literal of the wrong family for listening."""
    _fit(address, rule_type, rule_type.listen_family, "listens on", listening=True)


def fit_connect(address: str, rule_type: RuleType) -> None:
    """Raises RefusedError where ``address`` is a literal of the wrong family for connecting."""
    _fit(address, rule_type, rule_type.connect_family, "connects to", listening=False)


def _fit(address: str, rule_type: RuleType, family: Family, verb: str, *, listening: bool) -> None:
    ip = literal(address)
    if ip is None:
        return
    mapped = ip.ipv4_mapped if ip.version == 6 else None
    if ip.version == family.version and not mapped:
        return
    fitting = Family.V4 if mapped else Family(f"v{ip.version}")
    kept = (rule_type.connect_family if listening else rule_type.listen_family).value
    would = f"{fitting.value}to{kept}" if listening else f"{kept}to{fitting.value}"
    if mapped:
        raise RefusedError(f'an IPv4-mapped address is an IPv4 one; write "{mapped}" with type = "{would}"')
    raise RefusedError(f'{rule_type} {verb} IPv{family.version}; type = "{would}" would take it')


def fit_prefixes(prefixes: tuple[IPNetwork, ...], rule_type: RuleType) -> None:
    """Raises RefusedError where a prefix cannot hold a client of the rule."""
    family = rule_type.listen_family
    for prefix in prefixes:
        if prefix.version != family.version:
            raise RefusedError(f"{prefix} holds no client: {rule_type} listens on IPv{family.version}")
        if prefix.version == 6 and prefix.network_address.ipv4_mapped:
            raise RefusedError(f"{prefix} holds no client: IPv4 clients come to a rule that listens on IPv4")


def _endpoint(value: object) -> Endpoint | None:
    if value == "off":
        return None
    found = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 1 <= int(found[3]) <= 65535:
        raise RefusedError
    ip = _literal(found[1] or found[2])
    if ip is None or (ip.version == 6) is not bool(found[1]):
        raise RefusedError
    if ip.version == 6 and ip.ipv4_mapped:
        raise RefusedError(f"an IPv4-mapped address is an IPv4 one; write {ip.ipv4_mapped}:{found[3]}")
    return Endpoint(str(ip), int(found[3]))


def _socket_path(value: object) -> str | None:
    path = text(value)
    if path == "off":
        return None
    if not path.startswith("/") or len(path.encode()) > SOCKET_PATH_BYTES:
        raise RefusedError
    return path


def _log_path(value: object) -> str | None:
    path = text(value)
    return None if path == "off" else path


def _or_off(value: object | None) -> str:
    return "off" if value is None else str(value)


LISTEN = Kind(
    'an address of the family listened on (fe80::1%eth0 with its interface), a host name, or "*" for any',
    _listen,
)
CONNECT = Kind(
    "an address of the family connected to (fe80::1%eth0 with its interface) or a host name", _connect
)
SOURCE = Kind('an address of the family connected to, or "off"', _source, _or_off)
ENDPOINT = Kind('an address and a port, like 127.0.0.1:9180 or [::1]:9180, or "off"', _endpoint, _or_off)
SOCKET_PATH = Kind(f'an absolute path of at most {SOCKET_PATH_BYTES} bytes, or "off"', _socket_path, _or_off)
LOG_PATH = Kind('a path, "-" for standard output, or "off"', _log_path, _or_off)
