"""What ``isatap`` hosts ask their routers, which answers they believe, and what they make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv6Address

import pytest

from portproxy.tunnel.effects import Configure, Drop, Effect, SendWire, SetMtu, Source
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.packet import discovery, ipv6
from portproxy.tunnel.packet.discovery import Mtu, Option, Preference, RouterSolicitation
from portproxy.tunnel.reasons import Dropped
from tests.tunnel import test_isatap_host as hosts
from tests.tunnel.test_isatap_host import (
    FAR,
    HIGH,
    HOST,
    LOW,
    MEDIUM,
    MINE,
    NET,
    OTHER,
    ROUTER,
    SECOND,
    USUAL,
    advert,
    at,
    behind,
    checked,
    configured,
    hear,
    host,
    inner,
    ip,
    link,
    prefix,
    settled,
)


def asked(effects: Sequence[Effect]) -> list[str]:
    """Which routers are solicited."""
    return [effect.destination[0] for effect in effects if isinstance(effect, SendWire)]


def course(mode: IsatapHost, until: float, now: float = 0.0) -> list[tuple[float, str]]:
    """Who is solicited when, up to ``until``."""
    times = []
    while (now := mode.next_deadline()) <= until:
        times += [(now, router) for router in asked(checked(mode, mode.tick(now)))]
        assert mode.next_deadline() > now
    return times


def way(mode: IsatapHost, now: float, to: str = FAR) -> str | Dropped:
    """Where a packet to ``to`` goes."""
    (first, *_) = mode.from_tun(inner(at(HOST), to), now)
    if isinstance(first, SendWire):
        return first.destination[0]
    assert isinstance(first, Drop)
    return first.reason


# Asking.


@pytest.mark.parametrize(
    ("local", "source"),
    [
        ("192.168.12.9", "fe80::5efe:192.168.12.9"),
        ("10.0.0.1", "fe80::5efe:10.0.0.1"),
        ("172.31.255.255", "fe80::5efe:172.31.255.255"),
        ("172.32.0.1", "fe80::200:5efe:172.32.0.1"),
        ("157.54.0.1", "fe80::200:5efe:157.54.0.1"),
    ],
)
def test_table_3_a_router_solicitation(local: str, source: str) -> None:
    mode = host(local=local)
    (sent,) = checked(mode, mode.know_routers([ROUTER], 0.0))
    assert isinstance(sent, SendWire)
    header = ipv6.parse(sent.data)
    assert (header.source, header.destination) == (ip(source), ip("ff02::2"))
    assert (header.next_header, header.hop_limit, header.traffic_class, header.flow) == (58, 255, 0, 0)
    assert (sent.data[40:42], len(sent.data)) == (b"\x85\0", 48)
    assert discovery.parse(sent.data) == RouterSolicitation()
    assert (sent.destination, sent.tos, sent.dont_fragment) == ((ROUTER, 0), 0, False)


def test_routers_are_asked_three_times_and_then_seldom() -> None:
    mode = IsatapHost(HOST, ip(link(HOST)), mtu=1480, here=hosts.HERE)
    assert (mode.next_deadline(), mode.tick(0.0)) == (math.inf, ())
    assert asked(mode.know_routers([ROUTER, SECOND, ROUTER], 0.0)) == [ROUTER, SECOND]
    assert asked(mode.know_routers([SECOND, ROUTER], 1.0)) == []
    both = [(time, router) for time in (4.0, 8.0, 128.0, 248.0) for router in (SECOND, ROUTER)]
    assert course(mode, 300.0) == both
    # One that is new is asked as often, and one that is gone no more.
    assert asked(mode.know_routers([ROUTER, OTHER], 300.0)) == [OTHER]
    assert course(mode, 400.0) == [(304.0, OTHER), (308.0, OTHER), (368.0, ROUTER)]


@pytest.mark.parametrize(
    ("options", "lifetime", "after"),
    [
        ((prefix(),), 1800, 900),
        ((prefix(valid=3000, preferred=1000),), 1800, 500),
        ((prefix(valid=600, preferred=600, auto=False),), 1800, 300),
        ((prefix(valid=600, preferred=0, auto=False),), 1800, 300),
        ((prefix(valid=600, preferred=0),), 1800, 900),
        ((behind("2001:db8:5::/48", 700),), 1800, 350),
        ((prefix(),), 60, 120),
        ((prefix(),), 0, 3600),
        ((prefix(valid=math.inf, preferred=math.inf),), 0, 3600),
        ((), 0, 120),
    ],
)
def test_an_answer_is_renewed_before_it_ends(options: Sequence[Option], lifetime: int, after: int) -> None:
    """RFC 5214, 8.3.4: but no sooner than after 120 s."""
    mode = host(ROUTER)
    hear(mode, advert(*options, lifetime=lifetime), 1.0)
    times = [time for time, _ in course(mode, 10_000)]
    assert times[:3] == [1.0 + after, 121.0 + after, 241.0 + after]


# Believing.

BELIEVED = {
    "not of the list": (advert(source=link(OTHER)), OTHER, Dropped.DISCOVERY),
    "of another router": (advert(source=link(SECOND)), ROUTER, Dropped.DISCOVERY),
    "in the name of a router": (advert(source=link(ROUTER)), OTHER, Dropped.SOURCE),
    "from another identifier": (advert(source="fe80::1"), ROUTER, Dropped.DISCOVERY),
    "not from fe80::/64": (advert(source=f"fe80::1:0:5efe:{ROUTER}"), ROUTER, Dropped.DISCOVERY),
    "not link-local": (advert(source=at(ROUTER)), ROUTER, Dropped.DISCOVERY),
    "for somebody else": (advert(to=link(OTHER)), ROUTER, Dropped.DISCOVERY),
    "for all routers": (advert(to="ff02::2"), ROUTER, Dropped.DISCOVERY),
    "not from a neighbour": (advert()[:7] + b"\xfe" + advert()[8:], ROUTER, Dropped.DISCOVERY),
    "with a wrong sum": (advert()[:42] + b"\0\0" + advert()[44:], ROUTER, Dropped.DISCOVERY),
    "cut short": (advert()[:-1], ROUTER, Dropped.TRUNCATED),
    "hidden": (
        ipv6.build(ip(link(ROUTER)), ip(link(HOST)), 60, b"\x3a\0" + bytes(6) + advert()[40:], hop_limit=255),
        ROUTER, Dropped.DISCOVERY,
    ),
    "a solicitation": (
        discovery.build(ip(link(ROUTER)), ip("ff02::2"), RouterSolicitation()),
        ROUTER, Dropped.DISCOVERY,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("packet", "outer", "reason"), BELIEVED.values(), ids=BELIEVED)
def test_an_advertisement_that_is_not_believed(packet: bytes, outer: str, reason: Dropped) -> None:
    """Nothing follows from it, and the kernel does not see it either."""
    mode = host(ROUTER, SECOND)
    assert mode.from_wire(packet, Source(outer), 1.0) == (Drop(reason),)
    assert (way(mode, 1.0), mode.next_deadline()) == (Dropped.NO_ROUTER, 4.0)


@pytest.mark.parametrize("source", [link(ROUTER), f"fe80::200:5efe:{ROUTER}"])
@pytest.mark.parametrize("to", [link(HOST), f"fe80::200:5efe:{HOST}", "ff02::1"])
def test_table_4_an_advertisement_that_is_believed(source: str, to: str) -> None:
    mode = host(ROUTER, SECOND)
    assert hear(mode, advert(prefix(), source=source, to=to)) == [USUAL]
    assert hear(mode, advert(prefix(), source=source, to=to)) == []
    assert way(mode, 1.0) == ROUTER


def test_one_that_goes_on_in_another_s_place_knows_what_that_was_told() -> None:
    """Nothing is asked to be configured anew, and all of it ends in its time."""
    old, new = host(ROUTER), host()
    hear(old, advert(prefix(valid=1000, preferred=500), Mtu(1300), lifetime=600), 10.0)
    new.succeed(old)
    assert new.mtu == 1300
    assert way(new, 20.0) == ROUTER
    assert not [effect for effect in new.know_routers([ROUTER], 20.0) if isinstance(effect, Configure)]
    ends = [(time, len(one.addresses), len(one.routes)) for time, one in kept(new, 5000.0)]
    assert ends == [(510.0, 1, 2), (610.0, 1, 1), (1010.0, 0, 0)]


# What follows: the whole that is wanted, each time that it changes.


def kept(mode: IsatapHost, until: float) -> list[tuple[float, Configure]]:
    """What is wanted when, up to ``until``."""
    wanted = []
    while (now := mode.next_deadline()) <= until:
        wanted += [(now, one) for one in checked(mode, mode.tick(now)) if isinstance(one, Configure)]
    return wanted


NOTHING = configured()
WANTED = {
    "nothing": ((advert(lifetime=0),), None),
    "a default route": ((advert(),), configured(routes=["::/0"])),
    "on the link only": ((advert(prefix(auto=False)),), configured(routes=["::/0", f"{NET}::/64"])),
    "an address only": ((advert(prefix(on=False), lifetime=0),), configured(MINE)),
    "of another length": (
        (advert(prefix(f"{NET[:-2]}::/48"), lifetime=0),), configured(routes=[f"{NET[:-2]}::/48"]),
    ),
    "deprecated": ((advert(prefix(preferred=0, on=False), lifetime=0),), configured((at(HOST), True))),
    "over at once": ((advert(prefix(valid=0, preferred=0), lifetime=0),), None),
    "preferred beyond its validity": ((advert(prefix(valid=9, preferred=10, on=False), lifetime=0),), None),
    "link-local": ((advert(prefix("fe80::/64"), behind("fe80::/64"), lifetime=0),), None),
    "multicast": ((advert(prefix("ff02::/64"), behind("ff00::/8"), lifetime=0),), None),
    "everywhere on the link": ((advert(prefix("::/0"), lifetime=0),), None),
    "a route": ((advert(behind("2001:db8:5::/48"), lifetime=0),), configured(routes=["2001:db8:5::/48"])),
    "half the world": ((advert(prefix("2000::/15"), behind("2000::/3"), lifetime=0),), None),
    "a sixteenth bit": ((advert(behind("2002::/16"), lifetime=0),), configured(routes=["2002::/16"])),
    "a route to everywhere": ((advert(behind("::/0"), lifetime=0),), configured(routes=["::/0"])),
    "no route to everywhere, after all": ((advert(behind("::/0", 0)),), None),
    "taken back": (
        (advert(prefix(), behind("2001:db8:5::/48")),
         advert(prefix(valid=0, preferred=0), behind("2001:db8:5::/48", 0), lifetime=0)),
        configured((at(HOST), True)),
    ),
    "not on the link, it says: no matter": ((advert(prefix()), advert(prefix(on=False, auto=False))), USUAL),
    "two prefixes": (
        (advert(prefix("2001:db8:2::/64"), prefix("2001:db8:1::/64"), lifetime=0),),
        configured(
            (at(HOST, "2001:db8:1:0"), False), (at(HOST, "2001:db8:2:0"), False),
            routes=["2001:db8:1::/64", "2001:db8:2::/64"],
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("packets", "wanted"), WANTED.values(), ids=WANTED)
def test_what_an_advertisement_leads_to(packets: Sequence[bytes], wanted: Configure | None) -> None:
    mode, last = host(ROUTER), None
    for packet in packets:
        for effect in hear(mode, packet):
            last = effect
    assert last == wanted


def test_everything_ends_in_its_time() -> None:
    mode = host(ROUTER)
    assert (host().unanswered, mode.unanswered) == (False, True)
    hear(mode, advert(prefix(valid=1000, preferred=500), behind("2001:db8:5::/48", 700), lifetime=600), 10.0)
    old, everywhere, net, route = (at(HOST), True), "::/0", f"{NET}::/64", "2001:db8:5::/48"
    assert (kept(mode, 509.0), mode.unanswered) == ([], False)
    assert kept(mode, 5000.0) == [
        (510.0, configured(old, routes=[everywhere, route, net])),
        (610.0, configured(old, routes=[route, net])),
        (710.0, configured(old, routes=[net])),
        (1010.0, NOTHING),
    ]
    assert mode.unanswered


@pytest.mark.parametrize(
    ("remaining", "said", "then"),
    [
        # RFC 4862, 5.5.3 (e).
        (86400, 86400, 86400),
        (86400, 7201, 7201),
        (86400, 7200, 7200),
        (86400, 60, 7200),
        (86400, 0, 7200),
        (7201, 60, 7200),
        (7200, 60, 7200),
        (5000, 4000, 5000),
        (5000, 5001, 5001),
        (5000, 0, 5000),
        (math.inf, 1, 7200),
        (5000, math.inf, math.inf),
    ],
)
def test_an_address_lives_two_hours_yet(remaining: float, said: float, then: float) -> None:
    mode = host(ROUTER)
    for lifetime in (remaining, said):
        hear(mode, advert(prefix(valid=lifetime, preferred=lifetime, on=False), lifetime=0), 0.0)
    ends = [time for time, wanted in kept(mode, 1e5) if wanted == NOTHING]
    assert ends == [then] * (then < math.inf)


def test_the_prefix_leaves_the_link_at_once() -> None:
    """RFC 4861, 6.3.4: the two hours are the address's only."""
    mode = settled()
    assert way(mode, 0.0, at(OTHER)) == OTHER
    hear(mode, advert(prefix(valid=0, preferred=0)))
    assert way(mode, 0.0, at(OTHER)) == ROUTER
    assert mode.from_wire(inner(at(OTHER)), Source(OTHER), 0.0) == (Drop(Dropped.SOURCE),)


