"""Offload: what is merged comes back when it is cut, by the module itself and by a plain reference here.
scapy is the oracle for what the module cuts."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrRouting
from scapy.packet import Packet

from portproxy.tunnel.packet import PacketError, ipv4, ipv6
from portproxy.tunnel.packet.checksum import checksum
from portproxy.tunnel.packet.offload import HEADER, PLAIN, merge, split
from tests.package.namespaces import command, in_own_namespaces

VIRTIO, TCP_HEADER = "=BBHHHH", ">HHIIBBHHH"
NEEDS_CSUM, TCPV4, TCPV6, ECN = 1, 1, 4, 0x80
GSO, TCP_AT = {4: TCPV4, 6: TCPV6}, {4: 20, 6: 40}
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
NETWORK = {4: b"\xc0\0\2", 6: b"\xfd" + bytes(14)}
TIMESTAMP = b"\1\1\x08\n" + bytes(range(8))


def segment(version: int, seq: int, payload: bytes = b"", **fields: Any) -> bytes:
    """A segment of a connection, right in everything that ``fields`` do not say otherwise."""
    said: dict[str, Any] = {"sport": 5000, "dport": 443, "ack": 7, "flags": ACK, "reserved": 0, "window": 512}
    said |= {"urgent": 0, "options": TIMESTAMP, "source": 1, "destination": 2, "damage": 0, "next": 6}
    said |= {"ip": {}, **fields}
    offset = said.get("offset", (20 + len(said["options"])) << 2) | said["reserved"]
    numbers = said["sport"], said["dport"], seq & 0xFFFFFFFF, said["ack"], offset, said["flags"]
    tcp = struct.pack(TCP_HEADER, *numbers, said["window"], 0, said["urgent"]) + said["options"] + payload
    source, destination = (NETWORK[version] + bytes([said[end]]) for end in ("source", "destination"))
    sum_ = checksum(source + destination + struct.pack(">II", len(tcp), 6) + tcp) ^ said["damage"]
    tcp = tcp[:16] + sum_.to_bytes(2) + tcp[18:]
    if version == 4:
        ip = {"fragment": ipv4.DONT_FRAGMENT, "identification": 1} | said["ip"]
        return ipv4.build(source, destination, said["next"], tcp, **ip)
    return ipv6.build(source, destination, said["next"], tcp, **said["ip"])


def slowly_summed(data: bytes) -> int:
    """RFC 1071 as it is written: word by word, carries added."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def slowly_split(data: bytes) -> Iterator[bytes]:
    """The reference: each segment made anew from what the headers say."""
    packet = data[HEADER:]
    if data[:HEADER] == PLAIN:
        yield packet
        return
    version = packet[0] >> 4
    header = (ipv4 if version == 4 else ipv6).parse(packet)._asdict()
    names = ("tos", "ttl", "fragment") if version == 4 else ("traffic_class", "flow", "hop_limit")
    ip = {name: header[name] for name in names}
    tcp = TCP_AT[version]
    assert len(packet) == (header["total_length"] if version == 4 else 40 + header["payload_length"])
    sport, dport, seq, ack, offset, flags, window, _, urgent = struct.unpack_from(TCP_HEADER, packet, tcp)
    fields = {"sport": sport, "dport": dport, "ack": ack, "window": window, "urgent": urgent}
    start = tcp + offset // 4
    fields |= {end: header[end][-1] for end in ("source", "destination")}
    fields |= {"options": packet[tcp + 20 : start]}
    size = int.from_bytes(data[4:6], sys.byteorder)
    assert data[:HEADER] == struct.pack(VIRTIO, NEEDS_CSUM, GSO[version], start, size, tcp, 16)
    for count, at in enumerate(range(start, len(packet), size)):
        if version == 4:
            ip["identification"] = (header["identification"] + count) % 2**16
        fields["flags"] = flags & ~PSH if at + size < len(packet) else flags
        yield segment(version, seq + at - start, packet[at : at + size], ip=ip, **fields)


