"""Changing what the running relay runs."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from portproxy.cli import options
from portproxy.cli.asking import ask, say, told
from portproxy.errors import PortproxyError, printable
from portproxy.netsh.grammar import Command, Verb
from portproxy.report import ChangeData
from portproxy.wire.control_frames import (
    COMMANDS_LIMIT,
    REQUEST_LIMIT,
    Change,
    Line,
    Reply,
    Request,
    encode,
)

_FILE_LIMIT = 2 * REQUEST_LIMIT
"""Bytes of a file to import: what makes a request, in UTF-16."""
_SHOWN_SKIPPED = 100
"""Lines of a file that are named one by one."""
_MEANWHILE = "it is tried again, and the relay's next start fails where it cannot {} then"


@dataclass(frozen=True, slots=True)
class How:
    """How a change is made: of which relay, saved or not, or only planned."""

    path: str | None
    control: str | None
    dry_run: bool
    no_save: bool


def changing(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the options of a change of rules; it is called with ``how``."""

    @functools.wraps(command)
    def called(path: str | None, control: str | None, dry_run: bool, no_save: bool, **words: Any) -> None:
        command(how=How(path, control, dry_run, no_save), **words)

    for option in (options.RELAYS_CONTROL, options.RELAYS_FILE, options.DRY_RUN, options.NO_SAVE):
        called = option(called)
    return called


@click.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@changing
def import_(file: str, how: How) -> None:
    """Carry out netsh's dump, or add the rules its show printed.

    FILE is what `netsh interface portproxy dump`, or `show all`, wrote on Windows, in any encoding and
    language, or `portproxy dump`; - is standard input. A dump begins with reset, which deletes the rules
    that are there. Says what was skipped, and why. It is one change: whoever looks sees the rules before
    it, or those after it.
    """
    from portproxy.netsh.importer import read

    imported = read(_read(file))
    skipped = [(line.line, f"{line.why}: {line.text}") for line in imported.skipped]
    if not imported.commands:
        _say_skipped(skipped)
        raise PortproxyError(f"{printable(file)}: nothing in it that makes a rule; is it a dump of netsh's?")
    lines = [line_of(command, f"line {number}") for number, command in imported.commands]
    try:
        reply = send(lines, how, partly=True)
    except PortproxyError:
        _say_skipped(skipped)
        raise
    refused = told(reply, ChangeData)["refused"]
    for number, problems in refused.items():
        line = imported.commands[number][0]
        skipped += [(line, problem.removeprefix(f"line {line}").lstrip(" :")) for problem in problems]
    _say_skipped(skipped)
    taken = [command for number, (_, command) in enumerate(imported.commands) if number not in refused]
    rules = sum(command.verb in (Verb.ADD, Verb.SET) for command in taken)
    click.echo(f"{rules} taken, {len(imported.skipped) + len(refused)} skipped")
    finish(reply, failed=bool(refused))


def _say_skipped(skipped: list[tuple[int, str]]) -> None:
    for line, why in sorted(skipped)[:_SHOWN_SKIPPED]:
        click.echo(f"line {line}: skipped: {printable(why)}", err=True)
    if len(skipped) > _SHOWN_SKIPPED:
        click.echo(f"{len(skipped) - _SHOWN_SKIPPED} lines more were skipped", err=True)


def _read(file: str) -> bytes:
    try:
        # Not sys.stdin: there is none where it was closed.
        with open(0 if file == "-" else file, "rb", closefd=file != "-") as opened:
            data = opened.read(_FILE_LIMIT + 1)
    except OSError as error:
        raise PortproxyError(f"{printable(file)}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise PortproxyError(f"{printable(file)}: no file can have this name") from None
    if len(data) > _FILE_LIMIT:
        raise PortproxyError(
            f"{printable(file)}: larger than {_FILE_LIMIT >> 20} MiB, which no dump is;"
            " so many rules are better written into the configuration file"
        )
    return data


@click.command()
@options.DRY_RUN
@options.RELAYS_FILE
@options.RELAYS_CONTROL
def reload(path: str | None, control: str | None, dry_run: bool) -> None:
    """Have the relay read its configuration again.

    As SIGHUP does, but problems are told here, and log files are not opened anew. Rules and tunnels that did
    not change are not disturbed.
    """
    finish(ask(options.server(path, control), Request("reload", change=Change(dry_run=dry_run))))


def line_of(command: Command, where: str = "") -> Line:
    """``command`` as the relay is told it; ``where`` it was written."""
    return msgspec.convert(
        {"verb": str(command.verb), "type": command.type, "tags": dict(command.tags), "where": where}, Line
    )


def send(lines: Sequence[Line], how: How, *, partly: bool = False) -> Reply:
    """Have the relay carry out commands. Raises PortproxyError."""
    change = Change(tuple(lines), save=not how.no_save, dry_run=how.dry_run, partly=partly)
    if len(lines) > COMMANDS_LIMIT or _size(change) > REQUEST_LIMIT:
        raise PortproxyError(
            f"{len(lines)} commands are too many for one change, which takes {COMMANDS_LIMIT},"
            f" or {REQUEST_LIMIT >> 20} MiB of them; write the rules into the configuration file"
        )
    server = options.server(how.path, how.control)
    handler = signal.getsignal(signal.SIGINT)
    try:
        if handler is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return ask(server, Request("change", change=change))
        finally:
            # What is printed then is no reason for KeyboardInterrupt.
            signal.signal(signal.SIGINT, handler)
    except KeyboardInterrupt:
        if not how.dry_run:
            told = "the relay may go on with the change; `portproxy show all` says whether it does"
            click.echo(f"portproxy: {told}", err=True)
        sys.exit(128 + signal.SIGINT)


def _size(change: Change) -> int:
    try:
        return len(encode(Request("change", change=change)))
    except UnicodeEncodeError:  # of which is told where it is sent
        return 0


def finish(reply: Reply, *, failed: bool = False) -> None:
    """Say what the relay says; exit with 1 where a rule does not listen or a tunnel is not up, or something
    else ``failed``."""
    data = told(reply, ChangeData)
    say(reply)
    for warning in data["warnings"]:
        click.echo(f"warning: {printable(warning)}", err=True)
    for name, why in data["not_listening"].items():
        meanwhile = _MEANWHILE.format("listen")
        click.echo(f"{printable(name)} does not listen: {printable(why)}; {meanwhile}", err=True)
    for name, why in data["not_up"].items():
        meanwhile = _MEANWHILE.format("be up")
        click.echo(f"tunnel {printable(name)} is not up: {printable(why)}; {meanwhile}", err=True)
    sys.exit(0 if reply.ok and not failed else 1)
