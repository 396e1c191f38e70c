"""The command line: what was asked for, done, and how it ended as an exit code.

0 a clean stop, 1 a failure at run time, 2 bad usage or configuration.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from portproxy import __version__, config
from portproxy.control.place import default_control
from portproxy.errors import ConfigError, PortproxyError, printable
from portproxy.model import Config

_FILE = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    help=f"Configuration file (TOML). [default: {config.DEFAULT_PATH} if it exists]",
)
_RULES = click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar='"TYPE TAG=VALUE ..."',
    help="A rule in netsh's words, as in 'v6tov4 listenport=8080 connectport=80'; may be repeated.",
)
_STATUS = click.option("--status", metavar="ADDR:PORT", help="Serve /metrics, /healthz and /readyz there.")
_CONTROL = click.option("--control", metavar="PATH", help='Path of the control socket, or "off".')


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="portproxy", message="%(prog)s %(version)s")
@click.pass_context
def portproxy(context: click.Context) -> None:
    """Relay TCP between IPv4 and IPv6, by the four rules of netsh interface portproxy.

    Rules come from the configuration file, from --rule, and from PORTPROXY_RULES (one a line, or
    separated by ";"); PORTPROXY_STATUS and PORTPROXY_CONTROL stand for --status and --control.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@portproxy.command()
@_FILE
@_RULES
@_STATUS
@_CONTROL
def serve(path: str | None, rules: tuple[str, ...], status: str | None, control: str | None) -> None:
    """Run the relay until SIGTERM or SIGINT.

    Either signal stops listening and lets sessions finish within draintimeout; a second one ends them
    at once. SIGHUP reloads the configuration file.
    """

    def load() -> Config:
        return _load(path, rules, status, control)

    # Asked to reload before it runs, it has nothing to reload; the default would be to die of it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    loaded = load()
    import trio

    from portproxy.serve import serve as run

    trio.run(run, loaded, load)


@portproxy.command()
@_FILE
@_RULES
@_STATUS
@_CONTROL
def check(path: str | None, rules: tuple[str, ...], status: str | None, control: str | None) -> None:
    """Say what would be run, or every problem at once.

    The exit code is 0, or 2 where there are problems.
    """
    loaded = _load(path, rules, status, control)
    from portproxy.table import show

    click.echo(show(loaded, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


@portproxy.command()
def demo() -> None:
    """Show the relay at work, live.

    Starts a small HTTP service on 127.0.0.1 and a v6tov4 rule on [::1] in front of it, both on free
    ports, fetches its page through the rule every second, and shows the counters. Only this
    computer can reach it. Stops on Ctrl-C or SIGTERM.
    """
    from portproxy.demo import run

    run(click.echo)


@portproxy.command()
@_FILE
@_CONTROL
@click.option("--status", metavar="ADDR:PORT", help="Ask the status endpoint there instead.")
def health(path: str | None, control: str | None, status: str | None) -> None:
    """Ask the running relay whether every rule listens.

    Says why in one line; the exit code is 0 where all of them do, else 1. Asks over the control
    socket, or the status endpoint where that is off.
    """
    server = config.load_server(
        _path(path),
        os.environ,
        status=status,
        control=control,
        default_control=default_control(os.geteuid(), os.environ),
    )
    from portproxy.control import client
    from portproxy.wire.control_frames import Request

    if server.control is not None and status is None:
        reply = client.ask(server.control, Request("health"))
    elif server.status is not None:
        reply = client.health_over_http(server.status)
    else:
        raise ConfigError(["health: the control socket is off; name one with --control, or use --status"])
    click.echo(printable(reply.text))
    sys.exit(0 if reply.ok else 1)


def _load(path: str | None, rules: tuple[str, ...], status: str | None, control: str | None) -> Config:
    """What is to be run, with a rule at least; raises ConfigError."""
    from portproxy.net.dial import is_local

    loaded = config.load(
        _path(path),
        rules,
        os.environ,
        status=status,
        control=control,
        default_control=default_control(os.geteuid(), os.environ),
        is_local=is_local,
    )
    if not loaded.rules:
        raise ConfigError(
            [
                "no rules: give a file with -c, a rule with --rule or PORTPROXY_RULES, "
                "as in --rule 'v6tov4 listenport=8080 connectport=80'"
            ]
        )
    return loaded


def _path(given: str | None) -> str | None:
    """The file to read; raises ConfigError for an empty name."""
    if given == "":
        raise ConfigError(["-c is empty; name a file, or leave it out"])
    if given is not None:
        return given
    try:
        os.stat(config.DEFAULT_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # It may be there: whoever reads it says why that fails.
    return config.DEFAULT_PATH


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    if sys.platform != "linux":
        sys.exit("portproxy: Linux only: it moves bytes with splice(2) and waits with epoll(7)")
    _open_standard_streams()
    try:
        code = portproxy.main(prog_name="portproxy", standalone_mode=False)
    except PortproxyError as error:
        _complain(error.lines)
        code = error.exit_code
    except click.ClickException as error:
        _complain([_usage(error)])
        code = 2
    except OSError as error:
        # Nothing else is written from here; help and version are, by click itself.
        _complain([f"standard output: {error.strerror}"])
        # What is buffered would be tried again, and fail with a traceback, when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    sys.exit(code)


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: a socket in its place would be sent the log."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # open(2): the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on standard error: a name that the locale cannot write is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")


def _usage(error: click.ClickException) -> str:
    message = printable(error.format_message())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} Try '{context.command_path} --help'." if context else message


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"portproxy: {line}", file=sys.stderr)
