"""What may stand next on the command line: netsh's types and tags, and what the running relay knows.

These are click's ``shell_complete`` callbacks: context, parameter and the word so far, to items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
import msgspec
from click.shell_completion import CompletionItem

from portproxy.cli import options
from portproxy.errors import PortproxyError, printable
from portproxy.model import RuleType
from portproxy.netsh.grammar import ALL, DELETE_ORDER, TAG_ORDER, Verb
from portproxy.options import RULE_KEYS, RULE_OPTIONS, by_name
from portproxy.wire.control_frames import Reply, Request

_PATIENCE = 1.0
"""Seconds for the relay's answer: whoever pressed the key waits."""

_TAKES_NO_WORDS = (Verb.RESET, Verb.DUMP)
_TAGS = by_name(option for option in RULE_KEYS + RULE_OPTIONS if option.name != "type")
_FAMILIES = {"v4": "IPv4", "v6": "IPv6"}


def words(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The next word of netsh's command: its type, a tag that was not given yet, or a tag's value."""
    verb = context.command.name
    given: Sequence[str] = context.params.get(parameter.name or "") or ()
    if verb in _TAKES_NO_WORDS or (verb == Verb.SHOW and given):
        return []
    if not given:
        return _starting(begun, _types(with_all=verb == Verb.SHOW))
    tag, equals, _ = begun.partition("=")
    order = DELETE_ORDER if verb == Verb.DELETE else TAG_ORDER
    tags = DELETE_ORDER if verb == Verb.DELETE else tuple(_TAGS)
    free = [name for name in tags if name not in _named(given[1:], order)]
    if equals:
        return _starting(begun, [(f"{tag}={value}", "") for value in _values(tag) if tag in free])
    return _starting(begun, [(f"{name}=", _TAGS[name].kind.accepts) for name in free])


def rules(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The names of the running relay's rules."""
    reply = _asked(context, Request("names"))
    return _starting(begun, [(name, "") for name in reply.text.split("\n") if name]) if reply else []


def sessions(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The numbers of the running relay's sessions."""
    from portproxy.report import SessionsData

    reply = _asked(context, Request("sessions"))
    try:
        found = msgspec.convert(reply.data, SessionsData)["sessions"] if reply else []
    except msgspec.ValidationError:
        return []
    return _starting(begun, [(one["id"], f"{one['rule']} from {one['client']}") for one in found])


def _asked(context: click.Context, request: Request) -> Reply | None:
    """What the running relay says to ``request``; None where it says nothing that would help here."""
    from portproxy.control import client

    try:
        server = options.server(context.params.get("path"), context.params.get("control"))
        reply = client.ask(server.control, request, _PATIENCE) if server.control else None
    except PortproxyError:
        return None
    return reply if reply and reply.ok else None


def _types(*, with_all: bool) -> list[tuple[str, str]]:
    types = [
        (str(name), f"listen on {_FAMILIES[name[:2]]}, connect to {_FAMILIES[name[-2:]]}")
        for name in RuleType
    ]
    return [(ALL, "every type"), *types] if with_all else types


def _named(given: Iterable[str], order: Sequence[str]) -> set[str]:
    """The tags of the words ``given``; one without a tag takes the first of ``order`` that is free."""
    named: set[str] = set()
    for word in given:
        tag, equals, _ = word.partition("=")
        named.add(tag.lower() if equals else next((name for name in order if name not in named), ""))
    return named


def _values(tag: str) -> Sequence[str]:
    return _TAGS[tag].kind.words if tag in _TAGS else ()


def _starting(begun: str, proposed: Iterable[tuple[str, str]]) -> list[CompletionItem[str]]:
    """Of words and what they mean, those that start with what was ``begun``."""
    # A line for each is what the shells read.
    return [
        CompletionItem(word, help=printable(meaning) or None)
        for word, meaning in proposed
        if word.startswith(begun) and word.isprintable()
    ]
