"""What is said of IPv4 addresses that make no sense where they are in an IPv6 address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.addresses import KINDS, decode, encode, parse
from portproxy.tunnel.modes.embedded import public

NOTES: dict[str, list[str]] = {
    "2002:7f00:1::1": ["ipv4=127.0.0.1 is loopback, and 6to4 needs a public IPv4 address"],
    "2002:a00:1::1": ["ipv4=10.0.0.1 is private, and 6to4 needs a public IPv4 address"],
    "2002::1": ["ipv4=0.0.0.0 is reserved, and 6to4 needs a public IPv4 address"],
    "2002:e000:1::1": ["ipv4=224.0.0.1 is multicast, and 6to4 needs a public IPv4 address"],
    "2002:ffff:ffff::1": ["ipv4=255.255.255.255 is reserved, and 6to4 needs a public IPv4 address"],
    "2002:a9fe:1::1": ["ipv4=169.254.0.1 is link-local, and 6to4 needs a public IPv4 address"],
    "2002:6440:1::1": ["ipv4=100.64.0.1 is shared, and 6to4 needs a public IPv4 address"],
    "2001:0:c0a8:1:0:0:f5ff:fffe": [
        "server=192.168.0.1 is private, and teredo needs a public IPv4 address",
        "client=10.0.0.1 is private, and teredo needs a public IPv4 address",
    ],
    "::172.16.0.1": ["ipv4=172.16.0.1 is private, and v4compat needs a public IPv4 address"],
    "64:ff9b::10.0.0.1": ["ipv4=10.0.0.1 is private, and nat64 needs a public IPv4 address"],
    "64:ff9b:1::127.0.0.1": ["ipv4=127.0.0.1 is loopback, and nat64-local needs a host's IPv4 address"],
    "::ffff:0:127.0.0.1": ["ipv4=127.0.0.1 is loopback, and v4translated needs a host's IPv4 address"],
    "fe80::5efe:224.0.0.1": ["ipv4=224.0.0.1 is multicast, and isatap needs a host's IPv4 address"],
    "fe80::127.0.0.1": ["ipv4=127.0.0.1 is loopback, and 6over4 needs a host's IPv4 address"],
    # Each as it is meant to be.
    "2002:c000:221::1": [],
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": [],
    "64:ff9b:1::10.0.0.1": [],
    "fe80::5efe:10.0.0.1": [],
    "::ffff:127.0.0.1": [],
    "2001:db8::127.0.0.1": [],
}
"""An address -> what is said of IPv4 addresses in it."""


@pytest.mark.parametrize("address", NOTES)
def test_an_ipv4_address_that_makes_no_sense_there_is_noted(address: str) -> None:
    assert [note for found in decode(parse(address)).kinds for note in found.notes] == NOTES[address]


NOT_PUBLIC = ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12")
EDGES = [
    IPv4Address(edge)
    for network in map(IPv4Network, (*NOT_PUBLIC, "192.168.0.0/16", "224.0.0.0/3"))
    for edge in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1)
    if 0 <= edge < 1 << 32
]


def noted(ipv4: IPv4Address) -> bool:
    """Whether there is a note where it is that of a 6to4 router."""
    return bool(decode(encode(KINDS["6to4"], {"ipv4": str(ipv4)})).kinds[0].notes)


@pytest.mark.parametrize("ipv4", EDGES, ids=str)
def test_what_the_tunnel_refuses_is_noted(ipv4: IPv4Address) -> None:
    assert noted(ipv4) is not public(ipv4.packed)


@given(st.ip_addresses(v=4))
def test_and_nothing_else(ipv4: IPv4Address) -> None:
    assert noted(ipv4) is not public(ipv4.packed)