# Which router.


def two(first: Preference, second: Preference, *options: Option) -> IsatapHost:
    mode = host(ROUTER, SECOND)
    hear(mode, advert(*options, preference=first, lifetime=1000))
    hear(mode, advert(preference=second, source=link(SECOND)), 1.0, outer=SECOND)
    return mode


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        *((MEDIUM, MEDIUM, ROUTER), (MEDIUM, HIGH, SECOND), (LOW, MEDIUM, SECOND), (HIGH, MEDIUM, ROUTER)),
        *((MEDIUM, LOW, ROUTER), (LOW, LOW, ROUTER), (LOW, HIGH, SECOND)),
    ],
)
def test_the_preferred_router_and_then_the_first(first: Preference, second: Preference, chosen: str) -> None:
    mode = two(first, second)
    assert way(mode, 2.0) == chosen
    hear(mode, advert(preference=first, lifetime=1000), 3.0)
    assert way(mode, 3.0) == chosen
    # Each in its time.
    assert [way(mode, now) for now in (1002.9, 1003.0)] == [chosen, SECOND]
    assert [way(mode, now) for now in (1800.9, 1801.0)] == [SECOND, Dropped.NO_ROUTER]


def test_a_route_of_length_0_counts_instead_of_the_header() -> None:
    """RFC 4191, 3.1."""
    assert way(two(HIGH, MEDIUM, behind("::/0", 1800, LOW)), 2.0) == SECOND
    assert way(two(LOW, MEDIUM, behind("::/0", 1800, HIGH)), 2.0) == ROUTER


