"""Configured tunnels look for loops by way of automatic ones (RFC 6324, 3.3), in both directions."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.modes.embedded import NOWHERE, Here
from portproxy.tunnel.modes.sixinfour import SixInFour
from portproxy.tunnel.packet import ipv6
from portproxy.tunnel.reasons import Dropped

PEER = "198.51.100.2"
OWN, OWN_SITE, LINK_LOCAL = "2001:db8:1::1", "2002:c633:6401::1", "fe80::1"
NATIVE = "2001:db8:2::2"
HERE = Here(
    addresses=frozenset(IPv4Address(one).packed for one in ("198.51.100.1", "10.0.0.1")),
    own=frozenset(IPv6Address(one).packed for one in (OWN_SITE, LINK_LOCAL)),
    sites=frozenset({IPv6Address(OWN_SITE).packed[:6]}),
)
LOOP = Drop(Dropped.LOOP)

LOOPING = [
    # An address that leads back to this host, and its neighbour.
    ("2002:a00:1::5", "2002:a00:2::5"),
    ("2001:db8:9::5efe:198.51.100.1", "2001:db8:9::5efe:198.51.100.3"),
    ("2001:db8:9::200:5efe:198.51.100.1", "2001:db8:9::200:5eff:198.51.100.1"),
    ("fe80::5efe:10.0.0.1", "fe80::5efe:10.0.0.2"),
    ("2001:0:c633:6401::1", "2001:0:c633:6403::1"),
    ("2001:0:c000:201::f5ff:fffe", "2001:0:c000:201::f5ff:fffd"),
    # The site is this host's, but what is behind another of its tunnels is not.
    ("2002:c633:6401:1:0:5efe:10.0.0.1", "2002:c633:6401:1:0:5efe:10.0.0.2"),
]


def mode(here: Here = HERE) -> SixInFour:
    return SixInFour(PEER, IPv6Address(OWN).packed, here=here)


def packet(source: str, destination: str) -> bytes:
    return ipv6.build(IPv6Address(source).packed, IPv6Address(destination).packed, 17, bytes(8))


def out(tunnel: SixInFour, source: str, destination: str) -> Effect:
    (effect,) = tunnel.from_tun(packet(source, destination), 0.0)
    assert effect == LOOP or isinstance(effect, SendWire)
    return effect


def back(tunnel: SixInFour, source: str, destination: str) -> Effect:
    (effect,) = tunnel.from_wire(packet(source, destination), Source(PEER), 0.0)
    assert effect == LOOP or isinstance(effect, SendTun)
    return effect


@pytest.mark.parametrize(("looping", "neighbour"), LOOPING)
@pytest.mark.parametrize("way", [out, back])
def test_what_would_come_back_goes_no_further(
    way: Callable[[SixInFour, str, str], Effect], looping: str, neighbour: str
) -> None:
    tunnel = mode()
    for source, destination in ((looping, NATIVE), (NATIVE, looping)):
        assert way(tunnel, source, destination) == LOOP
    for source, destination in ((neighbour, NATIVE), (NATIVE, neighbour)):
        assert way(tunnel, source, destination) != LOOP


def test_compatible_addresses_are_looked_at_too() -> None:
    """As sources none comes in (RFC 4213, 3.6)."""
    for way in (out, back):
        assert way(mode(), NATIVE, "::198.51.100.1") == LOOP
        assert way(mode(), NATIVE, "::198.51.100.3") != LOOP
    assert out(mode(), "::10.0.0.1", NATIVE) == LOOP


@pytest.mark.parametrize("ours", [OWN, OWN_SITE, "2002:c633:6401:1::7"])
def test_this_hosts_own_addresses_and_sites_are_no_loop(ours: str) -> None:
    assert out(mode(), ours, NATIVE) != LOOP
    assert back(mode(), NATIVE, ours) != LOOP


def test_nobody_else_sends_from_an_address_of_this_hosts() -> None:
    for ours in (OWN, OWN_SITE):
        assert back(mode(), ours, NATIVE) == LOOP
    for others in ("2001:db8:1::2", "2002:c633:6401::2", LINK_LOCAL):
        assert back(mode(), others, NATIVE) != LOOP


def test_each_pair_of_addresses_is_judged_by_itself() -> None:
    looping, neighbour = LOOPING[0]
    for way in (out, back):
        tunnel = mode()
        for destination in (neighbour, looping, looping, neighbour, NATIVE, looping, neighbour):
            assert (way(tunnel, NATIVE, destination) == LOOP) is (destination == looping)


def test_what_is_known_of_this_host_may_change_at_any_time() -> None:
    looping, neighbour = LOOPING[0]
    tunnel = mode(NOWHERE)
    moved = HERE._replace(addresses=frozenset({IPv4Address("10.0.0.2").packed}))
    for here, found in ((NOWHERE, ()), (HERE, (looping,)), (moved, (neighbour,)), (NOWHERE, ())):
        tunnel.here = here
        for way in (out, back):
            for destination in (neighbour, looping, neighbour):
                assert (way(tunnel, NATIVE, destination) == LOOP) is (destination in found)
        assert tunnel.here == here._replace(own=here.own | {IPv6Address(OWN).packed})
