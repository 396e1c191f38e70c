"""``isatap`` routers: whom they answer what, where they send to, and how they stop. And a whole way through
two sites."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.modes.embedded import Here
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.modes.isatap_router import IsatapRouter
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.packet import discovery, ipv6
from portproxy.tunnel.packet.discovery import (
    Mtu,
    Preference,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
)
from portproxy.tunnel.reasons import Dropped
from tests.tunnel.test_isatap_host import FAR, HOST, NET, OTHER, ROUTER, at, checked, inner, ip, link, v4

THERE, GATE = "192.168.141.30", "192.168.39.1"
"""A host and its router in the other site of the paper."""
FAR_NET = "2002:836b:1:2"
ON_LINK = (ip(f"{NET}::"), 64)
NEW, NEWEST = (ip("2001:db8:7:7::"), 64), (ip("2001:db8:8:8::"), 64)
HERE = Here(
    addresses=frozenset({v4(ROUTER), v4("157.54.0.1")}),
    broadcasts=frozenset({v4("192.168.255.255")}),
    own=frozenset({ip(at(ROUTER))}),
    sites=frozenset({ip("2002:9d36:1::")[:6]}),
)


def router(valid: float = 86400) -> IsatapRouter:
    return IsatapRouter(ROUTER, ip(link(ROUTER)), mtu=1480, prefixes=[ON_LINK], valid=valid, here=HERE)


def solicit(source: str = link(HOST), to: str = "ff02::2") -> bytes:
    return discovery.build(ip(source), ip(to), RouterSolicitation())


def ask(mode: IsatapRouter, now: float = 0.0, host: str = HOST) -> Sequence[Effect]:
    return checked(mode, mode.from_wire(solicit(link(host)), Source(host), now))


def told(effect: Effect) -> tuple[str, RouterAdvertisement]:
    """Who is told what."""
    assert isinstance(effect, SendWire)
    message = discovery.parse(effect.data)
    assert isinstance(message, RouterAdvertisement)
    return effect.destination[0], message


def prefixes(message: RouterAdvertisement) -> list[tuple[bytes, float, float]]:
    return [
        (one.prefix, one.valid, one.preferred)
        for one in message.options
        if isinstance(one, PrefixInformation)
    ]


# Answering.


def test_table_4_a_router_advertisement() -> None:
    (sent,) = ask(router())
    assert isinstance(sent, SendWire)
    assert (sent.destination, sent.tos, sent.dont_fragment) == ((HOST, 0), 0, False)
    header = ipv6.parse(sent.data)
    assert (header.source, header.destination) == (ip(link(ROUTER)), ip(link(HOST)))
    assert (header.next_header, header.hop_limit, sent.data[40:42]) == (58, 255, b"\x86\0")
    assert told(sent)[1] == RouterAdvertisement(
        *(64, False, False, Preference.MEDIUM, 1800, 0, 0),
        (PrefixInformation(*ON_LINK, True, True, 86400, 14400), Mtu(1480)),
    )


def test_what_is_advertised_may_be_chosen() -> None:
    mode = IsatapRouter(
        "131.107.0.1",
        ip("fe80::1"),
        mtu=1400,
        prefixes=[NEW, ON_LINK],
        lifetime=90,
        valid=math.inf,
        preferred=60,
    )
    (sent,) = mode.from_wire(solicit(), Source(HOST), 0.0)
    assert isinstance(sent, SendWire)
    assert ipv6.parse(sent.data).source == ip("fe80::200:5efe:131.107.0.1")
    _, message = told(sent)
    assert (message.lifetime, message.options[-1]) == (90, Mtu(1400))
    assert prefixes(message) == [(NEW[0], math.inf, 60), (ON_LINK[0], math.inf, 60)]


ASKED = {
    "all routers": (solicit(), HOST, None),
    "the router": (solicit(to=link(ROUTER)), HOST, None),
    "the router's other form": (solicit(to=f"fe80::200:5efe:{ROUTER}"), HOST, None),
    "the host's other form": (solicit(f"fe80::200:5efe:{HOST}"), HOST, None),
    "another router": (solicit(to=link(GATE)), HOST, Dropped.DISCOVERY),
    "all nodes": (solicit(to="ff02::1"), HOST, Dropped.DISCOVERY),
    "the router, not link-local": (solicit(to=at(ROUTER)), HOST, Dropped.DISCOVERY),
    "in another's name": (solicit(link(OTHER)), HOST, Dropped.SOURCE),
    "from nobody": (solicit("::"), HOST, Dropped.SOURCE),
    "not from link-local": (solicit(at(HOST)), HOST, Dropped.DISCOVERY),
    "from another identifier": (solicit("fe80::1"), HOST, Dropped.SOURCE),
    "from afar": (solicit()[:7] + b"\x40" + solicit()[8:], HOST, Dropped.DISCOVERY),
    "from this host": (solicit(link(ROUTER)), ROUTER, Dropped.SOURCE),
    "from a broadcast address": (solicit(link("192.168.255.255")), "192.168.255.255", Dropped.SOURCE),
    "another router in a host's name": (solicit(link(HOST)), GATE, Dropped.DISCOVERY),
    "another router asks": (solicit(link(GATE)), GATE, None),
    "an advertisement": (
        discovery.build(
            ip(link(GATE)), ip("ff02::2"), RouterAdvertisement(0, False, False, Preference(0), 9, 0, 0)
        ),
        GATE, Dropped.DISCOVERY,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("packet", "outer", "reason"), ASKED.values(), ids=ASKED)
def test_who_is_answered(packet: bytes, outer: str, reason: Dropped | None) -> None:
    mode = router()
    mode.know_routers([GATE], 0.0)
    (effect,) = checked(mode, mode.from_wire(packet, Source(outer), 1.0))
    if reason:
        assert effect == Drop(reason)
        assert mode.retire(2.0) == []
    else:
        assert isinstance(effect, SendWire)
        assert effect.data[24:40] == packet[8:24]
        assert effect.destination == (outer, 0)


def answered(mode: IsatapRouter, now: float, host: str = HOST) -> bool:
    """Whether ``host`` is; who is not is counted."""
    (effect,) = ask(mode, now, host)
    assert isinstance(effect, SendWire) or effect == Drop(Dropped.DISCOVERY)
    return isinstance(effect, SendWire)


def test_a_host_is_answered_as_often_as_it_is_to_ask() -> None:
    """RFC 4861, 6.3.7 and 10. Nobody is sent more because others ask in its name."""
    mode = router()
    assert [answered(mode, 5.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [answered(mode, now) for now in (8.9, 9.0, 9.1, 12.9, 13.0, 13.1)] == [False, True, False] * 2
    assert answered(mode, 13.1, OTHER)
    # What it had left it has after a change too.
    other = router()
    other.succeed(mode, 14.0)
    assert [answered(other, now) for now in (14.0, 17.1, 17.2)] == [False, True, False]
    assert [told(effect)[0] for effect in other.retire(18.0)] == [OTHER, HOST]


def test_forged_solicitations_leave_hosts_their_answers() -> None:
    """However many there are: 500 a second, of as many sources."""
    mode, forged = router(), [f"10.0.{at // 250}.{at % 250 + 1}" for at in range(500)]
    packets = [(solicit(link(one)), Source(one)) for one in forged]
    for number in range(10_000):
        mode.from_wire(*packets[number % 500], number / 500)
        assert number % 2000 or answered(mode, number / 500)


# Changing.


def test_hosts_are_told_when_the_router_stops() -> None:
    mode = router()
    for time, one in ((0.0, HOST), (1.0, OTHER), (2.0, HOST)):
        ask(mode, time, one)
    said = dict(map(told, checked(mode, mode.retire(3.0))))
    assert said.keys() == {HOST, OTHER}
    for message in said.values():
        assert (message.lifetime, prefixes(message)) == (0, [(ON_LINK[0], 7200, 0)])
    # Until whoever drives it ends it, it answers likewise.
    (answer,) = ask(mode, 103.0)
    assert (told(answer)[1].lifetime, prefixes(told(answer)[1])) == (0, [(ON_LINK[0], 7100, 0)])


def test_hosts_that_asked_long_ago_are_not_told() -> None:
    mode = router(valid=3000)
    ask(mode, 0.0)
    ask(mode, 100.0, OTHER)
    assert [told(effect)[0] for effect in mode.retire(3000.0)] == [OTHER]


def test_only_so_many_hosts_are_told() -> None:
    mode = router()
    hosts = [f"10.{number // 250}.0.{number % 250 + 1}" for number in range(1100)]
    for number, one in enumerate((*hosts, hosts[500])):
        ask(mode, float(number), one)
    # Those that asked last.
    last = [*(one for one in hosts[-1024:] if one != hosts[500]), hosts[500]]
    assert [told(effect)[0] for effect in mode.retire(1200.0)] == last


def test_renumbering() -> None:
    """The old prefix is deprecated, and then gone."""
    mode, old, new = router(), inner(FAR, at(OTHER)), inner(FAR, at(OTHER, "2001:db8:7:7"))
    ask(mode)
    assert mode.from_tun(new, 9.0)[0] == Drop(Dropped.INNER_DESTINATION)
    (effect,) = mode.renumber([NEW], 10.0)
    _, message = told(effect)
    assert message.lifetime == 1800
    assert prefixes(message) == [(NEW[0], 86400, 14400), (ON_LINK[0], 7200, 0)]
    # Once more, a while later: what is deprecated stays so for no longer.
    (effect,) = mode.renumber([NEW], 1010.0)
    assert prefixes(told(effect)[1])[1:] == [(ON_LINK[0], 6200, 0)]
    for now, goes in ((1010.0, True), (7209.0, True), (7210.0, False)):
        assert (mode.from_tun(old, now) == (SendWire(old, (OTHER, 0)),)) is goes
        arrives = mode.from_wire(inner(at(OTHER), FAR), Source(OTHER), now)
        assert isinstance(arrives[0], SendTun if goes else Drop)
        assert mode.from_tun(new, now) == (SendWire(new, (OTHER, 0)),)
    assert len(prefixes(told(ask(mode, 7210.0)[0])[1])) == 1
    # And back.
    (effect,) = mode.renumber([ON_LINK], 8000.0)
    assert [one[0] for one in prefixes(told(effect)[1])] == [ON_LINK[0], NEW[0]]


@pytest.mark.parametrize("own", [link(ROUTER), at(ROUTER)])
def test_its_addresses_are_its_own_before_anybody_says_so(own: str) -> None:
    mode = IsatapRouter(ROUTER, ip(at(ROUTER)), mtu=1480, prefixes=[ON_LINK])
    packet = inner(link(HOST), own)
    assert mode.from_wire(packet, Source(HOST), 0.0) == (SendTun(packet),)


def test_what_was_promised_for_less_is_not_valid_for_longer() -> None:
    mode = router(valid=3000)
    ask(mode)
    (effect,) = mode.renumber([NEW], 10.0)
    assert prefixes(told(effect)[1])[1:] == [(ON_LINK[0], 3000, 0)]


def test_another_router_is_believed_from_when_it_is_known() -> None:
    """And no longer than it is one, whatever was thought of its packets before."""
    mode, packet = router(), inner(FAR, at(ROUTER))
    for routers, effect in (([], Drop(Dropped.SOURCE)), ([GATE], SendTun(packet))) * 2:
        mode.know_routers(routers, 1.0)
        assert mode.from_wire(packet, Source(GATE), 1.0) == (effect,)


def test_however_often_it_is_renumbered_an_advertisement_fits() -> None:
    """The prefixes that were left last are those that hosts may not have heard of."""
    mode = router()
    ask(mode)
    for number in range(100):
        (effect,) = mode.renumber([(ip(f"2001:db8:8:{number:x}::"), 64)], float(number))
        assert isinstance(effect, SendWire)
        assert len(effect.data) <= 1280
    listed = [one[0] for one in prefixes(told(effect)[1])]
    assert listed == [ip(f"2001:db8:8:{number:x}::") for number in (99, *range(83, 99))]


def test_another_goes_on_in_its_place() -> None:
    """Whoever changes more than the prefixes makes another router."""
    mode = router()
    ask(mode)
    ask(mode, 1.0, OTHER)
    mode.renumber([NEW], 10.0)
    other = IsatapRouter(ROUTER, ip(link(ROUTER)), mtu=1400, prefixes=[NEWEST], lifetime=90, here=HERE)
    said = dict(map(told, checked(other, other.succeed(mode, 1010.0))))
    assert said.keys() == {HOST, OTHER}
    for message in said.values():
        assert (message.lifetime, message.options[-1]) == (90, Mtu(1400))
        assert prefixes(message) == [(NEWEST[0], 86400, 14400), (ON_LINK[0], 6200, 0), (NEW[0], 7200, 0)]
    for net in (NET, "2001:db8:7:7", "2001:db8:8:8"):
        packet = inner(FAR, at(OTHER, net))
        assert other.from_tun(packet, 1010.0) == (SendWire(packet, (OTHER, 0)),)
    assert len(mode.retire(1010.0)) == 2


# Carrying.

SENT = {
    "a host": (at(HOST), HOST),
    "a host, the other form": (f"{NET}:200:5efe:{HOST}", HOST),
    "link-local": (link(HOST), HOST),
    "by a route": ("2001:db8:5::1", GATE),
    "elsewhere": (FAR, Dropped.INNER_DESTINATION),
    "ISATAP, but not here": (at(HOST, "2002:9d36:1:3"), Dropped.INNER_DESTINATION),
    "no host": (f"{NET}::1", Dropped.INNER_DESTINATION),
    "multicast": ("ff02::1", Dropped.MULTICAST),
    "this host": (f"{NET}:200:5efe:{ROUTER}", Dropped.LOOP),
    "this host's other address": (at("157.54.0.1"), Dropped.LOOP),
    "a broadcast address": (at("192.168.255.255"), Dropped.INNER_DESTINATION),
}


@pytest.mark.parametrize(("to", "outcome"), SENT.values(), ids=SENT)
def test_where_a_packet_is_sent(to: str, outcome: str | Dropped) -> None:
    mode = IsatapRouter(
        ROUTER, ip(link(ROUTER)), mtu=1480, prefixes=[ON_LINK], here=HERE,
        routes=[(ip("2001:db8:5::"), 48, ip(link(GATE)))],
    )  # fmt: skip
    packet = inner(FAR, to)
    effects = checked(mode, mode.from_tun(packet, 0.0))
    if isinstance(outcome, Dropped):
        assert effects[0] == Drop(outcome)
    else:
        assert effects == [SendWire(packet, (outcome, 0))]


RECEIVED = {
    "from a host": (inner(at(HOST), FAR), HOST, None),
    "of another host": (inner(at(OTHER), FAR), HOST, Dropped.SOURCE),
    "from the other site": (inner(FAR, at(ROUTER)), GATE, None),
    "from the other site by a host": (inner(FAR, at(ROUTER)), HOST, Dropped.SOURCE),
    "to a host of this 6to4 site": (inner(at(HOST), "2002:9d36:1:3::1"), HOST, None),
    "to this 6to4 site, and back here": (inner(at(HOST), at(ROUTER, "2002:9d36:1:3")), HOST, Dropped.LOOP),
    "to another 6to4 site": (inner(at(HOST), at(THERE, FAR_NET)), HOST, None),
    "to this host as a 6to4 site": (inner(at(HOST), "2002:c0a8:cc01::1"), HOST, Dropped.LOOP),
    "to this host's ISATAP address": (inner(at(HOST), at(ROUTER)), HOST, None),
    "to its other form": (inner(at(HOST), f"{NET}:200:5efe:{ROUTER}"), HOST, Dropped.LOOP),
    "to this host by ::/96": (inner(at(HOST), "::157.54.0.1"), HOST, Dropped.LOOP),
}


@pytest.mark.parametrize(("packet", "outer", "reason"), RECEIVED.values(), ids=RECEIVED)
def test_what_arrives_is_checked(packet: bytes, outer: str, reason: Dropped | None) -> None:
    mode = router()
    mode.know_routers([GATE], 0.0)
    assert mode.from_wire(packet, Source(outer), 0.0) == ((Drop(reason) if reason else SendTun(packet)),)
    assert (mode.next_deadline(), mode.tick(1.0)) == (math.inf, ())


# The paper's figure 11: two sites, in each an ISATAP router that is a 6to4 router too.


def settled(local: str, gate: str, router: IsatapRouter) -> IsatapHost:
    """A host at ``local`` that has asked the ``router`` at ``gate``."""
    host = IsatapHost(local, ip(link(local)), mtu=1480)
    (asked,) = host.know_routers([gate], 0.0)
    assert isinstance(asked, SendWire)
    (answer,) = router.from_wire(asked.data, Source(local), 0.0)
    assert isinstance(answer, SendWire)
    checked(host, host.from_wire(answer.data, Source(gate), 0.0))
    return host


def test_tables_5_6_and_7() -> None:
    gates, site = frozenset({v4("131.107.0.1"), v4(GATE)}), frozenset({ip("2002:836b:1::")[:6]})
    far_here = Here(addresses=gates, sites=site)
    near = router()
    far = IsatapRouter(GATE, ip(link(GATE)), mtu=1480, prefixes=[(ip(f"{FAR_NET}::"), 64)], here=far_here)
    out = SixToFour("157.54.0.1", ip("2002:9d36:1::1"), mtu=1480, here=HERE)
    back = SixToFour("131.107.0.1", ip("2002:836b:1::1"), mtu=1480, here=far_here)
    here, there = settled(HOST, ROUTER, near), settled(THERE, GATE, far)
    packet = inner(at(HOST), at(THERE, FAR_NET), 1280)
    # Each router takes the packet from one tunnel, and its host's routes give it to the other.
    assert here.from_tun(packet, 1.0) == (SendWire(packet, (ROUTER, 0)),)
    assert near.from_wire(packet, Source(HOST), 1.0) == (SendTun(packet),)
    assert out.from_tun(packet, 1.0) == (SendWire(packet, ("131.107.0.1", 0)),)
    assert back.from_wire(packet, Source("157.54.0.1"), 1.0) == (SendTun(packet),)
    assert far.from_tun(packet, 1.0) == (SendWire(packet, (THERE, 0)),)
    assert there.from_wire(packet, Source(GATE), 1.0) == (SendTun(packet),)


happenings = st.lists(
    st.tuples(
        st.sampled_from(["out", "in", "ask", "renumber", "retire", "time"]),
        st.sampled_from([FAR, at(HOST), at(OTHER), link(OTHER), link(GATE), "::"]),
        st.sampled_from([at(HOST), link(HOST), link(ROUTER), "ff02::1", "ff02::2", FAR, "2002:c0a8:cc01::1"]),
        st.sampled_from([GATE, OTHER, HOST, ROUTER]),
        st.integers(1, 4000),
    ),
    max_size=12,
)


@given(what=happenings)
def test_no_effect_breaks_a_rule(what: list[tuple[str, str, str, str, int]]) -> None:
    mode, now = router(), 0.0
    mode.know_routers([GATE], now)
    for event, source, to, outer, number in what:
        if event == "out":
            checked(mode, mode.from_tun(inner(source, to, 40 + number), now))
        elif event == "in":
            assert (
                len(checked(mode, mode.from_wire(inner(source, to), Source(outer, 0, number % 4), now))) == 1
            )
        elif event == "ask":
            checked(mode, mode.from_wire(solicit(source, to), Source(outer), now))
        elif event == "renumber":
            checked(mode, mode.renumber([NEW, ON_LINK][number % 2 :], now))
        elif event == "retire":
            checked(mode, mode.retire(now))
        else:
            now += number
