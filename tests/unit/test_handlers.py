"""What the relay says to commands, apart from what it does."""

from __future__ import annotations

import pytest

from portproxy import counters
from portproxy.config import parse
from portproxy.handlers import health_reply, plan_lines
from portproxy.model import Config, Endpoint, Rule, RuleType
from portproxy.reconcile import plan
from portproxy.snapshot import RuleState, RuleStatus, Snapshot
from portproxy.wire.control_frames import Reply


def snapshot(*states: RuleState, sessions: int = 0, draining: bool = False) -> Snapshot:
    block = counters.new_block()
    block[counters.ACTIVE] = sessions
    rule = Rule(RuleType.V6TOV4, Endpoint("*", 80), Endpoint("127.0.0.1", 80), "web")
    rules = tuple(RuleStatus(rule, state, "address already in use", block) for state in states)
    return Snapshot(rules, 0, {}, draining)


@pytest.mark.parametrize(
    ("seen", "reply"),
    [
        (
            snapshot(RuleState.LISTENING, RuleState.LISTENING, sessions=6),
            Reply(True, "2 rules listening, 12 sessions", {"listening": 2, "sessions": 12, "tunnels_up": 0}),
        ),
        (
            snapshot(RuleState.LISTENING, RuleState.SHADOWED, RuleState.DRAINING),
            Reply(True, "1 rule listening, 0 sessions", {"listening": 1, "sessions": 0, "tunnels_up": 0}),
        ),
        (
            snapshot(RuleState.LISTENING, RuleState.FAILED),
            Reply(
                False, "rule web: address already in use", {"listening": 1, "sessions": 0, "tunnels_up": 0}
            ),
        ),
        (
            snapshot(RuleState.LISTENING, sessions=1, draining=True),
            Reply(False, "the relay is stopping", {"listening": 1, "sessions": 1, "tunnels_up": 0}),
        ),
    ],
)
def test_health_reply(seen: Snapshot, reply: Reply) -> None:
    assert health_reply(seen) == reply


def rules(*texts: str) -> Config:
    return parse("\n".join(f"[[rule]]\n{text}\n" for text in texts), "portproxy.toml")


def test_a_plan_in_lines() -> None:
    before = rules(
        'type = "v4tov4"\nlistenport = 1\nconnectport = 7\nname = "old"\nallow = ["10.0.0.0/8"]',
        'type = "v4tov4"\nlistenport = 2\nconnectport = 7',
    )
    after = rules(
        'type = "v4tov6"\nlistenport = 1\nconnectport = 8\nname = "new"\nmaxconn = 3',
        'type = "v6tov4"\nlistenport = 2\nconnectport = 7',
    )
    assert plan_lines(plan(before, after)) == [
        "stop    v4tov4/*:2",
        "change  new: name old -> new; type v4tov4 -> v4tov6; connect 127.0.0.1:7 -> [::1]:8;"
        " maxconn off -> 3; allow 10.0.0.0/8 -> off",
        "start   v6tov4/*:2: v6tov4 *:2 -> 127.0.0.1:7",
    ]


@pytest.mark.parametrize(
    ("number", "last"), [(20, "v4tov4/*:20"), (21, "1 rule more"), (90, "70 rules more")]
)
def test_a_long_plan_is_cut(number: int, last: str) -> None:
    many = rules(
        *(f'type = "v4tov4"\nlistenport = {port}\nconnectport = 999' for port in range(1, number + 1))
    )
    lines = plan_lines(plan(many, Config()))
    assert len(lines) == min(number, 21)
    assert lines[-1] == f"stop    {last}"
