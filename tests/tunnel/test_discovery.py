"""Neighbour discovery: what is refused, beside what passes, and what options come to."""

from __future__ import annotations

import math
import socket

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.packet import Packet, Raw

from portproxy.tunnel.packet import PacketError, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from portproxy.tunnel.packet.discovery import (
    Message,
    Mtu,
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


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


LINK, GLOBAL, NOBODY = packed("fe80::5efe:192.0.2.1"), packed("2001:db8::1"), bytes(16)
ALL_NODES, ALL_ROUTERS = packed("ff02::1"), packed("ff02::2")
SOLICITED_NODE = packed("ff02::1:ff00:1")
MAC = bytes.fromhex("00005e005301")
SOURCE = SourceLinkLayerAddress(MAC)
SOURCE_WIRE, TARGET_WIRE = b"\x01\x01" + MAC, b"\x02\x01" + MAC
ADVERTISEMENT = RouterAdvertisement(64, False, True, Preference.HIGH, 1800, 30000, 1000)


def sent(message: bytes, source: bytes = LINK, destination: bytes = GLOBAL, **fields: int) -> bytes:
    """``message``, whose checksum is 0, as a packet with the right one."""
    sum_ = upper_layer(source, destination, 58, message)
    right = message[:2] + sum_.to_bytes(2) + message[4:]
    return ipv6.build(source, destination, 58, right, **{"hop_limit": 255, **fields})


def same(one: Message | None, other: Message) -> None:
    """They are equal, and so are their types, which values of this sort do not compare."""
    assert one == other
    assert repr(one) == repr(other)


def refused(packet: bytes, why: str) -> None:
    with pytest.raises(PacketError, match=why):
        parse(packet)


# What is checked of every message (RFC 4861, 6.1.1, 6.1.2, 7.1.1, 7.1.2).

BARE = {
    "router solicitation": bytes((133, 0)) + bytes(6),
    "router advertisement": bytes((134, 0)) + bytes(14),
    "neighbour solicitation": bytes((135, 0)) + bytes(6) + GLOBAL,
    "neighbour advertisement": bytes((136, 0)) + bytes(6) + GLOBAL,
}
each = pytest.mark.parametrize("bare", BARE.values(), ids=BARE)


@each
def test_the_hop_limit(bare: bytes) -> None:
    assert parse(sent(bare)) is not None
    refused(sent(bare, hop_limit=254), "a hop limit of 254, not 255")
    refused(sent(bare, hop_limit=0), "a hop limit of 0, not 255")


@each
def test_the_checksum(bare: bytes) -> None:
    packet = sent(bare)
    assert parse(packet) is not None
    # All but the type, and what belongs to other checks: the version, lengths, next header and hop limit.
    for at in (*range(8, 40), *range(41, len(packet))):
        refused(packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :], "the checksum of ICMPv6 is wrong")


@each
@pytest.mark.parametrize("code", [1, 255])
def test_the_code(bare: bytes, code: int) -> None:
    assert parse(sent(bare)) is not None
    refused(sent(bare[:1] + bytes((code,)) + bare[2:]), f"code {code}, not 0")


@each
def test_the_length(bare: bytes) -> None:
    assert parse(sent(bare)) is not None
    for length in (1, 2, 4, len(bare) - 1):
        refused(
            ipv6.build(LINK, GLOBAL, 58, bare[:length], hop_limit=255),
            f"{length} bytes of ICMPv6, type {bare[0]} has {len(bare)}",
        )


@each
def test_an_option_of_length_0(bare: bytes) -> None:
    for before in (b"", SOURCE_WIRE):
        assert parse(sent(bare + before + b"\xfd\x01" + bytes(6))) is not None
        refused(sent(bare + before + b"\xfd\x00" + bytes(6)), "an option of length 0")


@each
def test_a_message_that_ends_within_an_option(bare: bytes) -> None:
    for before in (b"", SOURCE_WIRE):
        whole = b"\xfd\x02" + bytes(14)
        assert parse(sent(bare + before + whole)) is not None
        for length in range(1, len(whole)):
            refused(sent(bare + before + whole[:length]), "it ends within an option")


