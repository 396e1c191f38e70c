"""What is kept of advertisements: within bounds, and by nobody's word but the last."""

from __future__ import annotations

from portproxy.tunnel.modes.advertised import Advertised, Routed
from portproxy.tunnel.packet.discovery import Mtu, Option, Preference, RouterAdvertisement
from tests.tunnel.test_isatap_host import behind, ip, prefix

ONE, OTHER = b"one", b"other"
MOST = 16


def say(link: Advertised, *options: Option, by: bytes = ONE, now: float = 0.0) -> None:
    message = RouterAdvertisement(64, False, False, Preference.MEDIUM, 0, 0, 0, options)
    link.hear(by, message, 1480, now)


def net(number: int) -> str:
    return f"2001:db8:{number:x}::/64"


def held(link: Advertised, now: float) -> list[int]:
    """How many prefixes on the link, addresses and routes there are."""
    return [len(link.on_link(now)), len(link.addresses(now)), len(link.routes(now))]


def test_no_more_than_sixteen_of_each() -> None:
    link = Advertised()
    say(link, *(prefix(net(number), 9, 9) for number in range(20)), *(behind(net(n), 9) for n in range(20)))
    assert held(link, 0.0) == [MOST] * 3
    # Those that are there are renewed nonetheless,
    say(link, *(prefix(net(number), 20, 9) for number in range(20)), *(behind(net(n), 20) for n in range(20)))
    assert held(link, 19.0) == [MOST] * 3
    # and have left room when they are over.
    say(link, *(prefix(net(99 + n), 9, 9) for n in range(MOST)), *(behind(net(99), 9),), now=20.0)
    assert held(link, 20.0) == [MOST, MOST, 1]
    assert link.routes(20.0) == [Routed(ip("2001:db8:63::"), 64, ONE)]


def test_what_is_taken_back_takes_no_room() -> None:
    link = Advertised()
    over: list[Option] = [prefix(net(number), 0, 0) for number in range(MOST)]
    over += [behind(net(number), 0) for number in range(MOST)]
    say(link, *over, prefix(net(99)), behind(net(99)))
    assert held(link, 1.0) == [1, 1, 1]


def test_what_two_routers_say_holds_while_one_of_them_is_left() -> None:
    link = Advertised()
    for router in (ONE, OTHER):
        say(link, prefix(net(1)), by=router)
    link.forget(OTHER)
    assert held(link, 1.0) == [1, 1, 0]
    link.forget(ONE)
    assert held(link, 1.0) == [0, 0, 0]


def test_an_mtu_that_cannot_be_is_as_good_as_none() -> None:
    """RFC 4861, 6.3.4: what was said before goes on to hold."""
    link = Advertised()
    say(link, Mtu(1300))
    for wrong in (0, 1279, 1481, 9000, 2**32 - 1):
        say(link, Mtu(wrong))
        assert link.mtu(1480) == 1300
    say(link, Mtu(1400))
    assert link.mtu(1480) == 1400
