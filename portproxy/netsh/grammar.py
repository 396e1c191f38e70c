"""netsh's grammar: ``[netsh interface portproxy] VERB TYPE tag=value ...`` to verb, type, tags and values.

What a tag's value may be is the configuration's business: what is written here is how words become
tags. Source: ``netsh interface portproxy add v6tov4 ?`` and the remarks of PreprocessCommand (netsh.h),
which matches words with tags and refuses one that is already present; ``netsh ?`` of its abbreviations.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from portproxy.errors import PortproxyError, printable, shown
from portproxy.model import RuleType
from portproxy.netsh.quoting import quoted, split
from portproxy.options import RULE_KEYS, RULE_OPTIONS, by_name
from portproxy.options.kinds import RefusedError, nearest

TAG_ORDER = ("listenport", "connectaddress", "connectport", "listenaddress", "protocol")
"""netsh's order: a word without a tag takes the first of these that was not given yet."""

DELETE_ORDER = ("listenport", "listenaddress", "protocol")
"""The same for ``delete``, which takes no other tags."""


class Verb(enum.StrEnum):
    """What a command does."""

    ADD = "add"
    SET = "set"
    DELETE = "delete"
    RESET = "reset"
    DUMP = "dump"
    SHOW = "show"


ALL = "all"
"""What ``show`` takes beside a type."""

_HELP = "help"
_VERBS = sorted([*Verb, _HELP])
ASKS_FOR_HELP = {_HELP, "?", "/?", "-?"}
_CONTEXT = (("netsh.exe", len("netsh")), ("interface", len("in")), ("portproxy", len("p")))
"""Words that may stand in front, and how many letters make each unambiguous in its context of netsh
(``i`` may be ``ipsec``)."""

_FIRST = f"a rule begins with its type, one of {', '.join(RuleType)}"
_VERB_FIRST = f"a command begins with its verb, one of {', '.join(_VERBS)}"
_KEYS = by_name(RULE_KEYS + RULE_OPTIONS)
_TAGS = tuple(key for key in _KEYS if key != "type")


class GrammarError(PortproxyError):
    """A command that does not follow the grammar: one line."""

    exit_code = 2


class HelpAsked(Exception):  # noqa: N818 - nothing went wrong
    """``?`` or ``help`` was the last word; ``verb`` is the one before it, None for all of them."""

    def __init__(self, verb: Verb | None) -> None:
        super().__init__(verb)
        self.verb = verb


