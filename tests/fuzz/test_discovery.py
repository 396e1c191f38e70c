"""Messages of neighbour discovery that nobody would send: one that keeps its rules, or a PacketError."""

from __future__ import annotations

import math
from random import Random

from portproxy.tunnel.packet import PacketError, discovery, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from portproxy.tunnel.packet.discovery import (
    Message,
    Mtu,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    Preference,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
    TargetLinkLayerAddress,
)
from tests.fuzz.examples import binary, seeded
from tests.fuzz.test_tunnel_packets import mutated, or_error

LINK = bytes.fromhex("fe80000000000000 00005efec0000201")
GLOBAL = bytes.fromhex("20010db800000000 00005efec0000201")
NOBODY = bytes(16)
NODES, ROUTERS = (bytes.fromhex("ff02") + bytes(13) + bytes((last,)) for last in (1, 2))
SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff000201")
ADDRESSES = (LINK, GLOBAL, NOBODY, NODES, SOLICITED_NODE)
MAC, IPV4 = bytes.fromhex("00005e005301"), bytes((0, 0, 192, 0, 2, 1))
NETWORK = GLOBAL[:8] + bytes(8)

SENT = (
    (LINK, ROUTERS, RouterSolicitation((SourceLinkLayerAddress(IPV4),))),
    (NOBODY, ROUTERS, RouterSolicitation((TargetLinkLayerAddress(MAC),))),  # means nothing there
    (
        LINK,
        NODES,
        RouterAdvertisement(
            *(64, True, False, Preference.LOW, 1800, 30000, 1000),
            (
                SourceLinkLayerAddress(MAC),
                PrefixInformation(NETWORK, 64, True, True, math.inf, 604800),
                Mtu(1280),
                RouteInformation(NOBODY, 0, Preference.HIGH, 1800),
                RouteInformation(NETWORK, 48, Preference.MEDIUM, math.inf),
                RouteInformation(GLOBAL, 128, Preference.LOW, 0),
            ),
        ),
    ),
    (GLOBAL, SOLICITED_NODE, NeighbourSolicitation(LINK, (SourceLinkLayerAddress(MAC),))),
    (NOBODY, SOLICITED_NODE, NeighbourSolicitation(LINK)),
    (LINK, GLOBAL, NeighbourAdvertisement(True, True, False, LINK, (TargetLinkLayerAddress(MAC),))),
    (LINK, NODES, NeighbourAdvertisement(False, False, True, GLOBAL)),
)
PACKETS = tuple(discovery.build(*one) for one in SENT)
"""What the mutated packets were, and what a search may begin with."""

CHECKS = (
    *("extension headers", "a hop limit of", "bytes of ICMPv6", "the checksum", "with code", "of length 0"),
    *("within an option", "not link-local", "about a multicast", "a solicited neighbour"),
    *("no solicited-node", "a source link-layer"),
)
"""Words of every error."""


def summed(packet: bytes) -> bytes:
    """With the right checksum of ICMPv6: else nothing would get past it."""
    header = or_error(ipv6.parse, packet)
    if header is None or header.payload_length < 4:
        return packet
    end = ipv6.HEADER + header.payload_length
    payload = packet[40:42] + b"\0\0" + packet[44:end]
    sum_ = upper_layer(header.source, header.destination, 58, payload)
    return packet[:42] + sum_.to_bytes(2) + packet[44:]


def changed(random: Random) -> bytes:
    """A message of which some bytes are others, or an address is another; most often its sum is right."""
    data = mutated(random, PACKETS)
    if len(data) >= ipv6.HEADER and random.random() < 0.3:
        at = random.choice((8, 24, 48))  # source, destination, target
        data = data[:at] + random.choice(ADDRESSES) + data[at + 16 :]
    return summed(data) if random.random() < 0.9 else data


def believed(data: bytes) -> Message | None:
    """A message is one that may be believed (RFC 4861, 6.1 and 7.1), and is built again; None where it is
    none, or refused."""
    message = or_error(discovery.parse, data)
    if message is None:
        return None
    header = ipv6.parse(data)
    source, destination = header.source, header.destination
    assert (header.next_header, header.hop_limit) == (58, 255)
    built = discovery.build(source, destination, message)
    again = discovery.parse(built)
    assert again == message
    assert type(again) is type(message)
    assert len(built) <= 40 + header.payload_length
    kinds = {type(option) for option in message.options}
    for option in message.options:
        if isinstance(option, PrefixInformation | RouteInformation):
            assert 0 <= option.length <= 128
            assert int.from_bytes(option.prefix) % 2 ** (128 - option.length) == 0
    if isinstance(message, RouterAdvertisement):
        assert source.startswith(b"\xfe")
        assert TargetLinkLayerAddress not in kinds
        return message
    assert kinds <= {SourceLinkLayerAddress, TargetLinkLayerAddress}
    assert source != NOBODY or SourceLinkLayerAddress not in kinds
    if not isinstance(message, RouterSolicitation):
        assert not message.target.startswith(b"\xff")
    if isinstance(message, NeighbourAdvertisement):
        assert not (message.solicited and destination.startswith(b"\xff"))
    return message


@seeded
def test_bytes_are_a_message_or_none_or_an_error(random: Random) -> None:
    believed(binary(random, 120) if random.random() < 0.2 else changed(random))


def test_what_is_drawn_gets_far_enough() -> None:
    """Every message is read, and every check refuses some."""
    drawn = [changed(Random(seed)) for seed in range(5000)]
    assert {type(believed(data)) for data in drawn} >= {type(message) for _, _, message in SENT}
    refused = set()
    for data in drawn:
        try:
            discovery.parse(data)
        except PacketError as error:
            refused |= {check for check in CHECKS if check in str(error)}
    assert refused == {*CHECKS}
