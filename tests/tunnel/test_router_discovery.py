"""Router discovery and redirects from the wire, where no router is believed: the kernel is to hear nothing of
them, and of other packets all."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, Source
from portproxy.tunnel.modes.automatic import Automatic
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.packet import discovery, icmpv6, ipv6
from portproxy.tunnel.packet.discovery import (
    Message,
    NeighbourAdvertisement,
    NeighbourSolicitation,
    Preference,
    RouterAdvertisement,
    RouterSolicitation,
)
from portproxy.tunnel.reasons import Dropped

PEER = "198.51.100.2"
OWN, FORGED = IPv6Address("fe80::c633:6401").packed, IPv6Address("fe80::bad").packed
TCP, UDP, ESP, AUTHENTICATION = 6, 17, 50, 51
ADVERTISEMENT = RouterAdvertisement(64, False, False, Preference.HIGH, 9000, 0, 0)
ASKS, ADVERTISES, REDIRECTS = 133, 134, 137
ECHO = 128


def arrives(packet: bytes) -> Effect:
    (effect,) = SixInFour(PEER, OWN).from_wire(packet, Source(PEER), 0.0)
    return effect


def passes(packet: bytes) -> bool:
    effect = arrives(packet)
    assert effect in (SendTun(packet), Drop(Dropped.DISCOVERY))
    return effect == SendTun(packet)


def nd(message: Message, to: str = "ff02::1") -> bytes:
    return discovery.build(FORGED, IPv6Address(to).packed, message)


def of(protocol: int, payload: bytes) -> bytes:
    return ipv6.build(FORGED, OWN, protocol, payload)


def message(kind: int) -> bytes:
    """Of that type; whether the rest of it is right the kernel may find out."""
    return bytes((kind,)) + bytes(39)


def extension(following: int, words: int = 0) -> bytes:
    return bytes((following, words)) + bytes(words * 8 + 6)


def fragment(following: int, offset: int = 0, *, more: bool = True) -> bytes:
    return bytes((following, 0)) + (offset << 3 | more).to_bytes(2) + bytes(4)


@pytest.mark.parametrize("to", ["ff02::1", "fe80::c633:6401"])
@pytest.mark.parametrize("forged", [RouterSolicitation(), ADVERTISEMENT])
def test_no_router_is_believed(forged: Message, to: str) -> None:
    assert not passes(nd(forged, to))


@pytest.mark.parametrize(
    "said",
    [NeighbourSolicitation(OWN), NeighbourAdvertisement(True, True, True, FORGED)],
)
def test_neighbours_are_answered(said: Message) -> None:
    """RFC 4213, 3.8."""
    assert passes(nd(said, "fe80::c633:6401"))


@pytest.mark.parametrize("kind", range(256))
def test_of_icmpv6_only_these_are_stopped(kind: int) -> None:
    """Whatever else is wrong with them."""
    stopped = kind in (ASKS, ADVERTISES, REDIRECTS)
    for packet in (
        of(icmpv6.PROTOCOL, bytes((kind,))),
        of(icmpv6.PROTOCOL, message(kind)),
        of(ipv6.DESTINATION_OPTIONS, extension(icmpv6.PROTOCOL) + message(kind)),
    ):
        assert passes(packet) is not stopped


def test_padding_does_not_say_what_a_packet_is() -> None:
    """It ends where its header says."""
    empty = of(icmpv6.PROTOCOL, b"")
    assert arrives(empty + bytes((ECHO,))) == Drop(Dropped.DISCOVERY)


BEFORE: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "hop-by-hop": (ipv6.HOP_BY_HOP, extension),
    "destination": (ipv6.DESTINATION_OPTIONS, lambda following: extension(following, 2)),
    "routing": (ipv6.ROUTING, extension),
    "authentication": (AUTHENTICATION, lambda following: bytes((following, 4)) + bytes(22)),
    "atomic fragment": (ipv6.FRAGMENT, lambda following: fragment(following, more=False)),
    "first fragment": (ipv6.FRAGMENT, fragment),
}


@given(
    st.lists(st.sampled_from([*BEFORE]), min_size=1, max_size=18), st.sampled_from([ADVERTISES, REDIRECTS])
)
def test_headers_before_it_do_not_hide_it(names: list[str], kind: int) -> None:
    def behind(protocol: int, payload: bytes) -> bytes:
        for name in reversed(names):
            number, header = BEFORE[name]
            protocol, payload = number, header(protocol) + payload
        return of(protocol, payload)

    assert not passes(behind(icmpv6.PROTOCOL, message(kind)))
    # Nobody's packet has more than sixteen.
    assert passes(behind(icmpv6.PROTOCOL, message(ECHO))) is (len(names) <= 16)
    assert passes(behind(UDP, message(kind))) is (len(names) <= 16)


@pytest.mark.parametrize(
    "first",
    [
        of(ipv6.FRAGMENT, fragment(icmpv6.PROTOCOL)),
        of(ipv6.FRAGMENT, fragment(ipv6.DESTINATION_OPTIONS) + extension(icmpv6.PROTOCOL)),
        of(ipv6.FRAGMENT, fragment(ipv6.DESTINATION_OPTIONS) + extension(icmpv6.PROTOCOL, 2)[:16]),
        of(ipv6.FRAGMENT, fragment(ipv6.FRAGMENT) + fragment(icmpv6.PROTOCOL)),
        of(ipv6.FRAGMENT, fragment(ipv6.FRAGMENT)),
    ],
)
def test_a_first_fragment_does_not_hide_it_in_the_second(first: bytes) -> None:
    """RFC 7112, 5: it has to hold all headers."""
    assert not passes(first)


@pytest.mark.parametrize(
    "packet",
    [
        of(TCP, message(ADVERTISES)),
        of(UDP, message(ADVERTISES)),
        of(ESP, message(ADVERTISES)),
        of(ipv6.NO_NEXT, b""),
        of(ipv6.NO_NEXT, message(ADVERTISES)),
        of(ipv6.FRAGMENT, fragment(UDP) + bytes(8)),
        of(ipv6.FRAGMENT, fragment(UDP)),
        # Of a later fragment nothing can be told; without the first one it comes to nothing.
        of(ipv6.FRAGMENT, fragment(icmpv6.PROTOCOL, 1) + message(ADVERTISES)),
        of(ipv6.FRAGMENT, fragment(ipv6.DESTINATION_OPTIONS, 1, more=False) + b"\x3a\xff"),
        of(ipv6.ROUTING, extension(ipv6.FRAGMENT) + fragment(icmpv6.PROTOCOL, 1) + message(ADVERTISES)),
    ],
)
def test_ordinary_packets_pass(packet: bytes) -> None:
    assert passes(packet)


@pytest.mark.parametrize("kind", [ASKS, ADVERTISES, REDIRECTS])
@pytest.mark.parametrize(
    "to", ["ff02::1", "ff02::2", "fe80::9d3c:5b7b", "2002:9d3c:5b7b::1", "::157.60.91.123"]
)
@pytest.mark.parametrize("source", ["fe80::836b:d231", "fe80::5efe:131.107.210.49", "::"])
def test_the_automatic_tunnels_carry_no_link_local_address(kind: int, to: str, source: str) -> None:
    """The kernel believes no router and no redirect from another (RFC 4861, 6.1.2 and 8.1)."""
    site = IPv6Address("2002:9d3c:5b7b::1").packed
    packet = ipv6.build(IPv6Address(source).packed, IPv6Address(to).packed, 58, message(kind), hop_limit=255)
    for mode in (
        SixToFour("157.60.91.123", site, mtu=1280),
        SixToFour("157.60.91.123", site, mtu=1280, is_relay=True),
        Automatic("157.60.91.123", mtu=1280),
    ):
        assert mode.from_wire(packet, Source("131.107.210.49"), 0.0) == (Drop(Dropped.INNER_SOURCE),)