OTHERS = [
    bytes(IPv6(src="::1", dst="::2") / UDP() / b"datagram"),
    bytes(IP(src="192.0.2.1", dst="192.0.2.2", flags="DF") / ICMP()),
    *(segment(4, 0, b"another", sport=1), segment(6, 0, b"another", sport=1), b"", b"\x45", bytes(70)),
]
CHANGES: dict[str, dict[str, Any]] = {
    "push": {"flags": ACK | PSH},
    "fin": {"flags": ACK | FIN},
    "damaged": {"damage": 0x100},
    "ack": {"ack": 8},
}


def flipped(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]


@st.composite
def traffic(draw: st.DrawFn) -> list[bytes]:
    """Segments of a connection as a bulk transfer has them, with what breaks a run now and then."""
    version, options = draw(st.sampled_from([4, 6])), draw(st.sampled_from([b"", TIMESTAMP]))
    size = draw(st.sampled_from([1, 2, 7, 100, 1381]))
    seq = draw(st.sampled_from([0, 1, 2**32 - 1, 2**32 - 250, 2**31]))
    identification = draw(st.integers(0, 0xFFFF))
    content = bytes(range(256)) * 6
    packets: list[bytes] = []
    odd = st.sampled_from(["short", "header", "cut", "gap", "other", *CHANGES])
    for step in draw(st.lists(st.just("") | st.just("") | st.just("") | odd, max_size=12)):
        fields: dict[str, Any] = {"options": options}
        if version == 4:
            fields["ip"] = {"identification": identification}
            identification = identification + 1 & 0xFFFF
        length = draw(st.integers(0, size)) if step == "short" else size
        fields |= CHANGES.get(step, {})
        seq += step == "gap"
        made = segment(version, seq, content[seq % 256 :][:length], **fields)
        made = {"header": flipped(made, 8), "cut": made[:-1]}.get(step, made)
        packets += [draw(st.sampled_from(OTHERS)), made] if step == "other" else [made]
        seq += length
    return packets


@given(traffic())
def test_what_is_merged_is_the_same_when_it_is_cut(packets: list[bytes]) -> None:
    written = merge(packets)
    assert [packet for data in written for packet in slowly_split(data)] == packets
    assert [packet for data in written if data != PLAIN for packet in split(data)] == [*filter(None, packets)]


@given(st.sampled_from([4, 6]), st.integers(2, 64), st.integers(1, 1023), st.integers(0, 2**32 - 1))
def test_a_whole_run_becomes_one(version: int, count: int, size: int, seq: int) -> None:
    numbered = ({"ip": {"identification": i}} if version == 4 else {} for i in range(count))
    packets = [segment(version, seq + i * size, bytes([i]) * size, **ip) for i, ip in enumerate(numbered)]
    written = merge(packets)
    assert len(written) == 1
    assert split(written[0]) == [*slowly_split(written[0])] == packets


# The rules: two segments of a hundred bytes, then what is different in the second.

BODY, BOTH = bytes(100), [4, 6]


def pair(version: int, **second: Any) -> list[bytes]:
    seq, payload = second.pop("seq", 100), second.pop("payload", BODY)
    return [segment(version, 0, BODY), segment(version, seq, payload, **second)]


def runs(packets: list[bytes]) -> list[int]:
    """How many packets are in each that is written."""
    counts = [len([*slowly_split(data)]) for data in merge(packets)]
    assert sum(counts) == len(packets)
    return counts


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("second", [{}, {"flags": ACK | PSH}, {"payload": b"x"}, {"payload": bytes(99)}])
def test_what_merges(version: int, second: dict[str, Any]) -> None:
    assert runs(pair(version, **second)) == [2]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(
    "second",
    [
        *({"sport": 5001}, {"dport": 442}, {"ack": 8}, {"window": 511}, {"urgent": 1}, {"reserved": 1}),
        *({"options": options} for options in (TIMESTAMP[:-1] + b"\0", TIMESTAMP[:8], TIMESTAMP + bytes(4))),
        *({"source": 9}, {"destination": 9}, {"seq": 99}, {"seq": 101}, {"seq": 0}),
        *({"payload": bytes(size)} for size in (0, 101)),
        *({"damage": bits} for bits in (1, 0xFFFF)),
        *({"flags": ACK | flag} for flag in (FIN, SYN, RST, URG, ECE, CWR)),
        *({"flags": flags} for flags in (0, PSH)),
    ],
)
def test_what_does_not(version: int, second: dict[str, Any]) -> None:
    assert runs(pair(version, **second)) == [1, 1]