@each
@pytest.mark.parametrize(
    ("number", "header"),
    [
        (0, IPv6ExtHdrHopByHop(nh=58, options=[PadN(optdata=bytes(4))])),
        (60, IPv6ExtHdrDestOpt(nh=58, options=[PadN(optdata=bytes(4))])),
        (44, IPv6ExtHdrFragment(nh=58)),
        (44, IPv6ExtHdrFragment(nh=58, m=1)),
    ],
    ids=["hop-by-hop", "destination", "atomic fragment", "first fragment"],
)
def test_no_extension_headers(bare: bytes, number: int, header: Packet) -> None:
    packet = sent(bare)
    assert parse(packet) is not None
    refused(
        ipv6.build(LINK, GLOBAL, number, bytes(header) + packet[40:], hop_limit=255),
        "behind extension headers",
    )


def test_what_is_no_ipv6() -> None:
    refused(sent(BARE["router solicitation"])[:-1], "its header says")


# Who sends it, and to whom.


Sent = tuple[bytes, bytes, bytes]
"""A message, its source and its destination."""

RS, RA, NS, NA = BARE.values()
NA_UNSOLICITED, NA_SOLICITED = (NA[:4] + bytes((flags,)) + NA[5:] for flags in (0xA0, 0x40))
NS_OF_MANY, NS_OF_ONE, NA_OF_MANY, NA_OF_ONE = (
    bare[:8] + packed(target) for bare in (NS, NA) for target in ("ff00::", "feff::1")
)
FROM_OTHERS = "from an address that is not link-local"
ANONYMOUS = "from :: with a source link-layer address"
TO_OTHERS = "from :: to no solicited-node address"
OF_MANY = "about a multicast address"
TO_MANY = "a solicited neighbour advertisement to a multicast address"


@pytest.mark.parametrize(
    ("why", "wrong", "right"),
    [
        (FROM_OTHERS, (RA, packed("fe7f:ffff::"), GLOBAL), (RA, packed("fe80::"), GLOBAL)),
        (FROM_OTHERS, (RA, packed("fec0::"), GLOBAL), (RA, packed("febf:ffff::"), GLOBAL)),
        (FROM_OTHERS, (RA, packed("ff80::1"), ALL_NODES), (RA, LINK, ALL_NODES)),
        (FROM_OTHERS, (RA, NOBODY, ALL_NODES), (NA, NOBODY, ALL_NODES)),
        (FROM_OTHERS, (RA, GLOBAL, ALL_NODES), (NA, GLOBAL, ALL_NODES)),
        (ANONYMOUS, (RS + SOURCE_WIRE, NOBODY, ALL_ROUTERS), (RS + TARGET_WIRE, NOBODY, ALL_ROUTERS)),
        (ANONYMOUS, (RS + SOURCE_WIRE, NOBODY, ALL_ROUTERS), (RS + SOURCE_WIRE, packed("::1"), ALL_ROUTERS)),
        (ANONYMOUS, (NS + SOURCE_WIRE, NOBODY, SOLICITED_NODE), (NS + TARGET_WIRE, NOBODY, SOLICITED_NODE)),
        (ANONYMOUS, (NS + SOURCE_WIRE, NOBODY, SOLICITED_NODE), (NS + SOURCE_WIRE, LINK, SOLICITED_NODE)),
        (TO_OTHERS, (NS, NOBODY, GLOBAL), (NS, GLOBAL, GLOBAL)),
        (TO_OTHERS, (NS, NOBODY, ALL_NODES), (NS, NOBODY, SOLICITED_NODE)),
        (TO_OTHERS, (NS, NOBODY, packed("ff02::1:fe00:1")), (NS, NOBODY, packed("ff02::1:ffff:ffff"))),
        (OF_MANY, (NS_OF_MANY, LINK, GLOBAL), (NS_OF_ONE, LINK, GLOBAL)),
        (OF_MANY, (NA_OF_MANY, LINK, GLOBAL), (NA_OF_ONE, LINK, GLOBAL)),
        (TO_MANY, (NA_SOLICITED, LINK, ALL_NODES), (NA_UNSOLICITED, LINK, ALL_NODES)),
        (TO_MANY, (NA_SOLICITED, LINK, packed("ff00::")), (NA_SOLICITED, LINK, packed("feff::"))),
    ],
)
def test_who_may_send_it_to_whom(why: str, wrong: Sent, right: Sent) -> None:
    assert parse(sent(*right)) is not None
    refused(sent(*wrong), why)


