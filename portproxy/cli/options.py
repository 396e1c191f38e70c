"""Options that several commands take, and what they lead to."""

from __future__ import annotations

import os

import click

from portproxy import config
from portproxy.control.place import default_control
from portproxy.errors import ConfigError
from portproxy.model import Server

_PATH = click.Path(readable=False)
"""Completed by the shell; whoever opens it says why that fails."""

FILE = click.option(
    "-c",
    "--config",
    "path",
    type=_PATH,
    metavar="FILE",
    help=f"Configuration file (TOML). [default: {config.DEFAULT_PATH} if it exists]",
)
RULES = click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar='"TYPE TAG=VALUE ..."',
    help="A rule in netsh's words, as in 'v6tov4 listenport=8080 connectport=80'; may be repeated.",
)
STATUS = click.option("--status", metavar="ADDR:PORT", help="Serve /metrics, /healthz and /readyz there.")
CONTROL = click.option("--control", type=_PATH, metavar="PATH", help='Path of the control socket, or "off".')
USER = click.option(
    "--user",
    metavar="NAME[:GROUP]",
    help="Become this user once everything listens. [default: stay who started it]",
)
WORKERS = click.option("--workers", metavar="N", help="Relay in N processes, 1 to 64. [default: 1]")
RELAYS_FILE = click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(readable=False),
    help="A file whose [server] table names the relay's control socket.",
)
RELAYS_CONTROL = click.option(
    "--control", metavar="PATH", type=click.Path(readable=False), help="The relay's control socket."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
NO_SAVE = click.option(
    "--no-save", is_flag=True, help="Change the running relay alone, until it reloads or stops."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print what would stop, change and start; do nothing.")


def file_to_read(given: str | None) -> str | None:
    """The configuration file; raises ConfigError for an empty name."""
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


def server(path: str | None, control: str | None, status: str | None = None) -> Server:
    """The settings by which the running relay can be found. Raises ConfigError."""
    return config.load_server(
        file_to_read(path),
        os.environ,
        status=status,
        control=control,
        default_control=default_control(os.geteuid(), os.environ),
        meant=path is not None,
    )
