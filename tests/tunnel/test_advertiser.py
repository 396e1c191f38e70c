"""What a router advertises, and when: by the table, and over days by the virtual clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv6Address
from itertools import pairwise
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.modes.advertised import Advertised
from portproxy.tunnel.modes.advertiser import Advertiser, Prefix
from portproxy.tunnel.packet import discovery, icmpv6, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from portproxy.tunnel.packet.discovery import (
    Mtu,
    NeighbourSolicitation,
    Preference,
    PrefixInformation,
    RouterAdvertisement,
    RouterSolicitation,
    SourceLinkLayerAddress,
)

DAY, MINUTE = 86400.0, 60.0
MTU = 1480
NOTHING = RouterAdvertisement(0, False, False, Preference.MEDIUM, 0, 0, 0)


def ip(text: str) -> bytes:
    return IPv6Address(text).packed


ROUTER, HOST = ip("fe80::1"), ip("fe80::2")
MAC = bytes.fromhex("020000000001")
OLD, NEW, THIRD = ((ip(f"2002:{site}:1::"), 64) for site in ("cb00:7101", "cb00:7102", "cb00:7103"))
SOLICITATION = discovery.build(HOST, ip("ff02::2"), RouterSolicitation())


def advertiser(seed: int = 1, prefixes: tuple[Prefix, ...] = (OLD,), valid: float = 5400) -> Advertiser:
    return Advertiser(prefixes, mtu=MTU, random=Random(seed), valid=valid)


def begun(now: float = 0.0, seed: int = 1, valid: float = 5400) -> Advertiser:
    """One that has sent its first advertisement."""
    one = advertiser(seed, valid=valid)
    assert len(one.begin(ROUTER, MAC, now)) == 1
    return one


def read(packet: bytes) -> RouterAdvertisement:
    """What a host makes of it."""
    header, message = ipv6.parse(packet), discovery.parse(packet)
    assert (header.source, header.destination) == (ROUTER, ip("ff02::1"))
    assert isinstance(message, RouterAdvertisement)
    return message


def prefixes(message: RouterAdvertisement) -> dict[Prefix, tuple[float, float]]:
    """For how long each is valid and preferred; each is for everything a prefix is for."""
    found = [one for one in message.options if isinstance(one, PrefixInformation)]
    assert all(one.on_link and one.autonomous for one in found)
    return {(one.prefix, one.length): (one.valid, one.preferred) for one in found}


def next_one(one: Advertiser) -> tuple[float, RouterAdvertisement]:
    """When the next advertisement is sent, and what it says."""
    when = one.next_deadline()
    assert one.tick(math.nextafter(when, 0.0)) == ()
    (packet,) = one.tick(when)
    return when, read(packet)


# What it says.


def test_an_advertisement() -> None:
    (packet,) = advertiser().begin(ROUTER, MAC, 0.0)
    assert packet[7] == 255
    assert read(packet) == RouterAdvertisement(
        *(64, False, False, Preference.LOW, 1800, 0, 0),
        (SourceLinkLayerAddress(MAC), PrefixInformation(*OLD, True, True, 5400, 2700), Mtu(MTU)),
    )


def test_what_is_advertised_may_be_chosen() -> None:
    one = Advertiser(
        *([OLD, NEW],), mtu=1280, random=Random(1), interval=(3, 4), lifetime=12, valid=60, preferred=40
    )
    (packet,) = one.begin(ROUTER, None, 0.0)
    message = read(packet)
    assert (message.lifetime, message.options[-1]) == (12, Mtu(1280))
    assert prefixes(message) == {OLD: (60, 40), NEW: (60, 40)}
    assert not any(isinstance(option, SourceLinkLayerAddress) for option in message.options)
    assert 3 <= next_one(one)[0] <= 4


def test_without_a_prefix_it_is_no_default_router() -> None:
    (packet,) = advertiser(prefixes=()).begin(ROUTER, MAC, 0.0)
    assert (read(packet).lifetime, prefixes(read(packet))) == (0, {})


def test_from_another_address_after_the_interface_was_away() -> None:
    one = begun()
    assert [next_one(one)[0] for _ in range(2)] == [16, 32]
    other = ip("fe80::3")
    (packet,) = one.begin(other, None, 100.0)
    assert (packet[8:24], packet[24:40]) == (other, ip("ff02::1"))
    # As at first.
    assert [one.next_deadline(), len(one.tick(116.0)), one.next_deadline()] == [116, 1, 132]


# When it says it.


def test_the_first_three_come_soon() -> None:
    one = begun(1000.0)
    times = [1000.0, *(next_one(one)[0] for _ in range(4))]
    assert times[1:3] == [1016, 1032]
    assert all(200 <= later - earlier <= 600 for earlier, later in pairwise(times[2:]))


def test_nothing_is_sent_before_the_interface_is_ready() -> None:
    one = advertiser()
    assert (one.next_deadline(), one.tick(9.0), one.retire(9.0)) == (math.inf, (), ())
    assert not one.solicited(SOLICITATION, 9.0)
    assert one.renumber([NEW], MTU, 9.0) == ()
    assert one.next_deadline() == math.inf
    (packet,) = one.begin(ROUTER, MAC, 10.0)
    assert prefixes(read(packet))[NEW] == (5400, 2700)


def _with(packet: bytes, at: int, octet: int) -> bytes:
    """``packet`` with another octet there, and the checksum that this makes."""
    packet = packet[:at] + bytes((octet,)) + packet[at + 1 :]
    packet = packet[:42] + bytes(2) + packet[44:]
    sum_ = upper_layer(packet[8:24], packet[24:40], icmpv6.PROTOCOL, packet[40:])
    return packet[:42] + sum_.to_bytes(2) + packet[44:]


def solicitation(source: str, *options: discovery.Option) -> bytes:
    return discovery.build(ip(source), ip("ff02::2"), RouterSolicitation(options))


SOLICITED = {
    "link-local": (SOLICITATION, True),
    "with its link-layer address": (solicitation("fe80::2", SourceLinkLayerAddress(MAC)), True),
    "global": (solicitation("2002:cb00:7101:1::2"), True),
    "without an address": (solicitation("::"), True),
    "without an address, but with one": (solicitation("::", SourceLinkLayerAddress(MAC)), False),
    "to the router": (discovery.build(HOST, ROUTER, RouterSolicitation()), True),
    "forwarded": (_with(SOLICITATION, 7, 254), False),
    "another code": (_with(SOLICITATION, 41, 1), False),
    "a wrong checksum": (SOLICITATION[:-1] + b"\1", False),
    "cut short": (SOLICITATION[:-1], False),
    "nothing": (b"", False),
    "too short": (ipv6.build(HOST, ip("ff02::2"), 58, b"\x85\0\0\0\0\0\0", hop_limit=255), False),
    "an option of no length": (_with(solicitation("fe80::2", SourceLinkLayerAddress(MAC)), 49, 0), False),
    "an advertisement": (discovery.build(HOST, ip("ff02::1"), NOTHING), False),
    "for a neighbour": (discovery.build(HOST, ROUTER, NeighbourSolicitation(ROUTER)), False),
    "an echo request": (ipv6.build(HOST, ROUTER, 58, b"\x80\0\0\0\0\0\0\0", hop_limit=255), False),
}


@pytest.mark.parametrize(("packet", "answered"), SOLICITED.values(), ids=SOLICITED)
def test_who_is_answered(packet: bytes, answered: bool) -> None:
    one = begun()
    next_one(one)
    next_one(one)
    due = one.next_deadline()
    assert one.solicited(packet, 100.0) is answered
    if answered:
        when, message = next_one(one)
        assert 100 <= when <= 100.5
        assert prefixes(message) == {OLD: (5400, 2700)}
        assert message.lifetime == 1800
        # The answer is as good as one that nobody asked for.
        assert when + 200 <= one.next_deadline() <= when + 600
    else:
        assert one.next_deadline() == due


def test_solicitations_are_answered_together() -> None:
    one = begun()
    next_one(one)
    for now in (20.0, 20.01, 20.02):
        assert one.solicited(SOLICITATION, now)
    when, _ = next_one(one)
    assert 20.02 <= when <= 20.5
    # The next answer has to wait.
    assert one.solicited(SOLICITATION, when + 0.1)
    later, _ = next_one(one)
    assert when + 3 <= later <= when + 3.5


def test_what_is_due_anyhow_is_the_answer() -> None:
    one = begun()
    assert one.solicited(SOLICITATION, 15.9999)
    assert 15.9999 <= one.next_deadline() <= 16


def test_answers_are_not_all_equally_late() -> None:
    times = set()
    for seed in range(20):
        one = begun(seed=seed)
        one.solicited(SOLICITATION, 10.0)
        times.add(one.next_deadline())
    assert len(times) == 20
    assert max(times) - min(times) > 0.3


@given(st.binary(max_size=200), st.integers(40, 47), st.integers(0, 255))
def test_whatever_arrives_is_survived(noise: bytes, at: int, octet: int) -> None:
    one = begun()
    one.solicited(noise, 1.0)
    one.solicited(_with(SOLICITATION, at, octet) + noise, 1.0)
    one.solicited(ipv6.build(HOST, ROUTER, icmpv6.PROTOCOL, b"\x85\0" + noise, hop_limit=255), 1.0)
    assert len(one.tick(16.0)) == 1


# Other prefixes.


def test_renumbering() -> None:
    one = begun()
    (packet,) = one.renumber([NEW], MTU, 100.0)
    assert prefixes(read(packet)) == {NEW: (5400, 2700), OLD: (5400, 0)}
    assert read(packet).lifetime == 1800
    # Soon a second time and a third, as at first; what is deprecated stays so for no longer.
    for expected in (116.0, 132.0):
        when, message = next_one(one)
        assert (when, prefixes(message)[OLD]) == (expected, (5500 - when, 0))
    when, _ = next_one(one)
    assert when >= 332
    while when < 5500:
        assert one.next_deadline() - when <= 600
        when, message = next_one(one)
        assert (OLD in prefixes(message)) is (when < 5500)
    assert prefixes(message) == {NEW: (5400, 2700)}


def test_what_is_valid_for_longer_lasts_two_hours() -> None:
    one = begun(valid=86400)
    (packet,) = one.renumber([NEW], MTU, 100.0)
    assert prefixes(read(packet)) == {NEW: (86400, 2700), OLD: (7200, 0)}


def test_renumbering_to_the_same_is_nothing() -> None:
    one = begun()
    due = one.next_deadline()
    assert one.renumber([OLD], MTU, 5.0) == ()
    assert one.next_deadline() == due


def test_renumbering_waits_where_something_was_just_sent() -> None:
    one = begun()
    assert one.renumber([NEW], MTU, 1.0) == ()
    when, message = next_one(one)
    assert (when, prefixes(message)) == (3, {NEW: (5400, 2700), OLD: (5398, 0)})


def test_renumbering_back_and_forth() -> None:
    one = begun()
    one.renumber([NEW], MTU, 100.0)
    (packet,) = one.renumber([OLD], MTU, 1100.0)
    assert prefixes(read(packet)) == {OLD: (5400, 2700), NEW: (5400, 0)}
    # From when it was given up for the last time.
    (packet,) = one.renumber([THIRD], MTU, 2100.0)
    assert prefixes(read(packet)) == {THIRD: (5400, 2700), NEW: (4400, 0), OLD: (5400, 0)}
    (packet,) = one.renumber([], MTU, 3100.0)
    assert prefixes(read(packet)) == {NEW: (3400, 0), OLD: (4400, 0), THIRD: (5400, 0)}
    assert read(packet).lifetime == 0


def test_an_address_that_never_stays() -> None:
    """However many prefixes there were, the latest are told of, in a packet that every link takes."""
    one, sites = begun(), [(ip(f"2002:cb00:71{number:02x}:1::"), 64) for number in range(100)]
    for number, prefix in enumerate(sites):
        (packet,) = one.renumber([prefix], MTU, 100.0 + 5 * number)
    assert len(packet) <= 1280
    assert list(prefixes(read(packet))) == [sites[99], *sites[83:99]]


def test_retiring() -> None:
    one = begun()
    one.renumber([NEW], MTU, 100.0)
    packets = one.retire(1100.0)
    assert len(packets) == 3
    for packet in packets:
        assert (read(packet).lifetime, read(packet).preference) == (0, Preference.MEDIUM)
        assert prefixes(read(packet)) == {OLD: (4400, 0), NEW: (5400, 0)}
    assert one.next_deadline() == math.inf
    assert (one.tick(9999.0), one.retire(9999.0), one.renumber([OLD], MTU, 9999.0)) == ((), (), ())
    assert not one.solicited(SOLICITATION, 9999.0)


# Days.


class Sent(NamedTuple):
    """An advertisement, and the solicitations that had been heard since the one before."""

    time: float
    message: RouterAdvertisement
    asked: list[float]


def course(one: Advertiser, asks: list[float], changes: dict[float, Prefix], end: float) -> list[Sent]:
    """What is sent from 0 to ``end`` as somebody asks, and the prefix changes, at these times."""
    sent: list[Sent] = []
    asked: list[float] = []

    def keep(now: float, packets: Sequence[bytes]) -> None:
        for packet in packets:
            sent.append(Sent(now, read(packet), asked.copy()))
            asked.clear()

    keep(0.0, one.begin(ROUTER, MAC, 0.0))
    for event in sorted({*asks, *changes, end}):
        while (due := one.next_deadline()) < event:
            keep(due, one.tick(due))
        if event in changes:
            keep(event, one.renumber([changes[event]], MTU, event))
        if event in asks:
            asked.append(event)
            assert one.solicited(SOLICITATION, event)
    return sent


MOMENTS = st.lists(st.floats(0.0, DAY).map(lambda time: round(time, 3)), max_size=60)


@st.composite
def flurries(draw: st.DrawFn) -> list[float]:
    """Hosts that ask now and then, and many at a time."""
    apart = draw(st.lists(st.floats(0.0, 5.0), max_size=40))
    now, times = draw(st.floats(0.0, DAY)), []
    for pause in apart:
        now += pause
        times.append(now)
    return [time for time in (*draw(MOMENTS), *times) if time < DAY]


@given(st.integers(), flurries())
def test_a_day_of_solicitations(seed: int, solicitations: list[float]) -> None:
    sent = course(advertiser(seed), solicitations, {}, DAY)
    assert sent[0].time == 0
    for number, (before, after) in enumerate(pairwise(sent)):
        gap = after.time - before.time
        assert gap >= 3 - 1e-9
        assert gap <= (16 if number < 2 else 600) + 1e-9
        if after.asked:
            first = max(after.asked[0], before.time + 3)
            assert after.asked[0] <= after.time <= first + 0.5 + 1e-9
        else:
            assert gap >= (16 if number < 2 else 200) - 1e-9


@given(st.integers(), MOMENTS, st.lists(st.floats(10.0, DAY), max_size=8, unique=True))
def test_a_day_of_renumbering(seed: int, solicitations: list[float], times: list[float]) -> None:
    """A host that hears half of it never goes by what it should not, and in the end by what it should."""
    times = sorted(round(time, 3) for time in times)
    changes = {time: (OLD, NEW, THIRD)[number % 3] for number, time in enumerate(times, 1)}
    sent = course(advertiser(seed), solicitations, changes, 2 * DAY)
    assert all(later.time - earlier.time >= 3 - 1e-9 for earlier, later in pairwise(sent))
    for change in changes:
        assert any(change <= one.time <= change + 3 + 1e-9 for one in sent)
    host, loss = Advertised(), Random(seed)
    for one in sent:
        current = [prefix for prefix, (_, preferred) in prefixes(one.message).items() if preferred]
        past = [time for time in times if time <= one.time]
        assert current == [changes[past[-1]] if past else OLD]
        if loss.random() < 0.5:
            host.hear(b"", one.message, MTU, one.time)
            assert [prefix for prefix, deprecated in host.addresses(one.time) if not deprecated] == [
                prefix[:8] for prefix, _ in current
            ]
    assert host.addresses(sent[-1].time) == [(current[0][0][:8], False)]


def test_the_same_seed_is_the_same_course() -> None:
    first, second, other = (course(advertiser(seed), [50.0, 70.0], {}, DAY) for seed in (5, 5, 6))
    assert first == second != other


def test_all_of_the_interval_is_used() -> None:
    """Routers that started together do not stay in step (RFC 4861, 6.2.4)."""
    times = [one.time for one in course(advertiser(), [], {}, 7 * DAY)][2:]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) < 210
    assert max(gaps) > 590
    assert 380 < sum(gaps) / len(gaps) < 420
