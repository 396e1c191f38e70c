"""netsh's grammar: ``[netsh interface portproxy] VERB TYPE tag=value ...`` to verb, type, tags and values.

What a tag's value may be is the configuration's business: what is written here is how words become
tags. Source: ``netsh interface portproxy add v6tov4 ?`` and the remarks of PreprocessCommand (netsh.h),
which matches words with tags and refuses one that is already present; ``netsh ?`` of its abbreviations.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from portproxy.errors import PortproxyError, printable, shown
from portproxy.model import RuleType
from portproxy.netsh.quoting import quoted, split
from portproxy.options import RULE_KEYS, RULE_OPTIONS, Option, by_name
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
_TAGS = by_name(option for option in RULE_KEYS + RULE_OPTIONS if option.name != "type")


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
    if not words or not words[0] or "=" in words[0]:
        raise GrammarError(f"{shown(text)}: {_FIRST}")
    return _tags(Verb.ADD, words[0].lower(), words[1:])


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
    if verb is Verb.SHOW:
        return Command(verb, _shown_type(rest[1:]))
    if types(verb):
        return _changing(verb, rest[1:])
    if len(rest) > 1:
        raise GrammarError(f"{shown(rest[1])}: a word too many; {verb} takes none")
    return Command(verb)


def types(verb: Verb) -> tuple[str, ...]:
    """What may stand right behind ``verb``; nothing where it takes no words."""
    match verb:
        case Verb.RESET | Verb.DUMP:
            return ()
        case Verb.SHOW:
            return (ALL, *RuleType)
        case _:
            return tuple(RuleType)


def free_tags(verb: Verb, words: Iterable[str]) -> dict[str, Option]:
    """The tags that ``verb`` still takes where the ``words`` behind its type are given already.

    Words need not follow the grammar: what is wrong with them takes no tag.
    """
    given: set[str] = set()
    for word in words:
        given.add(_split(verb, word, given)[0])
    return {tag: option for tag, option in _TAGS.items() if tag in _takes(verb) and tag not in given}


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
    known = types(Verb.SHOW)
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
    if rule_type not in types(verb):
        raise GrammarError(f"{shown(words[0])}: no such rule type; {nearest(words[0], RuleType)}")
    tags = _tags(verb, rule_type, words[1:])
    del tags["type"]
    for tag, value in tags.items():
        if tag not in _TAGS:
            raise GrammarError(f"{_setting(tag, value)}: no such tag; {nearest(tag, _TAGS)}")
        if tag not in _takes(verb):
            raise GrammarError(f"{_setting(tag, value)}: {verb} takes {', '.join(_takes(verb))} only")
    if "listenport" not in tags:
        raise GrammarError(f"{verb} {rule_type}: listenport is missing: {_TAGS['listenport'].kind.accepts}")
    _check_protocol(tags.get("protocol", "tcp"))
    return Command(verb, rule_type, tags)


def _check_protocol(value: str) -> None:
    """netsh's grammar has ``tcp`` as a literal."""
    kind = _TAGS["protocol"].kind
    try:
        kind.convert(value)
    except RefusedError as refusal:
        raise GrammarError(f"{_setting('protocol', value)}: {str(refusal) or kind.accepts}") from None


def _tags(verb: Verb, rule_type: str, words: Iterable[str]) -> dict[str, str]:
    """The tags of the ``words`` behind the type with their values, and ``type``."""
    tags = {"type": rule_type}
    for word in words:
        tag, value = _split(verb, word, tags)
        if not tag:
            raise GrammarError(f"{shown(word)}: {_tagless(verb, word)}")
        if not value:
            raise GrammarError(f"{shown(tag)}: no value; leave the tag out where the default is meant")
        if tag in tags:
            raise GrammarError(f"{_setting(tag, value)}: given already as {shown(tags[tag])}; leave one out")
        tags[tag] = value
    return tags


def _split(verb: Verb, word: str, given: Container[str]) -> tuple[str, str]:
    """The tag and the value of one word; without a tag it takes the first of netsh's that was not ``given``.

    The tag is "" where there is none for it.
    """
    tag, equals, value = word.partition("=")
    if equals:
        return tag.lower(), value
    return next((tag for tag in TAG_ORDER if tag in _takes(verb) and tag not in given), ""), word


def _tagless(verb: Verb, word: str) -> str:
    """What is wrong with a word that has no tag."""
    if "=" in word:
        return "no tag before the =; a tag is written as tag=value"
    if verb is Verb.DELETE:
        return "a word too many; delete takes no more"
    return "a word too many; further options are written as tag=value"


def _takes(verb: Verb) -> Collection[str]:
    """The tags that may stand behind ``verb``."""
    match verb:
        case Verb.ADD | Verb.SET:
            return _TAGS
        case Verb.DELETE:
            return DELETE_ORDER
        case _:
            return ()


def _setting(tag: str, value: str) -> str:
    return f"{printable(tag[:60])} = {shown(value)}"