@dataclass(frozen=True, slots=True)
class Command:
    """One command: ``type`` is a rule type, "all" or a rule type for ``show``, "" for ``reset`` and ``dump``.

    Tags are in lower case, their values as they were written.
    """

    verb: Verb
    type: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Its words, quoted as ``split_line`` reads them."""
        words = [self.verb, self.type, *(f"{tag}={quoted(value)}" for tag, value in self.tags.items())]
        return " ".join(word for word in words if word)


def split_line(text: str) -> list[str]:
    """The words of one line of a script, quoted as in a shell. Raises GrammarError."""
    try:
        return split(text)
    except ValueError as error:
        raise GrammarError(f"{shown(text)}: {error}; a quote ends with the same quote") from None


def parse_rule(text: str) -> dict[str, str]:
    """The tags of one rule, in lower case, with ``type`` for its first word; values are as written.

    Words are split and quoted as in a shell. Raises GrammarError, and nothing else.
    """
    words = without_context(split_line(text))
    verb = words[0].lower() if words else ""
    # ``set`` modifies an entry or adds it: it makes a rule as ``add`` does.
    if verb in (Verb.ADD, Verb.SET):
        del words[0]
    elif verb in _VERBS:
        raise GrammarError(f"{shown(text)}: {verb} adds no rule; {_FIRST}")
    if not words or "=" in words[0]:
        raise GrammarError(f"{shown(text)}: {_FIRST}")
    return _tags(words[0].lower(), words[1:], TAG_ORDER)


def parse_command(words: Sequence[str]) -> Command:
    """The command that ``words`` are, with or without ``netsh interface portproxy`` in front.

    Types, tags and the protocol are checked, other values are not. Raises HelpAsked where the last word
    asks for help, GrammarError with one line where the grammar is not followed, and nothing else.
    """
    rest = without_context(words)
    if not rest:
        raise GrammarError(f"no command; {_VERB_FIRST}")
    verb = verb_of(rest[0])
    if verb is None:
        raise HelpAsked(verb_of(rest[1]) if len(rest) > 1 else None)
    if rest[-1].lower() in ASKS_FOR_HELP:
        raise HelpAsked(verb)
    match verb:
        case Verb.RESET | Verb.DUMP:
            if len(rest) > 1:
                raise GrammarError(f"{shown(rest[1])}: a word too many; {verb} takes none")
            return Command(verb)
        case Verb.SHOW:
            return Command(verb, _shown_type(rest[1:]))
        case _:
            return _changing(verb, rest[1:])


def without_context(words: Sequence[str]) -> list[str]:
    """The words behind ``netsh interface portproxy``, of which each may be left out, or abbreviated."""
    taken = 0
    for name, shortest in _CONTEXT:
        if taken < len(words) and len(words[taken]) >= shortest and name.startswith(words[taken].lower()):
            taken += 1
    return list(words[taken:])


def verb_of(word: str) -> Verb | None:
    """The verb that ``word`` is, or abbreviates; None for help."""
    if word.lower() in ASKS_FOR_HELP:
        return None
    meant = [verb for verb in _VERBS if word and verb.startswith(word.lower())]
    if not meant:
        raise GrammarError(f"{shown(word)}: no such command; {_VERB_FIRST}")
    if len(meant) > 1:
        raise GrammarError(f"{shown(word)}: short for {' and for '.join(meant)}; write more of it")
    return None if meant[0] == _HELP else Verb(meant[0])


def _shown_type(words: Sequence[str]) -> str:
    known = (ALL, *RuleType)
    if not words:
        raise GrammarError(f"show: what to show is missing; one of {', '.join(known)}")
    if words[0].lower() not in known:
        raise GrammarError(f"{shown(words[0])}: show takes {ALL} or a rule type; {nearest(words[0], known)}")
    if len(words) > 1:
        raise GrammarError(f"{shown(words[1])}: a word too many; show takes one")
    return words[0].lower()


def _changing(verb: Verb, words: Sequence[str]) -> Command:
    """The command of a verb that takes a type and tags."""
    if not words or "=" in words[0]:
        raise GrammarError(f"{verb}: the type is missing; one of {', '.join(RuleType)}")
    rule_type = words[0].lower()
    if rule_type not in tuple(RuleType):
        raise GrammarError(f"{shown(words[0])}: no such rule type; {nearest(words[0], RuleType)}")
    deletes = verb is Verb.DELETE
    tags = _tags(rule_type, words[1:], DELETE_ORDER if deletes else TAG_ORDER)
    del tags["type"]
    for tag, value in tags.items():
        if tag not in _KEYS:
            raise GrammarError(f"{_setting(tag, value)}: no such tag; {nearest(tag, _TAGS)}")
        if deletes and tag not in DELETE_ORDER:
            raise GrammarError(f"{_setting(tag, value)}: delete takes {', '.join(DELETE_ORDER)} only")
    if "listenport" not in tags:
        raise GrammarError(f"{verb} {rule_type}: listenport is missing: {_KEYS['listenport'].kind.accepts}")
    _check_protocol(tags.get("protocol", "tcp"))
    return Command(verb, rule_type, tags)


def _check_protocol(value: str) -> None:
    """netsh's grammar has ``tcp`` as a literal."""
    kind = _KEYS["protocol"].kind
    try:
        kind.convert(value)
    except RefusedError as refusal:
        raise GrammarError(f"{_setting('protocol', value)}: {str(refusal) or kind.accepts}") from None


def _tags(rule_type: str, words: Iterable[str], order: Sequence[str]) -> dict[str, str]:
    """The tags of ``words`` with their values, and ``type``; a word without a tag takes it by ``order``."""
    tags = {"type": rule_type}
    for word in words:
        tag, value = _tagged(word, tags, order)
        if tag in tags:
            raise GrammarError(f"{_setting(tag, value)}: given already as {shown(tags[tag])}; leave one out")
        tags[tag] = value
    return tags


def _tagged(word: str, tags: Mapping[str, str], order: Sequence[str]) -> tuple[str, str]:
    """The tag and the value of one word; ``tags`` are those before it."""
    tag, equals, value = word.partition("=")
    if not equals:
        free = next((name for name in order if name not in tags), None)
        if free is None:
            others = (
                "further options are written as tag=value" if order is TAG_ORDER else "delete takes no more"
            )
            raise GrammarError(f"{shown(word)}: a word too many; {others}")
        tag, value = free, word
    if not tag:
        raise GrammarError(f"{shown(word)}: no tag before the =; a tag is written as tag=value")
    if not value:
        raise GrammarError(f"{shown(tag)}: no value; leave the tag out where the default is meant")
    return tag.lower(), value


def _setting(tag: str, value: str) -> str:
    return f"{printable(tag[:60])} = {shown(value)}"
