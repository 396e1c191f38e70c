"""``6to4``: for every rule, in every role, the packet that it stops beside its neighbour that passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.modes.embedded import Here
from portproxy.tunnel.modes.sixtofour import SixToFour
from portproxy.tunnel.packet import icmpv6, ipv6
from portproxy.tunnel.reasons import Dropped

LOCAL, FAR, RELAY = "157.60.91.123", "131.107.210.49", "192.0.2.9"
OTHER, INSIDE, BROADCAST = "198.51.100.7", "192.168.204.1", "157.60.91.255"
"""More addresses of this host's, and a broadcast one of its networks'."""
A, B = "2002:9d3c:5b7b:1::a", "2002:836b:d231:2::b"
C = "2002:c000:205:3::c"
"""In the site of 192.0.2.5."""
NATIVE, NATIVE2 = "2001:db8:5::1", "2001:db8:6::1"
OWN = IPv6Address("2002:9d3c:5b7b::9d3c:5b7b").packed
OWN_NATIVE, OWN_ISATAP = "2001:db8:7::1", f"2002:9d3c:5b7b:2:0:5efe:{INSIDE}"


def v4(*texts: str) -> frozenset[bytes]:
    return frozenset(IPv4Address(text).packed for text in texts)


HERE = Here(
    addresses=v4(LOCAL, OTHER, INSIDE),
    broadcasts=v4(BROADCAST),
    own=frozenset(IPv6Address(text).packed for text in (OWN_NATIVE, OWN_ISATAP)),
)
Role = Literal["host", "relay"]


def mode(
    role: Role, *, relay: str | None = RELAY, private: bool = False, clamp_mss: bool = False
) -> SixToFour:
    """A router is to this mode what a host is."""
    made = SixToFour(
        LOCAL, OWN, mtu=1480, is_relay=role == "relay", private=private, clamp_mss=clamp_mss, here=HERE
    )
    made.relay = relay if role == "host" else None
    return made


def inner(source: str, destination: str, size: int = 60, *, ecn: int = 0) -> bytes:
    """A packet of ``size`` bytes."""
    ends = IPv6Address(source).packed, IPv6Address(destination).packed
    payload = bytes(at % 251 for at in range(size - 40))
    return ipv6.build(*ends, 17, payload, hop_limit=7, traffic_class=0xB8 | ecn, flow=0xABCDE)


def site(address: str) -> str:
    """An address in the 6to4 site of an IPv4 address."""
    return str(IPv6Address(0x2002 << 112 | int(IPv4Address(address)) << 80 | 1))


# The rules, said another way.

NEVER_INSIDE = [IPv6Network(prefix) for prefix in ("::/16", "fe80::/10", "fec0::/10", "ff00::/8")]
NOBODYS = [IPv4Network(block) for block in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")]
PRIVATE = [
    *map(IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16")),
    *map(IPv4Network, ("172.16.0.0/12", "192.168.0.0/16")),
]


def held(address: IPv6Address) -> Iterator[IPv4Address]:
    """What a tunnel of any type reads in it."""
    number = int(address)
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if number >> 32 & 0xFDFFFFFF == 0x5EFE or (number >> 32 == 0 and number > 255):
        yield IPv4Address(number & 0xFFFFFFFF)


def loops(address: IPv6Address) -> bool:
    """RFC 6324, 3.3: it embeds an address of this host's and is none of the host's own."""
    if address.packed in (*HERE.own, OWN):
        return False
    ours = [one for one in held(address) if one.packed in HERE.addresses]
    if address.sixtofour == IPv4Address(LOCAL):
        ours.remove(IPv4Address(LOCAL))
    return bool(ours)


def is_an_end(address: IPv4Address, private: bool) -> bool:
    """RFC 3964, 5.3.1."""
    blocks = NOBODYS if private else NOBODYS + PRIVATE
    return not any(address in block for block in blocks) and str(address) not in (
        *(LOCAL, OTHER, INSIDE, BROADCAST, "255.255.255.255"),
    )


def checked(
    role: Role, effects: Sequence[Effect], outer: str = "", *, private: bool = False
) -> Sequence[Effect]:
    """``effects``, of which none breaks a rule; ``outer`` is where a packet came from, if from the wire."""
    for effect in effects:
        if isinstance(effect, SendWire):
            ends = IPv6Address(effect.data[8:24]), IPv6Address(effect.data[24:40])
            to = IPv4Address(effect.destination[0])
            assert ends[0].sixtofour == IPv4Address(LOCAL) or (role == "relay" and not ends[0].sixtofour)
            assert to == ends[1].sixtofour or (role == "host" and not ends[1].sixtofour and str(to) == RELAY)
            assert (effect.dont_fragment, effect.destination[1]) == (False, 0)
            assert len(effect.data) <= 1480
        elif isinstance(effect, SendTun) and outer:
            ends = IPv6Address(effect.packet[8:24]), IPv6Address(effect.packet[24:40])
            to = IPv4Address(outer)
            sites = ends[0].sixtofour, ends[1].sixtofour
            assert sites in ((to, IPv4Address(LOCAL)), (None, IPv4Address(LOCAL))) or (
                role == "relay" and sites == (to, None)
            )
            assert ends[0].packed not in (*HERE.own, OWN)
        else:
            told(effect)
            continue
        assert is_an_end(to, private)
        for end in ends:
            assert not any(end in prefix for prefix in NEVER_INSIDE)
            assert not loops(end)
    return effects


def told(effect: Effect) -> None:
    """It is a drop, or an ICMPv6 error from this end."""
    if isinstance(effect, SendTun):
        header = ipv6.parse(effect.packet)
        assert (header.source, header.next_header) == (OWN, icmpv6.PROTOCOL)
        assert len(effect.packet) <= 1280
    else:
        assert isinstance(effect, Drop)


class Out(NamedTuple):
    """``stopped``, from a source to a destination, is dropped; ``passes`` goes to ``outer``."""

    rule: str
    roles: str
    reason: Dropped
    stopped: tuple[str, str]
    passes: tuple[str, str]
    outer: str


class In(NamedTuple):
    """``stopped``, from an outer source, and from and to inner addresses, is dropped; ``passes`` goes on."""

    rule: str
    roles: str
    reason: Dropped
    stopped: tuple[str, str, str]
    passes: tuple[str, str, str]


NOT_GLOBAL = [
    ("0.1.2.3", "1.0.0.1"), ("10.0.0.1", "11.0.0.1"), ("100.64.0.1", "100.63.0.1"),
    ("127.0.0.1", "128.0.0.1"), ("169.254.0.1", "169.253.0.1"), ("172.16.0.1", "172.15.0.1"),
    ("172.31.0.1", "172.32.0.1"), ("192.168.0.1", "192.167.0.1"), ("224.0.0.1", "223.0.0.1"),
    ("239.0.0.1", "223.0.0.1"), ("240.0.0.1", "223.0.0.1"), ("255.255.255.255", "223.255.255.255"),
    (BROADCAST, "157.60.91.254"),
]  # fmt: skip
"""RFC 3964, 5.3.1, and beside each what is outside of that block."""
NOT_INSIDE = [
    ("::", "1::"), ("::1", "1::1"), ("::192.0.2.1", "1::192.0.2.1"), ("::ffff:0.0.2.1", "1::ffff:0.0.2.1"),
    ("0:1::", "1:1::"), ("fe80::1", "fe7f::1"), ("febf::1", "fe7f::1"), ("fec0::1", "fe7f::1"),
    ("feff::1", "fe7f::1"), ("ff02::1", "fd02::1"), ("ff0e::1", "fd0e::1"),
]  # fmt: skip
"""RFC 3964, 5.3.2, and beside each what is outside of that prefix."""
LOOPING = [
    (f"2001:db8:5::5efe:{INSIDE}", "2001:db8:5::5efe:192.168.204.2"),
    (f"2001:db8:5::200:5efe:{LOCAL}", "2001:db8:5::200:5efe:157.60.91.124"),
    ("2001:0:9d3c:5b7b::1", "2001:0:9d3c:5b7c::1"),
    ("2001:0:808:808:0:0:3f57:33fe", "2001:0:808:808:0:0:3f57:33fd"),
]
"""ISATAP, and a Teredo server and client, of this host's addresses; beside the next address."""
BOTH = "host relay"
S, D, L, R = Dropped.INNER_SOURCE, Dropped.INNER_DESTINATION, Dropped.LOOP, Dropped.SOURCE
M = Dropped.MULTICAST

