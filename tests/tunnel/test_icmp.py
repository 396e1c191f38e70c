"""ICMP errors: what they say, as scapy reads it, and about what there may be none."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    in6_chksum,
)
from scapy.packet import Raw
from scapy.utils import checksum

from portproxy.tunnel.packet import icmpv4, icmpv6, ipv4, ipv6

A4, B4, ROUTER4 = "192.0.2.1", "198.51.100.2", "192.0.2.254"
A6, B6, ROUTER6 = "2001:db8:1::1", "2001:db8:2::2", "2001:db8:1::fe"
SENDER4 = socket.inet_aton(ROUTER4)
SENDER6 = socket.inet_pton(socket.AF_INET6, ROUTER6)
sizes = st.integers(0, 3000)


# ICMPv6.


def read6(error: bytes | None, kind: int, code: int, value: int, about: bytes) -> None:
    """``error`` is what RFC 4443 has of these values, and its checksum is scapy's."""
    assert error is not None
    header = IPv6(error)
    assert (header.src, header.dst, header.nh) == (ROUTER6, A6, 58)
    assert (header.plen, header.hlim) == (len(error) - 40, 64)
    message = error[40:]
    assert (message[0], message[1], int.from_bytes(message[4:8])) == (kind, code, value)
    expected = in6_chksum(58, header, message[:2] + b"\0\0" + message[4:])  # type: ignore[no-untyped-call]
    assert int.from_bytes(message[2:4]) == expected
    assert message[8:] == about[: 1280 - 48]


@given(sizes, st.integers(1280, 0xFFFFFFFF))
def test_packet_too_big(size: int, mtu: int) -> None:
    packet = bytes(IPv6(src=A6, dst=B6) / UDP(sport=1, dport=2) / bytes(size))
    error = icmpv6.too_big(packet, SENDER6, mtu)
    read6(error, 2, 0, mtu, packet)
    assert error is not None
    read = IPv6(error)
    assert read[ICMPv6PacketTooBig].mtu == mtu
    quoted = read[ICMPv6PacketTooBig].payload
    assert (quoted.src, quoted.dst, quoted.plen) == (A6, B6, 8 + size)


@given(sizes, st.sampled_from(icmpv6.Unreachable))
def test_unreachable_in_ipv6(size: int, code: icmpv6.Unreachable) -> None:
    packet = bytes(IPv6(src=A6, dst=B6) / UDP(sport=1, dport=2) / bytes(size))
    error = icmpv6.unreachable(packet, SENDER6, code)
    read6(error, 1, code, 0, packet)
    assert error is not None
    assert IPv6(error)[ICMPv6DestUnreach].code == code


def test_the_codes_of_ipv6_are_those_of_the_rfc() -> None:
    names = {0: "NO_ROUTE", 1: "PROHIBITED", 2: "BEYOND_SCOPE", 3: "ADDRESS", 4: "PORT"}
    assert {code.value: code.name for code in icmpv6.Unreachable} == names


BASE6 = IPv6(src=A6, dst=B6)
OPTIONS6 = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
HOP_BY_HOP = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])


