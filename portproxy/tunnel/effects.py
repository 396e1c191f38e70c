"""What a mode wants done: values, which whoever drives the mode carries out.

One is made for every packet: a Struct takes a fifth of the time of a tuple with names.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from portproxy.tunnel.reasons import Dropped


class Source(NamedTuple):
    """Where a packet of the wire came from: a literal address, a UDP port or 0, and the outer TOS or
    traffic class."""

    host: str
    port: int = 0
    tos: int = 0


class SendWire(msgspec.Struct, frozen=True, gc=False):
    """Send ``data`` to the literal address and port (0 where the protocol has none) of ``destination``.

    ``tos`` is the outer TOS or traffic class; the outer packet may be fragmented unless ``dont_fragment``.
    """

    data: bytes
    destination: tuple[str, int]
    tos: int = 0
    dont_fragment: bool = False


class SendTun(msgspec.Struct, frozen=True, gc=False):
    """Give ``packet`` to this host's IP layer, which delivers or forwards it."""

    packet: bytes


class SetMtu(msgspec.Struct, frozen=True, gc=False):
    """The tunnel's path has changed: its interface takes packets of up to ``mtu`` bytes."""

    mtu: int


class Configure(msgspec.Struct, frozen=True, gc=False):
    """By what routers have said, the tunnel's interface is to have these beside what it was given, and no
    others: addresses, packed, with the lengths of their prefixes and whether they are deprecated (RFC 4862,
    2); routes into the tunnel, as prefixes, packed, and their lengths."""

    addresses: tuple[tuple[bytes, int, bool], ...]
    routes: tuple[tuple[bytes, int], ...]


class Drop(msgspec.Struct, frozen=True, gc=False):
    """Carry the packet no further, for ``reason``."""

    reason: Dropped


Effect = SendWire | SendTun | SetMtu | Configure | Drop