OUT = [
    Out("RFC 3964, 5.1: a source in another's site", BOTH, S, (B, C), (A, C), "192.0.2.5"),
    Out("RFC 3964, 5.1: a source in no site", "host", S, (NATIVE, B), (A, B), FAR),
    Out("RFC 3964, 5.1: native to native", "host", S, (NATIVE, NATIVE2), (A, NATIVE2), RELAY),
    Out("RFC 3964, 5.1: native to native", "relay", D, (NATIVE, NATIVE2), (NATIVE, B), FAR),
    Out("RFC 3964, 5.1: 6to4 to 6to4", "relay", S, (B, C), (NATIVE, C), "192.0.2.5"),
    Out("RFC 3964, 5.1: from its site to native", "relay", D, (A, NATIVE), (A, B), FAR),
    *(Out(f"RFC 3964, 5.3.2: from {one}", "relay", S, (one, B), (near, B), FAR) for one, near in NOT_INSIDE),
    *(
        Out(f"RFC 3964, 5.3.2: to {one}", "host", D if one[:2] != "ff" else M, (A, one), (A, near), RELAY)
        for one, near in NOT_INSIDE
    ),
    *(
        Out(f"RFC 3964, 5.3.1: to {one}", BOTH, D, (A, site(one)), (A, site(near)), near)
        for one, near in NOT_GLOBAL
    ),
    Out("RFC 6324, 3.3: to its own site", BOTH, L, (A, site(LOCAL)), (A, B), FAR),
    Out("RFC 6324, 3.3: to itself", BOTH, L, (A, site(OTHER)), (A, site(RELAY)), RELAY),
    *(Out(f"RFC 6324, 3.3: to {one}", "host", L, (A, one), (A, near), RELAY) for one, near in LOOPING),
    *(Out(f"RFC 6324, 3.3: from {one}", "relay", L, (one, B), (near, B), FAR) for one, near in LOOPING),
    Out("RFC 6324, 3.3: to ISATAP behind 6to4", BOTH, L, (A, f"2002:836b:d231::5efe:{INSIDE}"),
        (A, "2002:836b:d231::5efe:192.168.204.2"), FAR),
    Out("RFC 6324, 3.3: from ISATAP within its site", BOTH, L,
        (f"2002:9d3c:5b7b:3:0:5efe:{INSIDE}", B), (OWN_ISATAP, B), FAR),
]  # fmt: skip

