"""Running a relay: serve, and what leads up to it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import click

from portproxy import config
from portproxy.cli import options
from portproxy.config.source import Source
from portproxy.control.place import default_control
from portproxy.errors import ConfigError, StartError


@click.command()
@options.FILE
@options.RULES
@options.STATUS
@options.CONTROL
@options.USER
@options.WORKERS
def serve(path: str | None, rules: tuple[str, ...], **settings: str | None) -> None:
    """Run the relay until SIGTERM or SIGINT.

    Either signal stops listening and lets sessions finish within draintimeout; a second one ends them
    at once. SIGHUP reloads the configuration file.
    """

    # As who starts it: once root is dropped, the default would be elsewhere.
    control = default_control(os.geteuid(), os.environ)

    def load() -> Source:
        return _read(path, rules, settings, control)

    # Asked to reload before it runs, it has nothing to reload; the default would be to die of it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from portproxy.net.dial import is_local

    with _collector_paused():
        source = load()
        checked = source.config(is_local)
    import trio

    from portproxy.serve import serve as run

    trio.run(run, source, checked, load)


@click.command()
@options.FILE
@options.RULES
@options.STATUS
@options.CONTROL
@options.USER
@options.WORKERS
def check(path: str | None, rules: tuple[str, ...], **settings: str | None) -> None:
    """Say what would be run, or every problem at once.

    The exit code is 0, or 2 where there are problems.
    """
    from portproxy.net.dial import is_local

    control = default_control(os.geteuid(), os.environ)
    with _collector_paused():
        checked = _read(path, rules, settings, control).config(is_local)
    from portproxy.net.user import look_up

    if checked.server.user:
        try:
            look_up(checked.server.user)
        except StartError as error:
            checked = replace(checked, warnings=(*checked.warnings, *error.lines))
    from portproxy.table import show

    click.echo(show(checked, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


@click.command()
def demo() -> None:
    """Show the relay at work, live.

    Starts a small HTTP service on 127.0.0.1 and a v6tov4 rule on [::1] in front of it, both on free
    ports, fetches its page through the rule every second, and shows the counters. Only this
    computer can reach it. Stops on Ctrl-C or SIGTERM.
    """
    from portproxy.demo import run

    run(click.echo)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Reading a configuration makes objects by the million and no garbage: looking for it takes a third."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _read(
    path: str | None,
    rules: tuple[str, ...],
    settings: Mapping[str, str | None],
    control: config.DefaultControl,
) -> Source:
    """What is to be run; raises ConfigError where no rule is, and no file that could get one."""
    source = config.read(
        options.file_to_read(path),
        rules,
        os.environ,
        **settings,
        default_control=control,
    )
    if not source.rules and not source.file and not source.problems:
        raise ConfigError(
            [
                "no rules: give a file with -c, a rule with --rule or PORTPROXY_RULES, "
                "as in --rule 'v6tov4 listenport=8080 connectport=80'"
            ]
        )
    return source
