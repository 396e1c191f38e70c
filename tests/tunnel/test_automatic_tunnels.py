"""What tunnels do alike that find the outer addresses in the inner ones: headers, sizes, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import NamedTuple

import pytest

from portproxy.tunnel.effects import Drop, SendTun, SendWire, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.automatic import Embedding
from portproxy.tunnel.modes.embedded import NOWHERE, Here
from portproxy.tunnel.packet import icmpv6, ipv6
from portproxy.tunnel.packet.checksum import upper_layer
from portproxy.tunnel.reasons import Dropped
from tests.tunnel import test_automatic as automatic
from tests.tunnel import test_sixtofour as six_to_four
from tests.tunnel.test_sixinfour import HERE as SYN_FROM
from tests.tunnel.test_sixinfour import mss_of, of_version, syn
from tests.tunnel.test_sixtofour import FAR, LOCAL, NATIVE, RELAY, A, B, inner


class Kind(NamedTuple):
    """A mode, whose packets from ``near`` to ``far`` go to ``outer``; errors come from ``own``."""

    make: Callable[..., Embedding]
    near: str
    far: str
    outer: str
    own: bytes


KINDS = {
    "6to4": Kind(lambda **how: six_to_four.mode("host", **how), A, B, FAR, six_to_four.OWN),
    "6to4 by a relay": Kind(lambda **how: six_to_four.mode("host", **how), A, NATIVE, RELAY, six_to_four.OWN),
    "6to4 relay": Kind(lambda **how: six_to_four.mode("relay", **how), NATIVE, B, FAR, six_to_four.OWN),
    "v4compat": Kind(automatic.mode, f"::{LOCAL}", f"::{FAR}", FAR, IPv6Address(f"::{LOCAL}").packed),
}
each = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def out(kind: Kind, size: int = 60, *, ecn: int = 0) -> bytes:
    return inner(kind.near, kind.far, size, ecn=ecn)


def back(kind: Kind, size: int = 60, *, ecn: int = 0) -> bytes:
    return inner(kind.far, kind.near, size, ecn=ecn)


def reported(effect: object, kind: Kind, told: tuple[int, int, int], about: bytes) -> None:
    """It tells the source of ``about`` a type, a code and a value."""
    assert isinstance(effect, SendTun)
    header, message = ipv6.parse(effect.packet), effect.packet[40:]
    assert (header.source, header.destination, header.next_header) == (kind.own, about[8:24], 58)
    assert upper_layer(header.source, header.destination, 58, message) == 0
    assert (message[0], message[1], int.from_bytes(message[4:8])) == told
    assert message[8:] == about[: 1280 - 48]


@each
@pytest.mark.parametrize("ecn", range(4))
def test_congestion_is_told_and_the_rest_of_the_header_is_left(kind: Kind, ecn: int) -> None:
    """RFC 6040, 4.1 and 4.2; RFC 3056, 3: neither hop limit is touched."""
    mode = kind.make()
    assert mode.from_tun(out(kind, ecn=ecn), 0.0) == (
        SendWire(out(kind, ecn=ecn), (kind.outer, 0), ecn, False),
    )
    assert mode.from_wire(back(kind, ecn=ecn), Source(kind.outer), 0.0) == (SendTun(back(kind, ecn=ecn)),)
    arrives = mode.from_wire(back(kind, ecn=ecn), Source(kind.outer, 0, 0xB8 | 3), 0.0)
    assert arrives == ((SendTun(back(kind, ecn=3)),) if ecn else (Drop(Dropped.ECN),))


@each
def test_what_is_no_packet(kind: Kind) -> None:
    mode, source = kind.make(), Source(kind.outer)
    whole = back(kind, 40)
    for bad in (b"", whole[:39], of_version(whole, 4), of_version(whole, 0)):
        assert mode.from_tun(bad, 0.0) == (Drop(Dropped.NOT_IP),)
        assert mode.from_wire(bad, source, 0.0) == (Drop(Dropped.NOT_IP),)
    assert mode.from_wire(back(kind)[:-1], source, 0.0) == (Drop(Dropped.TRUNCATED),)
    # RFC 4213, 3.6: padding is cut off.
    for padding in (b"", b"\0", bytes(40)):
        assert mode.from_wire(whole + padding, source, 0.0) == (SendTun(whole),)
    assert mode.from_tun(out(kind, 40), 0.0) == (SendWire(out(kind, 40), (kind.outer, 0)),)


@each
def test_the_mtu_is_fixed(kind: Kind) -> None:
    """RFC 3056, 4: and the outer packet may be fragmented."""
    mode, over = kind.make(), out(kind, 1481)
    assert mode.mtu == 1480
    assert mode.from_tun(out(kind, 1480), 0.0) == (SendWire(out(kind, 1480), (kind.outer, 0), 0, False),)
    drop, error = mode.from_tun(over, 0.0)
    assert drop == Drop(Dropped.TOO_BIG)
    reported(error, kind, (icmpv6.PACKET_TOO_BIG, 0, 1480), over)
    # What is larger arrives all the same (RFC 4213, 3.6).
    assert mode.from_wire(back(kind, 4000), Source(kind.outer), 0.0) == (SendTun(back(kind, 4000)),)
    assert mode.from_error(WireError(3, 4, 1300, "192.0.2.254", out(kind), kind.outer), 0.0) == ()
    assert (mode.mtu, mode.next_deadline(), mode.tick(1e9)) == (1480, math.inf, ())


@each
@pytest.mark.parametrize(("type_", "code"), [(3, 0), (3, 1), (3, 2), (3, 13), (11, 0), (11, 1)])
@pytest.mark.parametrize("size", [40, 60, 2000])
def test_errors_of_the_outer_network_are_told(kind: Kind, type_: int, code: int, size: int) -> None:
    """RFC 4213, 3.4."""
    about = out(kind, size)
    (error,) = kind.make().from_error(WireError(type_, code, 0, "192.0.2.254", about, kind.outer), 0.0)
    reported(error, kind, (icmpv6.DESTINATION_UNREACHABLE, icmpv6.Unreachable.ADDRESS, 0), about)


@each
@pytest.mark.parametrize("size", [*range(40), 8])
def test_a_quote_may_be_short(kind: Kind, size: int) -> None:
    error = WireError(3, 1, 0, "192.0.2.254", out(kind)[:size], kind.outer)
    assert kind.make().from_error(error, 0.0) == ()


@each
def test_errors_about_what_was_never_sent_are_nobodys(kind: Kind) -> None:
    mode = kind.make()
    for quoted, destination, type_ in (
        (out(kind), "192.0.2.77", 3),  # it went elsewhere
        (out(kind), "", 3),
        (back(kind), kind.outer, 3),  # it is from there
        (inner("2001:db8:9::1", "2001:db8:9::2"), kind.outer, 3),
        (of_version(out(kind), 4), kind.outer, 3),
        (out(kind), kind.outer, 4),  # source quench
        (out(kind), kind.outer, 5),  # redirect
        (out(kind), kind.outer, 12),
    ):
        assert mode.from_error(WireError(type_, 0, 0, "192.0.2.254", quoted, destination), 0.0) == ()


@each
def test_who_asks_for_what_no_tunnel_leads_to_is_told_so(kind: Kind) -> None:
    """As long as it may be asking: not who has a false source."""
    mode, nowhere = kind.make(), inner(kind.near, six_to_four.site("10.0.0.1"))
    drop, error = mode.from_tun(nowhere, 0.0)
    assert drop == Drop(Dropped.INNER_DESTINATION)
    reported(error, kind, (icmpv6.DESTINATION_UNREACHABLE, icmpv6.Unreachable.NO_ROUTE, 0), nowhere)
    false = inner(six_to_four.C, six_to_four.site("10.0.0.1"))
    assert mode.from_tun(false, 0.0) == (Drop(Dropped.INNER_SOURCE),)
    assert mode.from_tun(inner(kind.near, "ff02::2"), 0.0) == (Drop(Dropped.MULTICAST),)


def test_no_relay_is_told_too() -> None:
    kind = KINDS["6to4 by a relay"]
    drop, error = kind.make(relay=None).from_tun(out(kind), 0.0)
    assert drop == Drop(Dropped.NO_ROUTER)
    reported(error, kind, (icmpv6.DESTINATION_UNREACHABLE, icmpv6.Unreachable.NO_ROUTE, 0), out(kind))


@each
def test_errors_are_sent_at_a_limited_rate(kind: Kind) -> None:
    """RFC 4443, 2.4 (f)."""
    mode, over = kind.make(), out(kind, 1481)
    nowhere = inner(kind.near, six_to_four.site("10.0.0.1"))
    unreachable = WireError(3, 1, 0, "192.0.2.254", out(kind), kind.outer)
    for _ in range(20):
        assert len(mode.from_tun(over, 5.0)) == 2
        assert len(mode.from_tun(nowhere, 5.0)) == 2
    assert [len(mode.from_error(unreachable, 5.0)) for _ in range(11)] == [1] * 10 + [0]
    assert mode.from_tun(over, 5.0) == (Drop(Dropped.TOO_BIG),)
    assert mode.from_tun(nowhere, 5.0) == (Drop(Dropped.INNER_DESTINATION),)
    assert len(mode.from_tun(nowhere, 5.015)) == 2


@each
@pytest.mark.parametrize("clamp", [True, False])
def test_tcp_segments_are_kept_below_the_mtu_if_asked_for(kind: Kind, clamp: bool) -> None:
    mode, ends = kind.make(clamp_mss=clamp), [IPv6Address(one).packed for one in (kind.near, kind.far)]
    (sent,) = mode.from_tun(rewritten(syn(1440), *ends), 0.0)
    (given,) = mode.from_wire(rewritten(syn(1440), *reversed(ends)), Source(kind.outer), 0.0)
    assert isinstance(sent, SendWire)
    assert isinstance(given, SendTun)
    assert mss_of(sent.data) == mss_of(given.packet) == (1420 if clamp else 1440)


def rewritten(packet: bytes, source: bytes, destination: bytes) -> bytes:
    """A TCP segment with other addresses, and its checksum."""
    assert packet[8:24] == SYN_FROM
    segment = packet[40:56] + bytes(2) + packet[58:]
    sum_ = upper_layer(source, destination, 6, segment)
    return ipv6.build(source, destination, 6, segment[:16] + sum_.to_bytes(2) + segment[18:])


@each
def test_a_flood_of_addresses_is_not_remembered_for_ever(kind: Kind) -> None:
    mode = kind.make()
    for number in range(3000):
        forged = inner(f"2001:db8:9::{number:x}", kind.near)
        mode.from_wire(forged, Source(f"192.0.2.{number % 200 + 20}"), 0.0)
        mode.from_tun(forged, 0.0)
    assert mode._verdict.cache_info().currsize <= 1024
    assert mode._way.cache_info().currsize <= 1024
    assert mode.from_wire(back(kind), Source(kind.outer), 0.0) == (SendTun(back(kind)),)
    assert mode.from_tun(out(kind), 0.0) == (SendWire(out(kind), (kind.outer, 0)),)


@each
def test_this_end_is_here_whatever_else_is_known(kind: Kind) -> None:
    mode = kind.make()
    for here in (NOWHERE, Here(addresses=six_to_four.v4("192.0.2.77"))):
        mode.here = here
        assert mode.from_tun(out(kind), 0.0) == (SendWire(out(kind), (kind.outer, 0)),)
        assert mode.from_wire(back(kind), Source(kind.outer), 0.0) == (SendTun(back(kind)),)
        assert mode.from_wire(back(kind), Source(LOCAL), 0.0) == (Drop(Dropped.SOURCE),)
    mode.here = Here(addresses=six_to_four.v4(kind.outer))
    assert mode.from_tun(out(kind), 0.0) == (Drop(Dropped.LOOP),)
    assert mode.from_wire(back(kind), Source(kind.outer), 0.0) == (Drop(Dropped.SOURCE),)
