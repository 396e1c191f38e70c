"""Tunnels that lead through one another, and what the kernel tells of interfaces, without one."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.routing import Disturbed, Others, _disturbed

GONE = 1 << 30
LO = socket.if_nametoindex("lo")


def test_a_way_that_comes_back() -> None:
    others = Others()
    others.lead(7, LO)
    others.lead(8, 7)
    for through in (8, 7):
        with pytest.raises(OSError, match="removed") as raised:
            others.lead(7, through)
        assert raised.value.errno == errno.ELOOP
    others.lead(7, LO)
    others.lead(9, 8)
    # One that leads into a circle is in none.
    with pytest.raises(OSError, match="lo"):
        others.lead(LO, LO)
    others.lead(8, LO)
    others.forget(LO)
    others.lead(8, LO)


def test_two_cannot_stand_between_the_same_ends() -> None:
    others = Others()
    others.stand(LO, "one")
    others.stand(LO, "one")
    with pytest.raises(OSError, match="lo") as raised:
        others.stand(GONE, "one")
    assert raised.value.errno == errno.EADDRINUSE
    others.forget(LO)
    others.stand(GONE, "one")
    # Its interface is not there.
    others.stand(LO, "one")


def message(kind: int, payload: bytes) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload
    return whole + bytes(-len(whole) % 4)


def about(index: int) -> bytes:
    """Of a link or an address."""
    return struct.pack("=4xI", index) + bytes(8)


def route(index: int) -> bytes:
    return bytes(12) + struct.pack("=HH3sx", 7, 1, b"abc") + struct.pack("=HHI", 8, 4, index)


def test_what_the_kernel_tells() -> None:
    told = (
        message(16, about(3))
        + message(20, about(4))
        + message(21, about(5))
        + message(24, route(6))
        + message(25, route(7))
        + message(25, bytes(12))
    )
    assert _disturbed(told) == {3, 5, 7}
    assert [index in Disturbed(frozenset({3, 7})) for index in (3, 4, 7)] == [True, False, True]
    # 0 where more was told than could be kept.
    assert 4 in Disturbed(frozenset({0}))


@given(st.binary(max_size=200))
def test_what_the_kernel_would_not_tell(told: bytes) -> None:
    assert isinstance(_disturbed(told), set)