FLAGS = [{"flags": ACK ^ flag} for flag in (PSH, FIN, SYN, RST, URG, ECE, CWR, ACK)]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("both", [*FLAGS, {"reserved": 1}, {"next": 17}])
def test_segments_that_are_alike_and_do_not_merge(version: int, both: dict[str, Any]) -> None:
    assert runs([segment(version, seq, BODY, **both) for seq in (0, 100)]) == [1, 1]


@pytest.mark.parametrize("version", BOTH)
def test_segments_without_payload_or_header_do_not_merge(version: int) -> None:
    assert runs([segment(version, 0)] * 2) == [1, 1]
    assert runs([segment(version, seq, BODY, options=b"", offset=0x40) for seq in (0, 104)]) == [1, 1]
    assert runs([segment(version, 0, options=b""), segment(version, 0, b"\0", options=b"")]) == [1, 1]


@pytest.mark.parametrize(
    ("version", "ip"),
    [
        *((4, {"ttl": 63}), (4, {"tos": 4}), (4, {"tos": 3}), (4, {"options": b"\1\1\1\1"})),
        *((4, {"fragment": field}) for field in (0, 0x6000, 0x4001, 0xC000)),
        *((6, {"hop_limit": 63}), (6, {"traffic_class": 4}), (6, {"traffic_class": 3}), (6, {"flow": 1})),
    ],
)
def test_headers_differ(version: int, ip: dict[str, Any]) -> None:
    assert runs(pair(version, ip=ip)) == [1, 1]
    alike = [segment(version, seq, BODY, ip=ip) for seq in (0, 100)]
    assert runs(alike) == ([1, 1] if {*ip} & {"fragment", "options"} else [2])


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("damaged", range(3))
def test_a_damaged_segment_goes_alone(version: int, damaged: int) -> None:
    packets = [segment(version, 100 * i, BODY, damage=int(i % 3 == damaged)) for i in range(6)]
    assert runs(packets) == [[1, 2, 1, 2], [1, 1, 2, 1, 1], [2, 1, 2, 1]][damaged]


@pytest.mark.parametrize("damaged", range(2))
@pytest.mark.parametrize("at", [4, 8, 10])
def test_a_wrong_sum_of_the_ipv4_header(damaged: int, at: int) -> None:
    packets = pair(4)
    packets[damaged] = flipped(packets[damaged], at)
    assert runs(packets) == [1, 1]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("wrong", range(2))
def test_lengths_are_exact(version: int, wrong: int) -> None:
    packets = pair(version)
    # IPv4's length goes up by one, and its identification down, so that its checksum stays right.
    said = flipped(flipped(packets[wrong], 3), 5) if version == 4 else flipped(packets[wrong], 5)
    for changed in (said, packets[wrong] + b"\0\0", packets[wrong][:-2]):
        assert runs([changed if i == wrong else packets[i] for i in range(2)]) == [1, 1]


@pytest.mark.parametrize("version", BOTH)
def test_what_ends_a_run(version: int) -> None:
    sizes = [100, 100, 50, 100, 100, 100]
    packets = [segment(version, sum(sizes[:i]), bytes(size)) for i, size in enumerate(sizes)]
    assert runs(packets) == [3, 3]
    pushed = [segment(version, 100 * i, BODY, flags=ACK | PSH if i == 2 else ACK) for i in range(6)]
    assert runs(pushed) == [3, 3]
    assert [p[-100 - 32 + 13] for p in split(merge(pushed)[0])] == [ACK, ACK, ACK | PSH]


@pytest.mark.parametrize("version", BOTH)
def test_how_much_becomes_one(version: int) -> None:
    assert runs([segment(version, i, b"x") for i in range(130)]) == [64, 64, 2]
    size = (65535 - TCP_AT[version] - 32) // 2
    for payload, expected in ((size, [2, 1]), (size + 1, [1, 1, 1])):
        assert runs([segment(version, i * payload, bytes(payload)) for i in range(3)]) == expected


