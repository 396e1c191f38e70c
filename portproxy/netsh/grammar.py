"""netsh's grammar: ``[netsh interface portproxy add] TYPE tag=value ...`` to tags and their values.

Which tags there are and what they may hold is the configuration's business: what is written here
is only how words become tags. Source: ``netsh interface portproxy add v6tov4 ?`` and the remarks of
PreprocessCommand (netsh.h), which matches words with tags and refuses one that is already present.
"""

from __future__ import annotations

import shlex

from portproxy.errors import PortproxyError, shown
from portproxy.model import RuleType

TAG_ORDER = ("listenport", "connectaddress", "connectport", "listenaddress", "protocol")
"""netsh's order: a word without a tag takes the first of these that was not given yet."""

_PREFIX = ({"netsh"}, {"interface", "int"}, {"portproxy"}, {"add", "set"})
"""What people paste in front of a rule; ``set`` modifies an entry or adds it, so it reads as ``add``."""

_FIRST = f"a rule begins with its type, one of {', '.join(RuleType)}"
_OTHER_VERBS = ("delete", "dump", "help", "reset", "show")
"""netsh's verbs that make no rule."""


class GrammarError(PortproxyError):
    """A command that does not follow the grammar: one line."""

    exit_code = 2


def parse_rule(text: str) -> dict[str, str]:
    """The tags of one rule, in lower case, with ``type`` for its first word; values are as written.

    Words are split and quoted as in a shell. Raises GrammarError, and nothing else.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise GrammarError(f"{shown(text)}: {str(error).lower()}; a quote ends with the same quote") from None
    for choices in _PREFIX:
        if words and words[0].lower() in choices:
            del words[0]
    if words and words[0].lower() in _OTHER_VERBS:
        raise GrammarError(f"{shown(text)}: {words[0].lower()} adds no rule; {_FIRST}")
    if not words or "=" in words[0]:
        raise GrammarError(f"{shown(text)}: {_FIRST}")
    tags = {"type": words[0].lower()}
    for word in words[1:]:
        tag, value = _tagged(word, tags)
        if tag in tags:
            raise GrammarError(f"{tag} = {shown(value)}: given already as {shown(tags[tag])}; leave one out")
        tags[tag] = value
    return tags


def _tagged(word: str, tags: dict[str, str]) -> tuple[str, str]:
    """The tag and the value of one word; ``tags`` are those before it."""
    tag, equals, value = word.partition("=")
    if not equals:
        free = next((name for name in TAG_ORDER if name not in tags), None)
        if free is None:
            raise GrammarError(f"{shown(word)}: a word too many; further options are written as tag=value")
        tag, value = free, word
    if not tag:
        raise GrammarError(f"{shown(word)}: no tag before the =; a tag is written as tag=value")
    if not value:
        raise GrammarError(f"{shown(tag)}: no value; leave the tag out where the default is meant")
    return tag.lower(), value
