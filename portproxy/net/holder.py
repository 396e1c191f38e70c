"""Who listens on a port, as far as /proc shows it to us (proc(5), proc_net_tcp)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from portproxy.errors import printable
from portproxy.model import ANY, Family, IPAddress, literal

_LISTEN = "0A"
"""TCP_LISTEN as /proc/net/tcp writes it."""
_NAMED = 3
"""Holders named before "and N more": a server's workers share one socket."""


Place = tuple[str, int, Family]
"""An address, a port and a family that somebody wants to listen on."""


class _Row(NamedTuple):
    """A row of /proc/net/tcp or tcp6 in state LISTEN, but for its port."""

    address: IPAddress
    inode: str


def parse_address(text: str) -> IPAddress:
    """The address in a row: hexadecimal, in 32-bit words of this machine's byte order."""
    words = (text[i : i + 8] for i in range(0, len(text), 8))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return ipaddress.ip_address(packed)


def _rows_by_port(table: str) -> dict[int, list[_Row]]:
    found: dict[int, list[_Row]] = {}
    with contextlib.suppress(OSError), open(f"/proc/net/{table}") as rows:
        next(rows)
        for row in rows:
            columns = row.split()
            if columns[3] == _LISTEN:
                address, port = columns[1].split(":")
                found.setdefault(int(port, 16), []).append(_Row(parse_address(address), columns[9]))
    return found


class Listeners:
    """All that listens on TCP in this network namespace, as it is when this is made.

    Reads every TCP socket's row: with thousands of connections that takes tens of milliseconds.
    """

    def __init__(self) -> None:
        self._tcp = _rows_by_port("tcp")
        self._tcp6 = _rows_by_port("tcp6")

    def in_the_way(self, address: IPAddress, port: int) -> set[str]:
        """The inodes of the listeners that keep ``address`` and ``port`` from being bound.

        A wildcard and any address of its family exclude each other. A socket on ``::`` without IPV6_V6ONLY
        takes IPv4 too, which the table does not show: the other family is suspected where its own is clear.
        """
        tcp, tcp6 = self._tcp.get(port, []), self._tcp6.get(port, [])
        own, other = (tcp, tcp6) if address.version == 4 else (tcp6, tcp)
        if address.is_unspecified:
            blocking = own
        else:
            blocking = [row for row in own if row.address == address or row.address.is_unspecified]
        if not blocking:
            blocking = [row for row in other if _spans_families(row.address) or _spans_families(address)]
        return {row.inode for row in blocking}


def _spans_families(address: IPAddress) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and (
        address.is_unspecified or address.ipv4_mapped is not None
    )


def _process_name(pid: str) -> str:
    """The process as "nginx (pid 123)"; what a process calls itself is untrusted."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
        return f"{printable(comm.read().rstrip())} (pid {pid})"


def _sockets(pid: str) -> set[str]:
    """What the descriptors of a process stand for, as far as they are sockets."""
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        return {os.readlink(descriptor.path) for descriptor in descriptors}


def holders(places: Sequence[Place]) -> list[list[str]]:
    """For each place (a literal address, or ``*``, and a port), the processes whose listening sockets keep it
    from being bound, as "nginx (pid 123)", lowest pid first.

    Empty where it cannot be seen: another user's process, another container, or gone since. Reads every
    process's descriptors, once: blocks for a tenth of a second and more.
    """
    listeners = Listeners()
    wanted: list[set[str]] = []
    for address, port, family in places:
        ip = literal(family.wildcard if address == ANY else address.partition("%")[0])
        wanted.append({f"socket:[{inode}]" for inode in listeners.in_the_way(ip, port)} if ip else set())
    found: list[list[str]] = [[] for _ in places]
    if not any(wanted):
        return found
    for pid in _processes():
        # A process may end, or close a descriptor, while it is looked at; and not all may be looked at.
        with contextlib.suppress(OSError):
            sockets = _sockets(pid)
            for names, theirs in zip(found, wanted, strict=True):
                if sockets & theirs:
                    names.append(_process_name(pid))
    return found


def _processes() -> list[str]:
    with contextlib.suppress(OSError):  # descriptors have run out, as it may be
        return sorted((name for name in os.listdir("/proc") if name.isdecimal()), key=int)
    return []


def who_holds(places: Sequence[Place]) -> list[str]:
    """``holders`` for sentences: "nginx (pid 1), nginx (pid 2)" a place; empty where nobody is seen."""
    sentences = []
    for found in holders(places):
        more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
        sentences.append(", ".join(found[:_NAMED] + more))
    return sentences
