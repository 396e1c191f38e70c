"""``isatap`` hosts: whom they believe what, where they send to, and what they want configured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Configure, Drop, Effect, SendTun, SendWire, SetMtu, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.embedded import Here, every
from portproxy.tunnel.modes.isatap import Isatap
from portproxy.tunnel.modes.isatap_host import IsatapHost
from portproxy.tunnel.packet import discovery, ipv6
from portproxy.tunnel.packet.discovery import (
    Mtu,
    Option,
    Preference,
    PrefixInformation,
    RouteInformation,
    RouterAdvertisement,
    RouterSolicitation,
)
from portproxy.tunnel.reasons import Dropped
from tests.tunnel.test_automatic_tunnels import rewritten
from tests.tunnel.test_sixinfour import mss_of, syn

HOST, ROUTER, SECOND, OTHER = "192.168.12.9", "192.168.204.1", "192.168.204.2", "192.168.12.10"
NET = "2002:9d36:1:2"
FAR = "2001:db8::1"
LOW, MEDIUM, HIGH = Preference


@cache
def ip(text: str) -> bytes:
    return IPv6Address(text).packed


@cache
def v4(text: str) -> bytes:
    return IPv4Address(text).packed


def link(address: str) -> str:
    return f"fe80::5efe:{address}"


def at(address: str, net: str = NET) -> str:
    return f"{net}:0:5efe:{address}"


def inner(source: str = FAR, to: str = at(HOST), size: int = 48, protocol: int = 17, ecn: int = 0) -> bytes:
    return ipv6.build(ip(source), ip(to), protocol, bytes(size - 40), traffic_class=ecn)


def prefix(
    net: str = f"{NET}::/64",
    valid: float = 86400,
    preferred: float = 14400,
    *,
    on: bool = True,
    auto: bool = True,
) -> PrefixInformation:
    network = IPv6Network(net)
    packed = network.network_address.packed
    return PrefixInformation(packed, network.prefixlen, on, auto, valid, preferred)


def behind(net: str, lifetime: float = 1800, preference: Preference = MEDIUM) -> RouteInformation:
    network = IPv6Network(net)
    return RouteInformation(network.network_address.packed, network.prefixlen, preference, lifetime)


def advert(
    *options: Option, lifetime: int = 1800, preference: Preference = MEDIUM,
    source: str = link(ROUTER), to: str = link(HOST),
) -> bytes:  # fmt: skip
    message = RouterAdvertisement(64, False, False, preference, lifetime, 0, 0, options)
    return discovery.build(ip(source), ip(to), message)


HERE = Here(
    addresses=frozenset({v4(HOST), v4("198.51.100.7")}),
    broadcasts=frozenset({v4("192.168.255.255")}),
    own=frozenset({ip(at(HOST)), ip("2002:c633:6407::1")}),
    sites=frozenset({ip("2002:c633:6407::")[:6]}),
)


def host(*routers: str, mtu: int = 1480, local: str = HOST, clamp_mss: bool = False) -> IsatapHost:
    mode = IsatapHost(local, ip(link(local)), mtu=mtu, here=HERE, clamp_mss=clamp_mss)
    mode.know_routers(routers, 0.0)
    return mode


def hear(mode: IsatapHost, packet: bytes, now: float = 0.0, *, outer: str = ROUTER) -> list[Effect]:
    return checked(mode, mode.from_wire(packet, Source(outer), now))


def settled(*options: Option, routers: Sequence[str] = (ROUTER,)) -> IsatapHost:
    """A host that the first of ``routers`` has told ``options``, or else the usual prefix."""
    mode = host(*routers)
    hear(mode, advert(*(options or (prefix(),))))
    return mode


def checked(mode: Isatap, effects: Sequence[Effect]) -> list[Effect]:
    """``effects``, none of which breaks a rule."""
    for effect in effects:
        if isinstance(effect, SendTun):
            header = ipv6.parse(effect.packet)
            assert len(effect.packet) == ipv6.HEADER + header.payload_length, "not trimmed"
            assert header.source[0] != 0xFF
            assert header.destination[0] != 0xFF
            assert not isinstance(heard(effect.packet), RouterAdvertisement | RouterSolicitation)
        elif isinstance(effect, SendWire):
            far, port = effect.destination
            assert (port, effect.dont_fragment) == (0, False)
            assert len(effect.data) <= mode.mtu
            assert v4(far) not in mode.here.addresses | mode.here.broadcasts
            assert 0 < v4(far)[0] < 224
            assert v4(far)[0] != 127
        elif isinstance(effect, SetMtu):
            assert 1280 <= effect.mtu == mode.mtu
        elif isinstance(effect, Configure):
            for address, length, _ in effect.addresses:
                assert length == 64
                assert mode.here.addresses.intersection(every(address))
            assert len(effect.addresses) <= 16
            assert sorted(set(effect.routes)) == list(effect.routes)
    kinds = [type(effect) for effect in effects]
    assert kinds.count(Drop) + kinds.count(Configure) + kinds.count(SetMtu) <= 2
    return list(effects)


def heard(packet: bytes) -> object:
    """The message of neighbour discovery that ``packet`` is."""
    try:
        return discovery.parse(packet)
    except ValueError:
        return None


def configured(*addresses: tuple[str, bool], routes: Sequence[str] = ()) -> Configure:
    networks = [IPv6Network(route) for route in routes]
    return Configure(
        tuple((ip(address), 64, deprecated) for address, deprecated in addresses),
        tuple((network.network_address.packed, network.prefixlen) for network in networks),
    )


MINE = (at(HOST), False)
USUAL = configured(MINE, routes=("::/0", f"{NET}::/64"))

# Receiving (RFC 5214, 7.3).

CHECKS = {
    "nothing": (Dropped.NOT_IP, (b"", ROUTER), (inner(), ROUTER)),
    "it ends early": (Dropped.TRUNCATED, (inner()[:-1], ROUTER), (inner(), ROUTER)),
    "a compatible source": (
        Dropped.INNER_SOURCE, (inner("::192.0.2.1"), ROUTER), (inner("::1:192.0.2.1"), ROUTER),
    ),
    "a mapped source": (
        Dropped.INNER_SOURCE, (inner("::ffff:192.0.2.1"), ROUTER), (inner("::fffe:192.0.2.1"), ROUTER),
    ),
    "no router of the list": (Dropped.SOURCE, (inner(), OTHER), (inner(), ROUTER)),
    "one beside it": (Dropped.SOURCE, (inner(), "192.168.204.3"), (inner(), SECOND)),
    "embeds another on the link": (Dropped.SOURCE, (inner(at(SECOND)), OTHER), (inner(at(OTHER)), OTHER)),
    "embeds another, link-local": (
        Dropped.SOURCE, (inner(link("192.168.12.11")), OTHER), (inner(link(OTHER)), OTHER),
    ),
    "a prefix that is not on the link": (
        Dropped.SOURCE, (inner(at(OTHER, "2002:9d36:1:3")), OTHER), (inner(at(OTHER)), OTHER),
    ),
    "link-local beyond the first 64 bits": (
        Dropped.SOURCE, (inner(f"fe80:0:0:1:0:5efe:{OTHER}"), OTHER), (inner(link(OTHER)), OTHER),
    ),
    "another identifier": (
        Dropped.SOURCE, (inner(f"fe80::100:5efe:{OTHER}"), OTHER), (inner(f"fe80::200:5efe:{OTHER}"), OTHER),
    ),
    "another form on the link": (
        Dropped.SOURCE, (inner(f"{NET}::5eff:{OTHER}"), OTHER), (inner(f"{NET}:200:5efe:{OTHER}"), OTHER),
    ),
    "to a 6to4 address of this host": (
        Dropped.LOOP, (inner(to="2002:c0a8:0c09::1"), ROUTER), (inner(to="2002:c0a8:0c0a::1"), ROUTER),
    ),
    "to an ISATAP address of this host elsewhere": (
        Dropped.LOOP,
        (inner(to=at(HOST, "2001:db8:9:9")), ROUTER), (inner(to=at(OTHER, "2001:db8:9:9")), ROUTER),
    ),
    "to ::w.x.y.z": (Dropped.LOOP, (inner(to=f"::{HOST}"), ROUTER), (inner(to=f"::{OTHER}"), ROUTER)),
    "to a Teredo client here": (
        Dropped.LOOP,
        (inner(to="2001:0:1117:34fa::3f57:f3f6"), ROUTER), (inner(to="2001:0:1117:34fa::3f57:f3f5"), ROUTER),
    ),
    "to the other address of this host": (
        Dropped.LOOP, (inner(to="::198.51.100.7"), ROUTER), (inner(to="2002:c633:6407::2"), ROUTER),
    ),
    "from a 6to4 address of this host": (
        Dropped.LOOP, (inner("2002:c0a8:0c09::1"), ROUTER), (inner("2002:c0a8:0c0a::1"), ROUTER),
    ),
    "from this very host": (Dropped.LOOP, (inner(at(HOST)), ROUTER), (inner(at(OTHER)), ROUTER)),
    "multicast": (Dropped.INNER_DESTINATION, (inner(to="ff02::fb"), ROUTER), (inner(to=link(HOST)), ROUTER)),
    "multicast to all nodes": (
        Dropped.INNER_DESTINATION, (inner(to="ff02::1"), ROUTER), (inner(to=at(HOST)), ROUTER),
    ),
    "neighbour discovery from afar": (
        Dropped.DISCOVERY,
        (ipv6.build(ip(FAR), ip(link(HOST)), 58, bytes((134, 0)) + bytes(30)), ROUTER),
        (ipv6.build(ip(FAR), ip(link(HOST)), 58, bytes((128, 0)) + bytes(30)), ROUTER),
    ),
    "a chain of headers that never ends": (
        Dropped.DISCOVERY, (inner(protocol=0), ROUTER), (inner(protocol=59), ROUTER),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "stopped", "passes"), CHECKS.values(), ids=CHECKS)
def test_what_arrives_is_checked(
    reason: Dropped, stopped: tuple[bytes, str], passes: tuple[bytes, str]
) -> None:
    mode = settled(routers=(ROUTER, SECOND))
    assert mode.from_wire(stopped[0], Source(stopped[1]), 1.0) == (Drop(reason),)
    assert mode.from_wire(passes[0], Source(passes[1]), 1.0) == (SendTun(passes[0]),)


@pytest.mark.parametrize(
    ("never", "passes"),
    [
        ("0.1.2.3", "1.1.2.3"),
        ("127.0.0.1", "126.0.0.1"),
        ("127.255.255.255", "128.0.0.1"),
        ("224.0.0.1", "223.255.255.254"),
        ("240.0.0.1", "10.0.0.1"),
        ("255.255.255.255", "172.16.0.1"),
        ("192.168.255.255", "192.168.255.254"),
        ("198.51.100.7", "198.51.100.8"),
        (HOST, "100.64.0.1"),
    ],
)
def test_ipv4_addresses_of_no_other_host(never: str, passes: str) -> None:
    """Neither neighbours nor routers have them, and nothing is sent there."""
    mode = host(never, passes)
    (asked,) = [effect for effect in checked(mode, mode.tick(4.0)) if isinstance(effect, SendWire)]
    assert asked.destination == (passes, 0)
    for listed in ((), (never, passes)):
        mode.know_routers(listed, 5.0)
        assert mode.from_wire(inner(link(never)), Source(never), 5.0) == (Drop(Dropped.SOURCE),)
        assert mode.from_wire(inner(link(passes)), Source(passes), 5.0) == (SendTun(inner(link(passes))),)
    (stopped, *_) = mode.from_tun(inner(link(HOST), link(never)), 5.0)
    assert stopped in (Drop(Dropped.INNER_DESTINATION), Drop(Dropped.LOOP))
    (sent,) = mode.from_tun(inner(link(HOST), link(passes)), 5.0)
    assert sent == SendWire(inner(link(HOST), link(passes)), (passes, 0))


def test_congestion_is_told_on() -> None:
    mode = settled()
    assert mode.from_wire(inner(ecn=0), Source(ROUTER, 0, 3), 1.0) == (Drop(Dropped.ECN),)
    assert mode.from_wire(inner(ecn=2), Source(ROUTER, 0, 3), 1.0) == (SendTun(inner(ecn=3)),)
    assert mode.from_tun(inner(at(HOST), FAR, ecn=2), 1.0) == (
        SendWire(inner(at(HOST), FAR, ecn=2), (ROUTER, 0), 2, False),
    )


# Sending.

SENT = {
    "table 2": (link("192.168.41.30"), "192.168.41.30"),
    "link-local, the other form": ("fe80::200:5efe:198.51.100.9", "198.51.100.9"),
    "a neighbour on the link": (at(OTHER), OTHER),
    "a neighbour, the other form": (f"{NET}:200:5efe:{OTHER}", OTHER),
    "not on the link, though ISATAP": (at(OTHER, "2001:db8:9:9"), ROUTER),
    "far": (FAR, ROUTER),
    "by a route": ("2001:db8:5::1", "192.168.204.5"),
    "by the longer route": ("2001:db8:5:1::1", "192.168.204.6"),
    "a router's route beside it": ("2001:db8:5:8000::1", ROUTER),
    "on the link, and none": (f"{NET}::{OTHER}", Dropped.INNER_DESTINATION),
    "link-local, and none": (f"fe80::{OTHER}", Dropped.INNER_DESTINATION),
    "link-local elsewhere": (f"fe80:0:0:1:0:5efe:{OTHER}", Dropped.INNER_DESTINATION),
    "multicast": ("ff02::16", Dropped.MULTICAST),
    "the kernel's solicitation": ("ff02::2", Dropped.MULTICAST),
    "multicast of the world": ("ff0e::1", Dropped.MULTICAST),
    "back to itself": (f"fe80::200:5efe:{HOST}", Dropped.LOOP),
    "another tunnel of this host": ("2002:c0a8:c09::1", Dropped.LOOP),
}


@pytest.mark.parametrize(("to", "outcome"), SENT.values(), ids=SENT)
def test_where_a_packet_is_sent(to: str, outcome: str | Dropped) -> None:
    routes = [
        (ip(net), length, ip(link(via)))
        for net, length, via in (
            ("2001:db8:5::", 48, "192.168.204.5"),
            ("2001:db8:5:1::", 64, "192.168.204.6"),
        )
    ]
    mode = IsatapHost(HOST, ip(link(HOST)), mtu=1480, routes=routes, here=HERE)
    mode.know_routers([ROUTER], 0.0)
    hear(mode, advert(prefix(), behind("2001:db8:5:8000::/49"), behind("2001:db8:5::/48", preference=HIGH)))
    packet = inner(at(HOST), to)
    effects = checked(mode, mode.from_tun(packet, 1.0))
    if isinstance(outcome, Dropped):
        assert effects[0] == Drop(outcome)
        # What cannot be reached is said, but for loops and multicast.
        assert len(effects) == 1 + (outcome is Dropped.INNER_DESTINATION and not to.startswith("ff"))
    else:
        assert effects == [SendWire(packet, (outcome, 0))]


def test_without_a_router_only_the_link_is_reached() -> None:
    mode = host(ROUTER)
    far, near = inner(at(HOST), FAR), inner(link(HOST), link(OTHER))
    dropped, told = checked(mode, mode.from_tun(far, 0.0))
    assert dropped == Drop(Dropped.NO_ROUTER)
    assert isinstance(told, SendTun)
    assert (told.packet[8:24], told.packet[24:40], told.packet[40:42]) == (
        ip(link(HOST)),
        ip(at(HOST)),
        b"\1\0",
    )
    assert mode.from_tun(near, 0.0) == (SendWire(near, (OTHER, 0)),)
    hear(mode, advert(lifetime=60))
    assert mode.from_tun(far, 59.9) == (SendWire(far, (ROUTER, 0)),)
    # Whether or not the end of it has been noticed.
    assert mode.from_tun(far, 60.0)[0] == Drop(Dropped.NO_ROUTER)
    assert mode.next_deadline() <= 60.0


def test_only_ipv6_within_the_mtu_goes_out() -> None:
    mode = settled()
    assert mode.from_tun(b"\x45" + bytes(60), 0.0) == (Drop(Dropped.NOT_IP),)
    assert mode.from_tun(inner()[:39], 0.0) == (Drop(Dropped.NOT_IP),)
    full, over = inner(at(HOST), FAR, 1480), inner(at(HOST), FAR, 1481)
    assert mode.from_tun(full, 0.0) == (SendWire(full, (ROUTER, 0)),)
    dropped, told = checked(mode, mode.from_tun(over, 0.0))
    assert dropped == Drop(Dropped.TOO_BIG)
    assert isinstance(told, SendTun)
    assert told.packet[40:48] == b"\2\0" + told.packet[42:44] + (1480).to_bytes(4)


@pytest.mark.parametrize(("clamp", "left"), [(False, 1440), (True, 1420)])
def test_tcp_segments_are_kept_below_the_mtu_if_asked_for(clamp: bool, left: int) -> None:
    packet = rewritten(syn(1440), ip(link(OTHER)), ip(link(HOST)))
    (given,) = host(clamp_mss=clamp).from_wire(packet, Source(OTHER), 0.0)
    assert isinstance(given, SendTun)
    assert mss_of(given.packet) == left


@pytest.mark.parametrize(
    ("to", "sent_to", "told"), [(FAR, ROUTER, True), (FAR, OTHER, False), (at(OTHER), OTHER, True)]
)
def test_errors_of_the_site_are_told_to_the_inner_source(to: str, sent_to: str, told: bool) -> None:
    """RFC 5214, 7.2; but those about another tunnel's packets."""
    mode, quoted = settled(), inner(at(HOST), to)
    effects = checked(mode, mode.from_error(WireError(3, 1, 0, "", quoted, sent_to), 1.0))
    assert [effect.packet[40:42] for effect in effects if isinstance(effect, SendTun)] == [b"\1\3"] * told
    assert mode.from_error(WireError(3, 1, 0, "", quoted[:39], sent_to), 1.0) == ()