BASE = IPv6(src="fe80::1", dst="ff02::1", hlim=255)


@pytest.mark.parametrize(
    "packet",
    [
        BASE / ICMPv6EchoRequest(),
        BASE / ICMPv6ND_Redirect(),
        BASE / ICMPv6MLReport2(),
        BASE / UDP(sport=0x8600),
        IPv6(nh=58),
        IPv6(nh=59) / Raw(BARE["router advertisement"]),
        BASE / IPv6ExtHdrFragment(nh=58, offset=1) / Raw(BARE["router advertisement"]),
    ],
)
def test_what_is_no_such_message(packet: Packet) -> None:
    assert parse(bytes(packet)) is None


# Options.


def advertised(*options: bytes) -> tuple[Option, ...]:
    message = parse(sent(BARE["router advertisement"] + b"".join(options)))
    assert message is not None
    return message.options


PREFIX = bytes((3, 4, 64, 0xC0)) + bytes((0, 0, 0, 9, 0, 0, 0, 8)) + bytes(4) + GLOBAL
MTU_WIRE = bytes((5, 1, 0, 0, 0, 0, 5, 0))


@pytest.mark.parametrize(
    "skipped",
    [
        bytes((0, 1)) + bytes(6),
        bytes((253, 255)) + bytes(255 * 8 - 2),
        bytes((4, 6)) + bytes(46),  # what a redirect quotes
        bytes((3, 3)) + PREFIX[2:24],
        bytes((3, 5)) + PREFIX[2:] + bytes(8),
        PREFIX[:2] + bytes((129,)) + PREFIX[3:],
        bytes((5, 2)) + bytes(14),
        bytes((24, 1, 1, 0, 0, 0, 0, 9)),
        bytes((24, 2, 65, 0, 0, 0, 0, 9)) + bytes(8),
        bytes((24, 3, 129, 0, 0, 0, 0, 9)) + bytes(16),
        bytes((24, 4, 64, 0, 0, 0, 0, 9)) + bytes(24),
        bytes((24, 2, 64, 0x10, 0, 0, 0, 9)) + bytes(8),  # the reserved preference
        TARGET_WIRE,
    ],
)
def test_options_are_skipped_by_themselves(skipped: bytes) -> None:
    assert advertised(SOURCE_WIRE, skipped, MTU_WIRE) == (SOURCE, Mtu(1280))


def test_options_stay_as_they_come() -> None:
    assert advertised(MTU_WIRE, SOURCE_WIRE, MTU_WIRE) == (Mtu(1280), SOURCE, Mtu(1280))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("router solicitation", SOURCE),
        ("neighbour solicitation", SOURCE),
        ("neighbour advertisement", TargetLinkLayerAddress(MAC)),
    ],
)
def test_an_option_that_means_nothing_in_a_message_is_left_out(name: str, option: Option) -> None:
    route = bytes((24, 1, 0, 0, 0, 0, 0, 9))
    message = parse(sent(BARE[name] + TARGET_WIRE + MTU_WIRE + PREFIX + route + SOURCE_WIRE))
    assert message is not None
    assert repr(message.options) == repr((option,))


def test_6over4_says_its_ipv4_address() -> None:
    """RFC 2529, 5."""
    option = bytes.fromhex("01010000c0000221")
    message = RouterSolicitation((SourceLinkLayerAddress(bytes((0, 0, 192, 0, 2, 33))),))
    built = build(LINK, ALL_ROUTERS, message)
    assert built[48:] == option
    same(parse(built), message)


