from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from portproxy import counters
from portproxy.metrics import render
from portproxy.model import Endpoint, Rule, RuleType
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.snapshot import RuleState, RuleStatus, Snapshot

Key = tuple[str, frozenset[tuple[str, str]]]


def rule(name: str) -> Rule:
    return Rule(RuleType.V6TOV4, Endpoint("*", 8080), Endpoint("127.0.0.1", 80), name)


def snapshot(*statuses: RuleStatus, pauses: int = 0, lost: dict[str, int] | None = None) -> Snapshot:
    return Snapshot(statuses, pauses, lost or {}, draining=False)


def status(
    name: str, block: Sequence[int], state: RuleState = RuleState.LISTENING, error: str = ""
) -> RuleStatus:
    return RuleStatus(rule(name), state, error, block)


def key(sample: str, **labels: str) -> Key:
    return sample, frozenset(labels.items())


def scrape(snap: Snapshot) -> dict[Key, float]:
    """Every portproxy sample of a scrape; none may come twice, as Prometheus rejects that."""
    body, _ = render(snap)
    found: dict[Key, float] = {}
    for family in parse_text(body.decode()):
        for sample in family.samples:
            if sample.name.startswith("portproxy_"):
                at = key(sample.name, **sample.labels)
                assert at not in found
                found[at] = sample.value
    return found


def expected(name: str, block: Sequence[int]) -> dict[Key, float]:
    """What each slot of ``block`` is to be called: written out, not derived from the collector."""
    values = {
        key("portproxy_connections_total", rule=name): block[counters.CONNECTIONS],
        key("portproxy_connections_active", rule=name): block[counters.ACTIVE],
        key("portproxy_accepted_bytes_total", rule=name, direction="up"): block[2],
        key("portproxy_bytes_total", rule=name, direction="up"): block[3],
        key("portproxy_discarded_bytes_total", rule=name, direction="up"): block[4],
        key("portproxy_accepted_bytes_total", rule=name, direction="down"): block[5],
        key("portproxy_bytes_total", rule=name, direction="down"): block[6],
        key("portproxy_discarded_bytes_total", rule=name, direction="down"): block[7],
        key("portproxy_dataplane_sessions_total", rule=name, dataplane="splice"): block[8],
        key("portproxy_dataplane_sessions_total", rule=name, dataplane="copy"): block[9],
        key("portproxy_splice_fallbacks_total", rule=name): block[10],
        key("portproxy_connect_seconds_sum", rule=name): block[11] / 1e6,
    }
    below = 0
    for i, bound in enumerate([*map(str, counters.CONNECT_BUCKETS), "+Inf"]):
        below += block[12 + i]
        values[key("portproxy_connect_seconds_bucket", rule=name, le=bound)] = below
    values[key("portproxy_connect_seconds_count", rule=name)] = below
    slot = 12 + len(counters.CONNECT_BUCKETS) + 1
    for metric, kind in (
        ("portproxy_refused_total", Refused),
        ("portproxy_connect_failures_total", ConnectFailed),
        ("portproxy_sessions_ended_total", Ended),
    ):
        for reason in kind:
            values[key(metric, rule=name, reason=reason.value)] = block[slot]
            slot += 1
    assert slot == counters.SLOTS
    return {at: float(value) for at, value in values.items()}


# Doubles, which is all that Prometheus has, count to 2**53.
blocks = st.lists(st.integers(0, 2**40), min_size=counters.SLOTS, max_size=counters.SLOTS)


def test_every_slot_has_its_own_sample() -> None:
    block = [1_000_003 * (slot + 1) for slot in range(counters.SLOTS)]
    found = scrape(snapshot(status("web", block)))
    values = expected("web", block)
    assert {at: found[at] for at in values} == values
    rest = {name for name, _ in found.keys() - values.keys()}
    of_all = {"portproxy_accept_pauses_total", "portproxy_workers", "portproxy_worker_deaths_total"}
    assert rest == {"portproxy_listener_state"} | of_all


def test_zeros_are_exported() -> None:
    found = scrape(snapshot(status("web", counters.new_block())))
    assert {at: found[at] for at in expected("web", counters.new_block())} == expected(
        "web", counters.new_block()
    )


@given(first=blocks, second=blocks)
def test_scraped_values_are_the_blocks(first: list[int], second: list[int]) -> None:
    found = scrape(snapshot(status("a", first), status("b", second)))
    values = expected("a", first) | expected("b", second)
    assert {at: found[at] for at in values} == values


@given(first=blocks, second=blocks)
def test_instances_of_one_rule_are_summed(first: list[int], second: list[int]) -> None:
    found = scrape(snapshot(status("a", first, RuleState.DRAINING), status("a", second)))
    values = expected("a", [x + y for x, y in zip(first, second, strict=True)])
    assert {at: found[at] for at in values} == values


@given(name=st.text(), error=st.text(min_size=1))
def test_any_text_survives_as_a_label(name: str, error: str) -> None:
    found = scrape(snapshot(status(name, counters.new_block(), RuleState.FAILED, error)))
    assert found[key("portproxy_listener_last_error_info", rule=name, error=error)] == 1
    assert found[key("portproxy_connections_total", rule=name)] == 0


def test_a_name_that_is_no_utf8_is_escaped() -> None:
    found = scrape(snapshot(status("caf\udce9", counters.new_block())))
    assert key("portproxy_connections_total", rule="caf\\udce9") in found


@pytest.mark.parametrize("order", [1, -1])
def test_the_instance_that_does_not_drain_gives_state_and_error(order: int) -> None:
    old = status("a", counters.new_block(), RuleState.DRAINING, "an old story")
    new = status("a", counters.new_block(), RuleState.FAILED, "address already in use")
    found = scrape(snapshot(*[old, new][::order]))
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in found.items()
        if name == "portproxy_listener_state"
    }
    assert states == {"listening": 0, "failed": 1, "shadowed": 0, "draining": 0}
    errors = [labels for name, labels in found if name == "portproxy_listener_last_error_info"]
    assert errors == [frozenset({("rule", "a"), ("error", "address already in use")})]


def test_process_wide_counters() -> None:
    found = scrape(snapshot(pauses=7, lost={"access": 3, "log": 0}))
    assert found[key("portproxy_accept_pauses_total")] == 7
    assert found[key("portproxy_lost_log_lines_total", log="access")] == 3
    assert found[key("portproxy_lost_log_lines_total", log="log")] == 0


def test_the_process_itself_is_shown() -> None:
    body, _ = render(snapshot())
    assert b"process_open_fds " in body


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5",
        "application/openmetrics-text;version=1.x",
    ],
)
def test_openmetrics_where_it_is_accepted(accept: str) -> None:
    body, content_type = render(snapshot(status("web", [3] * counters.SLOTS)), accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert families["portproxy_connections"].samples[0].value == 3


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=1.x", "text/html"])
def test_text_otherwise(accept: str) -> None:
    _, content_type = render(snapshot(), accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
