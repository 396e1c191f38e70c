"""What supervisor and workers say to each other, and back from bytes."""

from __future__ import annotations

import ipaddress
import resource
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portproxy.model import Acl, Endpoint, Limits, Rule, RuleType, Server
from portproxy.reasons import Ended
from portproxy.snapshot import SessionState, SessionStatus
from portproxy.wire import worker_frames as wire

RULE = Rule(
    RuleType.V6TOV4,
    Endpoint("*", 80),
    Endpoint("b\u00fcro.example", 8080),
    "web",
    limits=Limits(maxconn=3),
    acl=Acl(allow=(ipaddress.ip_network("2001:db8::/32"),)),
)
LISTENING = wire.Listening(7, 1, (((b"\x7f\0\0\1", 0), 2), ((b"\xfe\x80" + bytes(14), 3), 4)))

REQUESTS: list[wire.Request] = [
    wire.Setup(Server(workers=2, user="nobody"), 1, 3),
    wire.Run(((1, RULE),), ((2, RULE),)),
    wire.Serve((LISTENING,), (wire.Listening(8, 2),)),
    wire.Release((7, 8)),
    wire.Adopt(LISTENING),
    wire.Retire((1, 2)),
    wire.End(Ended.DRAIN, (1,)),
    wire.End(Ended.SHUTDOWN),
    wire.Publish(),
    wire.Sessions("web", 12.5),
    wire.Sessions(None, 0.0),
    wire.Kill("12"),
    wire.Room(1, "2001:db8::1"),
    wire.Room(1, None),
    wire.Ways(RULE, ("192.0.2.1", "::1")),
    wire.Reopen(),
]

STATUS = SessionStatus("5", "b\u00fcro", "[::1]:2", "", SessionState.DIALLING, 1.5, None, 1, 2**63, 3, 4, "")
REPLIES: list[wire.Reply] = [
    wire.Done(),
    wire.Served([7, 8], 24),
    wire.Found([STATUS, STATUS]),
    wire.Found([]),
    wire.RoomLeft(100, 24, 3, True),
    wire.WaysFound([wire.Way(True, "web"), wire.Way(False, None)]),
    wire.Idle(2**40),
]


def test_every_request_and_reply_is_among_these() -> None:
    assert {type(request) for request in REQUESTS} == set(get_args(wire.Request))
    assert {type(reply) for reply in REPLIES} == set(get_args(wire.Reply))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_comes_back_as_it_was(request_: wire.Request) -> None:
    assert wire.decode_request(wire.encode_request(request_)) == request_


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_a_reply_comes_back_as_it_was(reply: wire.Reply) -> None:
    back = wire.reply_untrusted(wire.encode_reply(reply))
    assert back == reply
    assert type(back) is type(reply)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x81\xa4type\xa5Frown",
        b"\x81\xa4type\xa4Idle",
        b"\x82\xa4type\xa4Idle\xa6number\xa11",
        b"\x82\xa4type\xa5Found\xa8sessions\x91\x80",
        b"\x82\xa4type\xa5Found\xa8sessions\x91\xa1\xff",
        wire.encode_reply(wire.Done()) + b"\0",
        wire.encode_request(wire.Publish()),
    ],
)
def test_what_is_no_reply_is_said_to_be_none(payload: bytes) -> None:
    with pytest.raises(wire.WorkerFrameError, match=r"^not a worker's reply: "):
        wire.reply_untrusted(payload)


FOUND = b"\x82\xa4type\xa5Found\xa8sessions"


@pytest.mark.parametrize(
    "deep", [FOUND + b"\x91" * 200_000, b"\x82\xa4type\xa4Done\xa1x" + b"\x91" * 200_000]
)
def test_deep_nesting_is_no_reply(deep: bytes) -> None:
    with pytest.raises(wire.WorkerFrameError):
        wire.reply_untrusted(deep)


def test_a_length_that_is_not_there_takes_no_memory() -> None:
    lengths = [b"\xff\xff\xff\xff", b"\x0f\xff\xff\xff"]
    missing = b"\x83\xa4type\xa6Served\xa5error\x01\xa7missing"
    claims = [FOUND + b"\xdd", missing + b"\xdd", b"\xdf", b"\x82\xa4type\xa4Done\xa1x\xdb"]
    script = (
        "import sys\nsys.path[:] = sys.argv[1:]\n"
        "from portproxy.wire import worker_frames as wire\n"
        f"for payload in {[claim + length for claim in claims for length in lengths]!r}:\n"
        "    try: wire.reply_untrusted(payload)\n"
        "    except wire.WorkerFrameError: print('refused')\n"
    )
    limit = 1 << 28
    done = subprocess.run(
        [sys.executable, "-c", script, *sys.path],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "refused\n" * 8


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=8), st.integers(1, 20))
def test_frames_are_cut_where_they_were_put_together(frames: list[tuple[bytes, bool]], size: int) -> None:
    stream = b"".join(wire.frame(payload, with_descriptors=flag) for payload, flag in frames)
    reader = wire.Frames(40)
    found = []
    for first in range(0, len(stream), size):
        reader.feed(stream[first : first + size])
        while frame := reader.next_untrusted():
            found.append(frame)
    assert found == frames
    assert reader.next_untrusted() is None


def test_a_frame_over_the_limit_is_refused_before_it_is_there() -> None:
    reader = wire.Frames(40)
    reader.feed(wire.frame(bytes(40)))
    assert reader.next_untrusted() == (bytes(40), False)
    reader.feed(wire.frame(bytes(41))[:5])
    with pytest.raises(wire.WorkerFrameError, match=r"^a frame of 41 bytes; at most 40 are allowed$"):
        reader.next_untrusted()
