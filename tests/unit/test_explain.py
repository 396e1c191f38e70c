"""What an explanation says, and the parts of it that need no relay."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from portproxy.errors import ConfigError
from portproxy.explain.case import client_address
from portproxy.explain.explanation import Explanation, Outcome, Step, as_data, as_text
from portproxy.explain.protocols import KNOWN, protocol
from portproxy.model import Endpoint, Rule, RuleType

STEPS = (
    Step("family", Outcome.OK, "clients come over IPv6"),
    Step("firewall", Outcome.SKIPPED, "nothing listens"),
    Step("connect 127.0.0.1:80", Outcome.FAIL, "Connection refused", "ECONNREFUSED", "start it\nthen look"),
    Step("protocol", Outcome.WARNING, "port 21: FTP"),
    Step("last", Outcome.FAIL, "this too"),
)


def test_the_first_step_that_fails_is_where_a_connection_stops() -> None:
    assert Explanation("web", "", STEPS).failed is STEPS[2]
    assert Explanation("web", "", STEPS[:2]).failed is None


def test_as_text() -> None:
    assert as_text(Explanation("web", "2001:db8::1", STEPS)).splitlines() == [
        "ok       family                clients come over IPv6",
        "skipped  firewall              nothing listens",
        "fail     connect 127.0.0.1:80  ECONNREFUSED: Connection refused",
        "                                 start it",
        "                                 then look",
        "warning  protocol              port 21: FTP",
        "fail     last                  this too",
        "",
        "a connection from 2001:db8::1 would fail at step `connect 127.0.0.1:80`: "
        "ECONNREFUSED: Connection refused",
    ]


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ((), "a connection would get through"),
        (STEPS[:2], "a connection would get through"),
        (STEPS[3:4] * 2, "a connection would get through (warnings: 2)"),
        (STEPS[4:], "a connection would fail at step `last`: this too"),
    ],
)
def test_the_verdict_is_the_last_line(steps: tuple[Step, ...], verdict: str) -> None:
    assert as_text(Explanation("web", "", steps)).splitlines()[-1] == verdict


def test_as_data_is_json() -> None:
    explanation = Explanation("web", "::1", STEPS)
    data = as_data(explanation)
    assert json.loads(json.dumps(data)) == data
    assert data["failed"] == "connect 127.0.0.1:80"
    assert data["verdict"] == explanation.verdict
    assert data["steps"][2] == {  # type: ignore[index]
        "name": "connect 127.0.0.1:80",
        "outcome": "fail",
        "text": "Connection refused",
        "errno": "ECONNREFUSED",
        "advice": "start it\nthen look",
    }
    assert as_data(Explanation("web", "", ()))["failed"] == ""


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_client_is_judged_by_one_spelling(text: str, judged: str) -> None:
    assert str(client_address(text)) == judged


@pytest.mark.parametrize("text", ["", "*", "localhost", "192.0.2", "192.0.2.1:80", "[::1]", "\x1b[2J"])
def test_what_is_no_address_of_a_client(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--from \".*\": not an IP address, like ") as error:
        client_address(text)
    assert str(error.value).isprintable()


RULE = Rule(RuleType.V6TOV4, Endpoint("*", 8080), Endpoint("192.0.2.1", 8000), "rule")


def test_no_hint_for_other_ports() -> None:
    assert protocol(RULE).outcome is Outcome.OK


@pytest.mark.parametrize("port", KNOWN)
def test_a_protocol_is_known_by_either_port(port: int) -> None:
    for rule in (
        replace(RULE, listen=Endpoint("*", port)),
        replace(RULE, connect=Endpoint("192.0.2.1", port)),
    ):
        step = protocol(rule)
        assert step.outcome is Outcome.WARNING
        assert step.text.startswith(f"port {port}: ")
        assert step.advice
