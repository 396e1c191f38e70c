"""``v4compat``: for every rule the packet that it stops beside its neighbour that passes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.tunnel.effects import Drop, Effect, SendTun, SendWire, Source
from portproxy.tunnel.modes.automatic import Automatic
from portproxy.tunnel.packet import icmpv6, ipv6
from portproxy.tunnel.reasons import Dropped
from tests.tunnel import test_sixtofour as six_to_four
from tests.tunnel.test_sixtofour import FAR, HERE, LOCAL, NATIVE, NOT_GLOBAL, OTHER, PRIVATE, inner, is_an_end

OWN, THERE = f"::{LOCAL}", f"::{FAR}"


def mode(*, private: bool = False, clamp_mss: bool = False) -> Automatic:
    return Automatic(LOCAL, mtu=1480, private=private, clamp_mss=clamp_mss, here=HERE)


def checked(effects: Sequence[Effect], outer: str = "", *, private: bool = False) -> Sequence[Effect]:
    """``effects``, of which none breaks a rule; ``outer`` is where a packet came from, if from the wire."""
    own = int(IPv4Address(LOCAL))
    for effect in effects:
        if isinstance(effect, SendWire):
            to = IPv4Address(effect.destination[0])
            ends = [int.from_bytes(effect.data[at : at + 16]) for at in (8, 24)]
            assert ends == [own, int(to)]
            assert is_an_end(to, private)
            assert (effect.dont_fragment, effect.destination[1]) == (False, 0)
            assert len(effect.data) <= 1480
        elif isinstance(effect, SendTun) and outer:
            ends = [int.from_bytes(effect.packet[at : at + 16]) for at in (8, 24)]
            assert ends == [int(IPv4Address(outer)), own]
            assert is_an_end(IPv4Address(outer), private)
        elif isinstance(effect, SendTun):
            header = ipv6.parse(effect.packet)
            assert (int.from_bytes(header.source), header.next_header) == (own, icmpv6.PROTOCOL)
            assert len(effect.packet) <= 1280
        else:
            assert isinstance(effect, Drop)
    return effects


S, D, L, R = Dropped.INNER_SOURCE, Dropped.INNER_DESTINATION, Dropped.LOOP, Dropped.SOURCE

OUT = [
    # The rule; why it is dropped; what is, from and to; the outer destination of its neighbour, ::w.x.y.z.
    ("RFC 2893, 5.5: from another's address", S, (THERE, "::192.0.2.5"), "192.0.2.5"),
    ("RFC 2893, 5.5: from another of this host's", S, (f"::{OTHER}", THERE), FAR),
    ("RFC 2893, 5.5: from a native address", S, (NATIVE, THERE), FAR),
    ("RFC 2893, 5.5: from 6to4", S, (six_to_four.A, THERE), FAR),
    ("RFC 2893, 5.5: from link-local", S, ("fe80::1", THERE), FAR),
    ("RFC 2893, 5.5: from nobody", S, ("::", THERE), FAR),
    ("RFC 2893, 5.3: to a native address", D, (OWN, NATIVE), FAR),
    ("RFC 2893, 5.3: to 6to4", D, (OWN, six_to_four.B), FAR),
    ("RFC 2893, 5.3: to multicast", Dropped.MULTICAST, (OWN, "ff02::1"), FAR),
    ("RFC 2893, 5.3: to a mapped address", D, (OWN, f"::ffff:{FAR}"), FAR),
    ("RFC 2893, 5.3: outside of ::/96", D, (OWN, f"::1:{FAR}"), FAR),
    ("RFC 2893, 5.3: to nobody", D, (OWN, "::"), FAR),
    ("RFC 2893, 5.3: to the loopback address", D, (OWN, "::1"), FAR),
    ("RFC 2893, 5.3: to what is no host's", D, (OWN, "::0.0.0.255"), FAR),
    *((f"RFC 2893, 5.3: to {one}", D, (OWN, f"::{one}"), near) for one, near in NOT_GLOBAL),
    ("RFC 6324, 3.3: to itself", L, (OWN, OWN), "157.60.91.124"),
    ("RFC 6324, 3.3: to another of its own", L, (OWN, f"::{OTHER}"), "198.51.100.8"),
]
IN = [
    # The rule; why it is dropped; what is, its outer source, from and to; the outer source of its neighbour.
    *((f"RFC 2893, 5.3: outer {one}", R, (one, f"::{one}", OWN), near) for one, near in NOT_GLOBAL),
    ("RFC 6324, 3.3: outer source is here", R, (OTHER, f"::{OTHER}", OWN), "198.51.100.8"),
    ("RFC 6324, 3.3: outer source is this end", R, (LOCAL, OWN, OWN), "157.60.91.124"),
    ("RFC 2893, 5: forged", S, (FAR, "::192.0.2.5", OWN), FAR),
    ("RFC 2893, 5.4: from a native address", S, (FAR, NATIVE, OWN), FAR),
    ("RFC 2893, 5.4: from 6to4", S, (FAR, six_to_four.B, OWN), FAR),
    ("RFC 2893, 5.4: from ISATAP", S, (FAR, f"fe80::200:5efe:{FAR}", OWN), FAR),
    ("RFC 4213, 3.6: from a mapped address", S, (FAR, f"::ffff:{FAR}", OWN), FAR),
    ("RFC 4213, 3.6: from the loopback address", S, (FAR, "::1", OWN), FAR),
    ("RFC 4213, 3.6: from multicast", S, (FAR, "ff02::1", OWN), FAR),
    ("RFC 2893, 5.4: from nobody", S, (FAR, "::", OWN), FAR),
    ("RFC 2893, 5: to another's address", D, (FAR, THERE, "::192.0.2.5"), FAR),
    ("RFC 2893, 5: to another of this host's", D, (FAR, THERE, f"::{OTHER}"), FAR),
    ("RFC 2893, 5: to a native address", D, (FAR, THERE, NATIVE), FAR),
    ("RFC 2893, 5: to 6to4", D, (FAR, THERE, six_to_four.A), FAR),
    ("RFC 2893, 5: to multicast", D, (FAR, THERE, "ff02::1"), FAR),
    ("RFC 2893, 5: to the loopback address", D, (FAR, THERE, "::1"), FAR),
]


@pytest.mark.parametrize(
    ("reason", "stopped", "outer"), [row[1:] for row in OUT], ids=[row[0] for row in OUT]
)
def test_what_goes_out_is_checked(reason: Dropped, stopped: tuple[str, str], outer: str) -> None:
    tested, passes = mode(), inner(OWN, f"::{outer}")
    assert checked(tested.from_tun(inner(*stopped), 0.0))[0] == Drop(reason)
    assert checked(tested.from_tun(passes, 0.0)) == (SendWire(passes, (outer, 0), 0, False),)


@pytest.mark.parametrize(("reason", "stopped", "outer"), [row[1:] for row in IN], ids=[row[0] for row in IN])
def test_what_comes_in_is_checked(reason: Dropped, stopped: tuple[str, str, str], outer: str) -> None:
    tested, passes = mode(), inner(f"::{outer}", OWN)
    assert tested.from_wire(inner(stopped[1], stopped[2]), Source(stopped[0]), 0.0) == (Drop(reason),)
    assert checked(tested.from_wire(passes, Source(outer), 0.0), outer) == (SendTun(passes),)


@pytest.mark.parametrize(
    ("one", "admitted"), [(one, any(IPv4Address(one) in block for block in PRIVATE)) for one, _ in NOT_GLOBAL]
)
def test_in_a_lab_private_addresses_pass_but_nobodys_do_not(one: str, admitted: bool) -> None:
    tested = mode(private=True)
    (out, *_) = tested.from_tun(inner(OWN, f"::{one}"), 0.0)
    (back,) = tested.from_wire(inner(f"::{one}", OWN), Source(one), 0.0)
    assert (type(out), type(back)) == ((SendWire, SendTun) if admitted else (Drop, Drop))


def test_table_8_of_the_coexistence_paper() -> None:
    near, far = Automatic(LOCAL, mtu=1480), Automatic(FAR, mtu=1480)
    there, back = inner(OWN, THERE), inner(THERE, OWN)
    assert near.from_tun(there, 0.0) == (SendWire(there, (FAR, 0), 0, False),)
    assert far.from_wire(there, Source(LOCAL), 0.0) == (SendTun(there),)
    assert far.from_tun(back, 0.0) == (SendWire(back, (LOCAL, 0), 0, False),)
    assert near.from_wire(back, Source(FAR), 0.0) == (SendTun(back),)


v4s = six_to_four.v4s
ends = six_to_four.ends | st.sampled_from([OWN, THERE]) | v4s.map(lambda low: f"::{low}")


@given(source=ends, destination=ends, outer=v4s, private=st.booleans(), size=st.sampled_from([60, 1481]))
def test_no_effect_breaks_a_rule(source: str, destination: str, outer: str, private: bool, size: int) -> None:
    tested, packet = mode(private=private), inner(source, destination, size)
    effects = checked(tested.from_tun(packet, 0.0), private=private)
    assert [type(effect) for effect in effects] in ([SendWire], [Drop], [Drop, SendTun])
    for one in (outer, str(IPv4Address(int(IPv6Address(source)) & 0xFFFFFFFF))):
        effects = checked(tested.from_wire(packet, Source(one), 0.0), one, private=private)
        assert [type(effect) for effect in effects] in ([SendTun], [Drop])
