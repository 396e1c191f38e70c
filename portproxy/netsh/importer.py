"""Reads what a Windows has printed: netsh's ``dump``, of one or of all contexts, its ``show``, and scripts.

All of it is localised, and comes in many encodings. What every language has is ``pushd`` and ``popd``, the
commands, the words ipv4 and ipv6, and lines of dashes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portproxy.errors import printable
from portproxy.model import ANY, RuleType
from portproxy.netsh.grammar import (
    Command,
    GrammarError,
    HelpAsked,
    Verb,
    parse_command,
    split_line,
    without_context,
)

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Where netsh's output goes through a pipe in text mode, lines end in CR CR LF.
_LINE_END = re.compile(r"\r?\r?\n|\r")
_BLANKS = " \t\v\f\0\x1a\ufeff"
_CONTINUED = (" ^", " `")
"""How a line says, in cmd and in PowerShell, that it goes on on the next."""
_PROMPT = re.compile(r"(?:PS )?[A-Z]:\\(?:(?!netsh)[^>])*>|[>$](?= )", re.IGNORECASE)
_NETSH_PROMPT = re.compile(r"(netsh(?: [a-z0-9]+){0,2})>", re.IGNORECASE)
_NETSH = re.compile(r"(?:.*\\)?netsh(?:\.exe)?", re.IGNORECASE)
_REDIRECTION = re.compile(r"[12*]?>")
_BETWEEN_COMMANDS = {"&", "&&", "|", "||", ";"}
_REMARKS = ("rem", "::", "echo", "echo.")

_FAMILY = re.compile(r"ipv([46])", re.IGNORECASE)
# One character, which is up to three where the encoding was not known, over and over.
_DASHES = re.compile(r"([^\s0-9A-Za-z]{1,3}?)\1{2,}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_SERVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.+*/-]{0,62}")
_NOTHING = "neither a command nor a part of a table"
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not taken: its line's number, the line (printable, cut short), and why, for people."""

    line: int
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Imported:
    """The commands, each with its line's number, and what was skipped.

    ``kind`` says what was read: "dump", "show", "script" (commands as one types them), or "" where
    nothing was recognised.
    """

    commands: tuple[tuple[int, Command], ...]
    skipped: tuple[Skipped, ...]
    kind: str


def read(data: bytes) -> Imported:
    """The commands that ``data`` holds, whatever it is: nothing is raised; time and memory are linear.

    Commands that change the table are taken as they are. A row of ``show`` becomes a ``set``: it leaves
    alone what ``show`` does not tell. Other contexts are skipped as a whole; comments and blank lines are
    passed over in silence.
    """
    reader = _Reader()
    for number, line in _lines(_decoded(data)):
        reader.read(number, line)
    reader.end_table()
    # Headings that were none are known to be so only later.
    skipped = sorted(reader.skipped, key=lambda skipped: skipped.line)
    return Imported(tuple(reader.commands), tuple(skipped), reader.kind)


def _decoded(data: bytes) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, "replace")
    # Without its mark, UTF-16 shows by the NULs beside its ASCII characters.
    even, odd = data[::2].count(0), data[1::2].count(0)
    if (even + odd) * 4 > len(data):
        return data.decode("utf-16-be" if even > odd else "utf-16-le", "replace")
    # Of an OEM code page, what matters is ASCII in UTF-8 too.
    return data.decode("utf-8", "replace")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines without blanks around them, each with the number at which it begins."""
    begun, parts = 0, list[str]()
    for number, raw in enumerate(_LINE_END.split(text), 1):
        line = raw.strip(_BLANKS)
        begun = begun if parts else number
        if line.endswith(_CONTINUED):
            parts.append(line[:-2])
            continue
        yield begun, " ".join([*parts, line])
        parts.clear()
    if parts:
        yield begun, " ".join(parts)


@dataclass(slots=True)
class _Table:
    """A block of ``show``; ``head`` is its heading and the columns' names, if dashes come behind them."""

    type: RuleType
    head: list[tuple[int, str]]
    begun: bool = False


