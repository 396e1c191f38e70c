from __future__ import annotations

import pytest

from portproxy.wire.control_frames import (
    REQUEST_LIMIT,
    Decoder,
    FrameError,
    Reply,
    Request,
    encode,
    reply_untrusted,
    request_untrusted,
)

REQUEST = Request("health", {"name": "Büro"})
REPLY = Reply(True, "3 rules listening", {"listening": 3, "oldest": "web"})


def test_a_frame_is_a_length_and_json() -> None:
    assert encode(Request("health")) == b"\0\0\0\x1e" + b'{"command":"health","args":{}}'


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
