"""Frames on the control socket: a length and JSON, in both directions.

A frame is a 4-byte big-endian length and so many bytes of JSON (RFC 8259).
"""

from __future__ import annotations

import struct
from typing import TypeVar

import msgspec

REQUEST_LIMIT = 64 << 10
"""Bytes of JSON a request may have: more than any command line."""
REPLY_LIMIT = 16 << 20
"""Bytes of JSON a reply may have: 10,000 rules with a kilobyte each, and room."""

_LENGTH = struct.Struct(">I")

M = TypeVar("M", "Request", "Reply")


class FrameError(Exception):
    """What came is not a frame, or not the message expected in one."""


class Request(msgspec.Struct, frozen=True):
    """A command and its tags, in netsh's words."""

    command: str
    args: dict[str, str] = {}


class Reply(msgspec.Struct, frozen=True):
    """The answer: whether it went well, a line for people, and the same as data where there is any."""

    ok: bool
    text: str
    data: dict[str, int | str] = {}


class Decoder:
    """Cuts a stream into frames of at most ``limit`` bytes; holds no more than one of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes | bytearray) -> list[bytes]:
        """The payloads of the frames that ``data`` completes.

        Raises FrameError as soon as a length is over the limit; nothing may be fed after that.
        """
        self._buffer += data
        payloads = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes; at most {self._limit} are allowed")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            payloads.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return payloads


def encode(message: Request | Reply) -> bytes:
    """``message`` as one frame. Limits are the receiver's to hold."""
    payload = msgspec.json.encode(message)
    return _LENGTH.pack(len(payload)) + payload


def request_untrusted(payload: bytes) -> Request:
    """The request a frame carries; FrameError where it is none."""
    return _decode_untrusted(payload, Request)


def reply_untrusted(payload: bytes) -> Reply:
    """The reply a frame carries; FrameError where it is none."""
    return _decode_untrusted(payload, Reply)


def _decode_untrusted(payload: bytes, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(payload, type=kind)
    # Unknown keys are skipped, and those may be nested too deep.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a {kind.__name__.lower()}: {error}") from None
