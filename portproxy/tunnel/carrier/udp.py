"""UDP: one socket sends and receives, for a NAT on the way knows a tunnel by its address and port."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from portproxy.tunnel.carrier.kernel import Receiving, receive_all, send_all
from portproxy.tunnel.effects import SendWire, Source

# From linux/in.h and linux/in6.h, which the socket module leaves out.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0


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
        return send_all(self._sock, packets, self._level, self._tos, connected=False)

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        return receive_all(self._sock, most)
