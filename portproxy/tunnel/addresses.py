"""What an IPv6 address is, what it carries, and the reverse. Pure.

An address has exactly one kind by its prefix, and may have one more by its interface identifier: the ISATAP
host behind a 6to4 router is both. A kind is a table of bit fields, read and written by the same lines, so
what was decoded encodes to the same address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

from portproxy.errors import ConfigError, shown
from portproxy.tunnel.fields import Field, Holds, Needs, read, written

_ALL = (1 << 128) - 1
_LOW_32 = (1 << 32) - 1
_IDENTIFIER = (1 << 64) - 1


class AddressError(ConfigError):
    """This text is no address, or these parts make none of that kind: a line for each problem."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of address: the ``bits`` that are so under ``mask``, and the ``fields`` between them.

    ``what`` says it in words, with its ``source``. ``dotted`` is what stands in front of an IPv4 address at
    the end of such an address, where that is written with dots.
    """

    name: str
    bits: int
    mask: int
    what: str
    source: str
    fields: tuple[Field, ...] = ()
    dotted: str | None = None

    def covers(self, bits: int) -> bool:
        return bits & self.mask == self.bits


class Found(NamedTuple):
    """An address is of ``kind``; what its fields hold, as text, and what some of that means, in words.

    Each of ``notes`` says of an IPv4 address that it makes no sense there.
    """

    kind: Kind
    values: Mapping[str, str]
    meanings: Mapping[str, str]
    notes: tuple[str, ...]


class Embedded(NamedTuple):
    """An IPv4 address inside an IPv6 address, whose it is, and the port that goes with it."""

    role: str
    address: IPv4Address
    port: int | None


class Decoded(NamedTuple):
    """What ``address`` is by its prefix and, if anything, by its interface identifier.

    ``text`` is how it is written, without its zone.
    """

    address: IPv6Address
    text: str
    kinds: tuple[Found, ...]
    embedded: tuple[Embedded, ...]

    @property
    def zone(self) -> str | None:
        """What stood behind the ``%``, as it was given: a host's name for one of its links (RFC 4007, 11)."""
        return self.address.scope_id


SCOPES = {
    0: "reserved",
    1: "interface-local",
    2: "link-local",
    3: "realm-local",
    4: "admin-local",
    5: "site-local",
    8: "organization-local",
    14: "global",
    15: "reserved",
}
"""Of multicast (RFC 7346, 2)."""

_MULTICAST_FLAGS = {2: "from a unicast prefix (P)", 4: "embeds its rendezvous point (R)", 8: "reserved (X)"}
"""RFC 3306, 4; RFC 3956, 3; RFC 7371, 4.1. The lowest is T."""
_TEREDO_RANDOM = 0x3CFF
_TEREDO_FLAGS = {0x4000: "reserved (z)", 0x0200: "universal (U)", 0x0100: "group (G)"}
"""CzRRRRUG RRRRRRRR (RFC 4380, 4, and RFC 5991, 3, since which clients leave C, the cone bit, 0)."""


def _scope(value: int) -> str:
    return SCOPES.get(value, "unassigned")


def _multicast_flags(value: int) -> str:
    first = "transient (T)" if value & 1 else "well-known"
    return ", ".join([first, *_those_set(value, _MULTICAST_FLAGS)])


def _teredo_flags(value: int) -> str:
    said = ["cone NAT (C)" if value & 0x8000 else "no cone bit"]
    said += [f"{value & _TEREDO_RANDOM:x} at random"] if value & _TEREDO_RANDOM else []
    return ", ".join([*said, *_those_set(value, _TEREDO_FLAGS)])


def _those_set(value: int, flags: Mapping[int, str]) -> Iterator[str]:
    return (word for bit, word in flags.items() if value & bit)


def _uniqueness(u: int) -> str:
    return "globally unique IPv4 address" if u else "IPv4 address not globally unique"


def _administration(identifier: int) -> str:
    return "universally administered" if identifier & _U_BIT else "locally administered"


def _prefix(
    name: str, prefix: str, what: str, source: str, *fields: Field, dotted: str | None = None
) -> Kind:
    network = IPv6Network(prefix)
    return Kind(name, int(network.network_address), int(network.netmask), what, source, fields, dotted)


def _low_v4(role: str, needs: Needs = Needs.HOST) -> Field:
    return Field("ipv4", 0, 32, Holds.IPV4, role=role, needs=needs)


_U_BIT = 1 << 57
"""The universal/local bit of an interface identifier, as a bit of the address (RFC 4291, 2.5.1)."""
_NETWORK = Field("prefix", 64, 64, Holds.PREFIX)
_SUBNET = Field("subnet", 64, 16, optional=True)
_INTERFACE = Field("interface", 0, 64, Holds.SUFFIX, optional=True)
"""An identifier that may say more: those of IDENTIFIERS are looked for where a kind has it."""
_HOST = _low_v4("host")
_PUBLIC_HOST = _low_v4("host", Needs.PUBLIC)

