"""The way from one configuration to another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portproxy.model import ANY, Config, Endpoint, Rule, RuleType
from portproxy.reconcile import Listening, layout, plan, port_key

ADDRESSES = {"v4": (ANY, "127.0.0.1", "127.0.0.2"), "v6": (ANY, "::1", "fe80::1%eth0")}


def rule(type: RuleType, address: str, port: int, connectport: int, name: str) -> Rule:
    return Rule(type, Endpoint(address, port), Endpoint("host", connectport), name)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    type = draw(st.sampled_from(RuleType))
    address = draw(st.sampled_from(ADDRESSES[type.listen_family.value]))
    ports = st.integers(1, 2)
    return rule(type, address, draw(ports), draw(ports), draw(st.sampled_from("abc")))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Names and endpoints are unique, as the configuration's checks have seen to; some rule is shadowed."""
    chosen = draw(st.lists(rules(), max_size=8, unique_by=(lambda r: r.endpoint, lambda r: r.name)))
    hidden = [r for r in chosen if draw(st.integers(0, 4)) == 0]
    return Config(rules=tuple(chosen), shadowed=tuple((r.name, "other") for r in hidden))


@given(configs(), configs())
def test_a_plan_leads_from_one_to_the_other(old: Config, new: Config) -> None:
    steps = plan(old, new)
    running = {r.endpoint: r for r in old.active}
    for gone in steps.stop:
        assert running.pop(gone.endpoint) == gone
    for kept in steps.keep:
        assert running[kept.endpoint] == kept
    for was, becomes in steps.change:
        assert was.endpoint == becomes.endpoint
        assert running[was.endpoint] == was != becomes
        running[was.endpoint] = becomes
    for started in steps.start:
        assert started.endpoint not in running
        running[started.endpoint] = started
    assert running == {r.endpoint: r for r in new.active}
    counted = len(steps.keep) + len(steps.change)
    assert len(steps.stop) + counted == len(old.active)
    assert len(steps.start) + counted == len(new.active)


@given(configs(), configs())
def test_a_port_is_looked_at_where_something_is_done(old: Config, new: Config) -> None:
    steps = plan(old, new)
    done = {port_key(r) for r in (*steps.stop, *steps.start, *(becomes for _, becomes in steps.change))}
    assert set(steps.ports) == done
    assert len(steps.ports) == len(done)


@given(configs())
def test_nothing_is_done_where_nothing_changes(config: Config) -> None:
    steps = plan(config, config)
    assert steps.keep == config.active
    assert (steps.ports, steps.stop, steps.start, steps.change) == ((), (), (), ())


def test_a_plan_in_words() -> None:
    one, other = (rule(RuleType.V4TOV4, ANY, port, 1, f"port {port}") for port in (1, 2))
    moved = rule(RuleType.V4TOV4, ANY, 2, 3, "port 2")
    steps = plan(Config(rules=(one, other)), Config(rules=(moved,)))
    assert str(steps) == "stop 1, keep 0, change 1, start 0"


@given(st.lists(rules(), max_size=8, unique_by=lambda r: r.endpoint))
def test_every_rule_has_one_place_among_the_listening_sockets(some: list[Rule]) -> None:
    for key in {port_key(r) for r in some}:
        here = [r for r in some if port_key(r) == key]
        sockets = layout(here)
        placed = [r for socket in sockets for r in (socket.default, *socket.specific)]
        assert sorted(map(id, placed)) == sorted(map(id, here))
        assert all(socket.address == socket.default.bind_address for socket in sockets)
        if any(r.wildcard for r in here):
            assert len(sockets) == 1
            assert sockets[0].default.wildcard
        else:
            assert all(socket.specific == () for socket in sockets)


def test_the_wildcard_s_socket_serves_all() -> None:
    specific, wildcard = (rule(RuleType.V6TOV4, address, 1, 1, address) for address in ("::1", "::"))
    assert layout([specific, wildcard]) == (Listening("::", wildcard, (specific,)),)
    assert layout([specific]) == (Listening("::1", specific),)
    assert layout([]) == ()
