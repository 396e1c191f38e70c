"""Whatever a worker sends is frames and replies, or a WorkerFrameError, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portproxy.snapshot import SessionState, SessionStatus
from portproxy.wire import worker_frames as wire
from tests.fuzz import checks
from tests.fuzz.examples import fuzz
from tests.fuzz.test_control_frames import EDITS, chunked

_SESSION = SessionStatus(
    "1", "B\u00fcro", "[::1]:2", "192.0.2.1:80", SessionState.RELAYING, 1.5, 0.0, 1, 2**63, 3, 4, "splice"
)
REPLIES: list[wire.Reply] = [
    wire.Done(),
    wire.Served([7, 2**40], 24),
    wire.Found([]),
    wire.Found([_SESSION]),
    wire.RoomLeft(100, 24, 3, True),
    wire.WaysFound([wire.Way(True, "web"), wire.Way(False, None)]),
    wire.Idle(2**63 - 1),
]
PAYLOADS = [*map(wire.encode_reply, REPLIES), b"", b"\x91" * 300]


@st.composite
def edited(draw: st.DrawFn, what: st.SearchStrategy[bytes]) -> bytes:
    """``what``, some bytes of which were changed, left out or put in."""
    data = bytearray(draw(what))
    for at, gone, new in draw(st.lists(EDITS, max_size=3)):
        data[at : at + gone] = new
    return bytes(data)


payloads = st.sampled_from(PAYLOADS)
framed = st.builds(lambda payload, flag: wire.frame(payload, with_descriptors=flag), payloads, st.booleans())
streams = st.lists(framed, min_size=1, max_size=3).map(b"".join)


@fuzz(2000)
@given(chunks=chunked(st.binary(max_size=600) | edited(streams)))
def test_anything_is_frames_or_an_error_however_it_is_cut(chunks: list[bytes]) -> None:
    checks.worker_stream(chunks)


@fuzz(2000)
@given(payload=st.binary(max_size=400) | edited(payloads))
def test_any_payload_is_a_reply_or_an_error(payload: bytes) -> None:
    checks.worker_reply(payload)
