"""One table of a configuration: which keys it has, what they hold, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from portproxy.errors import printable, shown
from portproxy.options import Option
from portproxy.options.kinds import RefusedError, nearest

_NONE: Mapping[str, str] = MappingProxyType({})


def problem(where: object, key: str, value: object, expected: str) -> str:
    """One line: where, which key, the offending value, and what would be accepted."""
    return f"{where}: {printable(key[:60])} = {shown(value)}: {expected}"


@dataclass(slots=True)
class Table:
    """Keys and values as they were written, ``where`` for people, and the ``problems`` they made."""

    where: object
    written: Mapping[str, object]
    problems: list[str]
    values: dict[str, Any] = field(default_factory=dict)

    def refuse(self, key: str, expected: str) -> None:
        self.problems.append(problem(self.where, key, self.written[key], expected))

    def lack(self, option: Option) -> None:
        self.problems.append(f"{self.where}: {option.name} is missing: {option.kind.accepts}")

    def read(self, known: Mapping[str, Option], misplaced: Mapping[str, str] = _NONE) -> None:
        """Fill ``values`` with what is well written; the rest becomes problems.

        ``misplaced`` has keys that are known elsewhere, and what is said of them here.
        """
        for key, value in self.written.items():
            option = known.get(key)
            if option is None:
                self.refuse(key, misplaced.get(key) or f"unknown key here; {nearest(key, known)}")
                continue
            try:
                self.values[key] = option.kind.convert(value)
            except RefusedError as refusal:
                self.refuse(key, str(refusal) or option.kind.accepts)
