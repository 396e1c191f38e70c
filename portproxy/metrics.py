"""What the engine's integers look like to Prometheus: read when scraped, nothing on the hot path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from portproxy import counters
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.snapshot import RuleState, RuleStatus, Snapshot, TunnelState, TunnelStatus

OPENMETRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class _RuleView:
    """A rule name's figures: summed, where an instance drains beside its successor."""

    name: str
    state: RuleState
    last_error: str
    block: tuple[int, ...]


def _label(text: str) -> str:
    """``text`` as UTF-8 can carry it: a name from the environment may hold stray bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _merged(statuses: Iterable[RuleStatus]) -> list[_RuleView]:
    """One view a name; the state is that of the instance which does not drain."""
    views: dict[str, _RuleView] = {}
    for status in statuses:
        name = _label(status.rule.name)
        view = _RuleView(name, status.state, _label(status.last_error), tuple(status.block))
        if (seen := views.get(name)) is not None:
            stays = seen if view.state is RuleState.DRAINING else view
            block = tuple(map(sum, zip(seen.block, view.block, strict=True)))
            view = _RuleView(name, stays.state, stays.last_error, block)
        views[name] = view
    return list(views.values())


@dataclass(frozen=True, slots=True)
class _CounterSpec:
    """A counter with a second label: its name without ``_total``, and the slot of each of its values."""

    name: str
    help: str
    label: str
    slots: tuple[tuple[str, int], ...]


def _directions(offset: int) -> tuple[tuple[str, int], ...]:
    return ("up", counters.UP + offset), ("down", counters.DOWN + offset)


def _reasons(kind: type[Refused | ConnectFailed | Ended], first: int) -> tuple[tuple[str, int], ...]:
    return tuple((reason.value, first + reason.slot) for reason in kind)


_PLAIN = (
    ("portproxy_connections", "Connections accepted, refused ones included.", counters.CONNECTIONS),
    (
        "portproxy_splice_fallbacks",
        "Times splice or its pipe was refused and copy served.",
        counters.FALLBACKS,
    ),
)
_LABELLED = (
    _CounterSpec(
        "portproxy_refused",
        "Clients reset right after accept.",
        "reason",
        _reasons(Refused, counters.REFUSED),
    ),
    _CounterSpec(
        "portproxy_connect_failures",
        "Sessions that reached no upstream.",
        "reason",
        _reasons(ConnectFailed, counters.CONNECT_FAILED),
    ),
    _CounterSpec(
        "portproxy_bytes",
        "Payload bytes delivered: taken by the destination's kernel.",
        "direction",
        _directions(1),
    ),
    _CounterSpec(
        "portproxy_accepted_bytes",
        "Payload bytes taken from the sender: delivered and discarded ones, and those in flight.",
        "direction",
        _directions(0),
    ),
    _CounterSpec(
        "portproxy_discarded_bytes",
        "Payload bytes accepted that never were delivered.",
        "direction",
        _directions(2),
    ),
    _CounterSpec(
        "portproxy_sessions_ended",
        "Relayed sessions that ended.",
        "reason",
        _reasons(Ended, counters.ENDED),
    ),
    _CounterSpec(
        "portproxy_dataplane_sessions",
        "Ended sessions by what moved their bytes.",
        "dataplane",
        (("splice", counters.SPLICED), ("copy", counters.COPIED)),
    ),
)


class RelayCollector(Collector):
    """A prometheus_client collector over the snapshot that ``snapshot`` returns at each scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every metric family, one at a time: with 10,000 rules a family is large."""
        snapshot = self._snapshot()
        rules = _merged(snapshot.rules)
        for name, text, slot in _PLAIN:
            yield _plain(CounterMetricFamily(name, text, labels=["rule"]), rules, slot)
        active = GaugeMetricFamily(
            "portproxy_connections_active", "Sessions dialling or relaying.", labels=["rule"]
        )
        yield _plain(active, rules, counters.ACTIVE)
        for spec in _LABELLED:
            yield _labelled(spec, rules)
        yield _connect_seconds(rules)
        yield _listener_state(rules)
        yield _listener_last_error(rules)
        yield CounterMetricFamily(
            "portproxy_accept_pauses",
            "Times accepting paused for want of descriptors or memory.",
            snapshot.accept_pauses,
        )
        yield GaugeMetricFamily(
            "portproxy_workers", "Workers that relay.", snapshot.workers - snapshot.missing
        )
        yield CounterMetricFamily("portproxy_worker_deaths", "Workers that died.", snapshot.deaths)
        lost = CounterMetricFamily("portproxy_lost_log_lines", "Log lines dropped.", labels=["log"])
        for log, lines in snapshot.lost_lines.items():
            lost.add_metric([log], lines)
        yield lost
        if snapshot.tunnels:
            yield from _tunnels(snapshot.tunnels)


def _plain(
    family: CounterMetricFamily | GaugeMetricFamily, rules: list[_RuleView], slot: int
) -> CounterMetricFamily | GaugeMetricFamily:
    for rule in rules:
        family.add_metric([rule.name], rule.block[slot])
    return family


def _labelled(spec: _CounterSpec, rules: list[_RuleView]) -> CounterMetricFamily:
    family = CounterMetricFamily(spec.name, spec.help, labels=["rule", spec.label])
    for rule in rules:
        for value, slot in spec.slots:
            family.add_metric([rule.name, value], rule.block[slot])
    return family


def _connect_seconds(rules: list[_RuleView]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "portproxy_connect_seconds", "Time to reach an upstream, of the dials that did.", labels=["rule"]
    )
    bounds = [*map(str, counters.CONNECT_BUCKETS), "+Inf"]
    for rule in rules:
        counts = rule.block[counters.CONNECT_HISTOGRAM : counters.CONNECT_HISTOGRAM + len(bounds)]
        total = rule.block[counters.CONNECT_MICROSECONDS] / 1e6
        family.add_metric([rule.name], list(zip(bounds, accumulate(counts), strict=True)), total)
    return family


def _listener_state(rules: list[_RuleView]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "portproxy_listener_state", "1 for the state a rule's listener is in.", labels=["rule", "state"]
    )
    for rule in rules:
        for state in RuleState:
            family.add_metric([rule.name, state.value], rule.state is state)
    return family


def _listener_last_error(rules: list[_RuleView]) -> InfoMetricFamily:
    family = InfoMetricFamily(
        "portproxy_listener_last_error", "What went wrong last with a rule's listener.", labels=["rule"]
    )
    for rule in rules:
        if rule.last_error:
            family.add_metric([rule.name], {"error": rule.last_error})
    return family


def _tunnels(tunnels: Sequence[TunnelStatus]) -> Iterator[Metric]:
    up = GaugeMetricFamily("portproxy_tunnel_up", "1 where a tunnel carries packets.", labels=["tunnel"])
    mtu = GaugeMetricFamily(
        "portproxy_tunnel_mtu_bytes", "The largest packet that goes in.", labels=["tunnel"]
    )
    packets = CounterMetricFamily(
        "portproxy_tunnel_packets", "Packets carried.", labels=["tunnel", "direction"]
    )
    carried = CounterMetricFamily(
        "portproxy_tunnel_bytes", "Bytes carried, of the inner packets.", labels=["tunnel", "direction"]
    )
    drops = CounterMetricFamily(
        "portproxy_tunnel_dropped_packets", "Packets that went no further.", labels=["tunnel", "reason"]
    )
    for status in tunnels:
        name = _label(status.tunnel.name)
        up.add_metric([name], status.state is TunnelState.UP)
        mtu.add_metric([name], status.mtu)
        packets.add_metric([name, "in"], status.packets_in)
        packets.add_metric([name, "out"], status.packets_out)
        carried.add_metric([name, "in"], status.bytes_in)
        carried.add_metric([name, "out"], status.bytes_out)
        for reason, count in status.drops.items():
            drops.add_metric([name, reason], count)
    yield from (up, mtu, packets, carried, drops)


def render(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """The exposition of ``snapshot`` and of this process, and its content type.

    OpenMetrics where the HTTP header ``accept`` names it, else Prometheus' text format 0.0.4. May take
    seconds with thousands of rules; it does not touch the relay, so a thread may do it.
    """
    registry = CollectorRegistry()
    registry.register(RelayCollector(lambda: snapshot))
    ProcessCollector(registry=registry)
    # The header is untrusted, and choose_encoder raises TypeError on "version=1.x": it gets to see our words.
    encoder, content_type = choose_encoder(f"{OPENMETRICS}; version=1.0.0" if OPENMETRICS in accept else "")
    return encoder(registry), content_type