PREFIXES = (
    _prefix("unspecified", "::/128", "no address", "RFC 4291, 2.5.2"),
    _prefix("loopback", "::1/128", "this host itself", "RFC 4291, 2.5.3"),
    _prefix(
        "v4mapped",
        "::ffff:0:0/96",
        "IPv4-mapped: an IPv4 host, to programs that speak IPv6",
        "RFC 4291, 2.5.5.2",
        # Any that a program may meet: 127.0.0.1 is this host itself there, too.
        _low_v4("host", Needs.ANY),
        dotted="::ffff:",
    ),
    _prefix(
        "v4compat",
        "::/96",
        "IPv4-compatible, for automatic tunnelling, deprecated",
        "RFC 4291, 2.5.5.1",
        _PUBLIC_HOST,
        dotted="::",
    ),
    _prefix(
        "v4translated",
        "::ffff:0:0:0/96",
        "IPv4-translated: an IPv6 host, to a stateless translator, obsolete",
        "RFC 2765, 2.1",
        _HOST,
        dotted="::ffff:0:",
    ),
    _prefix(
        "nat64",
        "64:ff9b::/96",
        "an IPv4 host behind a NAT64, by the well-known prefix",
        "RFC 6052, 2.1",
        _PUBLIC_HOST,  # RFC 6052, 3.1
        dotted="64:ff9b::",
    ),
    _prefix(
        "nat64-local",
        "64:ff9b:1::/48",
        "an IPv4 host behind a NAT64, by a local-use prefix, taken for a /96",
        "RFC 8215",
        Field("prefix", 32, 96, Holds.PREFIX),
        _HOST,
    ),
    _prefix("discard", "100::/64", "discard-only", "RFC 6666", Field("low", 0, 64, Holds.SUFFIX)),
    _prefix(
        "teredo",
        "2001::/32",
        "Teredo: IPv6 over UDP through a NAT",
        "RFC 4380, 4",
        Field("server", 64, 32, Holds.IPV4, role="Teredo server", needs=Needs.PUBLIC),
        Field("flags", 48, 16, optional=True, means=_teredo_flags),
        Field("port", 32, 16, Holds.PORT, mask=0xFFFF, role="Teredo client"),
        Field("client", 0, 32, Holds.IPV4, mask=_LOW_32, role="Teredo client", needs=Needs.PUBLIC),
    ),
    _prefix("benchmarking", "2001:2::/48", "for benchmarks", "RFC 5180, 8", _NETWORK, _INTERFACE),
    _prefix("orchid", "2001:20::/28", "ORCHIDv2: a hash", "RFC 7343", Field("hash", 0, 100, Holds.SUFFIX)),
    _prefix("documentation", "2001:db8::/32", "for examples, never routed", "RFC 3849", _NETWORK, _INTERFACE),
    _prefix("documentation-20", "3fff::/20", "for examples, never routed", "RFC 9637", _NETWORK, _INTERFACE),
    _prefix("ietf", "2001::/23", "for protocols of the IETF", "RFC 2928", _NETWORK, _INTERFACE),
    _prefix(
        "6to4",
        "2002::/16",
        "6to4: a site behind an IPv4 address",
        "RFC 3056, 2",
        Field("ipv4", 80, 32, Holds.IPV4, role="6to4 router", needs=Needs.PUBLIC),
        _SUBNET,
        _INTERFACE,
    ),
    _prefix("global", "2000::/3", "global unicast", "RFC 4291, 2.5.4", _NETWORK, _INTERFACE),
    _prefix(
        "ula",
        "fd00::/8",
        "unique local (ULA): routed within sites",
        "RFC 4193, 3.1",
        Field("globalid", 80, 40),
        _SUBNET,
        _INTERFACE,
    ),
    _prefix(
        "ula-unassigned",
        "fc00::/8",
        "unique local, the half that nobody assigns",
        "RFC 4193, 3.1",
        _NETWORK,
        _INTERFACE,
    ),
    _prefix("link-local", "fe80::/64", "link-local", "RFC 4291, 2.5.6", _INTERFACE),
    _prefix(
        "link-local-reserved",
        "fe80::/10",
        "link-local, with bits set that have to be 0",
        "RFC 4291, 2.5.6",
        _NETWORK,
        _INTERFACE,
    ),
    _prefix("site-local", "fec0::/10", "site-local, deprecated", "RFC 3879", _NETWORK, _INTERFACE),
    _prefix(
        "solicited-node",
        "ff02::1:ff00:0/104",
        "link-local multicast to the hosts whose addresses end so",
        "RFC 4291, 2.7.1",
        Field("low", 0, 24, Holds.SUFFIX),
    ),
    _prefix(
        "multicast",
        "ff00::/8",
        "multicast",
        "RFC 4291, 2.7",
        Field("flags", 116, 4, optional=True, means=_multicast_flags),
        Field("scope", 112, 4, means=_scope),
        Field("group", 0, 112, Holds.SUFFIX),
    ),
    Kind("reserved", 0, 0, "not assigned", "RFC 4291, 4", (Field("bits", 0, 128, Holds.SUFFIX),)),
)
"""By their prefix: the first that covers an address is its kind."""

