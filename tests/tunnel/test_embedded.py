"""IPv4 addresses inside IPv6 addresses, as Python reads them too; what loops, and what is admitted."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.modes.embedded import (
    NOWHERE,
    Here,
    compatible,
    every,
    isatap,
    literal,
    packed,
    public,
    six_to_four,
)


def v6(text: str | int) -> bytes:
    return IPv6Address(text).packed


def v4(*texts: str) -> frozenset[bytes]:
    return frozenset(IPv4Address(text).packed for text in texts)


ADDRESSES = [
    # address, of a 6to4 site, of an ISATAP identifier, of ::/96
    ("2002:9d3c:5b7b:1::1", "157.60.91.123", None, None),
    ("2002::", "0.0.0.0", None, None),
    ("2001:9d3c:5b7b:1::1", None, None, None),
    ("2003:9d3c:5b7b:1::1", None, None, None),
    ("fe80::5efe:10.40.1.29", None, "10.40.1.29", None),
    ("fe80::200:5efe:157.60.91.123", None, "157.60.91.123", None),
    ("fe80::100:5efe:10.40.1.29", None, None, None),
    ("fe80::300:5efe:10.40.1.29", None, None, None),
    ("fe80::5eff:10.40.1.29", None, None, None),
    ("fe80::1:0:5efe:10.40.1.29", None, "10.40.1.29", None),
    ("2002:9d36:1:2:0:5efe:192.168.12.9", "157.54.0.1", "192.168.12.9", None),
    ("::157.60.91.123", None, None, "157.60.91.123"),
    ("::0.0.1.0", None, None, "0.0.1.0"),
    ("::0.0.0.255", None, None, None),
    ("::1", None, None, None),
    ("::", None, None, None),
    ("::255.255.255.255", None, None, "255.255.255.255"),
    ("::1:157.60.91.123", None, None, None),
    ("::ffff:157.60.91.123", None, None, None),
    ("2001:db8::1", None, None, None),
]
EVERY = {
    "2002:9d36:1:2:0:5efe:192.168.12.9": ("157.54.0.1", "192.168.12.9"),
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": ("65.54.227.120", "192.0.2.45"),
    # The client's is 255.255.255.255 less 192.168.12.9, which is 63.87.243.246.
    "2001:0:4136:e378:0:5efe:192.168.12.9": ("65.54.227.120", "63.87.243.246", "192.168.12.9"),
    "2001:1:4136:e378:8000:63bf:3fff:fdd2": (),
    "fe80::200:5efe:157.60.91.123": ("157.60.91.123",),
    "::157.60.91.123": ("157.60.91.123",),
    "2001:db8::1": (),
}
"""Of a 6to4 site or a Teredo server and its client, an ISATAP identifier, ::/96; in this order."""


@pytest.mark.parametrize(("address", "site", "identifier", "low"), ADDRESSES)
def test_what_an_address_holds(
    address: str, site: str | None, identifier: str | None, low: str | None
) -> None:
    found = [read(v6(address)) for read in (six_to_four, isatap, compatible)]
    assert [one and literal(one) for one in found] == [site, identifier, low]


@pytest.mark.parametrize(("address", "holds"), EVERY.items())
def test_every_address_that_an_address_holds(address: str, holds: tuple[str, ...]) -> None:
    assert tuple(map(literal, every(v6(address)))) == holds


bits = st.integers(0, 2**128 - 1)
addresses = st.one_of(
    bits,
    st.builds(lambda rest: 0x2002 << 112 | rest, st.integers(0, 2**112 - 1)),
    st.builds(lambda rest: 0x20010000 << 96 | rest, st.integers(0, 2**96 - 1)),
    bits.map(lambda rest: rest & ~(0xFDFFFFFF << 32) | 0x5EFE << 32),
    st.integers(0, 2**33),
).map(IPv6Address)  # fmt: skip


@given(address=addresses)
def test_6to4_and_teredo_are_read_as_python_reads_them(address: IPv6Address) -> None:
    site = six_to_four(address.packed)
    assert (site and IPv4Address(site)) == address.sixtofour
    if address.teredo:
        assert tuple(map(IPv4Address, every(address.packed)[:2])) == address.teredo
    elif address.sixtofour:
        assert IPv4Address(every(address.packed)[0]) == address.sixtofour


@given(address=addresses)
def test_every_is_what_each_of_them_finds(address: IPv6Address) -> None:
    found = every(address.packed)
    for read in (six_to_four, isatap, compatible):
        assert read(address.packed) in (None, *found)
    teredo = address.teredo or ()
    assert len(found) == len(teredo) + sum(
        read(address.packed) is not None for read in (six_to_four, isatap, compatible)
    )


@given(number=st.integers(0, 2**32 - 1))
def test_text_and_bytes_of_an_ipv4_address(number: int) -> None:
    address = IPv4Address(number)
    assert (packed(str(address)), literal(address.packed)) == (address.packed, str(address))


NOT_PUBLIC = [
    # RFC 3964, 5.3.1 and RFC 6598: the last before, the first in it, the last in it, the first behind.
    (None, "0.0.0.0", "0.255.255.255", "1.0.0.0"),
    ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
    ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
    ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
    ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
    ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
    ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
    ("223.255.255.255", "224.0.0.0", "239.255.255.255", None),
    (None, "240.0.0.0", "255.255.255.255", None),
]


@pytest.mark.parametrize(("before", "first", "last", "behind"), NOT_PUBLIC)
def test_what_is_public(before: str | None, first: str, last: str, behind: str | None) -> None:
    assert not public(packed(first))
    assert not public(packed(last))
    for neighbour in (before, behind):
        assert neighbour is None or public(packed(neighbour))


BLOCKS = [
    *map(IPv4Network, ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16")),
    *map(IPv4Network, ("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4")),
]


@given(number=st.integers(0, 2**32 - 1) | st.sampled_from(BLOCKS).flatmap(
    lambda block: st.integers(int(block[0]), int(block[-1]))
))  # fmt: skip
def test_public_is_what_no_block_covers(number: int) -> None:
    address = IPv4Address(number)
    assert public(address.packed) is not any(address in block for block in BLOCKS)


ADMITTED = [
    # address, where only public ones are, where private ones are too
    ("192.0.2.1", True, True),
    ("10.0.0.1", False, True),
    ("100.64.0.1", False, True),
    ("169.254.0.1", False, True),
    ("172.16.0.1", False, True),
    ("192.168.0.1", False, True),
    ("192.0.2.254", True, True),
    ("192.0.2.255", False, False),  # a broadcast of this host's
    ("10.255.255.255", False, False),
    ("0.0.0.0", False, False),
    ("0.1.2.3", False, False),
    ("127.0.0.1", False, False),
    ("224.0.0.1", False, False),
    ("240.0.0.1", False, False),
    ("255.255.255.255", False, False),
]


@pytest.mark.parametrize(("address", "public_only", "private_too"), ADMITTED)
def test_what_is_admitted_as_another_end(address: str, public_only: bool, private_too: bool) -> None:
    """RFC 3964, 5.3.1; what is no one host's address is none in a lab either."""
    here = Here(broadcasts=v4("192.0.2.255", "10.255.255.255"))
    assert here.admits(packed(address), private=False) is public_only
    assert here.admits(packed(address), private=True) is private_too


