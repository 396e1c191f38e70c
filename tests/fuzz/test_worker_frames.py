"""Whatever a worker sends is frames and replies, or a WorkerFrameError, in bounded memory."""

from __future__ import annotations

from random import Random

from portproxy.snapshot import SessionState, SessionStatus
from portproxy.wire import worker_frames as wire
from tests.fuzz import checks
from tests.fuzz.examples import binary, seeded
from tests.fuzz.test_control_frames import chunked, edited

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


def payload(random: Random) -> bytes:
    """Any bytes, or those of a reply, edited."""
    return binary(random, 400) if random.random() < 0.2 else edited(random, random.choice(PAYLOADS))


def stream(random: Random) -> bytes:
    """Any bytes, or edited frames."""
    if random.random() < 0.2:
        return binary(random, 600)
    chosen = random.choices([*PAYLOADS, bytes(checks.FRAME_LIMIT + 1)], k=random.randint(1, 3))
    return edited(random, b"".join(wire.frame(one, with_descriptors=random.random() < 0.5) for one in chosen))


@seeded
def test_anything_is_frames_or_an_error_however_it_is_cut(random: Random) -> None:
    checks.worker_stream(chunked(random, stream(random)))


@seeded
def test_any_payload_is_a_reply_or_an_error(random: Random) -> None:
    checks.worker_reply(payload(random))


def test_what_is_drawn_gets_far_enough() -> None:
    """Streams are cut into frames, and some end in an error; payloads are replies, and some are none."""
    randoms = [Random(seed) for seed in range(500)]
    drawn = [checks.cut_frames([stream(random)]) for random in randoms]
    assert sum(bool(frames) for frames, _ in drawn) > 50
    assert 50 < sum(failed for _, failed in drawn) < 450
    assert 50 < sum(checks.worker_reply(payload(random)) for random in randoms) < 450
