"""What is said of rules and sessions, as data and as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy import __version__, counters
from portproxy.model import Endpoint, Rule, RuleType
from portproxy.reasons import ConnectFailed, Ended, Refused
from portproxy.report import (
    SessionsData,
    StatusData,
    sessions_data,
    sessions_text,
    status_data,
    status_text,
    with_rates,
)
from portproxy.snapshot import RuleState, RuleStatus, SessionState, SessionStatus, Snapshot

SESSION = SessionStatus(
    id="17",
    rule="web",
    client="[2001:db8::1]:40000",
    upstream="192.0.2.7:80",
    state=SessionState.RELAYING,
    age=3723.45678,
    idle=0.25,
    up_accepted=1200,
    up_delivered=1000,
    down_accepted=7_300_000,
    down_delivered=7_250_000,
    dataplane="splice",
)


def status(
    name: str = "web", state: RuleState = RuleState.LISTENING, error: str = "", **slots: int
) -> RuleStatus:
    rule = Rule(RuleType.V6TOV4, Endpoint("*", 8080), Endpoint("192.0.2.7", 80), name)
    block = counters.new_block()
    for slot, count in slots.items():
        block[getattr(counters, slot)] = count
    return RuleStatus(rule, state, error, block)


def moved(connections: int, up: int, down: int, name: str = "web") -> RuleStatus:
    found = status(name, CONNECTIONS=connections)
    block = list(found.block)
    # Delivered bytes are what counts; the accepted ones beside them are others.
    block[counters.UP : counters.UP + 2] = [7 * up + 1, up]
    block[counters.DOWN : counters.DOWN + 2] = [7 * down + 1, down]
    return replace(found, block=block)


def sample(*statuses: RuleStatus, uptime: float = 60.0, **fields: Any) -> StatusData:
    values: dict[str, Any] = {"accept_pauses": 0, "lost_lines": {}, "draining": False, **fields}
    return status_data(Snapshot(statuses, uptime=uptime, **values))


def test_status_as_data() -> None:
    found = moved(9, 100, 2000)
    block = list(found.block)
    block[counters.ACTIVE] = 3
    block[counters.REFUSED + Refused.MAXCONN.slot] = 1
    block[counters.CONNECT_FAILED + ConnectFailed.KILLED.slot] = 2
    block[counters.ENDED + Ended.FINISHED.slot] = 4
    block[counters.ENDED + Ended.INTERNAL.slot] = 5
    found = replace(found, block=block, last_error="no", state=RuleState.FAILED)
    said = {"accept_pauses": 6, "lost_lines": {"access": 7}, "draining": True}
    assert sample(found, uptime=1.23456, **said) == {
        "version": __version__,
        "workers": 1,
        "workers_relaying": 1,
        "worker_deaths": 0,
        "uptime": 1.235,
        "draining": True,
        "accept_pauses": 6,
        "lost_lines": {"access": 7},
        "rules": [
            {
                "name": "web",
                "type": "v6tov4",
                "listen": "*:8080",
                "connect": "192.0.2.7:80",
                "state": "failed",
                "last_error": "no",
                "sessions": 3,
                "counters": {
                    "connections": 9,
                    "bytes_up": 100,
                    "bytes_down": 2000,
                    "refused": {"maxconn": 1},
                    "connect_failed": {"connect-killed": 2},
                    "ended": {"finished": 4, "internal": 5},
                },
            }
        ],
        "tunnels": {"up": 0, "failed": 0},
    }


def test_sessions_as_data() -> None:
    dialling = replace(SESSION, state=SessionState.DIALLING, idle=None, upstream="", dataplane="")
    first, second = sessions_data([SESSION, dialling])["sessions"]
    assert first == {
        "id": "17",
        "rule": "web",
        "client": "[2001:db8::1]:40000",
        "upstream": "192.0.2.7:80",
        "state": "relaying",
        "age": 3723.457,
        "idle": 0.25,
        "up_accepted": 1200,
        "up_delivered": 1000,
        "down_accepted": 7_300_000,
        "down_delivered": 7_250_000,
        "dataplane": "splice",
    }
    assert (second["idle"], second["upstream"], second["state"]) == (None, "", "dialling")


@given(name=st.text(st.characters()), error=st.text(st.characters()))
def test_any_text_travels_as_json_and_is_one_line(name: str, error: str) -> None:
    data = sample(status(name, error=error))
    assert msgspec.json.decode(msgspec.json.encode(data), type=StatusData) == data
    assert len(status_text(data, None, 1.0).splitlines()) == (6 if error else 4)
    listed = sessions_data([replace(SESSION, rule=name)])
    assert msgspec.json.decode(msgspec.json.encode(listed), type=SessionsData) == listed
    assert len(sessions_text(listed).splitlines()) == 2


def test_what_another_relay_says_is_no_terminal_control() -> None:
    """Whoever listens on the control socket need not be a relay of ours."""
    hostile = "\x1b[2J\n"
    data = sample(status(error="x"), lost_lines={hostile: 1})
    data["version"] = hostile
    data["rules"][0].update({"name": hostile, "state": hostile, "last_error": hostile})
    assert "\x1b" not in status_text(data, None, 1.0)
    listed = sessions_data([SESSION])
    listed["sessions"][0].update(
        {"id": hostile, "rule": hostile, "client": hostile, "upstream": hostile, "state": hostile}
    )
    assert "\x1b" not in sessions_text(listed)


def test_what_is_no_utf8_is_escaped() -> None:
    (rule,) = sample(status("caf\udce9", error="no \udce9"))["rules"]
    assert (rule["name"], rule["last_error"]) == ("caf\\udce9", "no \\udce9")


# Rates.


def test_rates_are_what_two_samples_differ_by_a_second() -> None:
    before, now = sample(moved(10, 1000, 0)), sample(moved(15, 4000, 500), uptime=62.0)
    (rule,) = with_rates(now, before, 2.0)["rules"]
    assert rule["rates"] == {"connections": 2.5, "bytes_up": 1500.0, "bytes_down": 250.0}
    assert {**rule, "rates": None} == {**now["rules"][0], "rates": None}
    assert "rates" not in now["rules"][0]


def test_rules_are_matched_by_name() -> None:
    before = sample(moved(1, 0, 0, "a"), moved(5, 0, 0, "gone"), moved(2, 0, 0, "b"))
    now = sample(moved(4, 0, 0, "b"), moved(9, 0, 0, "new"), moved(2, 0, 0, "a"))
    rated = with_rates(now, before, 1.0)["rules"]
    rates = {rule["name"]: rule["rates"] and rule["rates"]["connections"] for rule in rated}
    assert rates == {"b": 2, "new": None, "a": 1}


@pytest.mark.parametrize(
    ("now", "before", "seconds"),
    [
        (sample(moved(1, 1, 1)), None, 1.0),
        (sample(moved(1, 9, 9)), sample(moved(2, 1, 1)), 1.0),
        (sample(moved(9, 1, 9)), sample(moved(1, 2, 1)), 1.0),
        (sample(moved(9, 9, 1)), sample(moved(1, 1, 2)), 1.0),
        (sample(moved(9, 9, 9), uptime=0.5), sample(moved(1, 1, 1)), 1.0),
        (sample(moved(9, 9, 9)), sample(moved(1, 1, 1)), 0.0),
    ],
    ids=["one sample", "connections fell", "up fell", "down fell", "restarted", "no time"],
)
def test_no_rate_where_none_can_be_known(now: StatusData, before: StatusData | None, seconds: float) -> None:
    (rule,) = with_rates(now, before, seconds)["rules"]
    assert rule["rates"] is None
    assert status_text(now, before, seconds).splitlines()[-1].split()[3:6] == ["-", "-", "-"]


# For people.


def test_status_as_text() -> None:
    before = sample(moved(10, 1000, 0))
    now = sample(
        moved(15, 12_301_000, 500),
        status("mail", RuleState.FAILED, "the port is in use", ACTIVE=1),
        uptime=3723.0,
    )
    assert status_text(now, before, 1.0).splitlines() == [
        f"portproxy {__version__}, up 1h02m: 2 rules, 1 session",
        "",
        "rule  state      sessions  conn/s  up/s       down/s   up       down",
        "web   listening  0         5.0     12.3 MB/s  500 B/s  12.3 MB  500 B",
        "mail  failed     1         -       -          -        0 B      0 B",
        "",
        "mail: the port is in use",
    ]


def test_what_is_wrong_with_the_whole_relay_is_said() -> None:
    data = sample(status(), draining=True, accept_pauses=1, lost_lines={"access": 12, "log": 0})
    assert status_text(data, None, 1.0).splitlines()[1:5] == [
        "the relay is stopping",
        "accepting was paused 1 time",
        "12 lines of the access log lost",
        "",
    ]


def test_a_relay_without_rules() -> None:
    assert status_text(sample(), None, 1.0) == f"portproxy {__version__}, up 1m00s: 0 rules, 0 sessions"


def test_sessions_as_text() -> None:
    dialling = replace(SESSION, id="18", state=SessionState.DIALLING, idle=None, upstream="", age=0.04)
    dialling = replace(dialling, up_delivered=0, down_delivered=0)
    assert sessions_text(sessions_data([SESSION, dialling])).splitlines() == [
        "id  rule  client               upstream      state     age    idle  up      down",
        "17  web   [2001:db8::1]:40000  192.0.2.7:80  relaying  1h02m  0.2s  1.0 kB  7.2 MB",
        "18  web   [2001:db8::1]:40000  -             dialling  0.0s   -     0 B     0 B",
    ]


def test_no_sessions() -> None:
    assert sessions_text(sessions_data([])) == "no sessions"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**12, "1.0 TB"),
        (2**64, "18446744.1 TB"),
    ],
)
def test_bytes_are_in_decimal_units(count: int, text: str) -> None:
    listed = sessions_text(sessions_data([replace(SESSION, down_delivered=count)]))
    assert listed.splitlines()[1].endswith(f"  {text}")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (100 * 86400 + 7200, "100d02h"),
    ],
)
def test_times_have_two_units(seconds: float, text: str) -> None:
    listed = sessions_text(sessions_data([replace(SESSION, age=seconds)]))
    assert listed.splitlines()[1].split()[5] == text


@pytest.mark.parametrize("width", [60, 100])
def test_tables_are_folded_to_the_width(width: int) -> None:
    error = "cannot listen on 192.0.2.1:80: the port is in use by nginx (pid 4711)"
    data = sample(status("a rule with a rather long name", RuleState.FAILED, error))
    *lines, last = status_text(data, None, 1.0, width).splitlines()[1:]
    assert max(map(len, lines)) <= width
    # A terminal may wrap it, and a search still finds it.
    assert last == f"a rule with a rather long name: {error}"
    listed = sessions_text(sessions_data([SESSION]), width).splitlines()
    assert max(map(len, listed)) <= width