HERE = Here(
    addresses=v4("192.0.2.1", "192.168.204.1"),
    own=frozenset(map(v6, ("2001:db8:1::5efe:192.168.204.1", "::192.0.2.1"))),
    sites=frozenset({v6("2002:c000:201::")[:6]}),
)
LOOPS = {
    "6to4": ("2002:c0a8:cc01::1", "2002:c0a8:cc02::1"),
    "6to4, but its own site": ("2002:c0a8:cc01:1::1", "2002:c000:201:1::1"),
    "ISATAP": ("2001:db8:2::5efe:192.168.204.1", "2001:db8:2::5efe:192.168.204.2"),
    "ISATAP, globally unique": ("2001:db8:2::200:5efe:192.0.2.1", "2001:db8:2::200:5efe:192.0.2.2"),
    "ISATAP, but its own address": (
        "2001:db8:1::200:5efe:192.168.204.1",
        "2001:db8:1::5efe:192.168.204.1",
    ),
    "ISATAP within its own site": ("2002:c000:201::5efe:192.168.204.1", "2002:c000:201::5efe:192.168.204.2"),
    "automatic": ("::192.168.204.1", "::192.168.204.2"),
    "automatic, but its own address": ("::192.168.204.1", "::192.0.2.1"),
    # Teredo: the server's address, and the client's, whose bits are inverted.
    "Teredo server": ("2001:0:c000:201:0:0:f7f7:f7f7", "2001:0:c000:202:0:0:f7f7:f7f7"),
    "Teredo client": ("2001:0:808:808:0:0:3fff:fdfe", "2001:0:808:808:0:0:3fff:fdfd"),
}


@pytest.mark.parametrize(("stopped", "passes"), LOOPS.values(), ids=LOOPS)
def test_what_a_tunnel_would_bring_back(stopped: str, passes: str) -> None:
    """RFC 6324, 3.3: every format, whichever tunnel asks."""
    assert HERE.loops(v6(stopped))
    assert not HERE.loops(v6(passes))


@given(address=addresses)
def test_nothing_loops_where_nothing_is_known(address: IPv6Address) -> None:
    assert not NOWHERE.loops(address.packed)
