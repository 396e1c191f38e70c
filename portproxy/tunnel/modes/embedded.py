"""IPv4 addresses inside IPv6 addresses, packed, as the automatic tunnels see them."""

from __future__ import annotations

from typing import NamedTuple

from portproxy.tunnel.packet import icmpv4

SIX_TO_FOUR = b"\x20\x02"
_TEREDO = b"\x20\x01\x00\x00"
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""RFC 5214, 6.1: the second where the IPv4 address is globally unique; whoever reads it takes both."""
COMPATIBLE = bytes(12)
_LEAST_COMPATIBLE = bytes((0, 0, 1, 0))
"""Below it are :: and ::1, and what no host can be."""

_NOT_PUBLIC = (
    ("0.0.0.0", 8), ("10.0.0.0", 8), ("100.64.0.0", 10), ("127.0.0.0", 8), ("169.254.0.0", 16),
    ("172.16.0.0", 12), ("192.168.0.0", 16), ("224.0.0.0", 3),
)  # fmt: skip
"""What is nobody's in the whole Internet (RFC 3964, 5.3.1; RFC 6598); documentation prefixes pass."""


def packed(text: str) -> bytes:
    """A literal IPv4 address as bytes."""
    return bytes(map(int, text.split(".")))


def literal(address: bytes) -> str:
    """An IPv4 address as text."""
    return ".".join(map(str, address))


def six_to_four(address: bytes) -> bytes | None:
    """The IPv4 address of a site (RFC 3056, 2), None where ``address`` is in none."""
    return address[2:6] if address.startswith(SIX_TO_FOUR) else None


def isatap(address: bytes) -> bytes | None:
    """The IPv4 address of an interface identifier (RFC 5214, 6.1)."""
    return address[12:16] if address[8:12] in _ISATAP else None


def compatible(address: bytes) -> bytes | None:
    """The low 32 bits of ::/96 (RFC 4291, 2.5.5.1)."""
    if address.startswith(COMPATIBLE) and address[12:16] >= _LEAST_COMPATIBLE:
        return address[12:16]
    return None


def every(address: bytes) -> tuple[bytes, ...]:
    """Each IPv4 address that some automatic tunnel would send a packet for ``address`` to (RFC 6324, 1); that
    of a 6to4 site is the first."""
    if address.startswith(_TEREDO):
        client = bytes(octet ^ 0xFF for octet in address[12:16])
        found: tuple[bytes | None, ...] = (address[4:8], client, isatap(address))
    else:
        found = (six_to_four(address), isatap(address), compatible(address))
    return tuple(one for one in found if one)


def _prefix(text: str, length: int) -> tuple[int, int]:
    return int.from_bytes(packed(text)), 0xFFFFFFFF << 32 - length & 0xFFFFFFFF


_PREFIXES = tuple(_prefix(*one) for one in _NOT_PUBLIC)


def public(address: bytes) -> bool:
    """Whether ``address`` may be one host's in the whole Internet."""
    number = int.from_bytes(address)
    return all(number & mask != first for first, mask in _PREFIXES)


class Here(NamedTuple):
    """What a tunnel over IPv4 has to know of this host, all of it packed: its IPv4 ``addresses`` and their
    ``broadcasts``, its ``own`` IPv6 addresses, and as ``sites`` the 6to4 prefixes, 48 bits each, that tunnels
    of this program are for."""

    addresses: frozenset[bytes] = frozenset()
    broadcasts: frozenset[bytes] = frozenset()
    own: frozenset[bytes] = frozenset()
    sites: frozenset[bytes] = frozenset()

    def loops(self, address: bytes) -> bool:
        """Whether some tunnel, of whatever type, would send to this host what is for ``address``, though that
        is none of its own (RFC 6324, 3.3)."""
        if address in self.own:
            return False
        found = every(address)
        if address[:6] in self.sites:
            # That a site of this host's is here is no loop; another tunnel's address in it may be one.
            found = found[1:]
        return any(one in self.addresses for one in found)

    def admits(self, address: bytes, private: bool) -> bool:
        """Whether the IPv4 ``address`` may be that of another end: it is one host's, and public unless
        ``private`` says that it need not be (RFC 3964, 5.3.1)."""
        return address not in self.broadcasts and (icmpv4.single(address) if private else public(address))


NOWHERE = Here()
"""Nothing is known."""