IN = [
    *(
        In(f"RFC 3964, 5.3.1: outer {one}", BOTH, R, (one, site(one), A), (near, site(near), A))
        for one, near in NOT_GLOBAL
    ),
    *(
        In(f"RFC 3964, 5.3.1: outer {one}, native", BOTH, R, (one, NATIVE, A), (near, NATIVE, A))
        for one, near in NOT_GLOBAL
    ),
    In("RFC 3964, 5.3.1: outer source is here", BOTH, R, (OTHER, NATIVE, A), (RELAY, NATIVE, A)),
    In("RFC 3964, 5.3.1: outer source is this end", BOTH, R, (LOCAL, NATIVE, A), (RELAY, NATIVE, A)),
    In("RFC 3964, 5.2: not the source's site", BOTH, S, (FAR, C, A), (FAR, B, A)),
    In("RFC 3964, 5.2: not the source's site", "relay", S, (FAR, C, NATIVE), (FAR, B, NATIVE)),
    In("RFC 3964, 5.2: not this site", BOTH, D, (FAR, B, C), (FAR, B, A)),
    In("RFC 3964, 5.2: another site of this host's", BOTH, D, (FAR, B, site(OTHER)), (FAR, B, A)),
    In("RFC 3964, 5.2: not this site, from a relay", BOTH, D, (RELAY, NATIVE, C), (RELAY, NATIVE, A)),
    In("RFC 3964, 5.2: native to native", "host", S, (RELAY, NATIVE, NATIVE2), (RELAY, NATIVE, A)),
    In("RFC 3964, 5.2: native to native", "relay", S, (FAR, NATIVE, NATIVE2), (FAR, B, NATIVE2)),
    In("RFC 3964, 5.2: nothing is relayed", "host", D, (FAR, B, NATIVE), (FAR, B, A)),
    In("RFC 3964, 5.2: 6to4 to 6to4", "relay", D, (FAR, B, C), (FAR, B, NATIVE)),
    *(
        In(f"RFC 3964, 5.3.2: from {one}", BOTH, S, (RELAY, one, A), (RELAY, near, A))
        for one, near in NOT_INSIDE
    ),
    *(
        In(f"RFC 3964, 5.3.2: to {one}", "relay", D, (FAR, B, one), (FAR, B, near))
        for one, near in NOT_INSIDE
    ),
    *(In(f"RFC 6324, 3.3: to {one}", "relay", L, (FAR, B, one), (FAR, B, near)) for one, near in LOOPING),
    *(
        In(f"RFC 6324, 3.3: from {one}", BOTH, L, (RELAY, one, A), (RELAY, near, A))
        for one, near in LOOPING
    ),
    In("RFC 6324, 3.3: to ISATAP within its site", BOTH, L,
       (FAR, B, f"2002:9d3c:5b7b:3:0:5efe:{INSIDE}"), (FAR, B, OWN_ISATAP)),
    In("RFC 6324, 3.3: from ISATAP behind 6to4", BOTH, L,
       (FAR, f"2002:836b:d231::5efe:{INSIDE}", A), (FAR, "2002:836b:d231::5efe:192.168.204.2", A)),
    In("RFC 3964, 5.3.3: from its own address", BOTH, L, (RELAY, OWN_NATIVE, A), (RELAY, NATIVE, A)),
]  # fmt: skip


