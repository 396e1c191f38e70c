"""The MTU of a tunnel that follows its path: what is learned, what is not, and how long it holds."""

from __future__ import annotations

import math

import pytest

from portproxy.tunnel.effects import Drop, SendWire, SetMtu
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.fourinsix import LIMIT_OPTION, OVERHEAD, FourInSix
from portproxy.tunnel.modes.pathmtu import PathMtu, below
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet import icmpv6
from portproxy.tunnel.reasons import Dropped
from tests.tunnel import test_fourinsix as four
from tests.tunnel.test_sixinfour import OWN, PEER, checked, heard, inner, reported

WHOLE = inner(1480)[:8]
"""What an old router quotes of the largest packet (RFC 792: 64 bits)."""


def needed(mtu: int, quoted: bytes = WHOLE) -> WireError:
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
        assert path.learn(below(path.mtu), path.mtu, 0.0)
        assert path.mtu == step


@pytest.mark.parametrize("quoted", [8, 500, 1472])
def test_all_that_were_on_their_way_take_one_step(quoted: int) -> None:
    """RFC 1191, 5: below the length of what was lost, however often, and however narrow the path is by then;
    be it that a router quotes no more than 64 bits."""
    mode = SixInFour(PEER, OWN)
    assert mode.from_error(needed(0, inner(1480)[:quoted]), 0.0) == (SetMtu(1472),)
    for _ in range(6):
        assert mode.from_error(needed(0, inner(1480)[:quoted]), 0.0) == ()
    assert mode.from_error(needed(0, inner(1473)[:quoted]), 0.0) == ()
    assert mode.from_error(needed(0, inner(1472)[:quoted]), 0.0) == (SetMtu(1280),)
    assert mode.from_tun(inner(1280), 0.0) == (SendWire(inner(1280), (PEER, 0), 0, False),)


@pytest.mark.parametrize(
    ("mtu", "quoted", "mtu_beside", "quoted_beside"),
    [
        # As much as was lost, or more, would have let it pass (RFC 5927, 7).
        (1400, inner(1380), 1399, inner(1380)),
        (1400, inner(40), 1400, inner(1381)),
        (68, inner(48), 68, inner(49)),
        # A packet of 68 bytes any path takes.
        (0, inner(48), 0, inner(1381)),
        # Of what was lost there is nothing to see, or it was none of this tunnel's.
        (1400, b"", 1400, inner(1480)),
        (0, b"", 0, inner(1480)),
        (1400, inner(1480)[:7], 1400, inner(1480)[:8]),
        (0, inner(1480)[:7], 0, inner(1480)[:8]),
        (1400, b"\x45" + inner(1480)[1:], 1400, inner(1480)),
    ],
)
def test_an_error_that_cannot_be_so_is_not_believed(
    mtu: int, quoted: bytes, mtu_beside: int, quoted_beside: bytes
) -> None:
    mode = SixInFour(PEER, OWN)
    assert mode.from_error(needed(mtu, quoted), 0.0) == ()
    assert mode.next_deadline() == math.inf
    assert mode.from_error(needed(mtu_beside, quoted_beside), 0.0) == (SetMtu(mode.mtu),)
    assert mode.mtu < 1480


def test_below_the_least_there_is_nothing_to_try() -> None:
    path = PathMtu(68, 68)
    assert not path.learn(below(68), 68, 0.0)
    assert path.mtu == 68


def test_a_path_that_narrows_further_is_remembered_from_then_on() -> None:
    mode = SixInFour(PEER, OWN)
    mode.from_error(needed(1400), 0.0)
    assert mode.from_error(needed(1350), 599.0) == (SetMtu(1330),)
    assert (mode.next_deadline(), mode.tick(600.0)) == (1199.0, ())


@pytest.mark.parametrize(
    ("quoted", "quoted_beside"),
    [
        # What 1400 bytes would have let pass (RFC 5927, 7); beside it the same without DF, in fragments.
        (four.inner(1360), four.inner(1361)),
        (four.guarded(1360), four.guarded(1361)),
        (b"", four.inner(1460)),
        (four.inner(1460)[:3], four.inner(1460)[:4]),
        (four.put(four.inner(1460), 0, 0x65), four.inner(1460)),
    ],
)
@pytest.mark.parametrize("option", [0, LIMIT_OPTION])
def test_an_error_about_4in6_that_cannot_be_so_is_not_believed(
    quoted: bytes, quoted_beside: bytes, option: int
) -> None:
    mode = FourInSix(four.PEER, four.OWN, link=1500 + option, overhead=OVERHEAD + option)
    assert mode.from_error(four.too_big(1400 + option, quoted), 0.0) == ()
    assert mode.next_deadline() == math.inf
    assert mode.from_error(four.too_big(1400 + option, quoted_beside), 0.0)[0] == SetMtu(1360)