class _Reader:
    """Takes one line after the other."""

    def __init__(self) -> None:
        self.commands: list[tuple[int, Command]] = []
        self.skipped: list[Skipped] = []
        self.kind = ""
        # Of those that pushd opened, whether each is portproxy's; outside of them a command says so itself.
        self._contexts: list[bool] = []
        self._table: _Table | None = None

    def read(self, number: int, line: str) -> None:
        """Take a line, without its end."""
        if self._table and self._read_table(number, line, self._table):
            return
        line = _without_prompt(line)
        first = next(iter(line.split(maxsplit=1)), "").lower()
        if not first or first[0] == "#" or first in _REMARKS:
            return
        if first == "pushd":
            self._enter(number, line)
        elif first == "popd":
            del self._contexts[-1:]
        elif _NETSH.fullmatch(first):
            self._take(number, line, from_shell=True)
        elif not self._contexts or self._contexts[-1]:
            self._read_ours(number, line, first)

    def _read_table(self, number: int, line: str, table: _Table) -> bool:
        """Whether the line is one of dashes, or a row."""
        fields = line.split()
        if fields and all(map(_DASHES.fullmatch, fields)):
            table.begun = True
            self.kind = self.kind or "show"
            return True
        if not table.begun or not _is_row(line, fields):
            return False
        listenaddress, listenport, connectaddress, connectport = fields
        tags = {"listenport": listenport, "connectaddress": connectaddress, "connectport": connectport}
        if listenaddress != ANY:
            tags["listenaddress"] = listenaddress
        self.commands.append((number, Command(Verb.SET, table.type, tags)))
        return True

    def _enter(self, number: int, line: str) -> None:
        ours = _is_portproxy(line.split()[1:])
        self._contexts.append(ours)
        self.end_table()
        if ours:
            self.kind = "dump"
        else:
            self._skip(number, line, "another context than interface portproxy, skipped to its end")

    def _read_ours(self, number: int, line: str, first: str) -> None:
        families = _FAMILY.findall(line)
        if first in tuple(Verb) or _is_portproxy(line.split(maxsplit=2)):
            self._take(number, line, from_shell=False)
        elif len(families) == 2:
            self.end_table()
            self._table = _Table(RuleType(f"v{families[0]}tov{families[1]}"), [(number, line)])
        elif self._table and not self._table.begun and len(self._table.head) == 1:
            self._table.head.append((number, line))
        else:
            self._skip(number, line, _NOTHING)

    def _take(self, number: int, line: str, *, from_shell: bool) -> None:
        self.end_table()
        try:
            words = split_line(line)
            command = parse_command(_netsh_words(words) if from_shell else words)
        except GrammarError as error:
            self._skip(number, line, " ".join(error.lines))
            return
        except HelpAsked:
            self._skip(number, line, "asks for help and changes nothing")
            return
        if command.verb in (Verb.SHOW, Verb.DUMP):
            self._skip(number, line, f"{command.verb} changes nothing")
        elif command.verb is Verb.RESET and len(words) == 1 and not self._contexts:
            # Every context has a reset, and this one would clear the table.
            self._skip(number, line, "does not say of what; write netsh interface portproxy reset")
        else:
            self.commands.append((number, command))
            self.kind = self.kind or "script"

    def end_table(self) -> None:
        """No more rows: a heading that no dashes followed was none."""
        if self._table and not self._table.begun:
            for number, line in self._table.head:
                self._skip(number, line, _NOTHING)
        self._table = None

    def _skip(self, number: int, line: str, why: str) -> None:
        self.skipped.append(Skipped(number, printable(line[:_SHOWN_CHARACTERS]), why))


def _without_prompt(line: str) -> str:
    """The command alone, where a session was pasted; netsh's own prompt says the context."""
    if prompt := _PROMPT.match(line):
        line = line[prompt.end() :].lstrip()
    if prompt := _NETSH_PROMPT.match(line):
        typed = line[prompt.end() :].lstrip()
        return f"{prompt[1]} {typed}" if typed else ""
    return line.removeprefix("@").lstrip()


def _netsh_words(words: Sequence[str]) -> list[str]:
    """What stands between ``netsh`` and a redirection. Raises GrammarError where it is not for portproxy."""
    end = next((at for at, word in enumerate(words) if _REDIRECTION.match(word)), len(words))
    taken = list(words[1:end])
    if not _BETWEEN_COMMANDS.isdisjoint(taken):
        raise GrammarError("more than one command; give each a line of its own")
    if not _is_portproxy(taken):
        raise GrammarError("not a command of netsh interface portproxy")
    return taken


def _is_portproxy(words: Sequence[str]) -> bool:
    """Whether ``words`` begin with ``interface portproxy``."""
    return len(words) >= 2 and not without_context(words[:2])


def _is_row(line: str, fields: Sequence[str]) -> bool:
    """Whether the line is address, port, address and port."""
    if len(fields) != 4 or fields[0].startswith("#"):
        return False
    ports = fields[1::2]
    if all(map(_NUMBER.fullmatch, ports)):
        return True
    # The port's column is wider than any name, where four words of prose have one space between them.
    spaced = "  " in line or "\t" in line
    return spaced and all(_NUMBER.fullmatch(port) or _SERVICE.fullmatch(port) for port in ports)
