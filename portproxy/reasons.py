"""Why a connection was refused, a dial failed, a session ended.

Nothing is lost silently: every such event has one member of these enums, which is the metric's
label, the access log's ``reason`` and, by its position (``slot``), the index of its counter.
"""

from __future__ import annotations

import enum
import errno


class Reason(enum.StrEnum):
    """A reason with its place among its kind (``slot``) and a sentence for people (``text``)."""

    slot: int
    text: str

    def __new__(cls, value: str, text: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.slot = len(cls.__members__)
        member.text = text
        return member


class Refused(Reason):
    """The client was reset right after accept; no upstream was dialled."""

    DENIED = "denied", "the client's address is not admitted by allow/deny"
    MAXCONN = "maxconn", "the rule has maxconn sessions"
    MAXCONNPERSOURCE = "maxconnpersource", "the client's address has maxconnpersource sessions"


class ConnectFailed(Reason):
    """No upstream connection came about; the client was reset."""

    REFUSED = "connect-refused", "the upstream refused the connection"
    TIMEOUT = "connect-timeout", "no upstream address answered within connecttimeout"
    UNREACHABLE = "connect-unreachable", "there is no route to the upstream"
    RESOLVE = "connect-resolve", "the upstream's name has no address in the connect family"
    LOOP = "connect-loop", "the upstream's name leads back to a listener of this relay"
    DESCRIPTORS = "connect-descriptors", "no descriptor or memory was left for the upstream socket"
    LOCAL = "connect-local", "connectsource cannot be used, or no local port was free"
    CLIENT_GONE = "connect-client-gone", "the client reset its connection while the upstream was dialled"
    DRAINED = "connect-drained", "the relay stopped while the upstream was dialled"
    KILLED = "connect-killed", "an operator ended the session while the upstream was dialled"
    WORKER_LOST = "connect-worker-lost", "the worker died while the upstream was dialled"
    OTHER = "connect-other", "connect failed otherwise; the log has the errno"


class Ended(Reason):
    """A session that was relaying has ended."""

    FINISHED = "finished", "both directions ended by FIN"
    CLIENT_RESET = "client-reset", "the client reset the connection"
    UPSTREAM_RESET = "upstream-reset", "the upstream reset the connection"
    CLIENT_TIMEOUT = "client-timeout", "the client stopped acknowledging (keepalive or usertimeout)"
    UPSTREAM_TIMEOUT = "upstream-timeout", "the upstream stopped acknowledging (keepalive or usertimeout)"
    CLIENT_ERROR = "client-error", "the client's socket failed otherwise"
    UPSTREAM_ERROR = "upstream-error", "the upstream's socket failed otherwise"
    IDLE = "idletimeout", "nothing moved for idletimeout"
    HALFCLOSE = "halfclosetimeout", "one direction had ended and nothing moved for halfclosetimeout"
    LIFETIME = "maxlifetime", "the session reached maxlifetime"
    DRAIN = "draintimeout", "the relay or the rule stopped and draintimeout passed"
    SHUTDOWN = "shutdown", "a second signal ended the relay at once"
    KILLED = "killed", "an operator ended the session"
    WORKER_LOST = "worker-lost", "the worker that held the session died"
    INTERNAL = "internal", "a fault of portproxy itself; the log has the traceback"


_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
_LOCAL = {
    errno.EADDRNOTAVAIL,
    errno.EADDRINUSE,
    errno.EAGAIN,
    errno.EACCES,
    errno.EPERM,
    errno.EINVAL,
}
SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
"""What accept(2), socket(2) and epoll_ctl(2) answer when descriptors, memory or watches run out."""


def connect_failed(code: int) -> ConnectFailed:
    """The reason for a dial that failed with errno ``code`` (connect(2), socket(2), bind(2))."""
    if code == errno.ECONNREFUSED:
        return ConnectFailed.REFUSED
    if code == errno.ETIMEDOUT:
        return ConnectFailed.TIMEOUT
    if code in _UNREACHABLE:
        return ConnectFailed.UNREACHABLE
    if code in SHORTAGE:
        return ConnectFailed.DESCRIPTORS
    if code in _LOCAL:
        return ConnectFailed.LOCAL
    return ConnectFailed.OTHER
