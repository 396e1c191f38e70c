"""Frames on the control socket: a length and JSON, in both directions.

A frame is a 4-byte big-endian length and so many bytes of JSON (RFC 8259).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

REQUEST_LIMIT = 4 << 20
"""Bytes of JSON a request may have: an import of 10,000 rules has 1 to 2 MB."""
REPLY_LIMIT = 36 << 20
"""Bytes of JSON a reply may have: 10,000 rules with 3 kB each, every counter and name at its longest."""
COMMANDS_LIMIT = 1 << 14
"""Commands in a request. Decoded, one takes 30 times the bytes that it has at least in a frame."""

_LENGTH = struct.Struct(">I")

M = TypeVar("M", "Request", "Reply")


class FrameError(Exception):
    """What came is not a frame, or not the message expected in one."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One of netsh's commands that change rules; ``where`` it was written, for error lines."""

    verb: Literal["add", "set", "delete", "reset"]
    type: str = ""
    tags: dict[str, str] = {}
    where: str = ""


class Change(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Commands to carry out as one change, and how.

    ``save`` writes it to the file, ``dry_run`` only says what it would do, ``partly`` leaves out commands
    that cannot be carried out, where else none is.
    """

    commands: tuple[Line, ...] = ()
    save: bool = True
    dry_run: bool = False
    partly: bool = False


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked, with its arguments, or with the change that is to be made."""

    command: str
    args: dict[str, str] = {}
    change: Change = Change()


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: whether it went well, a text for people, and the same in JSON values, if any.

    ``exit_code`` is not 0 where the request could not be carried out, and ``text`` then says why.
    """

    ok: bool
    text: str
    data: Mapping[str, Any] = {}
    exit_code: int = 0

    @classmethod
    def refusal(cls, text: str, exit_code: int = 1) -> Reply:
        """The answer to a request that is not carried out."""
        return cls(False, text, exit_code=exit_code)

    @property
    def lines(self) -> list[str]:
        """``text`` line by line."""
        return self.text.split("\n")


class Decoder:
    """Cuts a stream into frames of at most ``limit`` bytes; holds no more than one of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self.expected = 0
        """Bytes of JSON in the frame that has begun, once its length is there; else 0."""

    def feed_untrusted(self, data: bytes | bytearray) -> list[bytes]:
        """The payloads of the frames that ``data`` completes.

        Raises FrameError as soon as a length is over the limit; nothing may be fed after that.
        """
        self._buffer += data
        self.expected = 0
        payloads = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes; at most {self._limit} are allowed")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                self.expected = length
                break
            payloads.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return payloads


def encode(message: Request | Reply) -> bytes:
    """``message`` as one frame. Limits are the receiver's to hold."""
    payload = msgspec.json.encode(message)
    return _LENGTH.pack(len(payload)) + payload


def request_untrusted(payload: bytes) -> Request:
    """The request a frame carries; FrameError where it is none, or has more than COMMANDS_LIMIT commands."""
    # Before any is built: each has two braces at most, its own and that of its tags; three are around them.
    if payload.count(b"{") <= 2 * COMMANDS_LIMIT + 3:
        request = _decode_untrusted(payload, Request)
        if len(request.change.commands) <= COMMANDS_LIMIT:
            return request
    raise FrameError(f"not a request: more than {COMMANDS_LIMIT} commands")


def reply_untrusted(payload: bytes) -> Reply:
    """The reply a frame carries; FrameError where it is none."""
    return _decode_untrusted(payload, Reply)


def _decode_untrusted(payload: bytes, kind: type[M]) -> M:
    try:
        return msgspec.json.decode(payload, type=kind)
    # Unknown keys are skipped, and those may be nested too deep.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a {kind.__name__.lower()}: {error}") from None
    except MemoryError:
        raise FrameError(f"not a {kind.__name__.lower()} that there is memory for") from None
