"""One family and port: the rules on it, laid out on listening sockets."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Mapping, Sequence, Set

from portproxy.dataplane.engine import Engine
from portproxy.model import Family, Rule
from portproxy.net.dial import is_local
from portproxy.net.holder import Listeners
from portproxy.net.listeners import explain_bind, listen
from portproxy.net.resolver import ResolveError
from portproxy.net.tcp import AddressKey, address_key, sockaddr
from portproxy.reconcile import Listening, layout
from portproxy.relay.acceptor import Acceptor
from portproxy.relay.instance import Instance
from portproxy.relay.names import ListenNames
from portproxy.relay.shortage import Shortage


class Port:
    """Keeps the listening sockets of one family and port in line with the rules.

    ``errors`` says, by rule name, why a rule does not listen; ``in_use`` has the address of those whose
    port somebody else holds.
    """

    def __init__(
        self, family: Family, port: int, engine: Engine, names: ListenNames, shortage: Shortage
    ) -> None:
        self._family = family
        self._port = port
        self._engine = engine
        self._names = names
        self._shortage = shortage
        self._acceptors: dict[str, Acceptor] = {}
        self.errors: dict[str, str] = {}
        self.in_use: dict[str, str] = {}

    def gives_way(self, rules: Sequence[Rule]) -> bool:
        """Whether sockets on specific addresses have to be closed for one on the wildcard."""
        return bool(self._acceptors) and any(
            rule.wildcard and rule.bind_address not in self._acceptors for rule in rules
        )

    def arrange(
        self, rules: Sequence[Rule], instances: Mapping[str, Instance], listeners: Listeners | None
    ) -> None:
        """Listen for ``rules``, each served by the instance of its name; close what none needs anymore.

        What is queued on a socket goes to whom it was meant for when it was queued. ``listeners`` is
        needed where ``gives_way`` says so.
        """
        for acceptor in self._acceptors.values():
            acceptor.accept_queued()
        self.errors.clear()
        self.in_use.clear()
        if listeners and self.gives_way(rules):
            self._refuse_hopeless_wildcard(rules, listeners)
        wanted = layout([rule for rule in rules if rule.name not in self.errors])
        self._close_all_but({listening.address for listening in wanted})
        for listening in wanted:
            self._serve(listening, instances)
        if any(listening.default.name in self.errors for listening in wanted if listening.specific):
            # The wildcard's socket was to serve them all; without it each needs its own again.
            for listening in layout([rule for rule in rules if rule.name not in self.errors]):
                self._serve(listening, instances)

    def close(self) -> None:
        """Accept what is queued, then stop listening."""
        self._close_all_but(frozenset())
        self.errors.clear()
        self.in_use.clear()

    def abandon(self) -> None:
        """Stop listening at once; the kernel resets what is queued."""
        for acceptor in self._acceptors.values():
            acceptor.abandon()
        self._acceptors.clear()

    def serving(self, address: str) -> Instance | None:
        """The instance that takes connections to the literal ``address``, if any does."""
        try:
            key = address_key(sockaddr(address, self._port))
        except OSError:
            return None
        for acceptor in self._acceptors.values():
            if acceptor.key == key:
                return acceptor.serving(key)
        wildcard = self._acceptors.get(self._family.wildcard)
        return wildcard.serving(key) if wildcard and is_local(address) else None

    def _serve(self, listening: Listening, instances: Mapping[str, Instance]) -> None:
        rule = listening.default
        specific = self._by_address(listening.specific, instances)
        acceptor = self._acceptors.get(listening.address)
        if acceptor:
            acceptor.serve(instances[rule.name], specific)
            return
        try:
            self._acceptors[listening.address] = self._open(rule, instances[rule.name], specific)
        except (ResolveError, OSError) as error:
            self._note(rule, error)

    def _open(self, rule: Rule, default: Instance, specific: dict[AddressKey, Instance]) -> Acceptor:
        sock = listen(self._family, self._names.address(rule), rule)
        try:
            return Acceptor(self._engine, sock, default, specific, self._shortage)
        except OSError:  # epoll_ctl(2): no watch is left
            sock.close()
            raise

    def _by_address(
        self, rules: Sequence[Rule], instances: Mapping[str, Instance]
    ) -> dict[AddressKey, Instance]:
        found: dict[AddressKey, Instance] = {}
        for rule in rules:
            try:
                key = address_key(sockaddr(self._names.address(rule), self._port))
                if key in found:  # two spellings of one address, as a name and its literal
                    raise OSError(errno.EADDRINUSE, "")
                found[key] = instances[rule.name]
            except (ResolveError, OSError) as error:
                self._note(rule, error)
        return found

    def _close_all_but(self, addresses: Set[str]) -> None:
        for address in [address for address in self._acceptors if address not in addresses]:
            self._acceptors.pop(address).close()

    def _refuse_hopeless_wildcard(self, rules: Sequence[Rule], listeners: Listeners) -> None:
        """Keep sockets on specific addresses open where a wildcard's is bound to fail.

        A wildcard takes over from them only after they are closed; a stranger on the same port would
        then cost the rules that listen already their sockets for nothing.
        """
        wildcard = next(rule for rule in rules if rule.wildcard)
        ours = {acceptor.inode for acceptor in self._acceptors.values()}
        if listeners.in_the_way(ipaddress.ip_address(wildcard.bind_address), self._port) - ours:
            self._note(wildcard, OSError(errno.EADDRINUSE, ""))

    def _note(self, rule: Rule, error: ResolveError | OSError) -> None:
        if isinstance(error, ResolveError):
            self.errors[rule.name] = f"cannot listen: {error}"
            return
        self.errors[rule.name] = explain_bind(error, rule.bind_address, self._port)
        if error.errno == errno.EADDRINUSE:
            self.in_use[rule.name] = self._names.address(rule)
