"""What IPv6 addresses are, and the reverse: published vectors, the edges of every prefix, ipaddress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portproxy.tunnel.addresses import IDENTIFIERS, KINDS, PREFIXES, AddressError, Kind, decode, encode, parse
from portproxy.tunnel.fields import Field, Holds, written
from tests.fuzz.examples import seeds

MOST = (1 << 128) - 1


def said(address: str) -> list[str]:
    """The kinds of an address, each with its parts, as they are typed behind `encode`."""
    return [
        " ".join([found.kind.name, *(f"{name}={value}" for name, value in found.values.items())])
        for found in decode(parse(address)).kinds
    ]


def embedded(address: str) -> list[str]:
    """Whose IPv4 addresses are in an address, and their ports."""
    return [
        f"{one.role} {one.address}" + ("" if one.port is None else f":{one.port}")
        for one in decode(parse(address)).embedded
    ]


def made(line: str) -> str:
    """The address of a line of ``said``."""
    kind, *parts = line.split(" ")
    return decode(encode(KINDS[kind], dict(part.split("=", 1) for part in parts))).text


# Vectors.

VECTORS: dict[str, tuple[list[str], list[str]]] = {
    # IPv6/IPv4 Coexistence and Migration: table 1, with 1 and 2 for the hosts.
    "2002:9d3c:5b7b:1::1": (
        ["6to4 ipv4=157.60.91.123 subnet=1 interface=::1"],
        ["6to4 router 157.60.91.123"],
    ),
    "2002:836b:d231:2::2": (
        ["6to4 ipv4=131.107.210.49 subnet=2 interface=::2"],
        ["6to4 router 131.107.210.49"],
    ),
    # Table 2.
    "fe80::5efe:10.40.1.29": (
        ["link-local interface=::5efe:a28:11d", "isatap prefix=fe80::/64 u=0 ipv4=10.40.1.29"],
        ["ISATAP host 10.40.1.29"],
    ),
    "fe80::5efe:192.168.41.30": (
        ["link-local interface=::5efe:c0a8:291e", "isatap prefix=fe80::/64 u=0 ipv4=192.168.41.30"],
        ["ISATAP host 192.168.41.30"],
    ),
    # Table 3.
    "fe80::5efe:192.168.12.9": (
        ["link-local interface=::5efe:c0a8:c09", "isatap prefix=fe80::/64 u=0 ipv4=192.168.12.9"],
        ["ISATAP host 192.168.12.9"],
    ),
    "ff02::2": (["multicast flags=0 scope=2 group=::2"], []),
    # Tables 5 to 7.
    "2002:9d36:1:2:0:5efe:192.168.12.9": (
        [
            "6to4 ipv4=157.54.0.1 subnet=2 interface=::5efe:c0a8:c09",
            "isatap prefix=2002:9d36:1:2::/64 u=0 ipv4=192.168.12.9",
        ],
        ["6to4 router 157.54.0.1", "ISATAP host 192.168.12.9"],
    ),
    "2002:836b:1:2:0:5efe:192.168.141.30": (
        [
            "6to4 ipv4=131.107.0.1 subnet=2 interface=::5efe:c0a8:8d1e",
            "isatap prefix=2002:836b:1:2::/64 u=0 ipv4=192.168.141.30",
        ],
        ["6to4 router 131.107.0.1", "ISATAP host 192.168.141.30"],
    ),
    # Table 8.
    "::157.60.91.123": (["v4compat ipv4=157.60.91.123"], ["host 157.60.91.123"]),
    "::131.107.210.49": (["v4compat ipv4=131.107.210.49"], ["host 131.107.210.49"]),
    # Appendix B, and table 9.
    "ff02::1": (["multicast flags=0 scope=2 group=::1"], []),
    "ff02::1:ff28:9c5a": (["solicited-node low=::28:9c5a"], []),
    "fe80::9d3c:5b7b": (
        ["link-local interface=::9d3c:5b7b", "6over4 ipv4=157.60.91.123"],
        ["host 157.60.91.123"],
    ),
    "fe80::836b:d231": (
        ["link-local interface=::836b:d231", "6over4 ipv4=131.107.210.49"],
        ["host 131.107.210.49"],
    ),
    # Notes on Teredo, and CPython's tests of ipaddress.
    "2001:0:1117:34fa:1027:374b:e1fc:f635": (
        ["teredo server=17.23.52.250 flags=1027 port=51380 client=30.3.9.202"],
        ["Teredo server 17.23.52.250", "Teredo client 30.3.9.202:51380"],
    ),
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": (
        ["teredo server=65.54.227.120 flags=8000 port=40000 client=192.0.2.45"],
        ["Teredo server 65.54.227.120", "Teredo client 192.0.2.45:40000"],
    ),
    # The forms that isatapd asks; RFC 6052, 2.4; RFC 4291, 2.5.5.2; RFC 4862's way to an identifier.
    "fe80::200:5efe:203.0.113.1": (
        ["link-local interface=::200:5efe:cb00:7101", "isatap prefix=fe80::/64 u=1 ipv4=203.0.113.1"],
        ["ISATAP host 203.0.113.1"],
    ),
    "64:ff9b::192.0.2.33": (["nat64 ipv4=192.0.2.33"], ["host 192.0.2.33"]),
    "64:ff9b:1:fffe::192.0.2.33": (
        ["nat64-local prefix=64:ff9b:1:fffe::/96 ipv4=192.0.2.33"],
        ["host 192.0.2.33"],
    ),
    "::ffff:129.144.52.38": (["v4mapped ipv4=129.144.52.38"], ["host 129.144.52.38"]),
    "::ffff:0:192.0.2.33": (["v4translated ipv4=192.0.2.33"], ["host 192.0.2.33"]),
    "2001:db8:0:1:200:5eff:fe00:5301": (
        [
            "documentation prefix=2001:db8:0:1::/64 interface=::200:5eff:fe00:5301",
            "eui64 prefix=2001:db8:0:1::/64 mac=00:00:5e:00:53:01",
        ],
        [],
    ),
    # One of each of the others.
    "::": (["unspecified"], []),
    "::1": (["loopback"], []),
    "100::5efe:192.0.2.33": (["discard low=::5efe:c000:221"], []),
    "2001:2::1": (["benchmarking prefix=2001:2::/64 interface=::1"], []),
    "2001:2f::5efe:c000:221": (["orchid hash=0:f::5efe:c000:221"], []),
    "3fff:fff::1": (["documentation-20 prefix=3fff:fff::/64 interface=::1"], []),
    "2001:1::1": (["ietf prefix=2001:1::/64 interface=::1"], []),
    "2a00:1450::ffff:c000:221": (["global prefix=2a00:1450::/64 interface=::ffff:192.0.2.33"], []),
    "fd12:3456:789a:bc::1": (["ula globalid=123456789a subnet=bc interface=::1"], []),
    "fc00::1": (["ula-unassigned prefix=fc00::/64 interface=::1"], []),
    "fe80:4::1": (["link-local-reserved prefix=fe80:4::/64 interface=::1"], []),
    "fec0:0:0:ffff::1": (["site-local prefix=fec0:0:0:ffff::/64 interface=::1"], []),
    "ff35:40:fd12:3456:789a::8000:1": (["multicast flags=3 scope=5 group=0:40:fd12:3456:789a:0:8000:1"], []),
    "5f00::1": (["reserved bits=5f00::1"], []),
}
"""An address -> its kinds and parts, and the IPv4 addresses and ports in it."""


@pytest.mark.parametrize("address", VECTORS)
def test_a_vector(address: str) -> None:
    assert (said(address), embedded(address)) == VECTORS[address]
    for line in said(address):
        assert IPv6Address(made(line)) == IPv6Address(address)


def test_there_is_a_vector_for_every_kind() -> None:
    assert {line.partition(" ")[0] for lines, _ in VECTORS.values() for line in lines} == KINDS.keys()


# The edges of every prefix.

PARTITION = (
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "v4compat"),
    ("::1:0:0", "reserved"),
    ("::ffff:0:0", "v4mapped"),
    ("::1:0:0:0", "reserved"),
    ("::ffff:0:0:0", "v4translated"),
    ("::ffff:1:0:0", "reserved"),
    ("64:ff9b::", "nat64"),
    ("64:ff9b::1:0:0", "reserved"),
    ("64:ff9b:1::", "nat64-local"),
    ("64:ff9b:2::", "reserved"),
    ("100::", "discard"),
    ("100:0:0:1::", "reserved"),
    ("2000::", "global"),
    ("2001::", "teredo"),
    ("2001:1::", "ietf"),
    ("2001:2::", "benchmarking"),
    ("2001:2:1::", "ietf"),
    ("2001:20::", "orchid"),
    ("2001:30::", "ietf"),
    ("2001:200::", "global"),
    ("2001:db8::", "documentation"),
    ("2001:db9::", "global"),
    ("2002::", "6to4"),
    ("2003::", "global"),
    ("3fff::", "documentation-20"),
    ("3fff:1000::", "global"),
    ("4000::", "reserved"),
    ("fc00::", "ula-unassigned"),
    ("fd00::", "ula"),
    ("fe00::", "reserved"),
    ("fe80::", "link-local"),
    ("fe80:0:0:1::", "link-local-reserved"),
    ("fec0::", "site-local"),
    ("ff00::", "multicast"),
    ("ff02::1:ff00:0", "solicited-node"),
    ("ff02::2:0:0", "multicast"),
)
"""Where a kind begins, up to where the next one does: all addresses there are."""

EDGES = [
    (first, last, kind)
    for (first, kind), last in zip(
        ((int(IPv6Address(text)), kind) for text, kind in PARTITION),
        [*(int(IPv6Address(text)) - 1 for text, _ in PARTITION[1:]), MOST],
        strict=True,
    )
]


@pytest.mark.parametrize(("first", "last", "kind"), EDGES, ids=[text for text, _ in PARTITION])
def test_the_edges_of_a_prefix(first: int, last: int, kind: str) -> None:
    assert first <= last
    for bits in (first, last):
        assert decode(IPv6Address(bits)).kinds[0].kind.name == kind


def test_the_partition_is_of_every_prefix() -> None:
    assert {kind for _, kind in PARTITION} == {kind.name for kind in PREFIXES}
    assert all(here != there for (_, here), (_, there) in pairwise(PARTITION))


IDENTIFIED: dict[str, str | None] = {
    "2001:db8::5efd:ffff:ffff": None,
    "2001:db8::5efe:0:0": "isatap",
    "2001:db8::5efe:ffff:ffff": "isatap",
    "2001:db8::5eff:0:0": None,
    "2001:db8::100:5efe:c000:221": None,
    "2001:db8::200:5efe:c000:221": "isatap",
    "2001:db8::300:5efe:c000:221": None,
    "2001:db8::1:5efe:c000:221": None,
    "2001:db8::200:5eff:fdff:ffff": None,
    "2001:db8::200:5eff:fe00:0": "eui64",
    "2001:db8::200:5eff:feff:ffff": "eui64",
    "2001:db8::200:5eff:ff00:0": None,
    "2001:db8::200:5efe:fe00:0": "isatap",
    "2001:db8::200:5e00:fe00:0": None,
    "fe80::ff:ffff": None,
    "fe80::1.0.0.0": "6over4",
    "fe80::223.255.255.255": "6over4",
    "fe80::224.0.0.0": None,
    "fe80::1:0:0": None,
    "fe80:0:0:1::1.0.0.0": None,
    "2001:db8::1.0.0.0": None,
    # Of these, the last 64 bits are no identifier, whatever they look like.
    "::5efe:c000:221": None,
    "64:ff9b:1::5efe:c000:221": None,
    "100::5efe:c000:221": None,
    "2001:0:c000:221:0:5efe:c000:221": None,
    "2001:0:c000:221:0:ff:fe00:221": None,
    "2001:20::5efe:c000:221": None,
    "5f00::5efe:c000:221": None,
    "ff05::5efe:c000:221": None,
}
"""An address -> what it is by its interface identifier."""


@pytest.mark.parametrize("address", IDENTIFIED)
def test_the_edges_of_an_identifier(address: str) -> None:
    kinds = [found.kind.name for found in decode(parse(address)).kinds]
    assert kinds[1:] == [name for name in [IDENTIFIED[address]] if name]


def test_an_identifier_is_one_thing() -> None:
    """There is none that two kinds of them would cover."""
    for one in IDENTIFIERS:
        for other in IDENTIFIERS:
            assert one is other or (one.bits ^ other.bits) & one.mask & other.mask


# Python's ipaddress, and the reverse.


def inside(kind: Kind) -> st.SearchStrategy[int]:
    any_bits = st.integers(0, MOST) | seeds.map(lambda random: random.getrandbits(128))
    return any_bits.map(lambda bits: bits & ~kind.mask | kind.bits)


everywhere = st.one_of(
    st.integers(0, MOST),
    st.sampled_from([edge for first, last, _ in EDGES for edge in (first, last)]),
    *map(inside, KINDS.values()),
)
"""Addresses, as many of every kind."""
with_identifiers = st.one_of(
    *(inside(kind) for kind in PREFIXES if any(field.name == "interface" for field in kind.fields))
)


@settings(max_examples=2000)
@given(everywhere)
def test_ipaddress_agrees(bits: int) -> None:
    address = IPv6Address(bits)
    decoded = decode(address)
    name = decoded.kinds[0].kind.name
    by_role = {one.role: one for one in decoded.embedded}

    def v4(role: str) -> IPv4Address | None:
        return by_role[role].address if role in by_role else None

    assert v4("6to4 router") == address.sixtofour
    server, client = v4("Teredo server"), v4("Teredo client")
    assert (None if server is None else (server, client)) == address.teredo
    assert (v4("host") if name == "v4mapped" else None) == address.ipv4_mapped
    assert (name in ("multicast", "solicited-node")) == address.is_multicast
    assert name.startswith("link-local") == address.is_link_local
    assert (name == "site-local") == address.is_site_local
    assert (name == "loopback") == address.is_loopback
    assert (name == "unspecified") == address.is_unspecified
    assert (name.startswith("ula")) <= address.is_private
    assert (name == "global") <= address.is_global
    assert (name == "reserved") <= address.is_reserved


@settings(max_examples=2000)
@given(everywhere)
def test_what_is_decoded_encodes_to_the_same_address(bits: int) -> None:
    decoded = decode(IPv6Address(bits))
    assert IPv6Address(decoded.text) == decoded.address
    for found in decoded.kinds:
        assert encode(found.kind, found.values) == decoded.address


def texts(kind: Kind, field: Field) -> st.SearchStrategy[str]:
    """What may be given for a field, as `decode` writes it."""
    match field.holds:
        case Holds.IPV4:
            return st.ip_addresses(v=4).map(str)
        case Holds.PORT:
            return st.integers(0, 65535).map(str)
        case Holds.HEX:
            return st.integers(0, (1 << field.width) - 1).map("{:x}".format)
        case Holds.SUFFIX:
            return st.integers(0, (1 << field.width) - 1).map(written)
        case Holds.PREFIX:
            last = (1 << field.shift) - 1
            within = inside(kind) if kind in PREFIXES else with_identifiers
            return within.map(lambda bits: f"{written(bits & ~last)}/{field.width}")
        case Holds.MAC:
            return st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))


def encoded(kind: Kind, values: Mapping[str, str]) -> tuple[IPv6Address | None, Sequence[str]]:
    """The address, or why there is none."""
    try:
        return encode(kind, values), ()
    except AddressError as error:
        return None, error.lines


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=50)
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same_parts(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    values = {field.name: data.draw(texts(kind, field), label=field.name) for field in kind.fields}
    address, lines = encoded(kind, values)
    if address is None:
        # Another kind has a part of this one's addresses.
        assert [" is " in line for line in lines] == [True]
        return
    assert {found.kind.name: found.values for found in decode(address).kinds}[name] == values


# Words.

SCOPES = (
    *("reserved", "interface-local", "link-local", "realm-local", "admin-local", "site-local"),
    *("unassigned", "unassigned", "organization-local"),
    *("unassigned", "unassigned", "unassigned", "unassigned", "unassigned", "global", "reserved"),
)
"""RFC 7346, 2, from 0 to F."""

MEANINGS: dict[str, dict[str, str]] = {
    **{f"ff0{scope:x}::1": {"flags": "well-known", "scope": name} for scope, name in enumerate(SCOPES)},
    "ff12::1": {"flags": "transient (T)", "scope": "link-local"},
    "ff3e:30:2001:db8::1": {"flags": "transient (T), from a unicast prefix (P)", "scope": "global"},
    "ff7e:140:2001:db8::1": {
        "flags": "transient (T), from a unicast prefix (P), embeds its rendezvous point (R)",
        "scope": "global",
    },
    "ff85::1": {"flags": "well-known, reserved (X)", "scope": "site-local"},
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": {"flags": "cone NAT (C)"},
    "2001:0:4136:e378:0:63bf:3fff:fdd2": {"flags": "no cone bit"},
    "2001:0:1117:34fa:1027:374b:e1fc:f635": {"flags": "no cone bit, 1027 at random"},
    "2001:0:1117:34fa:3cff:374b:e1fc:f635": {"flags": "no cone bit, 3cff at random"},
    "2001:0:1117:34fa:c300:374b:e1fc:f635": {"flags": "cone NAT (C), reserved (z), universal (U), group (G)"},
    "fe80::5efe:192.168.12.9": {"u": "IPv4 address not globally unique"},
    "fe80::200:5efe:203.0.113.1": {"u": "globally unique IPv4 address"},
    "fe80::200:5eff:fe00:5301": {"mac": "universally administered"},
    "fe80::ff:fe00:1": {"mac": "locally administered"},
    "2002:c000:221::1": {},
}
"""An address -> what some of its parts mean."""


@pytest.mark.parametrize("address", MEANINGS)
def test_what_parts_mean(address: str) -> None:
    assert decode(parse(address)).kinds[-1].meanings == MEANINGS[address]
