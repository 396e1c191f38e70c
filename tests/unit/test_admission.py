"""Who may connect, against an oracle that looks at every prefix."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.admission import Admission, source_of
from portproxy.model import Acl, IPAddress, IPNetwork, Limits
from portproxy.reasons import Refused

# Few bits differ, and prefixes end among them: they cover each other and the addresses, but not always.
V4 = st.integers(0, 255).map(lambda low: ipaddress.IPv4Address(0xC0000200 + low))
V6 = st.integers(0, 255).map(lambda low: ipaddress.IPv6Address((0x20010DB8 << 96) + (low << 60)))


def prefixes(addresses: st.SearchStrategy[IPAddress]) -> st.SearchStrategy[tuple[IPNetwork, ...]]:
    def covering(address: IPAddress) -> st.SearchStrategy[IPNetwork]:
        lengths = st.integers(22, 32) if address.version == 4 else st.integers(58, 70)
        return lengths.map(lambda length: ipaddress.ip_network((address, length), strict=False))

    return st.lists(addresses.flatmap(covering), max_size=6).map(tuple)


def cases(addresses: st.SearchStrategy[IPAddress]) -> st.SearchStrategy[tuple[Acl, IPAddress]]:
    return st.tuples(st.builds(Acl, allow=prefixes(addresses), deny=prefixes(addresses)), addresses)


def deciding(acl: Acl, address: IPAddress) -> IPNetwork | None:
    """The most specific prefix."""
    covering = [network for network in (*acl.allow, *acl.deny) if address in network]
    return max(covering, key=lambda network: network.prefixlen, default=None)


def admitted(acl: Acl, address: IPAddress) -> bool:
    """The most specific prefix wins, deny on a tie; by default only where nothing is allowed by name."""
    prefix = deciding(acl, address)
    return prefix not in acl.deny if prefix else not acl.allow


@given(st.one_of(cases(V4), cases(V6)))
def test_the_most_specific_prefix_wins(case: tuple[Acl, IPAddress]) -> None:
    acl, address = case
    door = Admission(acl, Limits())
    assert door.judge(str(address), active=0) is (None if admitted(acl, address) else Refused.DENIED)
    assert door.deciding(address) == deciding(acl, address)


def test_who_is_not_covered_is_denied_where_somebody_is_allowed() -> None:
    somebody = ipaddress.ip_network("192.0.2.0/24")
    for acl, refused in ((Acl(allow=(somebody,)), Refused.DENIED), (Acl(deny=(somebody,)), None)):
        assert Admission(acl, Limits()).judge("198.51.100.1", active=0) is refused


def test_an_empty_list_admits_everybody() -> None:
    assert Admission(Acl(), Limits()).judge("192.0.2.1", active=10**6) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8:0:0:ffff::1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("0.0.0.1", "0:0:0:1::", False),
        ("fe80::1%lo", "fe80::2%lo", True),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_64(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


def test_the_prefix_that_decides_about_a_scoped_address() -> None:
    link_local = ipaddress.ip_network("fe80::/10")
    door = Admission(Acl(deny=(link_local,)), Limits())
    assert door.deciding(ipaddress.IPv6Address("fe80::1%lo")) == link_local


def test_everybody_is_refused_for_maxconn_alone() -> None:
    nobody = ipaddress.ip_network("0.0.0.0/0")
    door = Admission(Acl(deny=(nobody,)), Limits(maxconn=1, maxconnpersource=0))
    assert door.judge(None, 0) is None
    assert door.judge(None, 1) is Refused.MAXCONN


def test_maxconn_counts_sessions() -> None:
    door = Admission(Acl(), Limits(maxconn=2))
    assert [door.judge("192.0.2.1", active) for active in (0, 1, 2)] == [None, None, Refused.MAXCONN]


def test_maxconnpersource_counts_those_that_are_in() -> None:
    door = Admission(Acl(), Limits(maxconnpersource=2))
    door.enter("2001:db8::1")
    assert door.judge("2001:db8::2", 1) is None
    door.enter("2001:db8::2")
    assert door.judge("2001:db8::3", 2) is Refused.MAXCONNPERSOURCE
    assert door.judge("2001:db8:0:1::", 2) is None
    door.leave("2001:db8::1")
    assert door.judge("2001:db8::3", 1) is None


@given(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"])))
def test_nothing_is_kept_of_sources_that_have_left(addresses: list[str]) -> None:
    door = Admission(Acl(), Limits(maxconnpersource=3))
    for address in addresses:
        door.enter(address)
    for address in reversed(addresses):
        door.leave(address)
    assert door._sources == {}


def test_the_acl_is_asked_first_and_maxconnpersource_last() -> None:
    door = Admission(Acl(deny=(ipaddress.ip_network("192.0.2.1"),)), Limits(maxconn=0, maxconnpersource=0))
    assert door.judge("192.0.2.1", 0) is Refused.DENIED
    assert door.judge("192.0.2.2", 0) is Refused.MAXCONN
