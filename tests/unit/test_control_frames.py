from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from portproxy.counters import SLOTS
from portproxy.wire.control_frames import (
    COMMANDS_LIMIT,
    REPLY_LIMIT,
    REQUEST_LIMIT,
    Change,
    Decoder,
    FrameError,
    Line,
    Reply,
    Request,
    encode,
    reply_untrusted,
    request_untrusted,
)

TOP = Path(__file__).parents[2]
REQUEST = Request("health", {"name": "Büro"})
REPLY = Reply(True, "3 rules listening", {"listening": 3, "oldest": "web"})


def test_a_frame_is_a_length_and_json() -> None:
    assert encode(Request("health")) == b"\0\0\0\x14" + b'{"command":"health"}'


def test_request_there_and_back() -> None:
    (payload,) = Decoder(REQUEST_LIMIT).feed_untrusted(encode(REQUEST))
    assert request_untrusted(payload) == REQUEST


def test_reply_there_and_back() -> None:
    (payload,) = Decoder(REQUEST_LIMIT).feed_untrusted(encode(REPLY))
    assert reply_untrusted(payload) == REPLY


def test_byte_by_byte() -> None:
    decoder = Decoder(REQUEST_LIMIT)
    frame = encode(REQUEST)
    for i in range(len(frame) - 1):
        assert decoder.feed_untrusted(frame[i : i + 1]) == []
    assert decoder.feed_untrusted(frame[-1:]) == [frame[4:]]


def test_several_at_once_and_the_beginning_of_another() -> None:
    decoder = Decoder(REQUEST_LIMIT)
    frame = encode(REQUEST)
    assert decoder.feed_untrusted(frame + frame + frame[:7]) == [frame[4:], frame[4:]]
    assert decoder.feed_untrusted(frame[7:]) == [frame[4:]]


def test_the_limit_is_the_longest_allowed() -> None:
    assert Decoder(5).feed_untrusted(b"\0\0\0\x05hello") == [b"hello"]
    with pytest.raises(FrameError, match="a frame of 6 bytes; at most 5"):
        Decoder(5).feed_untrusted(b"\0\0\0\x06")


def test_keys_of_a_later_version_are_skipped() -> None:
    assert request_untrusted(b'{"command":"health","since":{"v":2}}') == Request("health")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"command":1}',
        b'{"command":"health","args":{"a":1}}',
        b'{"command":"\xff"}',
        b'{"command":"health"} trailing',
        b'{"x":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    ],
    ids=lambda payload: payload[:30].decode(errors="replace"),
)
def test_what_is_no_request(payload: bytes) -> None:
    with pytest.raises(FrameError, match=r"^not a request: "):
        request_untrusted(payload)


def test_what_is_no_reply() -> None:
    with pytest.raises(FrameError, match=r"^not a reply: "):
        reply_untrusted(b'{"ok":1,"text":""}')


def test_the_lines_of_a_reply() -> None:
    assert Reply(True, "one\n\nthree").lines == ["one", "", "three"]


def test_a_frame_that_has_begun_is_expected() -> None:
    decoder = Decoder(REQUEST_LIMIT)
    for byte, expected in zip(b"\0\1\0\0x", (0, 0, 0, 1 << 16, 1 << 16), strict=True):
        decoder.feed_untrusted(bytes([byte]))
        assert decoder.expected == expected
    decoder.feed_untrusted(b"x" * ((1 << 16) - 1))
    assert decoder.expected == 0


def test_an_import_of_10_000_rules_fits() -> None:
    tags = {
        "listenaddress": "255.255.255.255",
        "listenport": "65535",
        "connectaddress": "a-host.of-a-subdomain.of-a-domain.example",
        "connectport": "65535",
        "name": "a name as long as people make them, and longer",
        "maxconn": "1000000",
        "allow": "255.255.255.0/24,2001:db8:ffff:ffff::/64",
    }
    line = Line("add", "v4tov4", tags, "line 10000")
    frame = encode(Request("change", change=Change((line,) * 10_000)))
    assert len(frame) <= REQUEST_LIMIT
    assert len(request_untrusted(frame[4:]).change.commands) == 10_000


def test_10_000_rules_and_9_900_sessions_fit_a_reply() -> None:
    longest = 2**64 - 1
    rule = {
        "name": "n" * 128,
        "endpoints": ["e" * 64] * 2,
        "error": "e" * 200,
        "counters": {f"a counter's name {number}": longest for number in range(SLOTS)},
    }
    session = {"rule": "n" * 128, "addresses": ["a" * 64] * 3, "counters": [longest] * 8}
    reply = Reply(True, "", {"rules": [rule] * 10_000, "sessions": [session] * 9_900})
    assert len(encode(reply)) <= REPLY_LIMIT


def test_more_commands_than_allowed_are_not_decoded() -> None:
    def payload(commands: int, line: bytes) -> bytes:
        lines = b",".join([line] * commands)
        return b'{"command":"change","args":{},"change":{"commands":[' + lines + b"]}}"

    for line in (b'{"verb":"reset"}', b'{"verb":"add","tags":{}}'):
        assert len(request_untrusted(payload(COMMANDS_LIMIT, line)).change.commands) == COMMANDS_LIMIT
        with pytest.raises(FrameError, match=f"^not a request: more than {COMMANDS_LIMIT} commands$"):
            request_untrusted(payload(COMMANDS_LIMIT + 1, line))


@pytest.mark.parametrize(
    "change",
    [
        b'{"dry_run":"true"}',
        b'{"dryrun":true}',
        b'{"commands":[{"verb":"dump"}]}',
        b'{"commands":[{"verb":"add","tags":{"listenport":80}}]}',
        b'{"commands":[{"verb":"add","listenport":"80"}]}',
    ],
)
def test_a_change_is_what_it_says_or_none(change: bytes) -> None:
    """A slip must not make a dry run a real one."""
    with pytest.raises(FrameError, match=r"^not a request: "):
        request_untrusted(b'{"command":"change","change":' + change + b"}")


def test_a_message_that_there_is_no_memory_for() -> None:
    code = """if True:
        import resource
        from portproxy.wire.control_frames import FrameError, reply_untrusted
        payload = b'{"ok":true,"text":"","data":{"a":[' + b"[]," * 10_000_000 + b"[]]}}"
        resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))
        try:
            reply_untrusted(payload)
        except FrameError as error:
            print(error)
    """
    assert subprocess.check_output([sys.executable, "-c", code], cwd=TOP, text=True) == (
        "not a reply that there is memory for\n"
    )
