"""Neighbour discovery, with scapy as the oracle, both ways: it builds what is read here, and reads what is
built here."""

from __future__ import annotations

import math
import socket
from ipaddress import IPv6Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.packet import Packet, Raw

from portproxy.tunnel.packet.discovery import (
    Message,
    Mtu,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    Option,
    Preference,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
    build,
    parse,
)

SOURCE, DESTINATION = "fe80::5efe:c000:201", "2001:db8::1"


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)


def network(prefix: bytes, length: int) -> bytes:
    """``prefix`` with the bits behind its length cleared."""
    return IPv6Network((prefix, length), strict=False).network_address.packed


octets, words, flags = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.booleans()
numbers = st.sampled_from([0, 1, 0xFFFFFFFE, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
lifetimes = numbers.map(lambda seconds: math.inf if seconds == 0xFFFFFFFF else seconds)
addresses = st.binary(min_size=16, max_size=16)
targets = addresses.filter(lambda address: address[0] != 0xFF)
lengths = st.sampled_from([0, 1, 63, 64, 65, 127, 128]) | st.integers(0, 128)
prefixes = st.builds(lambda prefix, length: (network(prefix, length), length), addresses, lengths)
macs = st.binary(min_size=6, max_size=6)

sources = st.builds(SourceLinkLayerAddress, macs)
prefix_information = st.builds(
    lambda prefix, *rest: PrefixInformation(*prefix, *rest),
    prefixes, flags, flags, lifetimes, lifetimes,
)  # fmt: skip
routes = st.builds(
    lambda prefix, *rest: RouteInformation(*prefix, *rest), prefixes, st.sampled_from(Preference), lifetimes
)


def some(*options: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Option, ...]]:
    return st.lists(st.one_of(*options), max_size=4).map(tuple)


def advertised(*fields: Any) -> RouterAdvertisement:
    message = RouterAdvertisement(*fields)
    return message if message.lifetime else message._replace(preference=Preference.MEDIUM)


messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(RouterSolicitation, some(sources)),
    st.builds(
        advertised, octets, flags, flags, st.sampled_from(Preference), words, numbers, numbers,
        some(sources, prefix_information, st.builds(Mtu, numbers), routes),
    ),
    st.builds(NeighbourSolicitation, targets, some(sources)),
    st.builds(
        NeighbourAdvertisement, flags, flags, flags, targets,
        some(st.builds(TargetLinkLayerAddress, macs)),
    ),
)  # fmt: skip


BITS = {Preference.MEDIUM: 0, Preference.HIGH: 1, Preference.LOW: 3}
RESERVED: dict[type[Packet], dict[str, int]] = {
    ICMPv6ND_RS: {"res": 2**32 - 1},
    ICMPv6ND_RA: {"H": 1, "P": 1, "res": 3},
    ICMPv6ND_NS: {"res": 2**32 - 1},
    ICMPv6ND_NA: {"res": 2**29 - 1},
    ICMPv6NDOptPrefixInfo: {"R": 1, "res1": 31, "res2": 2**32 - 1},
    ICMPv6NDOptMTU: {"res": 2**16 - 1},
    ICMPv6NDOptRouteInfo: {"res1": 7, "res2": 7},
}
"""Fields that a receiver does not look at."""


def wire(lifetime: float) -> int:
    return 0xFFFFFFFF if lifetime == math.inf else int(lifetime)


def in_scapy(message: Message) -> Packet:
    """What scapy calls the same message."""
    made: Packet
    match message:
        case RouterSolicitation():
            made = ICMPv6ND_RS()
        case RouterAdvertisement():
            made = ICMPv6ND_RA(
                chlim=message.hop_limit,
                M=message.managed,
                O=message.other,
                prf=BITS[message.preference],
                routerlifetime=message.lifetime,
                reachabletime=message.reachable,
                retranstimer=message.retransmit,
            )
        case NeighbourSolicitation():
            made = ICMPv6ND_NS(tgt=text(message.target))
        case NeighbourAdvertisement():
            made = ICMPv6ND_NA(
                R=message.router, S=message.solicited, O=message.override, tgt=text(message.target)
            )
    for option in message.options:
        made /= option_in_scapy(option)
    return made


def option_in_scapy(option: Option) -> Packet:
    match option:
        case SourceLinkLayerAddress():
            return ICMPv6NDOptSrcLLAddr(lladdr=option.value.hex(":"))
        case TargetLinkLayerAddress():
            return ICMPv6NDOptDstLLAddr(lladdr=option.value.hex(":"))
        case Mtu():
            return ICMPv6NDOptMTU(mtu=option.mtu)
        case PrefixInformation():
            return ICMPv6NDOptPrefixInfo(
                prefix=text(option.prefix),
                prefixlen=option.length,
                L=option.on_link,
                A=option.autonomous,
                validlifetime=wire(option.valid),
                preferredlifetime=wire(option.preferred),
            )
        case RouteInformation():
            return ICMPv6NDOptRouteInfo(
                prefix=text(option.prefix),
                plen=option.length,
                len=1 if not option.length else 2 if option.length <= 64 else 3,
                prf=BITS[option.preference],
                rtlifetime=wire(option.lifetime),
            )


@given(messages)
def test_what_is_built_is_read(message: Message) -> None:
    read = parse(build(packed(SOURCE), packed(DESTINATION), message))
    assert read == message
    assert repr(read) == repr(message)  # the types too, which such values do not compare


@given(addresses, addresses, messages)
def test_scapy_builds_the_same(source: bytes, destination: bytes, message: Message) -> None:
    """Lengths and checksum included."""
    expected = IPv6(src=text(source), dst=text(destination)) / in_scapy(message)
    assert build(source, destination, message) == bytes(expected)


@given(messages)
def test_scapy_reads_what_is_built(message: Message) -> None:
    expected, read = in_scapy(message), IPv6(build(packed(SOURCE), packed(DESTINATION), message))
    assert (read.src, read.dst, read.hlim, read.nh) == (SOURCE, DESTINATION, 255, 58)
    layer: Packet = read.payload
    while expected:
        assert type(layer) is type(expected)
        assert {name: layer.getfieldval(name) for name in expected.fields} == expected.fields
        layer, expected = layer.payload, expected.payload
    assert not layer


@given(messages)
def test_what_scapy_builds_is_read(message: Message) -> None:
    """With something in every field that is reserved, and with an option that is unknown here."""
    made = in_scapy(message)
    layer = made
    while layer:
        for name, value in RESERVED.get(type(layer), {}).items():
            setattr(layer, name, value)
        layer = layer.payload
    unknown = ICMPv6NDOptRDNSS(dns=["2001:db8::53"]) / Raw(bytes((200, 1)) + bytes(6))
    read = parse(bytes(IPv6(src=SOURCE, dst=DESTINATION) / made / unknown))
    assert read == message
    assert repr(read) == repr(message)
