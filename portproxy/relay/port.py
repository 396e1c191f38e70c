"""One family and port: the rules on it, laid out on listening sockets."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping, Sequence, Set

from portproxy.dataplane.engine import Engine
from portproxy.model import Family, Rule, literal
from portproxy.net.holder import in_the_way, who_holds
from portproxy.net.listeners import explain_bind, listen
from portproxy.net.resolver import ResolveError, Resolver
from portproxy.reconcile import Listening, layout
from portproxy.relay.acceptor import Acceptor
from portproxy.relay.instance import Instance
from portproxy.relay.shortage import Shortage

_RESOLVE_LISTEN = 5.0
"""Seconds a listen address that is a name has to resolve."""


class Port:
    """Keeps the listening sockets of one family and port in line with the rules.

    ``errors`` says, by rule name, why a rule does not listen.
    """

    def __init__(
        self,
        family: Family,
        port: int,
        engine: Engine,
        resolver: Resolver,
        shortage: Shortage,
    ) -> None:
        self._family = family
        self._port = port
        self._engine = engine
        self._resolver = resolver
        self._shortage = shortage
        self._acceptors: dict[str, Acceptor] = {}
        self.errors: dict[str, str] = {}

    @property
    def addresses(self) -> frozenset[str]:
        """What the listening sockets are bound to."""
        return frozenset(acceptor.address for acceptor in self._acceptors.values())

    async def arrange(self, rules: Sequence[Rule], instances: Mapping[str, Instance]) -> None:
        """Listen for ``rules``, each served by the instance of its name; close what none needs anymore.

        Rules that cannot listen end up in ``errors``. What is queued on a socket goes to whom it was
        meant for when it was queued.
        """
        for acceptor in self._acceptors.values():
            acceptor.accept_queued()
        self.errors.clear()
        self._refuse_hopeless_wildcard(rules)
        wanted = layout([rule for rule in rules if rule.name not in self.errors])
        self._close_all_but({listening.address for listening in wanted})
        for listening in wanted:
            await self._serve(listening, instances)
        if any(listening.default.name in self.errors for listening in wanted if listening.specific):
            # The wildcard's socket was to serve them all; without it each needs its own again.
            for listening in layout([rule for rule in rules if rule.name not in self.errors]):
                await self._serve(listening, instances)

    def close(self) -> None:
        """Accept what is queued, then stop listening."""
        self._close_all_but(frozenset())
        self.errors.clear()

    def abandon(self) -> None:
        """Stop listening at once; the kernel resets what is queued."""
        for acceptor in self._acceptors.values():
            acceptor.abandon()
        self._acceptors.clear()

    async def _serve(self, listening: Listening, instances: Mapping[str, Instance]) -> None:
        default = instances[listening.default.name]
        specific = await self._by_address(listening.specific, instances)
        acceptor = self._acceptors.get(listening.address)
        if acceptor:
            acceptor.serve(default, specific)
            return
        try:
            address = await self._literal(listening.address)
            sock = listen(self._family, address, listening.default)
        except ResolveError as error:
            self.errors[listening.default.name] = f"cannot listen: {error}"
        except OSError as error:
            self.errors[listening.default.name] = self._explain(error, listening.address)
        else:
            self._acceptors[listening.address] = Acceptor(
                self._engine, sock, default, specific, self._shortage
            )

    async def _by_address(
        self, rules: Sequence[Rule], instances: Mapping[str, Instance]
    ) -> dict[str, Instance]:
        found = {}
        for rule in rules:
            try:
                found[await self._literal(rule.bind_address)] = instances[rule.name]
            except ResolveError as error:
                self.errors[rule.name] = f"cannot listen: {error}"
        return found

    def _close_all_but(self, addresses: Set[str]) -> None:
        for address in [address for address in self._acceptors if address not in addresses]:
            self._acceptors.pop(address).close()

    def _refuse_hopeless_wildcard(self, rules: Sequence[Rule]) -> None:
        """Keep sockets on specific addresses open where a wildcard's is bound to fail.

        A wildcard takes over from them only after they are closed; a stranger on the same port would
        then cost the rules that listen already their sockets for nothing.
        """
        wildcard = next((rule for rule in rules if rule.wildcard), None)
        if wildcard is None or not self._acceptors or wildcard.bind_address in self._acceptors:
            return
        address = ipaddress.ip_address(wildcard.bind_address)
        ours = {acceptor.inode for acceptor in self._acceptors.values()}
        if in_the_way(address, self._port) - ours:
            self.errors[wildcard.name] = self._explain(OSError(errno.EADDRINUSE, ""), wildcard.bind_address)

    def _explain(self, error: OSError, address: str) -> str:
        in_use = error.errno == errno.EADDRINUSE
        holder = who_holds(address, self._port, self._family) if in_use else ""
        return explain_bind(error, address, self._port, holder)

    async def _literal(self, address: str) -> str:
        if literal(address):
            return address
        return (await self._resolver.resolve(address, self._family, _RESOLVE_LISTEN))[0]
