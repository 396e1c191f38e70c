"""The command line: what was asked for, done, and how it ended as an exit code.

0 a clean stop, 1 a failure at run time, 2 bad usage or configuration.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from portproxy.cli.group import portproxy
from portproxy.errors import PortproxyError, printable


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