def test_the_longest_route_and_then_the_preferred() -> None:
    mode = host(ROUTER, SECOND)
    hear(mode, advert(behind("2001:db8:5::/48", 900), behind("2001:db8:6::/48", preference=LOW)))
    other = advert(behind("2001:db8::/32", preference=HIGH), behind("2001:db8:6::/48"), source=link(SECOND))
    hear(mode, other, outer=SECOND)
    assert way(mode, 1.0, "2001:db8:5::1") == ROUTER
    assert way(mode, 1.0, "2001:db8:6::1") == SECOND
    assert way(mode, 1.0, "2001:db8:7::1") == SECOND
    assert way(mode, 1.0, "2001:db9::1") == ROUTER
    assert way(mode, 900.0, "2001:db8:5::1") == SECOND


def test_a_router_that_stops_is_asked_again() -> None:
    mode = two(HIGH, MEDIUM)
    hear(mode, advert(prefix(), lifetime=0), 5.0)
    assert way(mode, 5.0) == SECOND
    assert course(mode, 130.0) == [(125.0, ROUTER)]


def test_with_a_router_that_is_no_more_listed_goes_what_it_alone_has_said() -> None:
    mode = host(ROUTER, SECOND)
    hear(mode, advert(prefix(), prefix("2001:db8:1::/64"), behind("2001:db8:5::/48"), Mtu(1300)))
    hear(mode, advert(prefix(), Mtu(1400), source=link(SECOND)), outer=SECOND)
    wanted, mtu = checked(mode, mode.know_routers([SECOND], 1.0))
    assert (wanted, mtu) == (USUAL, SetMtu(1400))
    assert way(mode, 1.0) == way(mode, 1.0, "2001:db8:5::1") == SECOND
    assert mode.from_wire(inner(), Source(ROUTER), 1.0) == (Drop(Dropped.SOURCE),)
    assert mode.know_routers([SECOND], 2.0) == ()
    assert checked(mode, mode.know_routers([], 3.0)) == [NOTHING, SetMtu(1480)]
    assert (way(mode, 3.0), mode.next_deadline()) == (Dropped.NO_ROUTER, math.inf)


@pytest.mark.parametrize(
    ("said", "mtu"),
    [(1279, 1480), (1280, 1280), (1400, 1400), (1480, 1480), (1481, 1480), (0, 1480), (2**32 - 1, 1480)],
)
def test_routers_may_lower_the_mtu(said: int, mtu: int) -> None:
    """RFC 4861, 6.3.4."""
    mode = host(ROUTER)
    effects = hear(mode, advert(Mtu(said), lifetime=0))
    assert effects == ([SetMtu(mtu)] if mtu < 1480 else [])
    assert hear(mode, advert(lifetime=0)) == []
    assert mode.mtu == mtu
    assert hear(mode, advert(Mtu(1480), lifetime=0)) == ([SetMtu(1480)] if mtu < 1480 else [])


def test_one_advertisement_does_not_fill_the_tables() -> None:
    mode = host(ROUTER)
    nets = [IPv6Address(0x20010DB8 << 96 | number << 64) for number in range(40)]
    (wanted,) = hear(
        mode, advert(*(prefix(f"{net}/64") for net in nets), *(behind(f"{net}/80") for net in nets))
    )
    assert isinstance(wanted, Configure)
    assert (len(wanted.addresses), len(wanted.routes)) == (16, 32)
