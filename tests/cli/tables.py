"""The tables of README.md, made from the code: ``python -m tests.cli.tables`` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from portproxy.cli.manual import EXIT_CODES, SIGNALS
from portproxy.counters import new_block
from portproxy.metrics import RelayCollector
from portproxy.model import Endpoint, Rule, RuleType
from portproxy.options import RULE_KEYS, RULE_OPTIONS, SERVER_OPTIONS, Option
from portproxy.options.tunnels import TUNNEL_OPTIONS
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.snapshot import RuleState, RuleStatus, Snapshot, TunnelState, TunnelStatus
from portproxy.tunnel.model import AUTO, Tunnel, TunnelType
from portproxy.tunnel.reasons import Dropped

README = Path(__file__).parents[2] / "README.md"


def _table(*rows: Iterable[str]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * lines[0].count(" | ") + "|---|")
    return "\n".join(lines)


def _options(options: Iterable[Option]) -> str:
    rows = [(f"`{o.name}`", o.kind.accepts, f"`{o.default_text}`", o.why) for o in options]
    return _table(("key", "takes", "default", "why"), *rows)


def _reasons() -> str:
    counted = {Refused: "refused", ConnectFailed: "connect_failures", Ended: "sessions_ended"}
    rows = [(f"`{r}`", f"`portproxy_{name}_total`", r.text) for kind, name in counted.items() for r in kind]
    return _table(("reason", "counted in", "meaning"), *rows)


def _metrics() -> str:
    rule = Rule(RuleType.V6TOV4, Endpoint("*", 1), Endpoint("127.0.0.1", 1), "")
    status = RuleStatus(rule, RuleState.LISTENING, "", new_block())
    failed = RuleStatus(rule, RuleState.FAILED, "error", new_block())
    return _table(("metric", "labels", "meaning"), *_families([status, failed]))


def _families(statuses: Iterable[RuleStatus]) -> Iterator[tuple[str, str, str]]:
    suffix = {"counter": "_total", "info": "_info"}
    tunnel = Tunnel("", TunnelType.V6V4TUNNEL, AUTO, "", "")
    drops = {reason.value: 0 for reason in Dropped}
    tunnels = (TunnelStatus(tunnel, TunnelState.UP, "", "", 0, 0, 0, 0, 0, drops),)
    snapshot = Snapshot(tuple(statuses), 0, {"access": 0}, False, tunnels=tunnels)
    for family in RelayCollector(lambda: snapshot).collect():
        labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        name = family.name + suffix.get(family.type, "")
        yield f"`{name}`", ", ".join(f"`{label}`" for label in labels), family.documentation


def tables() -> dict[str, str]:
    """Every table by the name that its markers have in the README."""
    return {
        "exit codes": _table(("code", "meaning"), *EXIT_CODES),
        "signals": _table(("signal", "`portproxy serve`"), *SIGNALS),
        "rule keys": _options(RULE_KEYS),
        "rule options": _options(RULE_OPTIONS),
        "server options": _options(SERVER_OPTIONS),
        "tunnel keys": _options(TUNNEL_OPTIONS),
        "tunnel reasons": _table(("reason", "meaning"), *((f"`{r}`", r.text) for r in Dropped)),
        "metrics": _metrics(),
        "reasons": _reasons(),
    }


def renewed(text: str) -> str:
    """``text`` with every table between its markers as the code has it now; KeyError for an unknown one."""
    made = tables()
    return re.sub(
        r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
