"""Raw sockets of the kernel's, and what it says of them, in a network of their own."""

from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_address

import pytest

from portproxy.tunnel.carrier.raw import IPV4_IN_IPV6, IPV6_IN_IPV4, Protocol4Receiver, Protocol41Receiver
from portproxy.tunnel.packet import icmpv4, icmpv6, ipv4, ipv6
from portproxy.tunnel.packet.checksum import checksum
from tests.package.namespaces import in_own_namespaces

HOME = {4: "127.0.0.1", 6: "::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
PROTOCOL = {4: IPV6_IN_IPV4, 6: IPV4_IN_IPV6}
each = pytest.mark.parametrize("version", ["4", "6"])


def receiver(version: int) -> Protocol41Receiver | Protocol4Receiver:
    return Protocol41Receiver(HOME[4]) if version == 4 else Protocol4Receiver(HOME[6])


def send(version: int, protocol: int, *packets: bytes) -> None:
    """To this host, from itself."""
    with socket.socket(FAMILY[version], socket.SOCK_RAW, protocol) as sock:
        for packet in packets:
            sock.sendto(packet, (HOME[version], 0))


def report(version: int, times: int) -> None:
    """An ICMP error comes about a packet that this host has sent through the tunnel to itself."""
    home = ip_address(HOME[version]).packed
    if version == 4:
        about = ipv4.build(home, home, IPV6_IN_IPV4, bytes(60))
        message = bytes((3, 1)) + bytes(6) + about
        send(4, icmpv4.PROTOCOL, *[message[:2] + checksum(message).to_bytes(2) + message[4:]] * times)
    else:
        about = ipv6.build(home, home, IPV4_IN_IPV6, bytes(60))
        send(6, icmpv6.PROTOCOL, *[bytes((1, 3)) + bytes(6) + about] * times)  # the kernel does the checksum


@each
@in_own_namespaces
def test_what_finds_the_queue_full_is_counted(version: str) -> None:
    number, took, sent = int(version), 0, 20_000
    with closing(receiver(number)) as raw:
        assert raw.missed() == 0
        send(number, PROTOCOL[number], *[bytes(1200)] * sent)
        while packets := raw.receive(64):
            took += len(packets)
        assert 0 < took < sent
        assert [raw.missed() for _ in range(2)] == [sent - took, 0]


@each
@in_own_namespaces
def test_packets_arrive_beside_errors(version: str) -> None:
    """What ICMP has said comes up before packets, and once more after every look at it."""
    number = int(version)
    with closing(receiver(number)) as raw:
        report(number, 5)
        send(number, PROTOCOL[number], bytes(40), bytes(50))
        assert [len(data) for data, _ in raw.receive(64)] == [40, 50]
        assert raw.receive(64) == []
        errors = raw.errors()
        for _ in range(5):
            assert next(errors).destination == HOME[number]
            send(number, PROTOCOL[number], bytes(60))
            assert [len(data) for data, _ in raw.receive(64)] == [60]
        assert list(errors) == []
        assert raw.receive(64) == []
