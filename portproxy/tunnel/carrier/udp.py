"""UDP: one socket sends and receives, for a NAT on the way knows a tunnel by its address and port."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from portproxy.tunnel.carrier.kernel import PACKET, Receiving, is_last, send_one
from portproxy.tunnel.effects import SendWire, Source

# From linux/in.h and linux/in6.h, which the socket module leaves out.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0
_ANCILLARY = socket.CMSG_SPACE(4)


class UdpCarrier(Receiving):
    """Sends and receives at the literal address ``local`` and ``port``, 0 for one that is free. ``ttl`` is
    the outer header's; what is larger than the path takes is fragmented.

    Raises OSError: EADDRNOTAVAIL where ``local`` is nobody's here, EADDRINUSE.
    """

    def __init__(self, local: str, port: int, ttl: int) -> None:
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        super().__init__(sock, local, port)
        if family == socket.AF_INET:
            self._level, self._tos = socket.IPPROTO_IP, socket.IP_TOS
            options = ((socket.IP_TTL, ttl), (socket.IP_RECVTOS, 1), (_IP_MTU_DISCOVER, _PMTUDISC_DONT))
        else:
            self._level, self._tos = socket.IPPROTO_IPV6, socket.IPV6_TCLASS
            options = (
                (socket.IPV6_UNICAST_HOPS, ttl),
                (socket.IPV6_RECVTCLASS, 1),
                (_IPV6_MTU_DISCOVER, _PMTUDISC_DONT),
            )
        for option, value in options:
            sock.setsockopt(self._level, option, value)

    @property
    def port(self) -> int:
        """Where it receives."""
        return int(self._sock.getsockname()[1])

    def send(self, packets: Sequence[SendWire]) -> list[tuple[SendWire, OSError]]:
        lost = []
        for packet in packets:
            try:
                send_one(self._sock, packet, self._level, self._tos, connected=False)
            except OSError as error:
                lost.append((packet, error))
        return lost

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        packets: list[tuple[bytes, Source]] = []
        for _ in range(most):
            try:
                packet, ancillary, _, sender = self._sock.recvmsg(PACKET, _ANCILLARY)
            except OSError as error:
                if is_last(error, packets):
                    break
                continue
            tos = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else 0
            packets.append((packet, Source(sender[0], sender[1], tos)))
        return packets
