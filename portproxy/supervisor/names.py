"""Listen addresses that are names: looked up together, remembered while their rules run."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from portproxy.model import Family, Rule, literal
from portproxy.net.resolver import ResolveError, Resolver

PATIENCE = 5.0
"""Seconds that listen names have to resolve."""

_Key = tuple[str, Family]


class ListenNames:
    """What to bind for a rule's listen address. A name that fails keeps the address it had."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._addresses: dict[_Key, str] = {}
        self._errors: dict[_Key, str] = {}

    async def look_up(self, rules: Iterable[Rule]) -> None:
        """Look up the names among the listen addresses of ``rules``, all at once; forget all others."""
        keys = {_key(rule) for rule in rules if literal(rule.bind_address) is None}
        self._addresses = {key: address for key, address in self._addresses.items() if key in keys}
        self._errors = {}
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(self._look_up, key)

    def address(self, rule: Rule) -> str:
        """The literal to bind for ``rule``. Raises ResolveError where its name has none."""
        if literal(rule.bind_address):
            return rule.bind_address
        key = _key(rule)
        if key in self._addresses:
            return self._addresses[key]
        raise ResolveError(self._errors.get(key, f"{key[0]}: not looked up"))

    async def _look_up(self, key: _Key) -> None:
        try:
            self._addresses[key] = (await self._resolver.resolve(*key, PATIENCE))[0]
        except ResolveError as error:
            self._errors[key] = str(error)


def _key(rule: Rule) -> _Key:
    return rule.bind_address, rule.type.listen_family