def test_what_stands_behind_a_prefix_is_not_looked_at() -> None:
    network = packed("2001:db8::")
    assert advertised(PREFIX) == (PrefixInformation(network, 64, True, True, 9, 8),)
    route = bytes((24, 3, 33, 0x18, 0, 0, 0, 9)) + packed("2001:db8:ffff::1")
    behind = RouteInformation(packed("2001:db8:8000::"), 33, Preference.LOW, 9)
    assert advertised(route) == (behind,)
    written = build(LINK, ALL_NODES, ADVERTISEMENT._replace(options=(behind._replace(prefix=b"\xff" * 16),)))
    assert written[56:] == bytes((24, 2, 33, 0x18, 0, 0, 0, 9)) + packed("ffff:ffff:8000::")[:8]
    given_prefix = PrefixInformation(GLOBAL, 64, True, True, 9, 8)
    written = build(LINK, ALL_NODES, ADVERTISEMENT._replace(options=(given_prefix,)))
    assert written[56:] == PREFIX[:16] + network


@pytest.mark.parametrize(("length", "size"), [(0, 8), (1, 16), (64, 16), (65, 24), (128, 24)])
def test_a_route_takes_no_more_than_its_prefix_does(length: int, size: int) -> None:
    route = RouteInformation(bytes(16), length, Preference.MEDIUM, 9)
    message = ADVERTISEMENT._replace(options=(route,))
    built = build(LINK, ALL_NODES, message)
    assert len(built) == 56 + size
    same(parse(built), message)


def test_a_lifetime_without_end_is_infinity() -> None:
    endless = bytes((3, 4, 64, 0xC0)) + b"\xff" * 8 + bytes(4) + GLOBAL
    almost = bytes((3, 4, 64, 0xC0)) + b"\xff\xff\xff\xfe" * 2 + bytes(4) + GLOBAL
    (without_end, long) = advertised(endless, almost)
    assert isinstance(without_end, PrefixInformation)
    assert isinstance(long, PrefixInformation)
    assert (without_end.valid, without_end.preferred) == (math.inf, math.inf)
    assert (long.valid, long.preferred) == (2**32 - 2, 2**32 - 2)
    assert advertised(bytes((24, 1, 0, 0)) + b"\xff" * 4) == (
        RouteInformation(bytes(16), 0, Preference.MEDIUM, math.inf),
    )


def test_a_fraction_of_a_lifetime_is_left_off() -> None:
    prefix = PrefixInformation(packed("2001:db8::"), 64, True, True, 9.9, 8.2)
    built = build(LINK, ALL_NODES, ADVERTISEMENT._replace(options=(prefix,)))
    assert built[56:] == PREFIX[:16] + prefix.prefix


@pytest.mark.parametrize(
    ("flags", "lifetime", "preference"),
    [
        (0x08, 1, Preference.HIGH),
        (0x00, 1, Preference.MEDIUM),
        (0x18, 1, Preference.LOW),
        (0x10, 1, Preference.MEDIUM),  # reserved
        (0x18, 0, Preference.MEDIUM),  # no default router
    ],
)
def test_preferences(flags: int, lifetime: int, preference: Preference) -> None:
    """RFC 4191, 2.2."""
    packet = sent(bytes((134, 0, 0, 0, 0, flags)) + lifetime.to_bytes(2) + bytes(8))
    same(parse(packet), RouterAdvertisement(0, False, False, preference, lifetime, 0, 0))


def test_no_preference_is_said_without_a_lifetime() -> None:
    assert build(LINK, ALL_NODES, ADVERTISEMENT)[45] == 0x48
    assert build(LINK, ALL_NODES, ADVERTISEMENT._replace(lifetime=0))[45] == 0x40


@pytest.mark.parametrize(("size", "fits"), [(6, True), (5, False), (7, False), (2038, True), (2046, False)])
def test_a_link_layer_address_fills_its_option(size: int, fits: bool) -> None:
    message = RouterSolicitation((SourceLinkLayerAddress(bytes(size)),))
    if fits:
        same(parse(build(LINK, ALL_ROUTERS, message)), message)
    else:
        with pytest.raises(PacketError, match=f"an option of {size + 2} bytes"):
            build(LINK, ALL_ROUTERS, message)


def test_padding_behind_the_packet_is_not_part_of_it() -> None:
    same(parse(build(LINK, ALL_NODES, ADVERTISEMENT) + b"padding"), ADVERTISEMENT)
