"""Sockets that receive packets, and what the kernel says of them and of those that were sent."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from portproxy.tunnel.effects import SendWire, Source
from portproxy.tunnel.modes import WireError

PACKET = 65535
_RECEIVE_BUFFER = 4 << 20
"""Bytes asked for: what arrives while the other side has its turn waits here. The kernel gives no more than
net.core.rmem_max."""

# From linux/in.h, linux/in6.h and linux/errqueue.h, which the socket module leaves out.
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ORIGIN_ICMP, _ORIGIN_ICMP6 = 2, 3
_REPORTED = frozenset(
    {
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET, errno.ECONNREFUSED),
        *(errno.EMSGSIZE, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EACCES),
    }
)
"""What the kernel makes of ICMP errors and ICMPv6's."""
_ANCILLARY = socket.CMSG_SPACE(4)
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=32xI")
"""From linux/sock_diag.h: what is last, SK_MEMINFO_DROPS, counts packets the socket did not take."""
_EXTENDED_ERROR = struct.Struct("=IBBBxII")
"""struct sock_extended_err (ip(7)): errno, origin, type, code, info, data; the offender's address follows."""


class Receiving:
    """``sock``, of IPv4 or IPv6, bound to the literal address ``local`` and to ``port``; it is closed where
    that fails. Raises OSError: EADDRNOTAVAIL where ``local`` is nobody's here, EADDRINUSE."""

    def __init__(self, sock: socket.socket, local: str, port: int = 0) -> None:
        self._sock = sock
        self._missed = 0
        with closed_on_error(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            sock.bind((local, port))

    def close(self) -> None:
        self._sock.close()

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self._sock)

    def missed(self) -> int:
        before, memory = self._missed, self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        (self._missed,) = _MEMINFO.unpack(memory)
        return (self._missed - before) & 0xFFFFFFFF

    def errors(self) -> Iterator[WireError]:
        """What ICMP has said of packets from here (ip(7), ipv6(7): the error queue)."""
        while True:
            try:
                quoted, ancillary, _, about = self._sock.recvmsg(PACKET, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    _, origin, type_, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
                    if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6):
                        sender = _offender(data[_EXTENDED_ERROR.size :])
                        yield WireError(type_, code, info, sender, quoted, about[0])


@contextmanager
def closed_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except OSError:
        sock.close()
        raise


def receive_all(sock: socket.socket, most: int) -> list[tuple[bytes, Source]]:
    """What is there by now, ``most`` packets at the most, with the TOS or traffic class that the socket was
    asked for."""
    packets: list[tuple[bytes, Source]] = []
    for _ in range(most):
        try:
            packet, ancillary, _, sender = sock.recvmsg(PACKET, _ANCILLARY)
        except OSError as error:
            if is_last(error, packets):
                break
            continue
        tos = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else 0
        packets.append((packet, Source(sender[0], sender[1], tos)))
    return packets


def is_last(error: OSError, packets: Sequence[object]) -> bool:
    """Whether there are no packets behind ``error``. What ICMP has said comes up before them (raw(7)), and
    is for ``errors`` to tell. Raises ``error`` if it says something else, and ``packets`` is empty."""
    if error.errno != errno.EAGAIN and error.errno not in _REPORTED and not packets:
        raise error
    return error.errno not in _REPORTED


def send_all(
    sock: socket.socket, packets: Sequence[SendWire], level: int, tos: int, *, connected: bool
) -> list[tuple[SendWire, OSError]]:
    """``send_one`` for each; those that were not sent, and why."""
    lost = []
    for packet in packets:
        try:
            send_one(sock, packet, level, tos, connected=connected)
        except OSError as error:
            lost.append((packet, error))
    return lost


def send_one(sock: socket.socket, packet: SendWire, level: int, tos: int, *, connected: bool) -> None:
    """``tos`` is the option of ``level`` that sets it for one packet. Raises OSError."""
    for last in (False, True):
        try:
            if packet.tos:
                ancillary = (level, tos, struct.pack("=i", packet.tos))
                sock.sendmsg((packet.data,), (ancillary,), 0, packet.destination)
            elif connected:  # the kernel has the route by heart
                sock.send(packet.data)
            else:
                sock.sendto(packet.data, packet.destination)
        except OSError as error:
            # It may be what ICMP has said of an earlier packet, which comes up here once (ip(7), IP_RECVERR).
            if last or error.errno == errno.EAGAIN:
                raise
        else:
            return


def _offender(sockaddr: bytes) -> str:
    family = int.from_bytes(sockaddr[:2], "little") if len(sockaddr) >= 2 else 0
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
    return ""
