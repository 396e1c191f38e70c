"""One line a session: what is said of it, as text or JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from portproxy.errors import printable
from portproxy.log import quoted, timestamp


class Record(NamedTuple):
    """A session's account. Times are seconds (``time`` since the epoch), bytes are payload bytes.

    ``connect`` is None where no upstream was reached; ``upstream`` is then the last address tried,
    or empty. For both directions accepted = delivered + discarded.
    """

    time: float
    rule: str
    client: str
    listen: str
    upstream: str
    connect: float | None
    duration: float
    up_accepted: int
    up_delivered: int
    up_discarded: int
    down_accepted: int
    down_delivered: int
    down_discarded: int
    dataplane: str
    reason: str
    error: str


def encode_text(record: Record) -> bytes:
    """``record`` as one line of ``key=value`` pairs; ``up`` and ``down`` are accepted/delivered/discarded."""
    time, rule, client, listen, upstream, connect, duration, ua, ud, ux, da, dd, dx, plane, why, error = (
        record
    )
    return (
        f"{timestamp(time)} {quoted(rule)} client={client} listen={listen}"
        f" upstream={quoted(upstream) if upstream else '-'}"
        f" connect={'-' if connect is None else f'{connect * 1e3:.3f}ms'} duration={duration:.3f}s"
        f" up={ua}/{ud}/{ux} down={da}/{dd}/{dx} dataplane={plane or '-'} reason={why}"
        f"{' error=' + quoted(error) if error else ''}\n"
    ).encode()


@functools.cache
def _json() -> Callable[[object], bytes]:
    """msgspec's encoder, imported by those alone who asked for JSON."""
    import msgspec

    return msgspec.json.Encoder().encode


def encode_json(record: Record) -> bytes:
    """``record`` as one line of JSON (RFC 8259), its field names as keys, its time as RFC 3339."""
    fields = record._asdict()
    fields["time"] = timestamp(record.time)
    if not (record.rule + record.upstream + record.error).isprintable():
        fields |= {key: printable(fields[key]) for key in ("rule", "upstream", "error")}
    return _json()(fields) + b"\n"
