"""Rings of rules, against an oracle that tries every pair."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.loops import rings
from portproxy.model import ANY, Endpoint, Rule, RuleType


def rule(kind: str, listen: str, connect: str) -> Rule:
    """``listen`` and ``connect`` are address and port, with a space between."""
    ends = [Endpoint(address, int(port)) for address, port in (listen.split(), connect.split())]
    return Rule(RuleType(kind), ends[0], ends[1], f"{kind}/{listen}")


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([("v4tov4", "* 80", "127.9.9.9 80")], [[0]]),
        ([("v4tov4", "0.0.0.0 80", "localhost 80")], [[0]]),
        ([("v6tov6", "* 80", "LocalHost. 80")], [[0]]),
        ([("v6tov6", "::1 80", "db.localhost 80")], [[0]]),
        ([("v6tov6", "0:0::1 80", "::1 80")], [[0]]),
        ([("v4tov4", "a.example 80", "A.EXAMPLE 80")], [[0]]),
        ([("v4tov4", "* 80", "a.example 80")], []),
        ([("v4tov4", "* 80", "192.0.2.1 80")], []),
        ([("v4tov4", "* 80", "192.0.2.1 80"), ("v4tov4", "192.0.2.1 81", "192.0.2.9 1")], [[0]]),
        ([("v4tov4", "* 80", "192.0.2.1 80"), ("v4tov4", "192.0.2.1 80", "192.0.2.9 1")], []),
        ([("v4tov4", "* 80", "198.51.100.1 80")], [[0]]),
        ([("v6tov4", "* 80", "127.0.0.1 80")], []),
        ([("v6tov4", "* 80", "127.0.0.1 80"), ("v4tov6", "* 80", "::1 80")], [[0, 1]]),
        ([("v4tov4", "* 1", "::1 2"), ("v4tov4", "* 3", "127.0.0.1 4")], []),
        ([("v4tov4", f"* {n}", f"127.0.0.1 {n % 3 + 1}") for n in (9, 2, 1, 3)], [[1, 3, 2]]),
    ],
)  # fmt: skip
def test_rings(rules: list[tuple[str, str, str]], found: list[list[int]]) -> None:
    assert rings([rule(*written) for written in rules], {"198.51.100.1"}.__contains__) == found


V4 = (ANY, "127.0.0.1", "127.0.0.2", "localhost", "192.0.2.1", "192.0.2.2", "a.example")
V6 = (ANY, "::1", "0::1", "x.localhost", "2001:db8::1", "2001:db8::2", "a.example")
LOCAL = {"192.0.2.2", "2001:db8::2"}


@st.composite
def rule_sets(draw: st.DrawFn) -> list[Rule]:
    made: list[Rule] = []
    for _ in range(draw(st.integers(0, 7))):
        kind = draw(st.sampled_from(RuleType))
        listen = draw(st.sampled_from(V4 if kind.listen_family.version == 4 else V6))
        connect = draw(st.sampled_from((V4 if kind.connect_family.version == 4 else V6)[1:]))
        ports = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        made.append(Rule(kind, Endpoint(listen, ports[0]), Endpoint(connect, ports[1]), str(len(made))))
    return made


def next_of(rules: list[Rule], here: Rule) -> int | None:
    """The rule that takes the connections of ``here``: looks at every rule, the specific ones first."""
    family = here.type.connect_family

    def spelled(address: str, loopback: str) -> str:
        if address.endswith("localhost"):
            return loopback
        return address if address == ANY or address.endswith("example") else str(ip_address(address))

    wanted = spelled(here.connect.address, family.loopback)
    listening = [
        (number, spelled(other.listen.address, family.loopback), other.listen.port)
        for number, other in enumerate(rules)
        if other.type.listen_family is family
    ]
    exact = [number for number, address, port in listening if (address, port) == (wanted, here.connect.port)]
    if exact:
        return exact[0]
    local = wanted.startswith("127.") or wanted == "::1" or wanted in LOCAL
    if not local and wanted not in [address for _, address, _ in listening]:
        return None
    return next((n for n, address, port in listening if (address, port) == (ANY, here.connect.port)), None)


@given(rule_sets())
def test_rings_are_those_of_the_oracle(rules: list[Rule]) -> None:
    expected = set()
    for start in range(len(rules)):
        walk = [start]
        while (at := next_of(rules, rules[walk[-1]])) is not None and at not in walk:
            walk.append(at)
        if at == start:
            least = walk.index(min(walk))
            expected.add(tuple(walk[least:] + walk[:least]))
    assert {tuple(ring) for ring in rings(rules, LOCAL.__contains__)} == expected


def test_a_hundred_thousand_rules_in_one_ring() -> None:
    count = 100_000
    addresses = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(count)]
    rules = [rule("v4tov4", f"{addresses[n]} 80", f"{addresses[(n + 1) % count]} 80") for n in range(count)]
    assert rings(rules) == [list(range(count))]