IDENTIFIERS = (
    Kind(
        "isatap",
        0x5EFE << 32,
        _IDENTIFIER & ~(_LOW_32 | _U_BIT),
        "ISATAP: IPv6 over a site's IPv4",
        "RFC 5214, 6.1",
        (_NETWORK, Field("u", 57, 1, optional=True, means=_uniqueness), _low_v4("ISATAP host")),
    ),
    Kind(
        "eui64",
        0xFFFE << 24,
        0xFFFF << 24,
        "modified EUI-64: made from a MAC address",
        "RFC 4291, A",
        (_NETWORK, Field("mac", 0, 64, Holds.MAC, means=_administration)),
    ),
    Kind(
        "6over4",
        0xFE80 << 112,
        _ALL ^ _LOW_32,
        "6over4, or a configured tunnel's end",
        "RFC 2529, 4; RFC 4213, 3.7",
        (_HOST,),
    ),
)
"""By their interface identifier, of which an address has one of these at most."""

KINDS = {kind.name: kind for kind in (*PREFIXES, *IDENTIFIERS)}


def parse(text: str) -> IPv6Address:
    """The IPv6 address that ``text`` writes, in brackets or not, with its zone. Raises AddressError."""
    try:
        return read(text)
    except ValueError as error:
        raise AddressError([f"{shown(text)}: {error}"]) from None


def decode(address: IPv6Address) -> Decoded:
    """What ``address`` is."""
    bits = int(address)
    kind = next(kind for kind in PREFIXES if kind.covers(bits))
    text = f"{kind.dotted}{IPv4Address(bits & _LOW_32)}" if kind.dotted else written(bits)
    kinds = [kind]
    if _INTERFACE in kind.fields:
        kinds += [one for one in IDENTIFIERS if _identifies(one, bits)]
    return Decoded(address, text, tuple(_found(one, bits) for one in kinds), tuple(_embedded(kinds, bits)))


def encode(kind: Kind, values: Mapping[str, str]) -> IPv6Address:
    """The address of this ``kind`` whose fields are ``values``, which ``decode`` gives back.

    Raises AddressError.
    """
    fields = {field.name: field for field in kind.fields}
    known = f"known are {', '.join(fields)}" if fields else "it has none"
    problems = [f"{kind.name}: {shown(name)}: no such part; {known}" for name in values if name not in fields]
    bits = kind.bits
    for field in kind.fields:
        try:
            bits |= _bits(kind, field, values.get(field.name))
        except ValueError as error:
            problems.append(f"{kind.name}: {field.name} {error}")
    if problems:
        raise AddressError(problems)
    decoded = decode(IPv6Address(bits))
    if kind not in [found.kind for found in decoded.kinds]:
        by_prefix = decoded.kinds[0].kind
        raise AddressError([f"{kind.name}: {decoded.text} is {by_prefix.name} ({by_prefix.source})"])
    return decoded.address


def _identifies(kind: Kind, bits: int) -> bool:
    # In fe80::1 a small number was chosen, and not an IPv4 address, which would be a host's.
    return kind.covers(bits) and (kind.name != "6over4" or 1 <= bits >> 24 & 0xFF <= 223)


def _found(kind: Kind, bits: int) -> Found:
    held = [(field, field.read(bits)) for field in kind.fields]
    return Found(
        kind,
        {field.name: field.text(value) for field, value in held},
        {field.name: field.means(value) for field, value in held if field.means},
        tuple(
            f"{field.name}={field.text(value)} is {what}, and {kind.name} needs {field.needs.value}"
            for field, value in held
            if (what := field.unfit(value))
        ),
    )


def _embedded(kinds: list[Kind], bits: int) -> Iterator[Embedded]:
    for kind in kinds:
        ports = {field.role: field.read(bits) for field in kind.fields if field.holds is Holds.PORT}
        for field in kind.fields:
            if field.holds is Holds.IPV4:
                yield Embedded(field.role, IPv4Address(field.read(bits)), ports.get(field.role))


def _bits(kind: Kind, field: Field, text: str | None) -> int:
    """Those bits of an address of ``kind`` that make ``field`` what ``text`` says. Raises ValueError."""
    if text is None:
        if field.optional:
            return field.put(0)
        raise ValueError(f"is missing: {field.accepts}")
    try:
        bits = field.put(field.value(text))
    except ValueError:
        raise ValueError(f"= {shown(text)}: {field.accepts}") from None
    if (bits ^ kind.bits) & kind.mask & field.bits:
        within = f"{written(kind.bits)}/{kind.mask.bit_count()}"
        raise ValueError(f"= {shown(text)}: {field.accepts}, within {within}")
    return bits
