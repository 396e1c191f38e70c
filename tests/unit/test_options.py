"""The tables of options: they agree with the model, and what they show can be written."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.model import Acl, Limits, Rule, Server
from portproxy.options import RULE_KEYS, RULE_OPTIONS, SERVER_OPTIONS, Option
from portproxy.options.addresses import is_host_name
from portproxy.options.kinds import YEAR, RefusedError, duration, show_duration, show_size, size


def names(*holders: type) -> set[str]:
    return {field.name for holder in holders for field in dataclasses.fields(holder) if field.init}


def test_every_field_of_the_model_has_its_option() -> None:
    made = {"type", "listen", "connect", "name", "protocol", "limits", "acl"}
    assert {option.name for option in RULE_OPTIONS} == (names(Rule) - made) | names(Limits, Acl)
    assert {option.name for option in SERVER_OPTIONS} == names(Server)


@pytest.mark.parametrize("option", RULE_OPTIONS + SERVER_OPTIONS, ids=lambda option: option.name)
def test_a_default_can_be_written(option: Option) -> None:
    if option.name == "control":
        assert option.default is None
    elif option.name in ("allow", "deny"):
        assert (option.default_text, option.kind.convert([])) == ("[]", option.default)
    else:
        assert option.kind.convert(option.default_text) == option.default


def test_the_issue_s_defaults() -> None:
    shown = {option.name: option.default_text for option in RULE_OPTIONS + SERVER_OPTIONS}
    assert shown == {
        "connecttimeout": "5s",
        "idletimeout": "1h",
        "halfclosetimeout": "10m",
        "maxlifetime": "off",
        "keepalive": "1m",
        "usertimeout": "off",
        "maxconn": "off",
        "maxconnpersource": "off",
        "allow": "[]",
        "deny": "[]",
        "connectsource": "off",
        "backlog": "4096",
        "nodelay": "true",
        "pipesize": "256k",
        "dataplane": "auto",
        "status": "off",
        "control": "/run/portproxy/control.sock as root, else $XDG_RUNTIME_DIR/portproxy.sock",
        "log": "console",
        "accesslog": "-",
        "draintimeout": "30s",
        "user": "off",
        "workers": "1",
    }


def test_every_key_says_why_in_one_line() -> None:
    for option in RULE_KEYS + RULE_OPTIONS + SERVER_OPTIONS:
        assert option.why.isprintable()
        assert option.kind.accepts.isprintable()
        assert option.default_text


LONG_DURATIONS = st.floats(0.001, YEAR) | st.integers(1, int(YEAR)).map(float)
MILLISECONDS = st.integers(1, 10**6).map(lambda number: number / 1000)


@given(LONG_DURATIONS | MILLISECONDS)
def test_a_duration_is_read_as_it_is_shown(seconds: float) -> None:
    assert duration(0.001).convert(show_duration(seconds)) == seconds
    assert duration(0.001).convert(seconds) == seconds


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *(("250ms", 0.25), ("5s", 5), ("5", 5), ("1.5m", 90), ("1h", 3600), (5, 5), (0.5, 0.5)),
        *(("0s", None), ("0", None), (0, None), ("off", None)),
    ],
)
def test_durations(written: object, seconds: float | None) -> None:
    assert duration(0.001, off=True).convert(written) == seconds


@pytest.mark.parametrize(
    ("key", "words", "value"),
    [
        ("nodelay", ("true", "yes", "on", "On"), True),
        ("nodelay", ("false", "no", "off"), False),
        ("maxconn", ("off", "0", 0), None),
        ("allow", ("off",), ()),
    ],
)
def test_other_words_for_a_value(key: str, words: tuple[object, ...], value: object) -> None:
    (kind,) = (option.kind for option in RULE_OPTIONS if option.name == key)
    assert [kind.convert(word) for word in words] == [value] * len(words)
    for word in words:
        assert str(word).lower() in kind.accepts


@given(st.integers(1 << 16, 1 << 20))
def test_a_size_is_read_as_it_is_shown(number: int) -> None:
    assert size(1 << 16, 1 << 20).convert(show_size(number)) == number


ANYTHING = (
    st.text() | st.floats() | st.integers() | st.booleans() | st.dates() | st.lists(st.text(max_size=9))
)


@given(ANYTHING)
def test_a_kind_converts_or_refuses(value: object) -> None:
    for option in RULE_KEYS + RULE_OPTIONS + SERVER_OPTIONS:
        with suppress(RefusedError):
            option.kind.convert(value)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("a", True),
        ("a.example.", True),
        ("a_b.example", True),
        ("3com.example", True),
        (f"{'a' * 63}.example", True),
        (f"{'a' * 64}.example", False),
        (".".join(["a" * 63] * 3 + ["a" * 61]), True),
        (".".join(["a" * 63] * 3 + ["a" * 62]), False),
        ("", False),
        (".", False),
        ("a..", False),
        ("-a", False),
        ("a-", False),
        ("1.2", False),
        ("a.0x1f", False),
        ("a b", False),
    ],
)
def test_host_names(name: str, valid: bool) -> None:
    assert is_host_name(name) is valid