@pytest.mark.parametrize(
    ("packet", "answered"),
    [
        (BASE6 / UDP(), True),
        (BASE6 / ICMPv6EchoRequest(), True),
        (BASE6 / ICMPv6EchoReply(), True),
        (BASE6 / ICMPv6ND_NA(), True),
        (BASE6 / ICMPv6ND_Redirect(), False),
        (BASE6 / ICMPv6DestUnreach(), False),
        (BASE6 / ICMPv6PacketTooBig(), False),
        (BASE6 / ICMPv6TimeExceeded(), False),
        (BASE6 / ICMPv6ParamProblem(), False),
        (IPv6(src=A6, dst=B6, nh=58) / Raw(b"\x7f\0\0\0"), False),  # an error that nobody knows yet
        (IPv6(src=A6, dst=B6, nh=58) / Raw(b"\x80\0\0\0"), True),
        (BASE6 / OPTIONS6 / ICMPv6TimeExceeded(), False),
        (BASE6 / OPTIONS6 / ICMPv6EchoRequest(), True),
        (BASE6 / HOP_BY_HOP / IPv6ExtHdrFragment(m=1) / ICMPv6TimeExceeded(), False),
        (BASE6 / HOP_BY_HOP / IPv6ExtHdrFragment(m=1) / ICMPv6EchoRequest(), True),
        (BASE6 / IPv6ExtHdrFragment(nh=58, offset=1) / Raw(b"\x01\0\0\0"), True),
        (IPv6(src="::", dst=B6) / UDP(), False),
        (IPv6(src="::1", dst=B6) / UDP(), True),
        (IPv6(src="ff02::1", dst=B6) / UDP(), False),
        (IPv6(src="feff::1", dst=B6) / UDP(), True),
        (IP(src=A4, dst=B4) / UDP() / bytes(20), False),
    ],
)
def test_about_what_there_may_be_an_icmpv6_error(packet: IPv6, answered: bool) -> None:
    """RFC 4443, 2.4 (e)."""
    data = bytes(packet)
    assert (icmpv6.too_big(data, SENDER6, 1280) is not None) is answered
    assert (icmpv6.unreachable(data, SENDER6, icmpv6.Unreachable.ADDRESS) is not None) is answered


@pytest.mark.parametrize(("destination", "answered"), [("ff0e::1", False), ("feff::1", True)])
def test_what_goes_to_many_may_be_too_big_but_not_unreachable(destination: str, answered: bool) -> None:
    """RFC 4443, 2.4 (e.3)."""
    packet = bytes(IPv6(src=A6, dst=destination) / UDP())
    read6(icmpv6.too_big(packet, SENDER6, 1280), 2, 0, 1280, packet)
    unreachable = icmpv6.unreachable(packet, SENDER6, icmpv6.Unreachable.NO_ROUTE)
    assert (unreachable is not None) is answered


def test_a_packet_quoted_in_part_is_answered_as_far_as_it_is_here() -> None:
    """What an ICMP error about the outer packet has left of it: its header may say more than there is."""
    whole = bytes(BASE6 / HOP_BY_HOP / OPTIONS6 / UDP() / bytes(100))
    for end in range(40, len(whole)):
        error = icmpv6.unreachable(whole[:end], SENDER6, icmpv6.Unreachable.ADDRESS)
        read6(error, 1, 3, 0, whole[:end])
    for end in range(40):
        assert icmpv6.unreachable(whole[:end], SENDER6, icmpv6.Unreachable.ADDRESS) is None


# ICMP.


def read4(error: bytes | None, code: int, value: int, about: bytes) -> None:
    """``error`` is what RFC 792 and RFC 1191 have of these values, and its checksums are scapy's."""
    assert error is not None
    header = IP(error)
    assert (header.src, header.dst, header.proto) == (ROUTER4, A4, 1)
    assert (header.len, header.ihl, header.frag, int(header.flags)) == (len(error), 5, 0, 0)
    assert header.tos == 0xC0  # RFC 1812, 4.3.2.5
    assert header.chksum == checksum(error[:10] + b"\0\0" + error[12:20])
    message = error[20:]
    assert (message[0], message[1], int.from_bytes(message[4:8])) == (3, code, value)
    assert int.from_bytes(message[2:4]) == checksum(message[:2] + b"\0\0" + message[4:])
    assert message[8:] == about[: 576 - 28]


@given(sizes, st.integers(68, 0xFFFF))
def test_fragmentation_needed(size: int, mtu: int) -> None:
    packet = bytes(IP(src=A4, dst=B4, flags="DF") / UDP(sport=1, dport=2) / bytes(size))
    error = icmpv4.too_big(packet, SENDER4, mtu)
    read4(error, 4, mtu, packet)
    assert error is not None
    read = IP(error)[ICMP]
    assert (read.nexthopmtu, read.payload.src, read.payload.len) == (mtu, A4, 28 + size)


