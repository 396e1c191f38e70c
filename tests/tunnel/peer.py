"""The other end of a tunnel by hand: packets as bytes, into the wire and off it."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from portproxy.tunnel.model import TunnelType
from portproxy.tunnel.packet import ipv4, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from tests.tunnel.lab import INNER, LINK, Lab, address, first, tunnel


def family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def set_tos(sock: socket.socket, version: int, tos: int) -> None:
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)


def link_local(literal: str) -> bytes:
    """RFC 4213, 3.7."""
    return ip_address("fe80::").packed[:12] + ip_address(literal).packed


class Peer:
    """The other end of the tunnel of a, by hand: a raw socket in b."""

    def __init__(self, lab: Lab, type_: TunnelType, **settings: object) -> None:
        a, b = lab["a"], lab["b"]
        self.type, self.node = type_, b
        self.local, self.remote = address(type_.outer, LINK, 2), address(type_.outer, LINK, 1)
        self.inner_local, self.inner_remote = (address(type_.inner, INNER, host) for host in (2, 1))
        a.link(b, self.remote, self.local)
        self.wire = b.socket(family(type_.outer), socket.SOCK_RAW, {4: 41, 6: 4}[type_.outer])
        self.capture = b.capture("to-a", type_.outer)
        (self.relay,) = lab.serve((a, tunnel(type_, self.local, self.inner_remote, **settings)))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wire.close()
        self.capture.close()

    def send(self, packet: bytes, tos: int = 0) -> None:
        """Into the tunnel, with this TOS or traffic class outside."""
        set_tos(self.wire, self.type.outer, tos)
        self.wire.sendto(packet, (self.remote, 0))

    def datagram(self, port: int, data: bytes, tos: int = 0) -> bytes:
        """A UDP datagram to ``port`` of the inner address at the far end."""
        source, destination = (ip_address(one).packed for one in (self.inner_local, self.inner_remote))
        head = struct.pack(">HHHH", 9, port, 8 + len(data), 0)
        if self.type.inner == 4:  # where 0 says that there is no checksum
            return ipv4.build(source, destination, 17, head + data, tos=tos)
        sum_ = upper_layer(source, destination, 17, head + data)
        return ipv6.build(source, destination, 17, head[:6] + sum_.to_bytes(2) + data, traffic_class=tos)

    def arriving(self, holding: bytes, source: str = "") -> bytes:
        """The next outer packet from the tunnel that has ``holding`` in it, with its header.

        Others come too: the kernel speaks MLD and solicits routers when it likes.
        """
        sender = ip_address(source or self.remote).packed
        at = {4: 12, 6: 8}[self.type.outer]
        return first(self.capture, lambda packet: packet.startswith(sender, at) and holding in packet)
