"""The listening sockets: made, shared out to the workers, and kept in line with the rules."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import trio

from portproxy.model import Rule
from portproxy.net.holder import Listeners, Place, who_holds
from portproxy.net.listeners import explain_bind, listen, unprivileged_port_start
from portproxy.net.resolver import ResolveError
from portproxy.net.tcp import AddressKey, address_key, sockaddr
from portproxy.reconcile import Listening as Laid
from portproxy.reconcile import PortKey, layout, port_key
from portproxy.supervisor.names import ListenNames
from portproxy.supervisor.services import Service
from portproxy.wire.worker_frames import Listening
from portproxy.workers.crew import Crew

_AT_ONCE = 32
"""Ports that are arranged between two turns of those that relay."""

T = TypeVar("T")


class _Bound(NamedTuple):
    """A listening socket that the workers have: its number, its inode as /proc shows it, the rules on it."""

    number: int
    inode: str
    rules: tuple[Rule, ...]


class _Port:
    """One family and port: the sockets on it, by the addresses that they are bound to.

    ``errors`` says, by rule name, why a rule does not listen; ``in_use`` has the address of those whose
    port somebody else holds.
    """

    def __init__(self, key: PortKey, around: Ports) -> None:
        self._family, self._port = key
        self._around = around
        self._bound: dict[str, _Bound] = {}
        self.errors: dict[str, str] = {}
        self.in_use: dict[str, str] = {}

    def gives_way(self, rules: Sequence[Rule]) -> bool:
        """Whether sockets on specific addresses have to be closed for one on the wildcard."""
        return bool(self._bound) and any(
            rule.wildcard and rule.bind_address not in self._bound for rule in rules
        )

    def begin(self, rules: Sequence[Rule], listeners: Listeners | None) -> list[int]:
        """Forget what was wrong; the sockets that have to be closed before others are bound for ``rules``.

        ``listeners`` is needed where ``gives_way`` says so.
        """
        self.errors.clear()
        self.in_use.clear()
        if listeners and self.gives_way(rules):
            self._refuse_hopeless_wildcard(rules, listeners)
        wanted = {laid.address for laid in self._layout(rules)}
        return [self._bound.pop(address).number for address in self._bound.keys() - wanted]

    def bind(
        self, rules: Sequence[Rule], services: Mapping[str, Service]
    ) -> Iterator[tuple[Listening, socket.socket | None]]:
        """What to accept on for ``rules``, with the socket where it is a new one."""
        wanted = self._layout(rules)
        for laid in wanted:
            yield from self._serve(laid, services)
        if any(laid.default.name in self.errors for laid in wanted if laid.specific):
            # The wildcard's socket was to serve them all; without it each needs its own again.
            for laid in self._layout(rules):
                yield from self._serve(laid, services)

    def lost(self, number: int, error: int) -> None:
        """No worker could take the socket ``number``."""
        (address,) = (address for address, bound in self._bound.items() if bound.number == number)
        for rule in self._bound.pop(address).rules:
            self._note(rule, OSError(error, os.strerror(error)))

    def fail(self, rules: Sequence[Rule]) -> None:
        """What was to be done for ``rules`` broke off: say so of those that have no socket, to try again."""
        served = {rule.name for bound in self._bound.values() for rule in bound.rules}
        for rule in rules:
            if rule.name not in served:
                self.errors.setdefault(
                    rule.name, "not listening yet: a fault of portproxy, which the log has"
                )

    def close(self) -> list[int]:
        """Forget everything; the sockets that are to be closed."""
        numbers = [bound.number for bound in self._bound.values()]
        self._bound.clear()
        self.errors.clear()
        self.in_use.clear()
        return numbers

    def _layout(self, rules: Sequence[Rule]) -> tuple[Laid, ...]:
        return layout([rule for rule in rules if rule.name not in self.errors])

    def _serve(
        self, laid: Laid, services: Mapping[str, Service]
    ) -> Iterator[tuple[Listening, socket.socket | None]]:
        rules = (laid.default, *laid.specific)
        specific = self._by_address(laid.specific, services)
        sock = None
        if before := self._bound.get(laid.address):
            bound = before._replace(rules=rules)
        else:
            try:
                sock = listen(self._family, self._around.names.address(laid.default), laid.default)
            except (ResolveError, OSError) as error:
                self._note(laid.default, error)
                return
            bound = _Bound(next(self._around.numbers), str(os.fstat(sock.fileno()).st_ino), rules)
        self._bound[laid.address] = bound
        yield Listening(bound.number, services[laid.default.name].number, tuple(specific.items())), sock

    def _by_address(self, rules: Sequence[Rule], services: Mapping[str, Service]) -> dict[AddressKey, int]:
        found: dict[AddressKey, int] = {}
        for rule in rules:
            try:
                key = address_key(sockaddr(self._around.names.address(rule), self._port))
                if key in found:  # two spellings of one address, as a name and its literal
                    raise OSError(errno.EADDRINUSE, "")
                found[key] = services[rule.name].number
            except (ResolveError, OSError) as error:
                self._note(rule, error)
        return found

    def _refuse_hopeless_wildcard(self, rules: Sequence[Rule], listeners: Listeners) -> None:
        """Keep sockets on specific addresses open where a wildcard's is bound to fail.

        A wildcard takes over from them only after they are closed; a stranger on the same port, or the want
        of a privilege, would then cost the rules that listen already their sockets for nothing.
        """
        wildcard = next(rule for rule in rules if rule.wildcard)
        if self._around.dropped_to and self._port < unprivileged_port_start():
            self._note(wildcard, OSError(errno.EACCES, ""))
            return
        ours = {bound.inode for bound in self._bound.values()}
        if listeners.in_the_way(ipaddress.ip_address(wildcard.bind_address), self._port) - ours:
            self._note(wildcard, OSError(errno.EADDRINUSE, ""))

    def _note(self, rule: Rule, error: ResolveError | OSError) -> None:
        if isinstance(error, ResolveError):
            self.errors[rule.name] = f"cannot listen: {error}"
            return
        self.errors[rule.name] = explain_bind(error, rule.bind_address, self._port, self._around.dropped_to)
        if error.errno == errno.EADDRINUSE:
            self.in_use[rule.name] = self._around.names.address(rule)


class Ports:
    """Every family and port that the rules listen on, for the workers of ``crew``.

    ``numbers`` gives each listening socket its own. ``dropped_to`` is the user that root was dropped to, if
    it was: ports that take a privilege cannot be bound any more. ``unarranged`` are ports that may be as they
    were before a change that broke off.
    """

    def __init__(self, names: ListenNames, crew: Crew) -> None:
        self.names = names
        self.numbers = itertools.count(1)
        self.dropped_to: str | None = None
        self._crew = crew
        self._ports: dict[PortKey, _Port] = {}
        self.unarranged: dict[PortKey, None] = {}

    @property
    def errors(self) -> dict[str, str]:
        """Why rules do not listen, by their names."""
        return {name: why for port in self._ports.values() for name, why in port.errors.items()}

    async def arrange(
        self,
        keys: Sequence[PortKey],
        rules: Sequence[Rule],
        services: Mapping[str, Service],
        known_errors: Mapping[str, str],
    ) -> None:
        """Have the ports of ``keys`` listen for those of ``rules`` that are on them; close what none needs.

        Those who relay get their turns meanwhile; what has begun is not cancelled half-way. ``known_errors``
        are those before, which need not be looked into again.
        """
        on: dict[PortKey, list[Rule]] = {key: [] for key in keys}
        for rule in rules:
            if port_key(rule) in on:
                on[port_key(rule)].append(rule)
        for key in keys:
            if key not in self._ports:
                self._ports[key] = _Port(key, self)
        listeners = None
        if any(self._ports[key].gives_way(on[key]) for key in keys):
            listeners = await in_thread(Listeners)
        self.unarranged |= dict.fromkeys(keys)
        for first in range(0, len(keys), _AT_ONCE):
            await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=True):
                some = {key: on[key] for key in keys[first : first + _AT_ONCE]}
                try:
                    await self._arrange(some, services, listeners)
                except Exception:
                    for key in keys[first:]:
                        self._ports[key].fail(on[key])
                    raise
            for key in some:
                del self.unarranged[key]
        await self._name_holders(known_errors)

    async def close(self) -> None:
        """Accept what is queued, then stop listening."""
        self.unarranged.clear()
        ports = list(self._ports.values())
        for first in range(0, len(ports), _AT_ONCE):
            await trio.lowlevel.checkpoint()
            with trio.CancelScope(shield=True):
                numbers = [number for port in ports[first : first + _AT_ONCE] for number in port.close()]
                await self._crew.release(numbers)

    async def _arrange(
        self,
        on: Mapping[PortKey, Sequence[Rule]],
        services: Mapping[str, Service],
        listeners: Listeners | None,
    ) -> None:
        leaving = [number for key, rules in on.items() for number in self._ports[key].begin(rules, listeners)]
        if leaving:
            await self._crew.release(leaving)
        known: list[Listening] = []
        new: list[tuple[Listening, socket.socket]] = []
        where: dict[int, _Port] = {}
        for key, rules in on.items():
            for listening, sock in self._ports[key].bind(rules, services):
                where[listening.number] = self._ports[key]
                if sock:
                    new.append((listening, sock))
                else:
                    known.append(listening)
        if known or new:
            for number, error in (await self._crew.serve(known, new)).items():
                where[number].lost(number, error)
        for key, rules in on.items():
            if not rules:
                del self._ports[key]

    async def _name_holders(self, known_errors: Mapping[str, str]) -> None:
        """Say who holds the ports that are in use: in a thread, because it looks at every process."""
        places: list[Place] = []
        unknown: list[tuple[_Port, str]] = []
        for key, port in self._ports.items():
            for name, address in port.in_use.items():
                if known_errors.get(name, "").startswith(port.errors[name]):
                    port.errors[name] = known_errors[name]
                else:
                    places.append((address, *key[::-1]))
                    unknown.append((port, name))
        if places:
            found = await in_thread(lambda: who_holds(places))
            for (port, name), holder in zip(unknown, found or [""] * len(places), strict=True):
                port.errors[name] += f" by {holder}" if holder else ""


async def in_thread(work: Callable[[], T]) -> T | None:
    """What ``work``, which blocks, returns; None where it has to be done without."""
    try:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except (RuntimeError, MemoryError):  # what Python makes of pthread_create(3)'s EAGAIN
        return None