@given(sizes, st.sampled_from(icmpv4.Unreachable))
def test_unreachable_in_ipv4(size: int, code: icmpv4.Unreachable) -> None:
    packet = bytes(IP(src=A4, dst=B4) / UDP(sport=1, dport=2) / bytes(size))
    read4(icmpv4.unreachable(packet, SENDER4, code), code, 0, packet)


def test_the_codes_of_ipv4_are_those_of_the_rfc() -> None:
    names = {0: "NETWORK", 1: "HOST", 2: "PROTOCOL", 3: "PORT", 4: "FRAGMENTATION_NEEDED"}
    assert {code.value: code.name for code in icmpv4.Unreachable} == names


BASE4 = IP(src=A4, dst=B4)
OPTIONS4 = IP(src=A4, dst=B4, options=Raw(bytes.fromhex("94040000")))

NO_HOSTS = ["0.0.0.0", "0.255.255.255", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]


@pytest.mark.parametrize(
    ("packet", "answered"),
    [
        (BASE4 / UDP(), True),
        (BASE4 / ICMP(type=8), True),
        (BASE4 / ICMP(type=0), True),
        *((BASE4 / ICMP(type=kind), False) for kind in (3, 4, 5, 11, 12)),
        *((OPTIONS4 / ICMP(type=kind), kind == 8) for kind in (3, 8, 11)),
        (IP(src=A4, dst=B4, proto=1), False),  # it may be about an error
        (IP(src=A4, dst=B4, flags="MF") / UDP(), True),
        (IP(src=A4, dst=B4, frag=1) / UDP(), False),
        *((IP(src=source, dst=B4) / UDP(), False) for source in NO_HOSTS),
        *((IP(src=A4, dst=there) / UDP(), False) for there in ("224.0.0.1", "239.9.9.9", "255.255.255.255")),
        (IP(src=A4, dst="223.255.255.254") / UDP(), True),
        (BASE6 / UDP(), False),
    ],
)
def test_about_what_there_may_be_an_icmp_error(packet: IP, answered: bool) -> None:
    """RFC 1122, 3.2.2."""
    data = bytes(packet)
    assert (icmpv4.too_big(data, SENDER4, 576) is not None) is answered
    assert (icmpv4.unreachable(data, SENDER4, icmpv4.Unreachable.HOST) is not None) is answered


@pytest.mark.parametrize("source", ["1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.254"])
def test_the_neighbours_of_what_is_no_host(source: str) -> None:
    packet = bytes(IP(src=source, dst=B4) / UDP())
    error = icmpv4.unreachable(packet, SENDER4, icmpv4.Unreachable.HOST)
    assert error is not None
    assert IP(error).dst == source
    assert icmpv4.single(socket.inet_aton(source))


def test_less_than_a_header_is_not_answered() -> None:
    packet = bytes(BASE4 / UDP())
    assert icmpv4.unreachable(packet[:20], SENDER4, icmpv4.Unreachable.HOST) is not None
    for end in range(20):
        assert icmpv4.unreachable(packet[:end], SENDER4, icmpv4.Unreachable.HOST) is None


@pytest.mark.parametrize(
    ("make", "packet"),
    [
        (lambda packet: icmpv4.too_big(packet, SENDER4, 576), bytes(BASE4 / UDP() / bytes(1400))),
        (lambda packet: icmpv6.too_big(packet, SENDER6, 1280), bytes(BASE6 / UDP() / bytes(1400))),
    ],
)
def test_no_error_about_an_error_of_our_own(make: Callable[[bytes], bytes | None], packet: bytes) -> None:
    error = make(packet)
    assert error is not None
    parsed = ipv4.parse(error)[2] if error[0] >> 4 == 4 else 40 + ipv6.parse(error)[2]
    assert parsed == len(error)
    assert make(error) is None
