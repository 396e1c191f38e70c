"""What a target of coverage-guided fuzzing is, and how one run of bytes becomes several."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Target(NamedTuple):
    """Takes any bytes, and raises where something does not hold."""

    check: Callable[[bytes], object]
    seeds: Sequence[bytes]


def pieces(data: bytes) -> list[bytes]:
    """The first bytes are the sizes of the pieces, up to a zero."""
    head, _, stream = data.partition(b"\0")
    chunks, sizes = [], itertools.cycle(head or b"\xff")
    while stream:
        size = next(sizes)
        chunks.append(stream[:size])
        stream = stream[size:]
    return chunks


def joined(chunks: Sequence[bytes]) -> bytes:
    """What ``pieces`` makes ``chunks`` of, each of at most 255 bytes and none empty."""
    return bytes(map(len, chunks)) + b"\0" + b"".join(chunks)