# The kernel, which cuts what it forwards to a device without offload, and leaves it to one with.

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F = {"without": 0, "with": 0x07}  # checksums, TCP over IPv4, TCP over IPv6


def device(name: str, peer: str, offload: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, offload)
    command("ip", "link", "set", name, "up")
    command("ip", "route", "add", peer, "dev", name)
    return fd


@pytest.mark.parametrize("offload", ["with", "without"])
@pytest.mark.parametrize("version", ["4", "6"])
@in_own_namespaces
def test_the_kernel_cuts_and_forwards_what_is_merged(version: str, offload: str) -> None:
    number, tcp = int(version), TCP_AT[int(version)]
    Path(f"/proc/sys/net/ipv{version}/conf/all/forwarding").write_text("1")
    source, destination = (str(ip_address(NETWORK[number] + host)) for host in (b"\1", b"\2"))
    before, behind = device("before", source, 0), device("behind", destination, _TUN_F[offload])

    def flow(hops: int) -> list[bytes]:
        ip = [{"ttl": hops, "identification": i} if number == 4 else {"hop_limit": hops} for i in range(40)]
        return [segment(number, 1400 * i, bytes(7 if i == 39 else 1400), ip=ip[i]) for i in range(40)]

    (written,) = merge(flow(64))
    os.write(before, written)
    read: list[list[bytes]] = []
    while sum(map(len, read)) < 40:
        # The kernel also says which groups it is in.
        read += [packets for packets in [split(os.read(behind, 70000))] if packets[0][tcp - 1] == 2]
    assert [packet for packets in read for packet in packets] == flow(63)
    assert len(read) == (1 if offload == "with" else 40)


# What is read.

ENDS4: dict[str, Any] = {"src": "192.0.2.1", "dst": "192.0.2.2"}
ENDS6: dict[str, Any] = {"src": "2001:db8::1", "dst": "2001:db8::2"}
ABOVE: dict[str, Packet] = {
    "4": IP(**ENDS4, flags="DF", id=0xFFFE),
    "4 with a source route": IP(**ENDS4, options=[IPOption_LSRR(routers=["192.0.2.9"])]),
    "6": IPv6(**ENDS6, fl=5),
    "6 with a routing header": IPv6(**ENDS6) / IPv6ExtHdrRouting(addresses=["2001:db8::9"]),
}


def unfinished(packet: bytes, start: int, offset: int) -> bytes:
    """With the pseudo-header's sum for a checksum: what that says beyond the sum of the data themselves."""
    head, tail = packet[: start + offset], packet[start + offset + 2 :]
    whole = int.from_bytes(packet[start + offset : start + offset + 2]) ^ 0xFFFF
    alone = slowly_summed(head[start:] + b"\0\0" + tail) ^ 0xFFFF
    return head + ((whole - alone) % 0xFFFF).to_bytes(2) + tail


TCP_FLAGS = st.sampled_from(["A", "PA", "FPA", "CA", "FPCEA"])
TCP_FIELDS: dict[str, Any] = {"sport": 7, "dport": 8, "ack": 9, "options": [("Timestamp", (1, 2))]}


