"""Whatever comes on the control socket is frames or a FrameError, in bounded memory."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from portproxy.wire.control_frames import Change, Line, Reply, Request, encode
from tests.fuzz import checks
from tests.fuzz.examples import fuzz

FRAMES = [
    encode(Request("health")),
    encode(Request("add", {"type": "v6tov4", "listenport": "80", "name": "B\u00fcro \U0001f389"})),
    encode(
        Request("change", change=Change((Line("add", "v6tov4", {"listenport": "80"}), Line("reset")), False))
    ),
    encode(Reply(True, "")),
    encode(Reply(True, "", {"rules": [{"name": "web", "rates": None, "up": 1.5}, [[]], True]})),
    encode(Reply(False, 'a "quoted"\nline \x00', {"listening": 2**63 - 1, "sessions": -1, "": "x" * 99})),
    b"\0\0\0\0",
    b"\0\0\x01\x2c" + b"[" * 300,
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Valid frames of which some bytes were changed, left out or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=3))))
    for at, gone, new in draw(st.lists(EDITS, max_size=3)):
        data[at : at + gone] = new
    return bytes(data)


EDITS = st.tuples(st.integers(0, 300), st.integers(0, 4), st.binary(max_size=4))


@st.composite
def chunked(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> list[bytes]:
    """A stream in pieces, whose sizes are those of a short pattern over and over."""
    data, sizes = draw(streams), itertools.cycle(draw(st.binary(min_size=1, max_size=4)))
    chunks = []
    while data:
        size = next(sizes) + 1
        chunks.append(data[:size])
        data = data[size:]
    return chunks


@fuzz()
@given(chunks=chunked(st.binary(max_size=600) | mutated()))
def test_anything_is_frames_or_a_frame_error_however_it_is_cut(chunks: list[bytes]) -> None:
    checks.frames(chunks)


@fuzz()
@given(payload=st.binary(max_size=400))
def test_any_payload_is_a_message_or_a_frame_error(payload: bytes) -> None:
    checks.message(payload)
