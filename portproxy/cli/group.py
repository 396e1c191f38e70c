"""The commands, and how one is found: by its name, or as netsh would."""

from __future__ import annotations

import click

from portproxy import __version__
from portproxy.cli import asking, changing, netsh, serving, tunnel
from portproxy.cli.completion import completion
from portproxy.netsh.grammar import ASKS_FOR_HELP, GrammarError, Verb, verb_of, without_context

_QUESTIONS = {"?", "/?", "-?"}


class Commands(click.Group):
    """Takes netsh's verbs abbreviated, and with ``interface portproxy`` in front."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """``?`` stands for --help here."""
        asked = bool(args) and args[0].lower() in ASKS_FOR_HELP
        return super().parse_args(context, [*args[1:2], "--help"] if asked else args)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word means, and the words behind it."""
        words = without_context(args)
        if not words:
            context.fail("Missing command.")
        if words[0] not in self.commands:
            words[0] = self._netsh_verb(words[0], context)
        if len(words) > 1 and words[-1] in _QUESTIONS:
            words[-1] = "--help"
        return super().resolve_command(context, words)

    def _netsh_verb(self, word: str, context: click.Context) -> str:
        try:
            return verb_of(word) or word
        except GrammarError:
            # Short for several, which is to be said; but not to those who are completing it.
            if not context.resilient_parsing and any(verb.startswith(word.lower()) for verb in Verb):
                raise
            return word


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="portproxy", message="%(prog)s %(version)s")
@click.pass_context
def portproxy(context: click.Context) -> None:
    """Relay TCP between IPv4 and IPv6 by the rules of netsh interface portproxy, and packets through tunnels.

    Rules come from the configuration file, from --rule, and from PORTPROXY_RULES (one a line, or
    separated by ";"); PORTPROXY_STATUS, PORTPROXY_CONTROL, PORTPROXY_USER and PORTPROXY_WORKERS stand for
    the options of these names.

    The file may set up tunnels, too, which carry packets between the families; portproxy tunnel looks into
    them.

    netsh's commands (add, set, delete, reset, show, dump) change and show the relay that runs; the
    words "interface portproxy" may stand in front of them.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    *(serving.serve, serving.check, serving.demo),
    *(netsh.add, netsh.set_, netsh.delete, netsh.reset, netsh.show, netsh.dump),
    *(changing.import_, changing.reload),
    *(asking.status, asking.sessions, asking.kill, asking.explain, asking.health),
    tunnel.tunnel,
    completion,
):
    portproxy.add_command(_command)
