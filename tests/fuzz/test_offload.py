"""Bytes that nobody would send, to and from a device with offload: none is lost, none is another's."""

from __future__ import annotations

import struct
from random import Random

from portproxy.tunnel.packet import ipv4, ipv6
from portproxy.tunnel.packet.checksum import checksum
from portproxy.tunnel.packet.offload import HEADER, PLAIN, merge, split
from tests.fuzz.examples import binary, seeded
from tests.fuzz.test_tunnel_packets import A4, A6, B4, B6, PACKETS4, mended, mutated, or_error


def bulk(version: int, count: int, size: int) -> list[bytes]:
    """Segments that can be one."""
    source, destination = (A4, B4) if version == 4 else (A6, B6)
    packets = []
    for i in range(count):
        tcp = struct.pack(">HHIIBBHHH", 1, 2, i * size, 3, 0x50, 0x10, 4, 0, 0) + bytes([i]) * size
        sum_ = checksum(source + destination + struct.pack(">II", len(tcp), 6) + tcp)
        tcp = tcp[:16] + sum_.to_bytes(2) + tcp[18:]
        above = struct.pack(">IHBB", 6 << 28, len(tcp), 6, 64)
        if version == 4:
            above = struct.pack(">HHHHBBH", 0x4500, 20 + len(tcp), i, 0x4000, 64, 6, 0)
        packets.append(mended(above + source + destination + tcp))
    return packets


def known(packet: bytes) -> bytes:
    """``packet`` without what has no meaning in it."""
    if packet[:1] != b"\x45" or packet[6:8] != b"\x40\0":
        return packet
    return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


def merged(packets: list[bytes]) -> int:
    """Nothing is lost or changed; how many were written."""
    written = merge(packets)
    back: list[bytes] = []
    for data in written:
        if data[:HEADER] == PLAIN:
            assert data[HEADER:] == packets[len(back)]
            back.append(data[HEADER:])
        else:
            back += split(data)
    assert [*map(known, back)] == [*map(known, packets)]
    return len(written)


def cut(data: bytes) -> bool:
    """Packets that are all there, or a PacketError of one line; whether it was packets."""
    packets = or_error(split, data)
    if packets is None:
        return False
    packet = data[HEADER:]
    if not data[1]:
        (same,) = packets
        assert len(same) == len(packet)
        return True
    size, tcp = struct.unpack_from("=HH", data, 4)
    header = tcp + (packet[tcp + 12] >> 4) * 4
    assert b"".join(one[header:] for one in packets) == packet[header:]
    assert {len(one) - header for one in packets[:-1]} <= {size}
    assert 0 < len(packets[-1]) - header <= size
    for i, one in enumerate(packets):
        parsed = ipv4.parse(one) if one[0] >> 4 == 4 else ipv6.parse(one)
        assert len(one) == (
            parsed.total_length if isinstance(parsed, ipv4.Header) else 40 + parsed.payload_length
        )
        sequence = int.from_bytes(packet[tcp + 4 : tcp + 8]) + i * size
        assert int.from_bytes(one[tcp + 4 : tcp + 8]) == sequence % 2**32
    return True


def sent(random: Random) -> list[bytes]:
    """Two connections, cut into one another, some segments with other bytes or out of place."""
    packets = [
        packet
        for version in (4, 6)
        for packet in bulk(version, random.randrange(5), random.choice((1, 2, 33)))
    ]
    for _ in range(random.choice((0, 0, 1, 2))):
        at = random.randrange(len(packets) + 1)
        packets[at : at + random.randrange(2)] = [mutated(random, packets or PACKETS4)]
    return packets


def read(random: Random) -> bytes:
    """What a device might give, with some bytes changed, left out, or put in; or a whole packet with its
    checksum still to be finished, somewhere in it or just behind."""
    if random.random() < 0.2:
        (packet,) = bulk(random.choice((4, 6)), 1, 33)
        at = random.choice((random.randrange(len(packet)), len(packet) - random.randrange(4)))
        offset = random.choice((6, 16, random.randrange(at + 1)))
        return struct.pack("=BBHHHH", 1, 0, 0, 0, max(0, at - offset), offset) + packet
    data = bytearray(random.choice(merge(bulk(random.choice((4, 6)), 5, random.choice((1, 2, 33))))))
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        at = random.randrange(random.choice((HEADER, len(data) + 1)))
        new = random.choice((b"", b"\0", b"\1", b"\4", random.randbytes(1), random.randbytes(5)))
        data[at : at + random.choice((1, 1, 1, 0, len(data)))] = new
    return bytes(data)


@seeded
def test_what_is_sent(random: Random) -> None:
    merged(sent(random))


@seeded
def test_what_is_sent_is_anything(random: Random) -> None:
    merged([binary(random, 80) for _ in range(random.randrange(5))])


@seeded
def test_what_is_read(random: Random) -> None:
    cut(binary(random, 120) if random.random() < 0.2 else read(random))


def test_the_fuzzed_is_not_all_refused() -> None:
    randoms = [Random(seed) for seed in range(500)]
    flows = [sent(random) for random in randoms]
    assert sum(merged(packets) < len(packets) for packets in flows) > 250
    assert 100 < sum(cut(read(random)) for random in randoms) < 490
