"""What a supervisor asks of a worker, and what a worker answers and tells.

Inside one process the values themselves are handed over. Between processes they travel as frames: requests
pickled, because they come from the process that started this one; replies in MessagePack, checked against
their types, because a worker talks to strangers all day.
"""

from __future__ import annotations

import pickle
import struct

import msgspec

from portproxy.model import Rule, Server
from portproxy.reasons import Ended
from portproxy.snapshot import SessionStatus

DESCRIPTORS = 253
"""At most so many go with one message (unix(7), SCM_RIGHTS: the kernel's SCM_MAX_FD)."""
REPLY_LIMIT = 256 << 20
"""Bytes of a reply: more than all sessions that RLIMIT_NOFILE allows take to describe."""

_HEAD = struct.Struct(">I?")
"""Bytes that follow, and whether descriptors came with the first of all these."""

Address = tuple[bytes, int]
"""An address as the kernel packs it, and its scope."""


class WorkerFrameError(Exception):
    """What came is no frame, or no reply."""


class Setup(msgspec.Struct, frozen=True):
    """Comes first, to a process: how it is set up, and which ``row`` of ``rows`` its counters are.

    The memory of the counters comes with it.
    """

    server: Server
    row: int
    rows: int


class Run(msgspec.Struct, frozen=True):
    """Rules to run from now on, and those that get new values, by the numbers of their counters."""

    begin: tuple[tuple[int, Rule], ...]
    change: tuple[tuple[int, Rule], ...] = ()


class Listening(msgspec.Struct, frozen=True):
    """A listening socket, by its number, and the rules on it, by theirs.

    ``default`` takes the connections, but for those made to an address in ``specific``.
    """

    number: int
    default: int
    specific: tuple[tuple[Address, int], ...] = ()


class Serve(msgspec.Struct, frozen=True):
    """Accept on these. Sockets come with those that are ``new``, in their order; the others are known."""

    known: tuple[Listening, ...] = ()
    new: tuple[Listening, ...] = ()


class Release(msgspec.Struct, frozen=True):
    """Accept what is queued on these listening sockets, and close them."""

    numbers: tuple[int, ...]


class Adopt(msgspec.Struct, frozen=True):
    """Take over connections, which come with this, as if they had been accepted on this listening socket."""

    listening: Listening


class Retire(msgspec.Struct, frozen=True):
    """No session of these rules will begin any more: they are forgotten. Of one that has some yet it is told
    when the last has ended.
    """

    numbers: tuple[int, ...]


class End(msgspec.Struct, frozen=True):
    """Reset the sessions of these rules, or of all, for this reason."""

    reason: Ended
    numbers: tuple[int, ...] | None = None


class Publish(msgspec.Struct, frozen=True):
    """Count what the sessions that run have moved by now."""


class Sessions(msgspec.Struct, frozen=True):
    """The sessions of the rule of this name, or of all, as old as they are at ``now`` (CLOCK_MONOTONIC)."""

    rule: str | None
    now: float


class Kill(msgspec.Struct, frozen=True):
    """Reset the session of this id."""

    id: str


class Room(msgspec.Struct, frozen=True):
    """What would await a client of this rule, from this address where one is given."""

    number: int
    source: str | None


class Ways(msgspec.Struct, frozen=True):
    """Where connections of this rule to these addresses would go."""

    rule: Rule
    addresses: tuple[str, ...]


class Reopen(msgspec.Struct, frozen=True):
    """Open the log files anew, after logrotate(8) has moved the old ones away."""


Request = (
    Setup | Run | Serve | Release | Adopt | Retire | End | Publish | Sessions | Kill | Room | Ways | Reopen
)


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is done."""


class Served(msgspec.Struct, frozen=True, tag=True):
    """The new listening sockets that could not be taken, and the last errno that this gave."""

    missing: list[int]
    error: int


class Found(msgspec.Struct, frozen=True, tag=True):
    """Sessions, the oldest first."""

    sessions: list[SessionStatus]


class RoomLeft(msgspec.Struct, frozen=True, tag=True):
    """For how many ``sessions`` more there are descriptors, and the errno that one more gives now, or 0.

    ``from_source`` is how many sessions the address has here, ``paused`` whether accepting waits for
    descriptors or memory.
    """

    sessions: int
    error: int
    from_source: int
    paused: bool


class Way(msgspec.Struct, frozen=True):
    """Whether a connection comes back to the rule itself; the rule that it comes to first, if any."""

    leads_back: bool
    served_by: str | None


class WaysFound(msgspec.Struct, frozen=True, tag=True):
    """One for each address asked about."""

    ways: list[Way]


class Idle(msgspec.Struct, frozen=True, tag=True):
    """Not asked for: a retired rule has no session here any more, and is forgotten."""

    number: int


Reply = Done | Served | Found | RoomLeft | WaysFound | Idle


def encode_request(request: Request) -> bytes:
    """``request`` as what a frame carries."""
    return pickle.dumps(request, pickle.HIGHEST_PROTOCOL)


def decode_request(payload: bytes) -> Request:
    """The request that a frame carries: from the process that started this one, and nobody else."""
    request: Request = pickle.loads(payload)
    return request


def encode_reply(reply: Reply) -> bytes:
    """``reply`` as what a frame carries."""
    return msgspec.msgpack.encode(reply)


def reply_untrusted(payload: bytes) -> Reply:
    """The reply that a frame carries; WorkerFrameError where it is none."""
    try:
        return _replies.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerFrameError(f"not a worker's reply: {error}") from None


_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(payload: bytes, *, with_descriptors: bool = False) -> bytes:
    """``payload`` behind its head."""
    return _HEAD.pack(len(payload), with_descriptors) + payload


class Frames:
    """Cuts a stream into frames of at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data

    def next_untrusted(self) -> tuple[bytes, bool] | None:
        """The payload of the next whole frame, and whether descriptors came with it; None: not yet.

        Raises WorkerFrameError where a frame is longer than the limit.
        """
        if len(self._buffer) < _HEAD.size:
            return None
        length, with_descriptors = _HEAD.unpack_from(self._buffer)
        if length > self._limit:
            raise WorkerFrameError(f"a frame of {length} bytes; at most {self._limit} are allowed")
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return payload, with_descriptors