happenings = st.lists(
    st.tuples(
        st.sampled_from(["out", "in", "advert", "error", "time", "routers"]),
        st.sampled_from([FAR, at(HOST), at(OTHER), link(OTHER), link(ROUTER), "::", "ff02::1", f"::{OTHER}"]),
        st.sampled_from([at(HOST), link(HOST), at(OTHER), "ff02::1", "ff02::2", FAR, "2002:c0a8:c09::1"]),
        st.sampled_from([ROUTER, SECOND, OTHER, HOST, "127.0.0.1"]),
        st.sampled_from([0, 60, 100, 1000, 1300, 1450, 4000, 65535]),
    ),
    max_size=12,
)


@given(what=happenings)
def test_no_effect_breaks_a_rule(what: list[tuple[str, str, str, str, int]]) -> None:
    mode, now = host(ROUTER, SECOND), 0.0
    for event, source, to, outer, number in what:
        packet = inner(source, to, 48 + number % 1500)
        if event == "out":
            checked(mode, mode.from_tun(packet, now))
        elif event == "in":
            assert len(checked(mode, mode.from_wire(packet, Source(outer, 0, number % 4), now))) == 1
        elif event == "advert":
            options = (prefix(valid=number * 2, preferred=number), behind("::/0", number, HIGH), Mtu(number))
            hear(mode, advert(*options, lifetime=number, source=link(outer)), now, outer=outer)
        elif event == "error":
            checked(mode, mode.from_error(WireError(3, number % 5, 0, "", packet, outer), now))
        elif event == "routers":
            checked(mode, mode.know_routers([outer, SECOND], now))
        else:
            now += number
            if now >= mode.next_deadline():
                checked(mode, mode.tick(now))
        assert mode.next_deadline() > now