def each(rows: Sequence[Out] | Sequence[In]) -> pytest.MarkDecorator:
    cases = [(role, row) for row in rows for role in row.roles.split()]
    return pytest.mark.parametrize(("role", "row"), cases, ids=[f"{role}: {row.rule}" for role, row in cases])


@each(OUT)
def test_what_goes_out_is_checked(role: Role, row: Out) -> None:
    tested, passes = mode(role), inner(*row.passes)
    assert checked(role, tested.from_tun(inner(*row.stopped), 0.0))[0] == Drop(row.reason)
    assert checked(role, tested.from_tun(passes, 0.0)) == (SendWire(passes, (row.outer, 0), 0, False),)


@each(IN)
def test_what_comes_in_is_checked(role: Role, row: In) -> None:
    tested, (outer, source, destination) = mode(role), row.stopped
    assert tested.from_wire(inner(source, destination), Source(outer), 0.0) == (Drop(row.reason),)
    outer, source, destination = row.passes
    effects = tested.from_wire(inner(source, destination), Source(outer), 0.0)
    assert checked(role, effects, outer) == (SendTun(inner(source, destination)),)


@pytest.mark.parametrize(
    ("one", "admitted"), [(one, any(IPv4Address(one) in block for block in PRIVATE)) for one, _ in NOT_GLOBAL]
)
def test_in_a_lab_private_addresses_pass_but_nobodys_do_not(one: str, admitted: bool) -> None:
    tested = mode("host", private=True)
    (out, *_), (back,) = (
        tested.from_tun(inner(A, site(one)), 0.0),
        tested.from_wire(inner(site(one), A), Source(one), 0.0),
    )
    assert (type(out), type(back)) == ((SendWire, SendTun) if admitted else (Drop, Drop))


@pytest.mark.parametrize(
    ("relay", "private", "reason"),
    [
        (None, False, Dropped.NO_ROUTER),
        ("10.0.0.1", False, Dropped.NO_ROUTER),
        ("10.0.0.1", True, None),
        ("224.0.0.1", True, Dropped.NO_ROUTER),
        (BROADCAST, True, Dropped.NO_ROUTER),
        (LOCAL, False, Dropped.LOOP),
        (OTHER, False, Dropped.LOOP),
        (RELAY, False, None),
    ],
)
def test_a_relay_that_may_be_none(relay: str | None, private: bool, reason: Dropped | None) -> None:
    tested = mode("host", relay=relay, private=private)
    assert tested.relay == relay
    first, *_ = tested.from_tun(inner(A, NATIVE), 0.0)
    assert first == (Drop(reason) if reason else SendWire(inner(A, NATIVE), (str(relay), 0)))


