"""What a mode wants done: values, which whoever drives the mode carries out."""

from __future__ import annotations

from typing import NamedTuple

from portproxy.tunnel.reasons import Dropped


class Source(NamedTuple):
    """Where a packet of the wire came from: a literal address, a UDP port or 0, and the outer TOS or
    traffic class."""

    host: str
    port: int = 0
    tos: int = 0


class SendWire(NamedTuple):
    """Send ``data`` to the literal address and port (0 where the protocol has none) of ``destination``.

    ``tos`` is the outer TOS or traffic class; the outer packet may be fragmented unless ``dont_fragment``.
    """

    data: bytes
    destination: tuple[str, int]
    tos: int = 0
    dont_fragment: bool = False


class SendTun(NamedTuple):
    """Give ``packet`` to this host's IP layer, which delivers or forwards it."""

    packet: bytes


class SetMtu(NamedTuple):
    """The tunnel's path has changed: its interface takes packets of up to ``mtu`` bytes."""

    mtu: int


class Drop(NamedTuple):
    """Carry the packet no further, for ``reason``."""

    reason: Dropped


Effect = SendWire | SendTun | SetMtu | Drop
