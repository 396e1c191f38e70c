"""Headers, checksums and ECN. scapy is the oracle, both ways: it builds what is read here, and reads
what is built here."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
    in6_chksum,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw
from scapy.utils import checksum as scapy_checksum

from portproxy.tunnel.packet import PacketError, ecn, ipv4, ipv6
from portproxy.tunnel.packet.checksum import checksum, upper_layer

A4, B4 = "192.0.2.1", "198.51.100.2"
A6, B6 = "2001:db8:1::1", "2001:db8:2::2"
octets = st.integers(0, 255)
words = st.integers(0, 0xFFFF)
addresses4 = st.binary(min_size=4, max_size=4)
addresses6 = st.binary(min_size=16, max_size=16)
payloads = st.binary(max_size=70)


def text4(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, address)


def text6(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)


# The checksum.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("0001f203f4f5f6f7", 0x220D),  # RFC 1071, 3
        ("45000073000040004011 0000 c0a80001c0a800c7", 0xB861),
        ("", 0xFFFF),
        ("00000000", 0xFFFF),
        ("ffff", 0),
        ("ffffffff", 0),
        ("fffe0001", 0),
        ("80", 0x7FFF),
        ("000001", 0xFEFF),
    ],
)
def test_checksums(data: str, expected: int) -> None:
    assert checksum(bytes.fromhex(data)) == expected


@given(st.binary(max_size=200) | st.lists(st.sampled_from([0, 0xFF]), max_size=9).map(bytes))
def test_checksums_are_those_of_scapy(data: bytes) -> None:
    assert checksum(data) == scapy_checksum(data)


@given(addresses6, addresses6, octets, payloads)
def test_upper_layer_checksums_are_those_of_scapy(
    source: bytes, destination: bytes, protocol: int, payload: bytes
) -> None:
    base = IPv6(src=text6(source), dst=text6(destination))
    expected = in6_chksum(protocol, base, payload)  # type: ignore[no-untyped-call]
    assert upper_layer(source, destination, protocol, payload) == expected


# IPv4.

OPTIONS = [b"", b"\x01\x01\x01\x01", b"\x94\x04\x00\x00", b"\x07\x07\x04\0\0\0\0\x00", bytes(40)]
FIELDS4 = {"ttl": octets, "tos": octets, "identification": words, "fragment": words}


@given(addresses4, addresses4, octets, payloads, st.sampled_from(OPTIONS), st.fixed_dictionaries(FIELDS4))
def test_scapy_reads_the_ipv4_that_is_built(
    source: bytes, destination: bytes, protocol: int, payload: bytes, options: bytes, fields: dict[str, int]
) -> None:
    built = ipv4.build(source, destination, protocol, payload, options=options, **fields)
    read = IP(built)
    assert (read.src, read.dst, read.proto) == (text4(source), text4(destination), protocol)
    assert (read.ttl, read.tos, read.id) == (fields["ttl"], fields["tos"], fields["identification"])
    assert int(read.flags) << 13 | read.frag == fields["fragment"]
    assert (read.ihl * 4, read.len) == (20 + len(options), len(built))
    assert built[20:] == options + payload
    head = built[:10] + b"\0\0" + built[12 : read.ihl * 4]
    assert read.chksum == scapy_checksum(head)


@given(addresses4, addresses4, octets, payloads, st.sampled_from(OPTIONS), st.fixed_dictionaries(FIELDS4))
def test_the_ipv4_that_scapy_builds_is_read(
    source: bytes, destination: bytes, protocol: int, payload: bytes, options: bytes, fields: dict[str, int]
) -> None:
    fragment = fields["fragment"]
    packet = IP(
        src=text4(source),
        dst=text4(destination),
        proto=protocol,
        ttl=fields["ttl"],
        tos=fields["tos"],
        id=fields["identification"],
        flags=fragment >> 13,
        frag=fragment & 0x1FFF,
        options=Raw(options) if options else [],
    )
    made = bytes(packet / Raw(payload))
    padded = made + b"padding"
    for data in (made, padded):
        read = ipv4.parse(data)
        assert {name: getattr(read, name) for name in fields} == fields
        assert (read.protocol, read.source, read.destination) == (protocol, source, destination)
        assert (read.length, read.total_length) == (20 + len(options), len(made))


GOOD4 = ipv4.build(socket.inet_aton(A4), socket.inet_aton(B4), 17, b"payload!", options=b"\x01\x01\x01\x00")


@pytest.mark.parametrize("bit", range(24 * 8))
def test_one_wrong_bit_anywhere_in_an_ipv4_header_is_found(bit: int) -> None:
    wrong = (int.from_bytes(GOOD4) ^ 1 << len(GOOD4) * 8 - 1 - bit).to_bytes(len(GOOD4))
    ipv4.parse(GOOD4)
    with pytest.raises(PacketError):
        ipv4.parse(wrong)


def summed(packet: bytes, length: int = 20) -> bytes:
    """With the right checksum, whatever else is wrong."""
    head = packet[:10] + b"\0\0" + packet[12:length]
    return head[:10] + checksum(head).to_bytes(2) + packet[12:]


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"", "0 bytes"),
        (GOOD4[:19], "19 bytes"),
        (summed(b"\x65" + GOOD4[1:]), "IP version 6"),
        (summed(b"\x44" + GOOD4[1:], 16), "a header of 16 bytes"),
        (summed(b"\x4f" + GOOD4[1:], 60), "a header of 60 bytes"),
        (summed(GOOD4[:2] + b"\0\x17" + GOOD4[4:], 24), "a packet of 23"),
        (GOOD4[:-1], "of which 31 are here"),
        (GOOD4[:8] + b"\0" + GOOD4[9:], "checksum is wrong"),
    ],
)
def test_what_is_no_ipv4(packet: bytes, why: str) -> None:
    with pytest.raises(PacketError, match=why):
        ipv4.parse(packet)


@pytest.mark.parametrize(
    ("payload", "options", "fits"),
    [
        (65515, 0, True),
        (65516, 0, False),
        (65475, 40, True),
        (65476, 40, False),
        (0, 44, False),
        (0, 3, False),
    ],
)
def test_what_ipv4_can_hold(payload: int, options: int, fits: bool) -> None:
    def build() -> bytes:
        return ipv4.build(bytes(4), bytes(4), 17, bytes(payload), options=bytes(options))

    if fits:
        assert ipv4.parse(build()).total_length == 20 + options + payload
    else:
        with pytest.raises(PacketError):
            build()


# IPv6.


@given(addresses6, addresses6, octets, payloads, octets, octets, st.integers(0, 0xFFFFF))
def test_ipv6_headers_are_those_of_scapy(
    source: bytes, destination: bytes, protocol: int, payload: bytes, hops: int, traffic: int, flow: int
) -> None:
    built = ipv6.build(
        source, destination, protocol, payload, hop_limit=hops, traffic_class=traffic, flow=flow
    )
    read = IPv6(built)
    assert (read.src, read.dst) == (text6(source), text6(destination))
    assert (read.nh, read.plen, read.hlim, read.tc, read.fl) == (protocol, len(payload), hops, traffic, flow)
    made = IPv6(src=read.src, dst=read.dst, nh=protocol, hlim=hops, tc=traffic, fl=flow) / Raw(payload)
    assert bytes(made) == built
    for data in (built, built + b"padding"):
        assert ipv6.parse(data) == (traffic, flow, len(payload), protocol, hops, source, destination)


GOOD6 = bytes(IPv6(src=A6, dst=B6) / UDP() / b"payload!")


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"", "0 bytes"),
        (GOOD6[:39], "39 bytes, an IPv6"),
        (b"\x45" + GOOD6[1:], "IP version 4"),
        (GOOD6[:-1], "55 bytes, its header says 56"),
    ],
)
def test_what_is_no_ipv6(packet: bytes, why: str) -> None:
    ipv6.parse(GOOD6)
    with pytest.raises(PacketError, match=why):
        ipv6.parse(packet)


def test_what_ipv6_can_hold() -> None:
    assert ipv6.parse(ipv6.build(bytes(16), bytes(16), 17, bytes(65535))).payload_length == 65535
    with pytest.raises(PacketError):
        ipv6.build(bytes(16), bytes(16), 17, bytes(65536))


EXTENSIONS: dict[str, tuple[int, Packet]] = {
    "hop-by-hop": (0, IPv6ExtHdrHopByHop(options=[RouterAlert()])),
    "destination": (60, IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])),
    "routing": (43, IPv6ExtHdrRouting(addresses=[B6, A6])),
    "atomic fragment": (44, IPv6ExtHdrFragment(id=7)),
    "first fragment": (44, IPv6ExtHdrFragment(id=7, m=1)),
    "later fragment": (44, IPv6ExtHdrFragment(id=7, m=1, offset=1)),
    "authentication": (51, AH(payloadlen=4, spi=1, seq=1, icv=bytes(12))),
}


def chained(names: Sequence[str], protocol: int, payload: bytes) -> bytes:
    packet: Packet = IPv6(src=A6, dst=B6)
    last = packet
    for number, header in (EXTENSIONS[name] for name in names):
        last.nh, last = number, header.copy()
        packet /= last
        last = packet.lastlayer()
    last.nh = protocol
    return bytes(packet / Raw(payload))


chains = st.lists(st.sampled_from([*EXTENSIONS]).filter(lambda name: name != "later fragment"), max_size=8)


@given(chains)
def test_the_upper_layer_is_found_behind_extension_headers(names: list[str]) -> None:
    packet = chained(names, 17, bytes(16))
    assert ipv6.upper_layer(packet) == (socket.IPPROTO_UDP, len(packet) - 16, True)


@given(chains.filter(bool))
def test_a_packet_that_ends_within_its_extension_headers(names: list[str]) -> None:
    """Be it that it says so itself, or that somebody quotes only so much of it."""
    packet = chained(names, 17, bytes(8))
    for end in range(40, len(packet) - 8):
        for cut in (packet[:end], packet[:4] + (end - 40).to_bytes(2) + packet[6:]):
            with pytest.raises(PacketError, match="it ends within its"):
                ipv6.upper_layer(cut)


@given(chains)
def test_behind_a_later_fragment_nothing_is_looked_for(names: list[str]) -> None:
    before = chained([*names, "later fragment"], ipv6.HOP_BY_HOP, b"\xff\xff")
    assert ipv6.upper_layer(before) == (ipv6.HOP_BY_HOP, len(before) - 2, False)


@pytest.mark.parametrize("kind", [0, 43, 60, 135, 139, 140])
def test_every_header_of_the_common_format_is_passed(kind: int) -> None:
    packet = ipv6.build(bytes(16), bytes(16), kind, bytes((17, 2)) + bytes(22) + b"upper")
    assert ipv6.upper_layer(packet) == (17, 64, True)


@pytest.mark.parametrize("kind", [6, 17, 50, 58, 59, 255])
def test_what_is_no_extension_header_is_the_upper_layer(kind: int) -> None:
    assert ipv6.upper_layer(ipv6.build(bytes(16), bytes(16), kind, b"")) == (kind, 40, True)


def test_a_chain_of_sixteen_headers_is_followed_and_no_longer_one() -> None:
    assert ipv6.upper_layer(chained(["destination"] * 16, 17, b"")).protocol == 17
    with pytest.raises(PacketError, match="more than 16"):
        ipv6.upper_layer(chained(["destination"] * 17, 17, b""))


# ECN.

RFC_6040 = {
    # The inner field: what goes on under an outer Not-ECT, ECT(0), ECT(1) and CE (figure 4).
    "Not-ECT": ("Not-ECT", "Not-ECT", "Not-ECT", "drop"),
    "ECT(0)": ("ECT(0)", "ECT(0)", "ECT(1)", "CE"),
    "ECT(1)": ("ECT(1)", "ECT(1)", "ECT(1)", "CE"),
    "CE": ("CE", "CE", "CE", "CE"),
}
CODEPOINTS = {"Not-ECT": 0b00, "ECT(0)": 0b10, "ECT(1)": 0b01, "CE": 0b11, "drop": None}


@pytest.mark.parametrize("dscp", [0, 0xFC])
@pytest.mark.parametrize("inner", RFC_6040)
@pytest.mark.parametrize("outer", RFC_6040)
def test_ecn_leaves_a_tunnel_as_in_rfc_6040(inner: str, outer: str, dscp: int) -> None:
    expected = RFC_6040[inner][[*RFC_6040].index(outer)]
    left = ecn.decapsulated(dscp | (CODEPOINTS[inner] or 0), dscp | (CODEPOINTS[outer] or 0))
    assert left == CODEPOINTS[expected]
