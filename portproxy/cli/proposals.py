"""What may stand next on the command line: netsh's types and tags, what the running relay knows, and the
kinds of addresses and their parts.

These are click's ``shell_complete`` callbacks: context, parameter and the word so far, to items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
import msgspec
from click.shell_completion import CompletionItem

from portproxy.cli import options
from portproxy.errors import PortproxyError, printable
from portproxy.netsh.grammar import ALL, Verb, free_tags, types
from portproxy.wire.control_frames import Reply, Request

_PATIENCE = 1.0
"""Seconds for the relay's answer: whoever pressed the key waits."""

_FAMILIES = {"v4": "IPv4", "v6": "IPv6"}


def words(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The next word of netsh's command: its type, a tag that was not given yet, or a tag's value."""
    verb = Verb(context.command.name or "")
    given: Sequence[str] = context.params.get(parameter.name or "") or ()
    if not given:
        return _starting(begun, [(name, _meaning(name)) for name in types(verb)])
    free = free_tags(verb, given[1:])
    tag, equals, _ = begun.partition("=")
    if equals:
        values = free[tag].kind.words if tag in free else ()
        return _starting(begun, [(f"{tag}={value}", "") for value in values])
    return _starting(begun, [(f"{name}=", option.kind.accepts) for name, option in free.items()])


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


def address_kinds(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem[str]]:
    """The kinds of addresses that can be made."""
    from portproxy.tunnel.addresses import KINDS

    return _starting(begun, [(name, kind.what) for name, kind in KINDS.items()])


def address_parts(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem[str]]:
    """The parts that the address of the given kind still lacks."""
    from portproxy.tunnel.addresses import KINDS

    kind = KINDS.get(context.params.get("kind") or "")
    given: Sequence[str] = context.params.get(parameter.name or "") or ()
    if kind is None or "=" in begun:
        return []
    names = {part.partition("=")[0] for part in given}
    return _starting(begun, [(f"{one.name}=", one.accepts) for one in kind.fields if one.name not in names])


def _asked(context: click.Context, request: Request) -> Reply | None:
    """What the running relay says to ``request``; None where it says nothing that would help here."""
    from portproxy.control import client

    try:
        server = options.server(context.params.get("path"), context.params.get("control"))
        reply = client.ask(server.control, request, _PATIENCE) if server.control else None
    except PortproxyError:
        return None
    return reply if reply and reply.ok else None


def _meaning(type_name: str) -> str:
    """What a type is, or all of them are."""
    if type_name == ALL:
        return "every type"
    return f"listen on {_FAMILIES[type_name[:2]]}, connect to {_FAMILIES[type_name[-2:]]}"


def _starting(begun: str, proposed: Iterable[tuple[str, str]]) -> list[CompletionItem[str]]:
    """Of words and what they mean, those that start with what was ``begun``."""
    # A line for each is what the shells read.
    return [
        CompletionItem(word, help=printable(meaning) or None)
        for word, meaning in proposed
        if word.startswith(begun) and word.isprintable()
    ]
