"""What carries a tunnel's packets: sockets of the outer protocol."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from portproxy.tunnel.effects import SendWire, Source
from portproxy.tunnel.modes import WireError

IPV6_IN_IPV4 = 41
"""RFC 4213, 3: IPv6 in IPv4, and in IPv6 (RFC 2473)."""
IPV4_IN_IPV6 = 4
"""RFC 2003, and RFC 2473."""

_RECEIVE_BUFFER = 4 << 20
"""Bytes asked for: what arrives while the other side has its turn waits here. The kernel gives what
net.core.rmem_max allows, and root more."""
_PACKET = 65535

# From linux/in.h, linux/in6.h and linux/errqueue.h, which the socket module leaves out.
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_PROBE = 10, 0, 3
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IPV6_MTU_DISCOVER = 23
_ORIGIN_ICMP, _ORIGIN_ICMP6 = 2, 3
_REPORTED = frozenset(
    {
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET, errno.ECONNREFUSED),
        *(errno.EMSGSIZE, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EACCES),
    }
)
"""What the kernel makes of ICMP errors and ICMPv6's."""
_SO_ATTACH_FILTER = 26
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=32xI")
"""From linux/sock_diag.h: what is last, SK_MEMINFO_DROPS, counts packets the socket did not take."""
_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A socket filter (socket(7), SO_ATTACH_FILTER): return 0, take no byte of it."""
_ANCILLARY = socket.CMSG_SPACE(4)
_LIMIT_OPTION = struct.Struct("8B")
"""A destination options header that holds the limit, padded to 8 bytes (RFC 8200, 4.6; RFC 2473, 4.1.1)."""
_ENCAPSULATION_LIMIT, _PADDING = 4, 1
_EXTENDED_ERROR = struct.Struct("=IBBBxII")
"""struct sock_extended_err (ip(7)): errno, origin, type, code, info, data; the offender's address follows."""


class Protocol41Sender:
    """Sends IPv6 in IPv4 from the literal address ``local``, to ``remote`` alone where that is given.

    ``ttl`` is the outer header's. Raises OSError: EPERM without CAP_NET_RAW, EADDRNOTAVAIL where ``local`` is
    nobody's here, ENETUNREACH without a route.
    """

    def __init__(self, local: str, remote: str | None, ttl: int) -> None:
        self._sock = _raw(socket.AF_INET, IPV6_IN_IPV4)
        self._dont_fragment: bool | None = None
        self._connected = remote is not None
        with _closed_on_error(self._sock):
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
                _send(self._sock, packet, socket.IPPROTO_IP, socket.IP_TOS, connected=self._connected)
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
        with _closed_on_error(self._sock):
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            if encaplimit is not None:
                options = _LIMIT_OPTION.pack(0, 0, _ENCAPSULATION_LIMIT, 1, encaplimit, _PADDING, 1, 0)
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
            _only_send(self._sock, local, remote)

    def close(self) -> None:
        self._sock.close()

    def send(self, packets: Sequence[SendWire]) -> list[tuple[SendWire, OSError]]:
        lost = []
        for packet in packets:
            try:
                _send(self._sock, packet, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, connected=True)
            except OSError as error:
                lost.append((packet, error))
        return lost


class _RawReceiver:
    """All that arrives at one literal address with one protocol number, and the ICMP errors about what left
    from there. One for all tunnels of the address: that no other socket takes a packet the kernel would tell
    its sender, and a stranger is to hear nothing (RFC 4213, 3.6)."""

    def __init__(self, sock: socket.socket, local: str) -> None:
        self._sock = sock
        self._missed = 0
        with _closed_on_error(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind((local, 0))

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
                quoted, ancillary, _, about = self._sock.recvmsg(_PACKET, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    _, origin, type_, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
                    if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6):
                        sender = _offender(data[_EXTENDED_ERROR.size :])
                        yield WireError(type_, code, info, sender, quoted, about[0])


class Protocol41Receiver(_RawReceiver):
    """Receives IPv6 in IPv4 at ``local``. Raises OSError as Protocol41Sender does."""

    def __init__(self, local: str) -> None:
        sock = _raw(socket.AF_INET, IPV6_IN_IPV4)
        super().__init__(sock, local)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        self._sender = ("", 0)
        self._source = Source("")

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        packets: list[tuple[bytes, Source]] = []
        recvfrom, known, source = self._sock.recvfrom, self._sender, self._source
        for _ in range(most):
            try:
                packet, sender = recvfrom(_PACKET)
            except OSError as error:
                if _is_last(error, packets):
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


class Protocol4Receiver(_RawReceiver):
    """Receives IPv4 in IPv6 at ``local``. Raises OSError as Protocol41Sender does."""

    def __init__(self, local: str) -> None:
        sock = _raw(socket.AF_INET6, IPV4_IN_IPV6)
        super().__init__(sock, local)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)

    def receive(self, most: int) -> list[tuple[bytes, Source]]:
        packets: list[tuple[bytes, Source]] = []
        for _ in range(most):
            try:
                packet, ancillary, _, sender = self._sock.recvmsg(_PACKET, _ANCILLARY)
            except OSError as error:
                if _is_last(error, packets):
                    break
                continue
            # ipv6(7), raw(7): neither the header nor its extensions come with it.
            traffic_class = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else 0
            packets.append((packet, Source(sender[0], 0, traffic_class)))
        return packets


def _raw(family: socket.AddressFamily, protocol: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)


@contextmanager
def _closed_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except OSError:
        sock.close()
        raise


def _only_send(sock: socket.socket, local: str, remote: str | None) -> None:
    """Bind and connect ``sock``, whose packets are the receiver's. Raises OSError."""
    code = ctypes.create_string_buffer(_NOTHING)
    program = struct.pack("HP", 1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    sock.bind((local, 0))
    if remote:
        sock.connect((remote, 0))


def _is_last(error: OSError, packets: Sequence[object]) -> bool:
    """Whether there are no packets behind ``error``. What ICMP has said comes up before them (raw(7)), and
    is for ``errors`` to tell. Raises ``error`` if it says something else, and ``packets`` is empty."""
    if error.errno != errno.EAGAIN and error.errno not in _REPORTED and not packets:
        raise error
    return error.errno not in _REPORTED


def _send(sock: socket.socket, packet: SendWire, level: int, tos: int, *, connected: bool) -> None:
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
