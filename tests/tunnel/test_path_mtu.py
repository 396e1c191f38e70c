"""The MTU of a tunnel that follows its path: what is learned, what is not, and how long it holds."""

from __future__ import annotations

import math

import pytest

from portproxy.tunnel.effects import Drop, SendWire, SetMtu
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.pathmtu import PathMtu
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet import icmpv6
from portproxy.tunnel.reasons import Dropped
from tests.tunnel.test_sixinfour import OWN, PEER, checked, heard, inner, reported


def needed(mtu: int, quoted: bytes = b"") -> WireError:
    """ICMP: fragmentation needed."""
    return heard(3, 4, mtu, "192.0.2.254", quoted)


@pytest.mark.parametrize(
    ("path", "mtu", "dont_fragment"),
    [(1499, 1479, True), (1301, 1281, True), (1300, 1280, True), (1299, 1280, False), (1280, 1280, False),
     (576, 1280, False), (68, 1280, False)],
)  # fmt: skip
def test_with_a_dynamic_mtu_it_follows_the_path(path: int, mtu: int, dont_fragment: bool) -> None:
    """RFC 4213, 3.2.2."""
    mode = SixInFour(PEER, OWN)
    assert mode.from_tun(inner(1480), 0.0) == (SendWire(inner(1480), (PEER, 0), 0, True),)
    assert checked(mode, mode.from_error(needed(path), 1.0)) == [SetMtu(mtu)]
    assert mode.from_tun(inner(mtu), 1.0) == (SendWire(inner(mtu), (PEER, 0), 0, dont_fragment),)
    effects = checked(mode, mode.from_tun(inner(mtu + 1), 1.0))
    assert effects[0] == Drop(Dropped.TOO_BIG)
    reported(effects, icmpv6.PACKET_TOO_BIG, 0, mtu, inner(mtu + 1))


@pytest.mark.parametrize("link", [1280, 1299, 1300, 1500, 9000, 65535, 65536])
def test_the_first_hop_is_where_a_dynamic_mtu_begins(link: int) -> None:
    mode = SixInFour(PEER, OWN, link=link)
    assert mode.mtu == min(max(1280, link - 20), 65515)
    assert mode.from_tun(inner(1280), 0.0) == (SendWire(inner(1280), (PEER, 0), 0, link >= 1300),)


@pytest.mark.parametrize("path", [1, 67, 1400, 1401, 1500, 65535])
def test_a_path_that_cannot_be_so_or_is_no_news_changes_nothing(path: int) -> None:
    mode = SixInFour(PEER, OWN)
    assert mode.from_error(needed(1400), 0.0) == (SetMtu(1380),)
    assert mode.from_error(needed(path), 300.0) == ()
    assert (mode.mtu, mode.next_deadline()) == (1380, 600.0)


def test_a_narrow_path_is_forgotten_after_ten_minutes() -> None:
    mode = SixInFour(PEER, OWN)
    assert mode.next_deadline() == math.inf
    mode.from_error(needed(1290), 100.0)
    assert mode.from_tun(inner(1280), 100.0) == (SendWire(inner(1280), (PEER, 0), 0, False),)
    assert mode.next_deadline() == 700.0
    assert mode.tick(699.99) == ()
    assert mode.mtu == 1280
    assert checked(mode, mode.tick(700.0)) == [SetMtu(1480)]
    assert mode.next_deadline() == math.inf
    assert mode.from_tun(inner(1480), 700.0) == (SendWire(inner(1480), (PEER, 0), 0, True),)


@pytest.mark.parametrize(
    ("first", "steps"),
    [(1500, [1492, 1006, 508, 296, 68]), (65535, [32000, 17914]), (1006, [508]), (1007, [1006])],
)
def test_a_router_that_does_not_say_how_much_it_takes(first: int, steps: list[int]) -> None:
    """RFC 1191, 5 and 7.1: what most paths are as wide as is tried in turn."""
    path = PathMtu(first, 68)
    for step in steps:
        assert path.learn(path.below(), 0.0)
        assert path.mtu == step
    mode = SixInFour(PEER, OWN)
    assert mode.from_error(needed(0), 0.0) == (SetMtu(1472),)
    assert mode.from_error(needed(0), 0.0) == (SetMtu(1280),)


def test_below_the_least_there_is_nothing_to_try() -> None:
    path = PathMtu(68, 68)
    assert not path.learn(path.below(), 0.0)
    assert path.mtu == 68


def test_a_path_that_narrows_further_is_remembered_from_then_on() -> None:
    mode = SixInFour(PEER, OWN)
    mode.from_error(needed(1400), 0.0)
    assert mode.from_error(needed(1350), 599.0) == (SetMtu(1330),)
    assert (mode.next_deadline(), mode.tick(600.0)) == (1199.0, ())
