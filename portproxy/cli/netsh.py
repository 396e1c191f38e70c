"""netsh's commands, carried out by the running relay."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from portproxy.cli import options, proposals
from portproxy.cli.asking import ask
from portproxy.errors import PortproxyError, printable
from portproxy.netsh.grammar import Command, HelpAsked, Verb, parse_command
from portproxy.wire.control_frames import Reply, Request

_FILE_LIMIT = 64 << 20
"""Bytes of a file to import: far more than netsh ever wrote."""


def _words(metavar: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The words of netsh's, which are not click's to read."""
    return click.argument(
        "words", nargs=-1, type=click.UNPROCESSED, metavar=metavar, shell_complete=proposals.words
    )


def _changing(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that changes rules."""
    for option in (options.CONTROL, options.FILE, options.DRY_RUN, options.NO_SAVE):
        command = option(command)
    return command


@click.command()
@_words("TYPE TAG=VALUE...")
@_changing
def add(words: tuple[str, ...], **given: Any) -> None:
    """Add a rule, or replace the one that is there.

    \b
    portproxy add v4tov4|v4tov6|v6tov4|v6tov6
        [listenport=]PORT|SERVICE
        [[connectaddress=]ADDRESS|NAME] [[connectport=]PORT|SERVICE]
        [[listenaddress=]ADDRESS|NAME] [[protocol=]tcp] [OPTION=VALUE]...

    Tags come in any order, or are left out in this one. connectaddress left out is this computer,
    connectport the same as listenport, listenaddress any address. A rule is known by its type,
    listenaddress (as it is written) and listenport. Options are those of the configuration file, as in
    maxconn=100.
    """
    _change(Verb.ADD, words, **given)


@click.command("set")
@_words("TYPE TAG=VALUE...")
@_changing
def set_(words: tuple[str, ...], **given: Any) -> None:
    """Change what is named of a rule, or add it.

    \b
    portproxy set v4tov4|v4tov6|v6tov4|v6tov6
        [listenport=]PORT|SERVICE
        [[connectaddress=]ADDRESS|NAME] [[connectport=]PORT|SERVICE]
        [[listenaddress=]ADDRESS|NAME] [[protocol=]tcp] [OPTION=VALUE]...

    As add; of a rule that is there, what is not named stays as it is.
    """
    _change(Verb.SET, words, **given)


@click.command()
@_words("TYPE TAG=VALUE...")
@_changing
def delete(words: tuple[str, ...], **given: Any) -> None:
    """Delete a rule.

    Its sessions may end by themselves within draintimeout.

    \b
    portproxy delete v4tov4|v4tov6|v6tov4|v6tov6
        [listenport=]PORT|SERVICE
        [[listenaddress=]ADDRESS|NAME] [[protocol=]tcp]
    """
    _change(Verb.DELETE, words, **given)


@click.command()
@_words("[?]")
@_changing
def reset(words: tuple[str, ...], **given: Any) -> None:
    """Delete every rule."""
    _change(Verb.RESET, words, **given)


@click.command()
@_words("all|TYPE")
@options.FILE
@options.CONTROL
def show(words: tuple[str, ...], path: str | None, control: str | None) -> None:
    """Show the rules as netsh does.

    \b
    portproxy show all|v4tov4|v4tov6|v6tov4|v6tov6
    """
    command = _parse(Verb.SHOW, words)
    if command:
        reply = ask(options.server(path, control), Request("show", {"type": command.type}))
        click.echo(reply.text, nl=False)


@click.command()
@_words("[?]")
@options.FILE
@options.CONTROL
def dump(words: tuple[str, ...], path: str | None, control: str | None) -> None:
    """Print the commands that make the rules.

    `portproxy import` carries them out.
    """
    if _parse(Verb.DUMP, words):
        click.echo(ask(options.server(path, control), Request("dump")).text, nl=False)


@click.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@_changing
def import_(file: str, **given: Any) -> None:
    """Carry out netsh's dump, or add the rules its show printed.

    FILE is what `netsh interface portproxy dump`, or `show all`, wrote on Windows, in any encoding and
    language, or `portproxy dump`; - is standard input. A dump begins with reset, which deletes the rules
    that are there. Says what was skipped, and why. It is one change: whoever looks sees the rules before
    it, or those after it.
    """
    from portproxy.netsh.importer import read

    imported = read(_read(file))
    for skipped in imported.skipped:
        click.echo(f"line {skipped.line}: skipped: {skipped.why}: {printable(skipped.text)}", err=True)
    if not imported.commands:
        raise PortproxyError(f"{printable(file)}: nothing in it that makes a rule; is it a dump of netsh's?")
    lines = [line for line, _ in imported.commands]
    reply = _send([command for _, command in imported.commands], given, lines)
    refused = reply.data.get("refused", {})
    for problems in refused.values():
        for problem in problems:
            click.echo(f"skipped: {problem}", err=True)
    rules = sum(command.verb in (Verb.ADD, Verb.SET) for _, command in imported.commands)
    click.echo(f"{rules - len(refused)} taken, {len(imported.skipped) + len(refused)} skipped")
    _finish(reply)


def _read(file: str) -> bytes:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_FILE_LIMIT + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(_FILE_LIMIT + 1)
    except OSError as error:
        raise PortproxyError(f"{printable(file)}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise PortproxyError(f"{printable(file)}: no file can have this name") from None
    if len(data) > _FILE_LIMIT:
        raise PortproxyError(f"{printable(file)}: larger than {_FILE_LIMIT >> 20} MiB, which no dump is")
    return data


def _parse(verb: Verb, words: Sequence[str]) -> Command | None:
    """The command; None where help was asked for, and given. Raises GrammarError."""
    try:
        return parse_command([verb, *words])
    except HelpAsked:
        click.echo(click.get_current_context().get_help())
        return None


def _change(verb: Verb, words: Sequence[str], **given: Any) -> None:
    command = _parse(verb, words)
    if command:
        _finish(_send([command], given))


def _send(commands: Sequence[Command], given: dict[str, Any], lines: Sequence[int] = ()) -> Reply:
    """Have the relay carry out ``commands``; ``lines`` are those of the file they stand in."""
    tagged = [{"verb": str(command.verb), "type": command.type, **command.tags} for command in commands]
    for line, tags in zip(lines, tagged, strict=False):
        tags["where"] = f"line {line}"
    args = {
        "save": "no" if given["no_save"] else "yes",
        "dry_run": "yes" if given["dry_run"] else "no",
        "partly": "yes" if lines else "no",
    }
    return ask(options.server(given["path"], given["control"]), Request("change", args, tuple(tagged)))


def _finish(reply: Reply) -> None:
    """Say what the relay says; exit with 1 where a rule does not listen."""
    click.echo(reply.text)
    for warning in reply.data["warnings"]:
        click.echo(f"warning: {printable(warning)}", err=True)
    for name, why in reply.data["not_listening"].items():
        click.echo(f"{printable(name)} does not listen: {printable(why)}; it is tried again", err=True)
    sys.exit(0 if reply.ok else 1)
