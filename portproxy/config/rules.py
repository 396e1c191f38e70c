"""From a rule's table to a Rule."""

from __future__ import annotations

import enum
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from portproxy.config.tables import Table
from portproxy.errors import printable
from portproxy.model import ANY, Acl, Endpoint, IPNetwork, Limits, Rule, RuleType, default_name
from portproxy.netsh.grammar import GrammarError, parse_rule
from portproxy.options import RULE_KEYS, RULE_OPTIONS, by_name
from portproxy.options.addresses import fit_connect, fit_listen, fit_prefixes
from portproxy.options.kinds import RefusedError

_OPTIONS = by_name(RULE_OPTIONS)
_KEYS = by_name(RULE_KEYS + RULE_OPTIONS)
_LIMITS = tuple(field.name for field in fields(Limits))

_FITS: Mapping[str, Callable[[Any, RuleType], None]] = {
    "listenaddress": fit_listen,
    "connectaddress": fit_connect,
    "connectsource": fit_connect,
    "allow": fit_prefixes,
    "deny": fit_prefixes,
}
"""The keys whose values depend on the rule's families."""

_FITTED_OPTIONS = tuple(key for key in _OPTIONS if key in _FITS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule was written: the file or the ``--rule``, and its number there (0: the only one)."""

    source: str
    number: int = 0

    def label(self, name: str = "") -> str:
        """The rule within its source: ``rule 2 (web)``."""
        named = f" ({printable(name[:60])})" if name and name != self.source else ""
        return f"rule {self.number}{named}" if self.number else f"{self.source}{named}"

    def where(self, name: str = "") -> str:
        """The rule for an error line: ``portproxy.toml: rule 2 (web)``, or ``--rule 1 (web)``."""
        return f"{self.source}: {self.label(name)}" if self.number else self.label(name)


class Origin(enum.Enum):
    """What a rule came from, and so what has to be changed for it to stay changed."""

    FILE = "the configuration file"
    COMMAND_LINE = "--rule"
    ENVIRONMENT = "PORTPROXY_RULES"
    CONTROL = "a command with --no-save"


@dataclass(frozen=True, slots=True)
class Written:
    """A rule as it was written, not yet checked: a table of TOML, or netsh's words."""

    place: Place
    written: Mapping[str, object] | str
    origin: Origin
    _made: tuple[Mapping[str, object], Rule] | None = field(default=None, repr=False, compare=False)
    """The sound rule that it makes, where that is known, and the ``[defaults]`` it makes it with."""

    def tags(self) -> Mapping[str, object]:
        """Its keys and values. Raises GrammarError where netsh's words make none."""
        return parse_rule(self.written) if isinstance(self.written, str) else self.written

    def makes(self, defaults: Mapping[str, object], rule: Rule) -> None:
        """Remember ``rule`` for the checks to come: a change by command leaves most rules as they are."""
        # No new value: what the rule is follows from what was written.
        object.__setattr__(self, "_made", (defaults, rule))

    def made(self, defaults: Mapping[str, object]) -> Rule | None:
        """The rule that it is known to make with these very ``defaults``."""
        return self._made[1] if self._made and self._made[0] is defaults else None

    def __str__(self) -> str:
        """What an error line calls it, by its place and its name; raises as ``tags`` does."""
        name = self.tags().get("name")
        return self.place.where(name if isinstance(name, str) else "")


@dataclass(frozen=True, slots=True)
class Placed:
    """A checked rule and where it was written."""

    written: Written
    rule: Rule

    @property
    def place(self) -> Place:
        return self.written.place

    @property
    def where(self) -> str:
        return self.place.where(self.rule.name)

    @property
    def unnamed(self) -> bool:
        """Whether its name is the default."""
        return self.rule.name == default_name(self.rule.type, self.rule.listen)

    def seen_from(self, other: Placed) -> str:
        """This rule in an error line about ``other``: short where both come from one source."""
        same = self.place.source == other.place.source
        return self.place.label(self.rule.name) if same else self.where


class Defaults:
    """The ``[defaults]`` table, over the model's: fitted to each rule type that needs it, once."""

    def __init__(self, table: Table) -> None:
        self._table = table
        table.read(_OPTIONS)
        self._values = {key: table.values.get(key, option.default) for key, option in _OPTIONS.items()}
        self._fitted: dict[tuple[str, RuleType], Any] = {}
        self._made: dict[tuple[object, ...], Mapping[str, Any]] = {}

    def options(self, rule_type: RuleType, own: dict[str, Any]) -> Mapping[str, Any]:
        """The options of a rule of this type that has its ``own``, as Rule takes them.

        A default that does not fit the type, and is not overridden, is a problem.
        """
        # Rules by the thousand have few sets of options among them, and may share what those make.
        key = (rule_type, *own.items())
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = _grouped(self._values_for(rule_type, own) | own)
        return made

    def _values_for(self, rule_type: RuleType, own: Container[str]) -> dict[str, Any]:
        values = self._values.copy()
        for key in _FITTED_OPTIONS:
            if key in own:
                continue
            if (key, rule_type) not in self._fitted:
                self._fitted[key, rule_type] = self._fit(key, rule_type)
            values[key] = self._fitted[key, rule_type]
        return values

    def _fit(self, key: str, rule_type: RuleType) -> Any:
        value = self._values[key]
        if key not in self._table.values or not value:
            return value
        try:
            if isinstance(value, tuple):
                value = _of_family(value, key, rule_type)
            _FITS[key](value, rule_type)
        except RefusedError as refusal:
            self._table.refuse(key, f"{refusal}; give those rules their own {key}")
        return value


def _grouped(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with those of Limits and of Acl in theirs."""
    limits = Limits(**{key: options.pop(key) for key in _LIMITS})
    acl = Acl(allow=options.pop("allow"), deny=options.pop("deny"))
    return {"limits": limits, "acl": acl, **options}


def _of_family(prefixes: tuple[IPNetwork, ...], key: str, rule_type: RuleType) -> tuple[IPNetwork, ...]:
    """Defaults hold prefixes of both families; a rule takes those of the family it listens on."""
    version = rule_type.listen_family.version
    kept = tuple(prefix for prefix in prefixes if prefix.version == version)
    # An empty allow would admit everyone, where the writer meant a few.
    if key == "allow" and not kept:
        raise RefusedError(f"no IPv{version} prefix, and {rule_type} listens on IPv{version}")
    return kept


def build(rule: Written, defaults: Defaults, problems: list[str]) -> Rule | None:
    """The rule that was written, or None where it added to ``problems``."""
    before = len(problems)
    try:
        written = rule.tags()
    except GrammarError as error:
        problems += [f"{rule.place.where()}: {line}" for line in error.lines]
        return None
    table = Table(rule, written, problems)
    table.read(_KEYS)
    for key in ("type", "listenport"):
        if key not in table.written:
            table.lack(_KEYS[key])
    rule_type = table.values.get("type")
    if rule_type is not None:
        _check_families(table, rule_type)
    return _rule(table.values, defaults) if len(problems) == before else None


def _check_families(table: Table, rule_type: RuleType) -> None:
    for key, fit in _FITS.items():
        if table.values.get(key) is None:
            continue
        try:
            fit(table.values[key], rule_type)
        except RefusedError as refusal:
            table.refuse(key, str(refusal))


def _rule(values: Mapping[str, Any], defaults: Defaults) -> Rule:
    rule_type: RuleType = values["type"]
    own = {key: value for key, value in values.items() if key in _OPTIONS}
    listen = Endpoint(values.get("listenaddress", ANY), values["listenport"])
    return Rule(
        type=rule_type,
        listen=listen,
        connect=Endpoint(
            values.get("connectaddress") or rule_type.connect_family.loopback,
            values.get("connectport", listen.port),
        ),
        name=values.get("name") or default_name(rule_type, listen),
        **defaults.options(rule_type, own),
    )
