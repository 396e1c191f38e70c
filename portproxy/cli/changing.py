"""Changing what the running relay runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from portproxy.cli import options
from portproxy.cli.asking import ask
from portproxy.errors import PortproxyError, printable
from portproxy.netsh.grammar import Command, Verb
from portproxy.wire.control_frames import Reply, Request

_FILE_LIMIT = 64 << 20
"""Bytes of a file to import: far more than netsh ever wrote."""


def changing(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that changes rules."""
    for option in (options.CONTROL, options.FILE, options.DRY_RUN, options.NO_SAVE):
        command = option(command)
    return command


@click.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@changing
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
    reply = send([command for _, command in imported.commands], given, lines)
    refused = reply.data.get("refused", {})
    for problems in refused.values():
        for problem in problems:
            click.echo(f"skipped: {problem}", err=True)
    rules = sum(command.verb in (Verb.ADD, Verb.SET) for _, command in imported.commands)
    click.echo(f"{rules - len(refused)} taken, {len(imported.skipped) + len(refused)} skipped")
    finish(reply)


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


@click.command()
@options.DRY_RUN
@options.FILE
@options.CONTROL
def reload(path: str | None, control: str | None, dry_run: bool) -> None:
    """Have the relay read its configuration again.

    As SIGHUP does, but problems are told here, and log files are not opened anew. Rules that did not change
    are not disturbed.
    """
    args = {"dry_run": "yes" if dry_run else "no"}
    finish(ask(options.server(path, control), Request("reload", args)))


def send(commands: Sequence[Command], given: dict[str, Any], lines: Sequence[int] = ()) -> Reply:
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


def finish(reply: Reply) -> None:
    """Say what the relay says; exit with 1 where a rule does not listen."""
    click.echo(reply.text)
    for warning in reply.data["warnings"]:
        click.echo(f"warning: {printable(warning)}", err=True)
    for name, why in reply.data["not_listening"].items():
        click.echo(f"{printable(name)} does not listen: {printable(why)}; it is tried again", err=True)
    sys.exit(0 if reply.ok else 1)