@pytest.mark.parametrize(
    ("ends", "outer"),
    [
        (("2002:9d3c:5b7b:1::a", "2002:836b:d231:2::c"), (LOCAL, FAR)),  # table 1
        (("2002:9d36:1:2:0:5efe:192.168.12.9", "2002:836b:1:2:0:5efe:192.168.141.30"),
         ("157.54.0.1", "131.107.0.1")),  # table 6
    ],
)  # fmt: skip
def test_the_tables_of_the_coexistence_paper(ends: tuple[str, str], outer: tuple[str, str]) -> None:
    near, far = (SixToFour(one, IPv6Address(site(one)).packed, mtu=1480) for one in outer)
    there, back = inner(*ends), inner(ends[1], ends[0])
    for here, other, packet, (own, remote) in ((near, far, there, outer), (far, near, back, outer[::-1])):
        assert here.from_tun(packet, 0.0) == (SendWire(packet, (remote, 0), 0, False),)
        assert other.from_wire(packet, Source(own), 0.0) == (SendTun(packet),)


def test_what_is_known_counts_from_when_it_is_known() -> None:
    """Verdicts are remembered, until what they go by changes."""
    tested, native = mode("host", relay=None), inner(A, NATIVE)
    assert tested.from_tun(native, 0.0)[0] == Drop(Dropped.NO_ROUTER)
    tested.relay = RELAY
    assert tested.from_tun(native, 0.0) == (SendWire(native, (RELAY, 0)),)
    tested.relay = "192.0.2.10"
    assert tested.from_tun(native, 0.0) == (SendWire(native, ("192.0.2.10", 0)),)
    tested.here = HERE._replace(addresses=v4("192.0.2.10", FAR))
    assert tested.from_tun(native, 0.0) == (Drop(Dropped.LOOP),)
    assert tested.from_tun(inner(A, B), 0.0) == (Drop(Dropped.LOOP),)
    assert tested.from_wire(inner(B, A), Source(FAR), 0.0) == (Drop(Dropped.SOURCE),)
    tested.here = HERE
    assert tested.from_wire(inner(B, A), Source(FAR), 0.0) == (SendTun(inner(B, A)),)
    assert tested.from_wire(inner(B, A), Source(RELAY), 0.0) == (Drop(Dropped.INNER_SOURCE),)


v4s = st.sampled_from(
    [LOCAL, FAR, RELAY, OTHER, INSIDE, BROADCAST, *(one for pair in NOT_GLOBAL for one in pair)]
)
ends = st.one_of(
    st.sampled_from([A, B, C, NATIVE, OWN_NATIVE, OWN_ISATAP, str(IPv6Address(OWN))]),
    st.sampled_from([one for pair in NOT_INSIDE + LOOPING for one in pair]),
    v4s.map(site),
    v4s.map(lambda low: f"2002:9d3c:5b7b::5efe:{low}") | v4s.map(lambda low: f"fd00::5efe:{low}"),
    v4s.map(lambda low: f"::{low}"),
    st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
)  # fmt: skip


@pytest.mark.parametrize("role", ["host", "relay"])
@given(source=ends, destination=ends, outer=v4s, private=st.booleans(), size=st.sampled_from([60, 1481]))
def test_no_effect_breaks_a_rule(
    role: Role, source: str, destination: str, outer: str, private: bool, size: int
) -> None:
    tested, packet = mode(role, private=private), inner(source, destination, size)
    effects = checked(role, tested.from_tun(packet, 0.0), private=private)
    assert [type(effect) for effect in effects] in ([SendWire], [Drop], [Drop, SendTun])
    inward = {outer, str(IPv6Address(source).sixtofour or outer)}
    for one in inward:
        effects = checked(role, tested.from_wire(packet, Source(one), 0.0), one, private=private)
        assert [type(effect) for effect in effects] in ([SendTun], [Drop])
