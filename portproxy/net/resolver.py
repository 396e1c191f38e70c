"""Host names, resolved off the event loop and remembered for seconds."""

from __future__ import annotations

import ipaddress
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass

import trio

from portproxy.model import Family
from portproxy.net.tcp import with_scope

THREADS = 8
"""getaddrinfo(3) cannot be cancelled: a dead name server may keep this many threads, not more."""
KEEP_ANSWER = 5.0
KEEP_FAILURE = 1.0
KEEP_LAST_GOOD = 60.0
"""Seconds: how long an answer is fresh, a failure is believed, and a name that fails is still served
with its last good answer."""

Lookup = Callable[[str, Family], tuple[str, ...]]


_EAI_NAMES = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}


class ResolveError(Exception):
    """The name has no address in the family, or nobody said so in time.

    ``code`` is getaddrinfo(3)'s, like "EAI_NONAME"; empty where it is not the resolver that says so.
    """

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


def lookup(name: str, family: Family) -> tuple[str, ...]:
    """The addresses of ``name`` in ``family`` as the system resolves it (hosts file, DNS; getaddrinfo(3)).

    Blocks. Raises OSError (gaierror), or UnicodeError for a name that cannot be encoded.
    """
    found = socket.getaddrinfo(name, None, family.af, socket.SOCK_STREAM)
    return tuple(dict.fromkeys(with_scope(sockaddr) for *_, sockaddr in found))


@dataclass(slots=True)
class _Entry:
    addresses: tuple[str, ...] = ()
    error: str = ""
    code: str = ""
    until: float = -math.inf
    failing_since: float | None = None
    arrived: trio.Event | None = None


class Resolver:
    """Answers by name and family. Times are those of the running trio clock."""

    def __init__(self, nursery: trio.Nursery, lookup: Lookup = lookup) -> None:
        self._nursery = nursery
        self._lookup = lookup
        self._threads = trio.CapacityLimiter(THREADS)
        self._entries: dict[tuple[str, Family], _Entry] = {}

    def fresh(self, name: str, family: Family) -> tuple[str, ...] | None:
        """The addresses, where no waiting is needed for them; None where ``resolve`` has to be asked.

        Raises ResolveError while a failure is still believed.
        """
        entry = self._entries.get((name, family))
        if entry is None or entry.until <= trio.current_time():
            return None
        return _answer(entry)

    def last(self, name: str, family: Family) -> tuple[str, ...]:
        """The addresses that were answered last, however old; none where there is no such answer."""
        entry = self._entries.get((name, family))
        return entry.addresses if entry else ()

    def failing_for(self, name: str, family: Family) -> float | None:
        """For how many seconds look-ups have failed, the last of them included; None where it answered."""
        entry = self._entries.get((name, family))
        if entry is None or entry.failing_since is None:
            return None
        return trio.current_time() - entry.failing_since

    async def resolve(self, name: str, family: Family, within: float) -> tuple[str, ...]:
        """The addresses, waiting ``within`` seconds at most. Raises ResolveError.

        One look-up per name is in flight, until its thread is back; whoever asks meanwhile waits for the
        same one, for as long as it likes itself.
        """
        answer = self.fresh(name, family)
        if answer is not None:
            await trio.lowlevel.checkpoint()
            return answer
        entry = self._entries.setdefault((name, family), _Entry())
        if entry.arrived is None:
            entry.arrived = trio.Event()
            self._nursery.start_soon(self._ask, name, family, entry)
        # A name that has answered before leaves time to connect to its last good answer.
        patience = within / 2 if entry.addresses else within
        with trio.move_on_after(patience):
            await entry.arrived.wait()
            return _answer(entry)
        _store(entry, (), f"{name}: no answer within {patience:g} s", trio.current_time())
        return _answer(entry)

    async def _ask(self, name: str, family: Family, entry: _Entry) -> None:
        addresses: tuple[str, ...] = ()
        code = ""
        try:
            found = await trio.to_thread.run_sync(
                self._lookup, name, family, abandon_on_cancel=True, limiter=self._threads
            )
            addresses = tuple(address for address in found if _of_a_host(address))
            error = "no address of a host in this family"
        except OSError as failure:
            error = failure.strerror or str(failure)
            code = _EAI_NAMES.get(failure.errno, "") if isinstance(failure, socket.gaierror) else ""
        except ValueError as failure:  # UnicodeError is one
            error = f"not a host name ({failure})"
        except (RuntimeError, MemoryError) as failure:  # what Python makes of pthread_create(3)'s EAGAIN
            error = f"no thread to look it up ({str(failure) or 'out of memory'})"
        _store(entry, addresses, f"{name}: {error}", trio.current_time(), code)
        assert entry.arrived is not None
        entry.arrived.set()
        entry.arrived = None


def _of_a_host(address: str) -> bool:
    """Whether a literal names a host: connecting to ``0.0.0.0`` or ``::``, as name servers that block answer,
    would reach this one; a v4-mapped address is of the other family."""
    ip = ipaddress.ip_address(address)
    return not ip.is_unspecified and not (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped)


def _store(entry: _Entry, addresses: tuple[str, ...], error: str, now: float, code: str = "") -> None:
    """Take ``addresses`` into ``entry``, or where there are none, ``error`` and its ``code``."""
    entry.error, entry.code = error, code
    if addresses:
        entry.addresses = addresses
        entry.failing_since = None
        entry.until = now + KEEP_ANSWER
        return
    if entry.failing_since is None:
        entry.failing_since = now
    if now - entry.failing_since >= KEEP_LAST_GOOD:
        entry.addresses = ()
    entry.until = now + KEEP_FAILURE


def _answer(entry: _Entry) -> tuple[str, ...]:
    if not entry.addresses:
        raise ResolveError(entry.error, entry.code)
    return entry.addresses
