"""Completion in bash, zsh and fish: the scripts that ask, and the answers they read.

A script hands over the command line up to the cursor, as it was typed: what bash makes of it is split at
every ``=`` and ``:``, which are part of a word here. The answer is a line for each proposal, or ``file,``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class

from portproxy.netsh.grammar import without_context

_VARIABLE = "_PORTPROXY_COMPLETE"
"""Where click's ``main`` looks for the name of a shell."""

_CURSOR = "_"
"""Stands where the next character would, so that there is a word, an empty one too."""

_PLAIN_IN_BASH = re.compile(r"([^\w@%+=:,./-])")
_SPECIAL_IN_DOUBLE_QUOTES = re.compile(r'(["$`\\])')


class _Completion(ShellComplete):
    """What the three shells have in common."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words in front of the one at the cursor, without the command itself, and that one."""
        typed, _ = words(os.environ.get("COMP_LINE", ""))
        return typed[1:-1], typed[-1]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """click's, with or without ``interface portproxy`` in front; none behind words that are wrong."""
        try:
            found = super().get_completions(without_context(args), incomplete)
        except click.UsageError:
            return []
        for word in ("interface", "portproxy"):
            if incomplete and word.startswith(incomplete) and not without_context([*args, word]):
                found.append(CompletionItem(word))
        return found

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A file is the shell's to find."""
        return "file," if item.type == "file" else f"plain,{self.written(item)}"

    def written(self, item: CompletionItem[Any]) -> str:
        """A proposal as the script reads it."""
        raise NotImplementedError


class Bash(_Completion):
    """bash takes proposals as they are to stand on the line, for what it holds for the word."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = """\
# bash 4.4 and later
%(complete_func)s() {
    local -a found
    mapfile -t found < <(
        COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="$2" %(complete_var)s=bash_complete "$1" 2>/dev/null
    )
    if [[ ${found[0]-} == file,* ]]; then
        COMPREPLY=()
        compopt -o default
        return
    fi
    COMPREPLY=("${found[@]#plain,}")
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def written(self, item: CompletionItem[Any]) -> str:
        """Without what stands in front of bash's word, which begins behind a ``=`` or ``:``, and quoted."""
        typed, quote = words(os.environ.get("COMP_LINE", ""))
        bashs, _ = words(quote + os.environ.get("COMP_WORD", ""))
        value = str(item.value).removeprefix(typed[-1].removesuffix(bashs[-1]))
        match quote:
            case "'":
                return value.replace("'", "'\\''")
            case '"':
                return _SPECIAL_IN_DOUBLE_QUOTES.sub(r"\\\1", value)
            case _:
                return _PLAIN_IN_BASH.sub(r"\\\1", value)


class Zsh(_Completion):
    """zsh quotes by itself, and shows what a proposal means."""

    name: ClassVar[str] = "zsh"
    source_template: ClassVar[str] = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local line
    local -a found spaced joined
    line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$IPREFIX$PREFIX"
    found=("${(@f)$(COMP_LINE="$line" %(complete_var)s=zsh_complete "${(Q)words[1]}" 2>/dev/null)}")
    if [[ $found[1] == file,* ]]; then
        compset -P 1 '--*='
        _files
        return
    fi
    found=("${(@)found#plain,}")
    joined=("${(@M)found:#*=(|:*)}")
    spaced=("${(@)found:#(|*=(|:*))}")
    _describe -V 'tag' joined -S ''
    _describe -V 'word' spaced
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

    def written(self, item: CompletionItem[Any]) -> str:
        """As _describe takes it: up to the first colon that is not escaped."""
        value = re.sub(r"([\\:])", r"\\\1", item.value)
        return f"{value}:{item.help}" if item.help else value


class Fish(_Completion):
    """fish quotes by itself, puts no space behind a ``=``, and shows what a proposal means."""

    name: ClassVar[str] = "fish"
    source_template: ClassVar[str] = """\
function %(complete_func)s
    set -l command (commandline --tokenize --cut-at-cursor --current-process)[1]
    set -l line (commandline --cut-at-cursor --current-process | string collect)
    set -l found (COMP_LINE=$line %(complete_var)s=fish_complete $command 2>/dev/null)
    if string match --quiet 'file,*' -- $found[1]
        set -l word (commandline --current-token --cut-at-cursor)
        set -l option (string match --regex -- '^--[^=]*=' $word)
        set -l paths (complete --do-complete "'' "(string replace -- "$option" '' $word))
        printf '%%s\\n' "$option"$paths
        return
    end
    for one in $found
        string replace -- plain, '' $one
    end
end

complete --no-files --keep-order --command %(prog_name)s --arguments '(%(complete_func)s)'
"""

    def written(self, item: CompletionItem[Any]) -> str:
        """As fish takes it: up to the tab."""
        return f"{item.value}\t{item.help}" if item.help else str(item.value)


SHELLS = {shell.name: add_completion_class(shell) for shell in (Bash, Zsh, Fish)}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes portproxy's words in a shell.

    \b
    bash, in ~/.bashrc:                  eval "$(portproxy completion bash)"
    zsh, in ~/.zshrc, behind compinit:   eval "$(portproxy completion zsh)"
    fish, in ~/.config/fish/config.fish: portproxy completion fish | source
    """
    group = context.find_root().command
    click.echo(SHELLS[shell](group, {}, "portproxy", _VARIABLE).source(), nl=False)


def words(line: str) -> tuple[list[str], str]:
    """The words of ``line``, unquoted, the last one that at its end; and the quote which that is in.

    A quote that is open, or a backslash at the end, is no error: the line is not finished.
    """
    for quote in ("", '"', "'"):
        # Only the quote that is open makes it whole.
        with contextlib.suppress(ValueError):
            *found, last = shlex.split(line + _CURSOR + quote)
            return [*found, last.removesuffix(_CURSOR)], quote
    raise AssertionError(line)
