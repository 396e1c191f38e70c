"""netsh's commands, carried out by the running relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from portproxy.cli import options, proposals
from portproxy.cli.asking import ask, say
from portproxy.cli.changing import How, changing, finish, line_of, send
from portproxy.netsh.grammar import Command, HelpAsked, Verb, parse_command
from portproxy.wire.control_frames import Request


def _words(metavar: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The words of netsh's, which are not click's to read."""
    return click.argument(
        "words", nargs=-1, type=click.UNPROCESSED, metavar=metavar, shell_complete=proposals.words
    )


@click.command()
@_words("TYPE TAG=VALUE...")
@changing
def add(words: tuple[str, ...], how: How) -> None:
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
    _change(Verb.ADD, words, how)


@click.command("set")
@_words("TYPE TAG=VALUE...")
@changing
def set_(words: tuple[str, ...], how: How) -> None:
    """Change what is named of a rule, or add it.

    \b
    portproxy set v4tov4|v4tov6|v6tov4|v6tov6
        [listenport=]PORT|SERVICE
        [[connectaddress=]ADDRESS|NAME] [[connectport=]PORT|SERVICE]
        [[listenaddress=]ADDRESS|NAME] [[protocol=]tcp] [OPTION=VALUE]...

    As add; of a rule that is there, what is not named stays as it is.
    """
    _change(Verb.SET, words, how)


@click.command()
@_words("TYPE TAG=VALUE...")
@changing
def delete(words: tuple[str, ...], how: How) -> None:
    """Delete a rule.

    Its sessions may end by themselves within draintimeout.

    \b
    portproxy delete v4tov4|v4tov6|v6tov4|v6tov6
        [listenport=]PORT|SERVICE
        [[listenaddress=]ADDRESS|NAME] [[protocol=]tcp]
    """
    _change(Verb.DELETE, words, how)


@click.command()
@_words("[?]")
@changing
def reset(words: tuple[str, ...], how: How) -> None:
    """Delete every rule."""
    _change(Verb.RESET, words, how)


@click.command()
@_words("all|TYPE")
@options.RELAYS_FILE
@options.RELAYS_CONTROL
def show(words: tuple[str, ...], path: str | None, control: str | None) -> None:
    """Show the rules as netsh does.

    \b
    portproxy show all|v4tov4|v4tov6|v6tov4|v6tov6
    """
    command = _parse(Verb.SHOW, words)
    if command:
        say(ask(options.server(path, control), Request("show", {"type": command.type})), nl=False)


@click.command()
@_words("[?]")
@options.RELAYS_FILE
@options.RELAYS_CONTROL
def dump(words: tuple[str, ...], path: str | None, control: str | None) -> None:
    """Print the commands that make the rules.

    `portproxy import` carries them out.
    """
    if _parse(Verb.DUMP, words):
        say(ask(options.server(path, control), Request("dump")), nl=False)


def _parse(verb: Verb, words: Sequence[str]) -> Command | None:
    """The command; None where help was asked for, and given. Raises GrammarError."""
    try:
        return parse_command([verb, *words])
    except HelpAsked:
        click.echo(click.get_current_context().get_help())
        return None


def _change(verb: Verb, words: Sequence[str], how: How) -> None:
    command = _parse(verb, words)
    if command:
        finish(send([line_of(command)], how))
