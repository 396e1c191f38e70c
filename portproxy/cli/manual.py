"""The manual page, portproxy(1), made of what ``--help`` and the configuration are made of.

``python -m portproxy.cli.manual >docs/portproxy.1`` writes it anew; a test says when that is due.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

import click

from portproxy import __version__
from portproxy.cli.group import portproxy
from portproxy.cli.roff import apart, bold, escaped, italic, item, line, paragraphs, prose, table, verbatim
from portproxy.config import DEFAULT_PATH
from portproxy.options import RULE_KEYS, RULE_OPTIONS, SERVER_OPTIONS, Option
from portproxy.options.tunnels import TUNNEL_OPTIONS

EXIT_CODES = (
    (
        "0",
        "done; `serve`: stopped by a signal; `check`: no problems; `health`: every rule listens "
        "and every tunnel is up; `explain`: a connection would be relayed",
    ),
    (
        "1",
        "failed while running: a port is in use, no permission; no relay answers, or it refuses; a rule that "
        "was changed does not listen, or a tunnel is not up; `import`: a rule was skipped; `health`: not "
        "ready; `explain`: a connection would fail",
    ),
    ("2", "bad usage or configuration; one line a problem on standard error"),
    ("75", "the relay is busy with other commands; try again"),
    (
        "130, 143",
        "as a shell shows it: killed by SIGINT (Ctrl-C) or SIGTERM when there was nothing to stop, not yet "
        "or not any more",
    ),
)
"""Exit codes and what they mean."""

SIGNALS = (
    (
        "SIGTERM, SIGINT",
        "accepts what is queued, stops listening, lets sessions finish until `draintimeout`, then resets "
        "them",
    ),
    ("a second one", "resets them at once"),
    (
        "SIGHUP",
        "opens log files anew and reloads: rules and tunnels that did not change are not disturbed, rules "
        "that changed keep their listening socket and their sessions, tunnels their interface; a file with "
        "problems changes nothing and is reported",
    ),
)
"""What ``portproxy serve`` does at a signal."""

ENVIRONMENT = (
    ("PORTPROXY_RULES", "rules, one a line or separated by `;`, beside those of the file and of `--rule`"),
    ("PORTPROXY_STATUS", "stands for `--status`; the command line goes before it, and it before the file"),
    ("PORTPROXY_CONTROL", "stands for `--control`, likewise"),
    ("PORTPROXY_USER", "stands for `--user`, likewise"),
    ("PORTPROXY_WORKERS", "stands for `--workers`, likewise"),
    ("NO_COLOR", "where it is set, the log has no colours"),
)
"""Variables, and what they do."""

_PROCESSES = (
    "With `workers`, so many processes relay; the first one listens for them, answers the commands, and "
    "replaces one that dies. Its sessions are lost, and count as `worker-lost`, or `connect-worker- "
    "lost`; what is queued is taken by the others. `maxconn` counts the sessions of all, "
    "`maxconnpersource` holds in each. A session's id names its worker, as in `2.17`: the log says "
    "which one has which.",
    "With `user`, the relay becomes that user once it listens, its workers from their start. A rule on "
    "a port below 1024 that comes later does not listen until a restart. The user has to be able to "
    "read the configuration file, and to own it, its group and its directory for changes to be saved.",
)
"""What `workers` and `user` make of a relay."""

_CONTROL = next(option for option in SERVER_OPTIONS if option.name == "control")
_FILES = (
    (DEFAULT_PATH, "the configuration, in TOML, where `-c` names no other"),
    ("control socket", f"{_CONTROL.default_text}, where nothing names another"),
)

_TABLES = (
    (
        "RULES",
        "A rule is a table `[[rule]]` of the file, or is written as netsh takes it, in `--rule`, behind "
        "`add` and behind `set`: its type, and then its tags, as in `v6tov4 listenport=8080 connectport=80`. "
        "These are netsh's tags, and a name.",
        RULE_KEYS,
    ),
    (
        "RULE OPTIONS",
        "Keys of `[[rule]]`, tags of a rule that is written as netsh takes it, and keys of `[defaults]`, "
        "which hold for every rule that does not set its own.",
        RULE_OPTIONS,
    ),
    ("SERVER OPTIONS", "Keys of `[server]` in the file.", SERVER_OPTIONS),
    (
        "TUNNELS",
        "Keys of `[[tunnel]]` in the file. Tunnels need `pip install 'portproxy[tunnel]'`.",
        TUNNEL_OPTIONS,
    ),
)

_EXAMPLES = (
    (
        "A service that knows IPv4 only, reached over IPv6:",
        "portproxy serve --rule 'v6tov4 listenport=8080 connectport=8000'",
    ),
    (
        "A rule more, at once and in the file; what it would do, first:",
        "portproxy add v6tov4 listenport=8081 connectport=8001 maxconn=100 --dry-run\n"
        "portproxy add v6tov4 listenport=8081 connectport=8001 maxconn=100",
    ),
    (
        "The rules of a Windows computer, and why one of them does not work:",
        "portproxy import dump.txt\nportproxy explain 'v6tov4/*:8081' --from 2001:db8::1",
    ),
)


def page() -> str:
    """The whole page."""
    root = click.Context(portproxy, info_name="portproxy", **portproxy.context_settings)
    told = inspect.cleandoc(portproxy.help or "")
    summary, _, rest = told.partition("\n\n")
    name = " ".join(summary.split()).removesuffix(".")
    return "\n".join(
        [
            r".\" Made by portproxy/cli/manual.py of what --help says: change that.",
            f'.TH PORTPROXY 1 "" "portproxy {__version__}" "User Commands"',
            # Names of keys, variables and files are not to be broken.
            ".nh",
            ".ad l",
            ".SH NAME",
            rf"portproxy \- {escaped(name[0].lower() + name[1:])}",
            ".SH SYNOPSIS",
            line(rf"{bold('portproxy')} [\|{bold('interface portproxy')}\|] {italic('COMMAND')} ..."),
            ".SH DESCRIPTION",
            apart(paragraphs(rest)),
            *_commands(root),
            *(text for title, about, options in _TABLES for text in _keys(title, about, options)),
            ".SH EXIT STATUS",
            *table(EXIT_CODES),
            ".SH SIGNALS",
            prose("What `portproxy serve` does:"),
            *table(SIGNALS),
            ".SH PROCESSES",
            apart(map(prose, _PROCESSES)),
            ".SH ENVIRONMENT",
            *table(ENVIRONMENT),
            ".SH FILES",
            *table(_FILES),
            ".SH EXAMPLES",
            apart(f"{prose(about)}\n{verbatim(typed)}" for about, typed in _EXAMPLES),
            ".SH SEE ALSO",
            rf"{bold('splice')}(2), {bold('tcp')}(7), {bold('epoll')}(7)",
            "",
        ]
    )


def _keys(title: str, about: str, options: Iterable[Option]) -> Iterator[str]:
    yield f".SH {title}"
    yield prose(about)
    for option in options:
        text = option.default_text
        default = text if text.startswith("required") else f"default `{text}`"
        yield item(bold(option.name), f"{option.kind.accepts}; {default}: {option.why}")


def _commands(root: click.Context) -> Iterator[str]:
    """The commands, in their order, each with the options that no other has; then all the others."""
    contexts = list(_contexts(portproxy, root))
    shared = Counter(term for context in [root, *contexts] for term in _options(context))
    yield ".SH COMMANDS"
    for context in contexts:
        yield f".SS {escaped(context.command_path.removeprefix('portproxy '))}"
        yield apart([_usage(context), *paragraphs(inspect.cleandoc(context.command.help or ""))])
        yield from (item(*term) for term in _options(context) if shared[term] == 1)
    yield ".SH OPTIONS"
    yield prose("Those that several commands take:")
    yield from (item(*term) for term, commands in shared.items() if commands > 1)
    yield from (item(*term) for term in _options(root) if shared[term] == 1)


def _contexts(group: click.Group, parent: click.Context) -> Iterator[click.Context]:
    """Every command of ``group``; where one is a group, those of that."""
    for name, command in group.commands.items():
        context = click.Context(command, parent=parent, info_name=name)
        if isinstance(command, click.Group):
            yield from _contexts(command, context)
        else:
            yield context


def _options(context: click.Context) -> Iterator[tuple[str, str]]:
    """Of the options of a command: how each is written, in roff, and its help."""
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record:
            yield ", ".join(_written(parameter, context, name) for name in parameter.opts), record[1]


def _written(option: click.Option, context: click.Context, name: str) -> str:
    takes = "" if option.is_flag else rf"\~{italic(option.make_metavar(context))}"
    return f"{bold(name)}{takes}"


def _usage(context: click.Context) -> str:
    """How a command is typed."""
    words = [bold(context.command_path)]
    for parameter in context.command.get_params(context):
        if not isinstance(parameter, click.Option):
            words.append(italic(parameter.make_metavar(context)))
        elif "--help" not in parameter.opts:
            written = _written(parameter, context, parameter.opts[0])
            words.append(rf"[\|{written}\|]" + r"...\&" * parameter.multiple)
    return line(" ".join(words))


if __name__ == "__main__":
    sys.stdout.write(page())
