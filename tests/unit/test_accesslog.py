from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from portproxy.accesslog import Record, encode_json, encode_text

FINISHED = Record(
    time=1_795_292_100.1237,
    rule="web",
    client="[2001:db8::1]:4242",
    listen="[::1]:8080",
    upstream="127.0.0.1:80",
    connect=0.000312,
    duration=1.204,
    up_accepted=1,
    up_delivered=2,
    up_discarded=3,
    down_accepted=4,
    down_delivered=5,
    down_discarded=6,
    dataplane="splice",
    reason="finished",
    error="",
)
FAILED = FINISHED._replace(
    rule="my web", upstream="", connect=None, dataplane="", reason="connect-resolve", error='no "A" record'
)

any_text = st.text(st.characters(codec=None, exclude_categories=()))


def test_text_of_a_finished_session() -> None:
    assert encode_text(FINISHED) == (
        b"2026-11-21T20:15:00.123Z web client=[2001:db8::1]:4242 listen=[::1]:8080 upstream=127.0.0.1:80"
        b" connect=0.312ms duration=1.204s up=1/2/3 down=4/5/6 dataplane=splice reason=finished\n"
    )


def test_text_of_a_session_that_reached_no_upstream() -> None:
    assert encode_text(FAILED) == (
        b'2026-11-21T20:15:00.123Z "my web" client=[2001:db8::1]:4242 listen=[::1]:8080 upstream=-'
        b" connect=- duration=1.204s up=1/2/3 down=4/5/6 dataplane=- reason=connect-resolve"
        b' error="no \\"A\\" record"\n'
    )


def test_json_has_every_field() -> None:
    assert json.loads(encode_json(FINISHED)) == FINISHED._asdict() | {"time": "2026-11-21T20:15:00.123Z"}
    assert json.loads(encode_json(FAILED)) == FAILED._asdict() | {"time": "2026-11-21T20:15:00.123Z"}


@given(rule=any_text, upstream=any_text, error=any_text)
def test_no_text_breaks_a_line_or_reaches_the_terminal(rule: str, upstream: str, error: str) -> None:
    record = FINISHED._replace(rule=rule, upstream=upstream, error=error)
    for line in (encode_text(record), encode_json(record)):
        text = line.decode()
        assert text.endswith("\n")
        assert text[:-1].isprintable()