@pytest.mark.parametrize("above", ABOVE)
@given(st.binary(min_size=1, max_size=90), st.integers(1, 40), TCP_FLAGS)
def test_scapy_makes_the_same_segments(above: str, payload: bytes, size: int, flags: str) -> None:
    under = ABOVE[above]
    expected = []
    for at in range(0, len(payload), size):
        kept = flags if at == 0 else flags.replace("C", "")
        if at + size < len(payload):
            kept = kept.replace("F", "").replace("P", "")
        seq = (2**32 - 20 + at) % 2**32
        packet = under.copy() / TCP(seq=seq, flags=kept, **TCP_FIELDS) / payload[at : at + size]
        if IP in packet:
            packet[IP].id = (under.id + at // size) % 2**16
        expected.append(bytes(packet))
    whole = bytes(under.copy() / TCP(seq=2**32 - 20, flags=flags, **TCP_FIELDS) / payload)
    gso = (TCPV4 if IP in under else TCPV6) | (ECN if "C" in flags else 0)
    header = struct.pack(VIRTIO, NEEDS_CSUM, gso, len(whole) - len(payload), size, len(under), 16)
    assert split(header + unfinished(whole, len(under), 16)) == expected


@pytest.mark.parametrize("flags", [0, 2])
def test_a_packet_that_is_whole_is_itself(flags: int) -> None:
    packet = segment(6, 0, b"data", damage=1)
    assert split(bytes([flags]) + bytes(9) + packet) == [packet]


@pytest.mark.parametrize("payload", [b"", b"o", b"odd", b"even"])
@pytest.mark.parametrize("above", [ABOVE["4"], ABOVE["6"]])
@pytest.mark.parametrize("upper", [UDP(), TCP(), ICMPv6EchoRequest()])
def test_a_checksum_is_finished(above: Packet, upper: Packet, payload: bytes) -> None:
    expected = bytes(above.copy() / upper / payload)
    start, offset = len(above), {UDP: 6, TCP: 16, ICMPv6EchoRequest: 2}[type(upper)]
    header = struct.pack(VIRTIO, NEEDS_CSUM, 0, 0, 0, start, offset)
    assert split(header + unfinished(expected, start, offset)) == [expected]


@pytest.mark.parametrize(("offset", "expected"), [(6, b"\xff\xff"), (2, b"\0\0")])
def test_only_in_udp_no_checksum_is_zero(offset: int, expected: bytes) -> None:
    data = bytearray(b"\xff\xff" + bytes(10))
    data[offset : offset + 2] = b"\0\0"
    made = split(struct.pack(VIRTIO, NEEDS_CSUM, 0, 0, 0, 0, offset) + data)
    assert made == [bytes(data[:offset]) + expected + bytes(data[offset + 2 :])]


@pytest.mark.parametrize(
    ("version", "changes", "why"),
    [
        *((4, {"gso": gso}, f"segments of type {gso},") for gso in (3, 5, ECN)),
        *((version, {"flags": 0}, "not its checksum") for version in BOTH),
        (6, {"offset": 6}, "not its checksum"),
        (4, {"size": 0}, "payloads of 0"),
        *((version, {"start": start}, f"TCP at {start}") for version, start in ((4, 16), (6, 39), (6, 154))),
        *((4, {"start": start}, f"no IPv4 header of {start}") for start in (22, 24)),
        (6, {"gso": TCPV4}, "no IPv4 header of 40"),
        (4, {"gso": TCPV6, "start": 40}, "IP version 4"),
        (6, {"packet": segment(6, 0)}, "a TCP header of 32"),
        (6, {"packet": segment(6, 0, b"x")[:52] + b"\x40" + bytes(30)}, "a TCP header of 16"),
        (4, {"packet": segment(4, 0, b"xy")[:9] + b"\x11" + bytes(60)}, "no IPv4 header"),
        (4, {"packet": segment(4, 0, bytes(65483)) + b"\0"}, "65536 bytes"),
        (6, {"packet": segment(6, 0, bytes(65503)) + b"\0"}, "65576 bytes"),
        *((6, {"gso": 0, "offset": offset}, f"a checksum at {40 + offset} in") for offset in (131, 133)),
    ],
)
def test_what_the_kernel_cannot_have_meant(version: int, changes: dict[str, Any], why: str) -> None:
    good: dict[str, Any] = {"flags": NEEDS_CSUM, "size": 50, "offset": 16}
    good |= {"gso": GSO[version], "start": TCP_AT[version]}
    good |= {"packet": segment(version, 0, BODY)}

    def read(said: dict[str, Any]) -> list[bytes]:
        numbers = said["flags"], said["gso"], 0, said["size"], said["start"], said["offset"]
        return split(struct.pack(VIRTIO, *numbers) + said["packet"])

    assert len(read(good)) == 2
    with pytest.raises(PacketError, match=why):
        read(good | changes)


@pytest.mark.parametrize("size", [0, 9, 10])
def test_a_header_cut_short(size: int) -> None:
    with pytest.raises(PacketError, match=f"{size} bytes"):
        split(bytes(size))
