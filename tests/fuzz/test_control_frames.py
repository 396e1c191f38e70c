"""Whatever comes on the control socket is frames or a FrameError, in bounded memory."""

from __future__ import annotations

import itertools
from random import Random

from portproxy.wire.control_frames import Change, Line, Reply, Request, encode
from tests.fuzz import checks
from tests.fuzz.examples import binary, seeded

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
    b"\0\0\x01\x2d" + b"[" * 301,
]


def edited(random: Random, data: bytes) -> bytes:
    """``data``, some bytes of which were changed, left out or put in."""
    made = bytearray(data)
    for _ in range(random.randrange(4)):
        at = random.randrange(len(made) + 1)
        made[at : at + random.randrange(5)] = binary(random, 4)
    return bytes(made)


def stream(random: Random) -> bytes:
    """Any bytes, or edited frames."""
    if random.random() < 0.2:
        return binary(random, 600)
    return edited(random, b"".join(random.choices(FRAMES, k=random.randint(1, 3))))


def chunked(random: Random, data: bytes) -> list[bytes]:
    """A stream in pieces, whose sizes are those of a short pattern over and over."""
    sizes = itertools.cycle(random.choices(range(1, random.choice((2, 9, 257))), k=random.randint(1, 4)))
    chunks = []
    while data:
        size = next(sizes)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


def payload(random: Random) -> bytes:
    """Any bytes, or those of a message, edited."""
    return binary(random, 400) if random.random() < 0.2 else edited(random, random.choice(FRAMES)[4:])


@seeded
def test_anything_is_frames_or_a_frame_error_however_it_is_cut(random: Random) -> None:
    checks.frames(chunked(random, stream(random)))


@seeded
def test_any_payload_is_a_message_or_a_frame_error(random: Random) -> None:
    checks.message(payload(random))


def test_what_is_drawn_gets_far_enough() -> None:
    """Streams are cut into frames, and some end in an error; payloads are messages, and some are none."""
    randoms = [Random(seed) for seed in range(500)]
    drawn = [checks.decode([stream(random)]) for random in randoms]
    assert sum(bool(payloads) for payloads, _ in drawn) > 50
    assert 50 < sum(failed for _, failed in drawn) < 450
    assert 50 < sum(checks.message(payload(random)) for random in randoms) < 450
