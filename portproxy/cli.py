"""The command line: what was asked for, done, and how it ended as an exit code.

0 a clean stop, 1 a failure at run time, 2 bad usage or configuration.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from portproxy import __version__, config
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="portproxy", message="%(prog)s %(version)s")
def portproxy() -> None:
    """Relay TCP between IPv4 and IPv6, by the four rules of netsh interface portproxy.

    Rules come from the configuration file, from --rule, and from PORTPROXY_RULES (one a line, or
    separated by ";"); PORTPROXY_STATUS and PORTPROXY_CONTROL stand for --status and --control.
    """


@portproxy.command()
@_FILE
@_RULES
@_STATUS
@_CONTROL
def serve(path: str | None, rules: tuple[str, ...], status: str | None, control: str | None) -> None:
    """Run the relay until SIGTERM or SIGINT; SIGHUP reloads the configuration."""

    def load() -> Config:
        return _load(path, rules, status, control)

    loaded = load()
    _require_rules(loaded)
    import trio

    from portproxy.serve import serve as run

    trio.run(run, loaded, load)


@portproxy.command()
@_FILE
@_RULES
@_STATUS
@_CONTROL
def check(path: str | None, rules: tuple[str, ...], status: str | None, control: str | None) -> None:
    """Say what would be run, or every problem at once."""
    loaded = _load(path, rules, status, control)
    _require_rules(loaded)
    from portproxy.table import print_config

    print_config(loaded)


@portproxy.command()
def demo() -> None:
    """Show the main job live: an IPv4-only HTTP service, reached over IPv6."""
    from portproxy.demo import run

    run()


@portproxy.command()
@_FILE
@_CONTROL
@click.option("--status", metavar="ADDR:PORT", help="Ask the status endpoint there instead.")
def health(path: str | None, control: str | None, status: str | None) -> None:
    """Ask the running relay whether every rule listens: exit code 0 or 1, and one line why."""
    from portproxy.control import client
    from portproxy.wire.control_frames import Request

    server = _load(path, (), status, control).server
    if status is not None:
        assert server.status
        reply = client.health_over_http(server.status)
    elif server.control is not None:
        reply = client.ask(server.control, Request("health"))
    else:
        raise ConfigError(["health: the control socket is off; name one with --control, or use --status"])
    click.echo(printable(reply.text))
    sys.exit(0 if reply.ok else 1)


def _load(path: str | None, rules: tuple[str, ...], status: str | None, control: str | None) -> Config:
    from portproxy.net.dial import is_local

    if path is None and os.path.exists(config.DEFAULT_PATH):
        path = config.DEFAULT_PATH
    return config.load(path, rules, os.environ, status=status, control=control, is_local=is_local)


def _require_rules(loaded: Config) -> None:
    if not loaded.rules:
        raise ConfigError(
            [
                "no rules: give a file with -c, a rule with --rule or PORTPROXY_RULES, "
                "as in --rule 'v6tov4 listenport=8080 connectport=80'"
            ]
        )


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    if sys.platform != "linux":
        sys.exit("portproxy: Linux only: it moves bytes with splice(2) and waits with epoll(7)")
    try:
        code = portproxy.main(prog_name="portproxy", standalone_mode=False)
    except PortproxyError as error:
        _fail(error.lines, error.exit_code)
    except click.ClickException as error:
        _fail([error.format_message()], 2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code)


def _fail(lines: tuple[str, ...] | list[str], code: int) -> NoReturn:
    for line in lines:
        print(f"portproxy: {line}", file=sys.stderr)
    sys.exit(code)
