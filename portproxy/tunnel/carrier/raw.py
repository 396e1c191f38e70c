"""Raw sockets: IPv6 in IPv4 and IPv4 in IPv6, with no header between. What arrives at an address one socket
receives for all tunnels there: that no other socket takes a packet the kernel would tell its sender, and a
stranger is to hear nothing (RFC 4213, 3.6)."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from portproxy.tunnel.carrier.kernel import (
    PACKET,
    Receiving,
    closed_on_error,
    is_last,
    receive_all,
    send_all,
    send_one,
)
from portproxy.tunnel.effects import SendWire, Source

IPV6_IN_IPV4 = 41
"""RFC 4213, 3: IPv6 in IPv4, and in IPv6 (RFC 2473)."""
IPV4_IN_IPV6 = 4
"""RFC 2003, and RFC 2473."""

# From linux/in.h, which the socket module leaves out.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_PROBE = 10, 0, 3
_SO_ATTACH_FILTER = 26
_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A socket filter (socket(7), SO_ATTACH_FILTER): return 0, take no byte of it."""
_LIMIT_OPTION = struct.Struct("8B")
"""A destination options header that holds the limit, padded to 8 bytes (RFC 8200, 4.6; RFC 2473, 4.1.1)."""
_ENCAPSULATION_LIMIT, _PADDING = 4, 1


class Protocol41Sender:
    """Sends IPv6 in IPv4 from the literal address ``local``, to ``remote`` alone where that is given.

    ``ttl`` is the outer header's. Raises OSError: EPERM without CAP_NET_RAW, EADDRNOTAVAIL where ``local`` is
    nobody's here, ENETUNREACH without a route.
    """

    def __init__(self, local: str, remote: str | None, ttl: int) -> None:
        self._sock = _raw(socket.AF_INET, IPV6_IN_IPV4)
        self._dont_fragment: bool | None = None
        self._connected = remote is not None
        with closed_on_error(self._sock):
            self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            _only_send(self._sock, local, remote)

    def close(self) -> None:
        self._sock.close()

    def send(self, packets: Sequence[SendWire]) -> list[tuple[SendWire, OSError]]:
        lost = []
        for packet in packets:
            try:
                if packet.dont_fragment is not self._dont_fragment:
                    self._fragment(packet.dont_fragment)
                send_one(self._sock, packet, socket.IPPROTO_IP, socket.IP_TOS, connected=self._connected)
            except OSError as error:
                lost.append((packet, error))
        return lost

    def _fragment(self, dont: bool) -> None:
        # ip(7): PROBE sets DF and leaves the kernel's own notion of the path's MTU out: the mode's holds.
        how = _IP_PMTUDISC_PROBE if dont else _IP_PMTUDISC_DONT
        self._sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, how)
        self._dont_fragment = dont


class Protocol4Sender:
    """Sends IPv4 in IPv6 from the literal address ``local`` to ``remote``; ``ttl`` is the outer hop limit.

    ``encaplimit`` is sent as the tunnel encapsulation limit, if it is one. What is larger than the path takes
    the kernel fragments. Raises OSError as Protocol41Sender does.
    """

    def __init__(self, local: str, remote: str, ttl: int, encaplimit: int | None = None) -> None:
        self._sock = _raw(socket.AF_INET6, IPV4_IN_IPV6)
        with closed_on_error(self._sock):
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            if encaplimit is not None:
                options = _LIMIT_OPTION.pack(0, 0, _ENCAPSULATION_LIMIT, 1, encaplimit, _PADDING, 1, 0)
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
            _only_send(self._sock, local, remote)

    def close(self) -> None:
        self._sock.close()

    def send(self, packets: Sequence[SendWire]) -> list[tuple[SendWire, OSError]]:
        return send_all(self._sock, packets, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, connected=True)


class Protocol41Receiver(Receiving):
    """Receives all IPv6 in IPv4 that arrives at ``local``. Raises OSError as Protocol41Sender does."""

    def __init__(self, local: str) -> None:
        sock = _raw(socket.AF_INET, IPV6_IN_IPV4)
        super().__init__(sock, local)
        self._sender = ("", 0)
        self._source = Source("")

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        packets: list[tuple[bytes, Source]] = []
        recvfrom, known, source = self._sock.recvfrom, self._sender, self._source
        for _ in range(most):
            try:
                packet, sender = recvfrom(PACKET)
            except OSError as error:
                if is_last(error, packets):
                    break
                continue
            if (sender[0], packet[1]) != known:
                # Mostly it is the same peer again: a new one takes as long as to look at the packet.
                known = sender[0], packet[1]
                source = Source(sender[0], 0, packet[1])
            # raw(7): the IP header comes with it, and fragments have been put together.
            packets.append((packet[(packet[0] & 0xF) * 4 :], source))
        self._sender, self._source = known, source
        return packets


class Protocol4Receiver(Receiving):
    """Receives all IPv4 in IPv6 that arrives at ``local``. Raises OSError as Protocol41Sender does."""

    def __init__(self, local: str) -> None:
        sock = _raw(socket.AF_INET6, IPV4_IN_IPV6)
        super().__init__(sock, local)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        # ipv6(7), raw(7): neither the header nor its extensions come with it.
        return receive_all(self._sock, most)


def _raw(family: socket.AddressFamily, protocol: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)


def _only_send(sock: socket.socket, local: str, remote: str | None) -> None:
    """Bind and connect ``sock``, whose packets are the receiver's. Raises OSError."""
    code = ctypes.create_string_buffer(_NOTHING)
    program = struct.pack("HP", 1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    sock.bind((local, 0))
    if remote:
        sock.connect((remote, 0))
