"""Packets of either version as values, for networks in memory."""

from __future__ import annotations

from typing import NamedTuple

from portproxy.tunnel.packet import icmpv4, icmpv6, ipv4, ipv6
from portproxy.tunnel.packet.checksum import checksum, upper_layer


class Packet(NamedTuple):
    """A packet of either version; addresses are packed, ``payload`` is what is behind extension headers."""

    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    hops: int = 64
    tos: int = 0
    dont_fragment: bool = False

    @classmethod
    def read(cls, data: bytes) -> Packet:
        """Raises PacketError."""
        if data[:1] and data[0] >> 4 == 4:
            v4 = ipv4.parse(data)
            payload, dont = data[v4.length : v4.total_length], bool(v4.fragment & ipv4.DONT_FRAGMENT)
            return cls(v4.source, v4.destination, v4.protocol, payload, v4.ttl, v4.tos, dont)
        v6, upper = ipv6.parse(data), ipv6.upper_layer(data)
        payload = data[upper.offset : ipv6.HEADER + v6.payload_length]
        return cls(v6.source, v6.destination, upper.protocol, payload, v6.hop_limit, v6.traffic_class)

    def encode(self, number: int) -> bytes:
        """Raises PacketError. ``number`` is what tells its fragments from others, where there are any."""
        if len(self.source) == 16:
            return ipv6.build(*self[:4], hop_limit=self.hops, traffic_class=self.tos)
        flags, number = ipv4.DONT_FRAGMENT * self.dont_fragment, number % 65536
        return ipv4.build(*self[:4], ttl=self.hops, tos=self.tos, identification=number, fragment=flags)


def checksum_of(source: bytes, far: bytes, message: bytes) -> int:
    """The checksum of an ICMP ``message``: 0 where it has the right one."""
    return checksum(message) if len(far) == 4 else upper_layer(source, far, icmpv6.PROTOCOL, message)


def control(source: bytes, far: bytes, kind: int, body: bytes) -> Packet:
    """An ICMP message, of code 0."""
    sum_ = checksum_of(source, far, bytes((kind, 0, 0, 0)) + body)
    protocol = icmpv4.PROTOCOL if len(far) == 4 else icmpv6.PROTOCOL
    return Packet(source, far, protocol, bytes((kind, 0)) + sum_.to_bytes(2) + body)


def destination(packet: bytes) -> bytes:
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def aged(packet: bytes) -> bytes:
    """``packet`` a hop later."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]
    head = packet[:8] + bytes((packet[8] - 1, packet[9], 0, 0)) + packet[12 : (packet[0] & 0xF) * 4]
    return head[:10] + checksum(head).to_bytes(2) + packet[12:]
