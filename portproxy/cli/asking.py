"""Asking the running relay."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, TypeVar

import click
import msgspec

from portproxy.cli import options, proposals
from portproxy.errors import ConfigError, PortproxyError, printable
from portproxy.model import Server
from portproxy.wire.control_frames import Reply, Request

D = TypeVar("D")

PATIENCE = 120.0
"""Seconds for commands that may have to wait: for other changes, for upstreams that do not answer."""
_SAMPLE = 1.0
"""Seconds between the two looks that make a rate."""


class RefusedError(PortproxyError):
    """The relay does not carry out what it was asked; its words, and its exit code."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(*reply.lines)
        self.exit_code = reply.exit_code


def ask(server: Server, request: Request, patience: float = PATIENCE) -> Reply:
    """What the running relay answers. Raises RefusedError, or PortproxyError where none answers."""
    from portproxy.control import client

    if server.control is None:
        raise ConfigError(["no control socket is known; name it with --control, or set XDG_RUNTIME_DIR"])
    reply = client.ask(server.control, request, patience)
    if reply.exit_code:
        raise RefusedError(reply)
    return reply


@click.command()
@options.RELAYS_FILE
@options.RELAYS_CONTROL
@options.JSON
def status(path: str | None, control: str | None, as_json: bool) -> None:
    """Show the rules: state, sessions, rates, bytes, last error; of tunnels, how many are up.

    Looks twice, a second apart, because a rate needs it.
    """
    from portproxy.report import StatusData, status_text, with_rates

    server = options.server(path, control)
    before = told(ask(server, Request("status")), StatusData)
    started = time.monotonic()
    time.sleep(_SAMPLE)
    seconds = time.monotonic() - started
    now = told(ask(server, Request("status")), StatusData)
    if as_json:
        print_json(with_rates(now, before, seconds))
    else:
        click.echo(status_text(now, before, seconds, terminal_width()))


@click.command()
@click.argument("rule", required=False, shell_complete=proposals.rules)
@options.RELAYS_FILE
@options.RELAYS_CONTROL
@options.JSON
def sessions(rule: str | None, path: str | None, control: str | None, as_json: bool) -> None:
    """List the sessions, all or those of a rule.

    RULE is its name, or the endpoint or port it listens on.
    """
    from portproxy.report import SessionsData, sessions_text

    args = {"rule": rule} if rule is not None else {}
    found = told(ask(options.server(path, control), Request("sessions", args)), SessionsData)
    if as_json:
        print_json(found)
    else:
        click.echo(sessions_text(found, terminal_width()))


@click.command()
@click.argument("session", shell_complete=proposals.sessions)
@options.RELAYS_FILE
@options.RELAYS_CONTROL
def kill(session: str, path: str | None, control: str | None) -> None:
    """End a session now, resetting both sides.

    SESSION is its number, which `portproxy sessions` shows.
    """
    say(ask(options.server(path, control), Request("kill", {"session": session})))


@click.command()
@click.argument("rule", shell_complete=proposals.rules)
@click.option("--from", "source", metavar="ADDRESS", help="A client's address, to be judged as it would be.")
@options.RELAYS_FILE
@options.RELAYS_CONTROL
@options.JSON
def explain(rule: str, source: str | None, path: str | None, control: str | None, as_json: bool) -> None:
    """Say where a connection through a rule would fail.

    Walks one through it, step by step, and says what to do where it fails. RULE is its name, or the
    endpoint or port it listens on. Each upstream address is connected to, and
    left at once. The exit code is 1 where a connection would fail.
    """
    args = {"rule": rule} | ({"from": source} if source is not None else {})
    reply = ask(options.server(path, control), Request("explain", args))
    if as_json:
        print_json(reply.data)
    else:
        say(reply)
    sys.exit(0 if reply.ok else 1)


@click.command()
@options.RELAYS_FILE
@options.RELAYS_CONTROL
@click.option("--status", metavar="ADDR:PORT", help="Ask the status endpoint there instead.")
def health(path: str | None, control: str | None, status: str | None) -> None:
    """Ask the running relay whether every rule listens and every tunnel is up.

    Says why in one line; the exit code is 0 where all of them are, else 1. Asks over the control
    socket, or the status endpoint where that is off.
    """
    server = options.server(path, control, status)
    from portproxy.control import client

    if server.control is not None and status is None:
        reply = client.ask(server.control, Request("health"))
    elif server.status is not None:
        reply = client.health_over_http(server.status)
    else:
        raise ConfigError(["health: the control socket is off; name one with --control, or use --status"])
    click.echo(printable(reply.text))
    sys.exit(0 if reply.ok else 1)


def say(reply: Reply, nl: bool = True) -> None:
    """Print what a relay says; what is no text stays out of the terminal."""
    click.echo("\n".join(map(printable, reply.lines)), nl=nl)


def told(reply: Reply, kind: type[D]) -> D:
    """What a reply says, as data of this kind; raises PortproxyError where it is no such data."""
    try:
        return msgspec.convert(reply.data, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise PortproxyError(f"the relay speaks another version of portproxy: {error}") from None


def terminal_width() -> int | None:
    """Characters in a line of the terminal; None where nobody is looking."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(data: Any) -> None:
    """Print ``data``, for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
