"""What netsh knows an entry of its table by."""

from __future__ import annotations

from collections.abc import Mapping

from portproxy.errors import printable
from portproxy.model import ANY, Endpoint, default_name
from portproxy.options.kinds import PORT

Key = tuple[str, str, int]
"""Of an entry: type, listenaddress as written ("*" where there is none), listenport."""


def key_of(tags: Mapping[str, object]) -> Key:
    """The key of the entry that ``tags`` make. Raises RefusedError for a listenport that is none."""
    port = PORT.convert(tags.get("listenport"))
    return str(tags.get("type", "")).lower(), str(tags.get("listenaddress", ANY)), port


def label(key: Key) -> str:
    """The entry for people, as it is called that was given no name."""
    type_, address, port = key
    return printable(default_name(type_, Endpoint(address, port)))
