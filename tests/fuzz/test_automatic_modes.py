"""Whatever comes to a tunnel that finds its way in inner addresses: it keeps to its rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.modes import WireError
from portproxy.tunnel.modes.automatic import Embedding
from portproxy.tunnel.packet import ipv6
from tests.fuzz.examples import fuzz, seeded
from tests.fuzz.test_tunnel_packets import fitted
from tests.tunnel import test_automatic as automatic
from tests.tunnel import test_sixtofour as six_to_four
from tests.tunnel.test_sixinfour import syn
from tests.tunnel.test_sixtofour import (
    FAR,
    LOCAL,
    LOOPING,
    NATIVE,
    NOT_GLOBAL,
    NOT_INSIDE,
    OTHER,
    RELAY,
)

EXTENSIONS = (ipv6.HOP_BY_HOP, ipv6.ROUTING, ipv6.FRAGMENT, ipv6.DESTINATION_OPTIONS, 51)
OUTER = [LOCAL, FAR, RELAY, OTHER, *(one for pair in NOT_GLOBAL for one in pair)]
ENDS = [
    *(six_to_four.A, six_to_four.B, six_to_four.C, NATIVE, six_to_four.NATIVE2, six_to_four.OWN_ISATAP),
    *(one for pair in NOT_INSIDE + LOOPING for one in pair),
    *(f"::{one}" for one in OUTER),
    *map(six_to_four.site, OUTER),
]


class Kind(NamedTuple):
    """A mode, its rules, and addresses between which packets pass."""

    make: Callable[..., Embedding]
    checked: Callable[..., Sequence[Effect]]
    near: Sequence[str]
    far: Sequence[str]


KINDS = {
    "6to4": Kind(
        lambda **how: six_to_four.mode("host", **how), partial(six_to_four.checked, "host"),
        [six_to_four.A, six_to_four.OWN_ISATAP], [six_to_four.B, six_to_four.C, NATIVE],
    ),
    "6to4 relay": Kind(
        lambda **how: six_to_four.mode("relay", **how), partial(six_to_four.checked, "relay"),
        [NATIVE, six_to_four.A], [six_to_four.B, six_to_four.C],
    ),
    "v4compat": Kind(automatic.mode, automatic.checked, [f"::{LOCAL}"], [f"::{FAR}", f"::{RELAY}"]),
}  # fmt: skip
each = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


PAYLOAD, SYN = bytes(1500), syn(1440)


def packet(kind: Kind, random: Random) -> bytes:
    """Any bytes, or a packet, most often between addresses that pass, of which some bytes were changed, left
    out or put in."""
    if random.random() < 0.1:
        return random.randbytes(random.choice((0, 1, 39, 40, 41, 60, 1300)))
    pair = random.choice(kind.near), random.choice(kind.far)
    one, other = (random.choice(ENDS) if random.random() < 0.2 else end for end in pair)
    addresses = IPv6Address(one).packed + IPv6Address(other).packed
    if random.random() < 0.4:
        addresses = addresses[16:] + addresses[:16]
    if random.random() < 0.3:
        data = bytearray(SYN)
    else:
        size, first = random.choice((0, 20, 1240, 1440, 1441)), random.choice((17, *EXTENSIONS))
        data = bytearray(ipv6.build(bytes(16), bytes(16), first, PAYLOAD[:size]))
    data[1] |= random.randrange(4) << 4
    data[8:40] = addresses
    for _ in range(random.choice((0, 0, 1, 2))):
        at = random.randrange(min(len(data), 80) + 1)
        data[at : at + random.choice((0, 1, 1, 2))] = random.randbytes(random.choice((0, 1, 1, 2)))
    return fitted(bytes(data)) if random.random() < 0.8 else bytes(data)


def mode(kind: Kind, random: Random) -> tuple[Embedding, bool]:
    """It, and whether private addresses pass."""
    private = random.random() < 0.3
    return kind.make(private=private, clamp_mss=random.random() < 0.5), private


def behind(address: bytes) -> str:
    """The IPv4 address of the end that ``address`` is behind."""
    if address[:2] == b"\x20\x02":
        return str(IPv4Address(address[2:6]))
    return RELAY if any(address[:12]) else str(IPv4Address(address[12:]))


def end(address: bytes, random: Random) -> str:
    """That, most often."""
    return random.choice(OUTER) if len(address) < 16 or random.random() < 0.2 else behind(address)


def error(kind: Kind, random: Random) -> WireError:
    """Of a type that means something, most often; what it quotes may have been cut anywhere."""
    type_ = random.choice((3, 3, 3, 11, 4, 5, 12, random.randrange(256)))
    quoted = packet(kind, random)
    destination = end(quoted[24:40], random)
    if random.random() < 0.4:
        quoted = quoted[: random.randrange(60)]
    return WireError(type_, random.choice((0, 1, 4)), random.choice((0, 1280)), "", quoted, destination)


def arrives(kind: Kind, tested: Embedding, data: bytes, source: Source, *, private: bool) -> None:
    """One packet is given on by the rules, or there is a reason."""
    effects = kind.checked(tested.from_wire(data, source, 0.0), source.host, private=private)
    assert [type(effect) for effect in effects] in ([SendTun], [Drop])


def is_sent(kind: Kind, tested: Embedding, data: bytes, now: float, *, private: bool) -> None:
    """One packet is carried by the rules, or there is a reason, which may be told."""
    effects = kind.checked(tested.from_tun(data, now), private=private)
    assert [type(effect) for effect in effects] in ([SendWire], [Drop], [Drop, SendTun])


def is_reported(
    kind: Kind, tested: Embedding, errors: Sequence[WireError], data: bytes, *, private: bool
) -> None:
    """Errors, one after another, are told by the rules, or ignored; then ``data`` is sent."""
    now = 0.0
    for heard in errors:
        effects = kind.checked(tested.from_error(heard, now), private=private)
        assert [type(effect) for effect in effects] in ([], [SendTun])
        now += 100.0
    is_sent(kind, tested, data, now, private=private)
    assert (tested.mtu, tested.next_deadline()) == (1480, float("inf"))


@each
@seeded
def test_whatever_arrives_is_given_on_by_the_rules_or_dropped(random: Random, kind: Kind) -> None:
    (tested, private), data = mode(kind, random), packet(kind, random)
    for outer in (end(data[8:24], random), random.choice(OUTER)):
        arrives(kind, tested, data, Source(outer, 0, random.randrange(256)), private=private)


@each
@seeded
def test_whatever_is_sent_is_carried_by_the_rules_or_dropped(random: Random, kind: Kind) -> None:
    tested, private = mode(kind, random)
    is_sent(kind, tested, packet(kind, random), 0.0, private=private)


@each
@seeded
def test_whatever_is_reported_is_told_by_the_rules_or_ignored(random: Random, kind: Kind) -> None:
    tested, private = mode(kind, random)
    errors = [error(kind, random) for _ in range(2)]
    is_reported(kind, tested, errors, packet(kind, random), private=private)


@each
@fuzz(500)
@given(data=st.binary(max_size=100), tos=st.integers(0, 255))
def test_any_bytes_at_all(kind: Kind, data: bytes, tos: int) -> None:
    tested = kind.make(clamp_mss=True)
    kind.checked(tested.from_wire(data, Source(FAR, 0, tos), 0.0), FAR)
    kind.checked(tested.from_tun(data, 0.0))
    for type_, code in ((3, 1), (3, 4), (11, 0)):
        kind.checked(tested.from_error(WireError(type_, code, 1400, "", data, FAR), 0.0))


@each
def test_the_fuzzed_packets_pass_and_are_stopped(kind: Kind) -> None:
    """Of either there are enough, in either direction."""
    sent = given_on = told = 0
    for seed in range(500):
        random = Random(seed)
        (tested, _), data = mode(kind, random), packet(kind, random)
        sent += isinstance(tested.from_tun(data, 0.0)[0], SendWire)
        given_on += isinstance(tested.from_wire(data, Source(end(data[8:24], random)), 0.0)[0], SendTun)
        told += bool(tested.from_error(error(kind, random), 0.0))
    assert all(10 < number < 450 for number in (sent, given_on, told)), (sent, given_on, told)
