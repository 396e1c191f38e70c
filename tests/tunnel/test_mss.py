"""TCP's maximum segment size in packets that scapy builds: what is lowered, what is left alone."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    RouterAlert,
)
from scapy.packet import Packet, Raw

from portproxy.tunnel.packet import ipv4, ipv6, mss

A4, B4 = "192.0.2.1", "198.51.100.2"
A6, B6 = "2001:db8:1::1", "2001:db8:2::2"
words = st.integers(0, 0xFFFF)

BEFORE: list[tuple[str, Any]] = [
    ("NOP", None),
    ("SAckOK", b""),
    ("WScale", 7),
    ("Timestamp", (1, 2)),
    ("AltChkSum", (1, 2)),
]
options = st.lists(st.sampled_from(BEFORE), max_size=3)
UNDER: dict[str, Packet] = {
    "4": IP(src=A4, dst=B4),
    "4 with options": IP(src=A4, dst=B4, options=Raw(bytes.fromhex("94040000"))),
    "4, first fragment": IP(src=A4, dst=B4, flags="MF"),
    "6": IPv6(src=A6, dst=B6),
    "6, hop by hop": IPv6(src=A6, dst=B6) / IPv6ExtHdrHopByHop(options=[RouterAlert()]),
    "6, first fragment": IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(m=1),
    "6, options": IPv6(src=A6, dst=B6) / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))]),
}


def clamp(packet: bytes, mtu: int) -> bytes:
    return (mss.clamp4 if packet[0] >> 4 == 4 else mss.clamp6)(packet, mtu)


def opening(under: str, before: Sequence[tuple[str, Any]], said: int, **fields: Any) -> bytes:
    """What opens a connection and says an MSS, behind and before other options."""
    tcp = TCP(**{"flags": "S", **fields}, options=[*before, ("MSS", said), ("NOP", None), *before[:1]])
    return bytes(UNDER[under].copy() / tcp / b"early")


@given(st.sampled_from([*UNDER]), options, words, st.integers(68, 9000), words, st.sampled_from(["S", "SA"]))
def test_an_mss_is_lowered_as_if_it_had_been_said_so(
    under: str, before: list[tuple[str, Any]], said: int, mtu: int, port: int, flags: str
) -> None:
    most = mtu - (40 if under.startswith("4") else 60)
    packet = opening(under, before, said, sport=port, flags=flags)
    assert clamp(packet, mtu) == opening(under, before, min(said, most), sport=port, flags=flags)


@pytest.mark.parametrize("nops", range(5))
@pytest.mark.parametrize(("under", "most"), [("4", 1240), ("6", 1220)])
def test_the_checksum_follows_at_every_offset(under: str, most: int, nops: int) -> None:
    before = [("NOP", None)] * nops
    assert clamp(opening(under, before, most + 1), 1280) == opening(under, before, most)
    for said in (most - 1, most):
        assert clamp(opening(under, before, said), 1280) == opening(under, before, said)


def raw_options(data: str, behind: str = "") -> bytes:
    """A SYN whose options are these bytes, whatever they mean."""
    head = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, (20 + len(data) // 2) // 4 << 4, 0x02, 5, 6, 0)
    return ipv4.build(socket.inet_aton(A4), socket.inet_aton(B4), 6, head + bytes.fromhex(data + behind))


MSS_9000 = "02042328"
LATER = IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(nh=6, offset=1)


@pytest.mark.parametrize(
    ("why", "packet"),
    [
        ("no SYN", opening("4", [], 9000, flags="A")),
        ("no SYN", opening("6", [], 9000, flags="A")),
        ("no MSS", bytes(IP() / TCP(flags="S"))),
        ("not TCP", bytes(IP(proto=17) / Raw(opening("4", [], 9000)[20:]))),
        ("not TCP", bytes(IPv6(nh=17) / Raw(opening("6", [], 9000)[40:]))),
        ("a later fragment", bytes(IP(proto=6, frag=1) / Raw(opening("4", [], 9000)[20:]))),
        ("a later fragment", bytes(LATER / Raw(opening("6", [], 9000)[40:]))),
        ("cut within its header", raw_options("")[:33]),
        ("behind the end of the options", raw_options("0002" + MSS_9000 + "0000")),
        ("behind an option of length 0", raw_options("0800" + MSS_9000 + "0000")),
        ("behind an option of length 1", raw_options("0801" + MSS_9000 + "0000")),
        ("behind an option that is too long", raw_options("080b" + MSS_9000 + "0000")),
        ("an option without a length", raw_options("01010102")),
        ("an option cut short", raw_options("01010204", "2328")),
        ("of another length", raw_options("0203232801010101")),
        ("ends within its extension headers", ipv6.build(bytes(16), bytes(16), 60, b"\x06\xff" + bytes(80))),
    ],
)
def test_what_says_no_mss_is_left_alone(why: str, packet: bytes) -> None:
    assert clamp(packet, 1280) is packet, why


@pytest.mark.parametrize(
    ("said", "lowered"),
    [([1000, 9000], [1000, 1240]), ([9000, 8000, 1000], [1240, 1240, 1000]), ([1240, 1241], [1240, 1240])],
)
def test_each_of_several_is_lowered(said: list[int], lowered: list[int]) -> None:
    """Linux goes by the last one."""
    before = [("MSS", one) for one in said]
    assert clamp(opening("4", before, 536), 1280) == opening("4", [("MSS", one) for one in lowered], 536)


def test_one_before_a_fault_is_lowered_all_the_same() -> None:
    assert clamp(raw_options(MSS_9000 + "0800" + MSS_9000 + "0000"), 1280)[40:] == bytes.fromhex(
        "020404d8" + "0800" + MSS_9000 + "0000"
    )


def test_the_same_options_without_the_fault_are_not() -> None:
    assert clamp(raw_options("0101" + MSS_9000 + "0000"), 1280)[40:] == bytes.fromhex("0101020404d80000")
