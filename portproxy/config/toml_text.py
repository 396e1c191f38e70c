"""A configuration's text as lines and tables: where its rules lie, and how they are changed in place.

The text is cut into logical lines; one goes to tomlkit when its value changes. Whole documents are not given
to it: it takes half a second for a thousand rules, and goes wrong where tables lie scattered between others
(its issues 261, 571, 577).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Table = Mapping[str, Any]

# https://toml.io/en/v1.0.0: strings, comments and brackets are all that can hide or span a line's end.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'" r"|#[^\n]*|[\[\]{}]|\n",
    re.DOTALL,
)


def change(text: str, rules: Sequence[Table], after: Mapping[int, Table], new: Sequence[Table]) -> str:
    """``text``, whose rules are ``rules``, with those of ``after`` (by number, from 0), then ``new``.

    A rule that is not in ``after`` is taken out. May raise what tomlkit and tomli raise, and return nonsense,
    where the text is written oddly: the result is to be checked.
    """
    newline = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    pieces = _pieces(text)
    tables = [piece for piece in pieces if piece.heads_rule]
    place = None if tables else _inline_place(pieces[0])
    if place is not None:
        pieces[0].body[place] = _changed_array(pieces[0].body[place], rules, after, new)
        return _joined(pieces, newline)
    for piece, (number, rule) in zip(tables, enumerate(rules), strict=True):
        if number in after:
            _change(piece, rule, after[number], newline)
        else:
            piece.gone = True
    pieces = _closed_up(pieces)
    if new:
        _append(pieces, [_key_lines(table, newline) for table in new], newline)
    return _joined(pieces, newline)


@dataclass(slots=True, eq=False)
class _Piece:
    """The logical lines from one header to the next, but for the comments right above that one.

    ``above`` are the comments right above its own header; ``body`` is the header, the keys, and the
    comments among and right below them; ``rest`` is what comes behind those after an empty line. A
    document begins with a piece that has no header.
    """

    above: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    gone: bool = False

    @property
    def heads_rule(self) -> bool:
        return bool(self.body) and self.body[0].lstrip().startswith("[") and _heads_rule(self.body[0])


@lru_cache
def _heads_rule(line: str) -> bool:
    import tomli

    return tomli.loads(line) == {"rule": [{}]}


def _lines(text: str) -> Iterator[str]:
    """The logical lines of a TOML document: one goes on where a string or an array does."""
    start = depth = 0
    for token in _TOKEN.finditer(text):
        found = token[0]
        if found in "[{":
            depth += 1
        elif found in "]}":
            depth -= 1
        elif found == "\n" and not depth:
            yield text[start : token.end()]
            start = token.end()
    if start < len(text):
        yield text[start:]


def _pieces(text: str) -> list[_Piece]:
    pieces = [_Piece()]
    for line in _lines(text):
        here, sign = pieces[-1], line.lstrip()[:1]
        if sign == "[":
            lines = here.rest or here.body
            split = len(lines)
            while split and lines[split - 1].lstrip().startswith("#"):
                split -= 1
            pieces.append(_Piece(above=lines[split:], body=[line]))
            del lines[split:]
        elif sign in ("", "#") and (here.rest or not sign):
            here.rest.append(line)
        else:
            here.body += here.rest
            here.rest.clear()
            here.body.append(line)
    return pieces


def _joined(pieces: Sequence[_Piece], newline: str) -> str:
    lines = [line for piece in pieces for line in (*piece.above, *piece.body, *piece.rest)]
    # The document's last line may have had no end.
    ended = [line if line.endswith("\n") else line + newline for line in lines[:-1]]
    return "".join(ended + lines[-1:])


def _name(line: str) -> str | None:
    """The key that is set on a logical line; None for a comment, an empty line or a header."""
    import tomli

    return None if line.lstrip()[:1] in ("", "#", "[") else next(iter(tomli.loads(line)))


def _change(piece: _Piece, old: Table, new: Table, newline: str) -> None:
    """Have the rule of ``piece`` hold ``new``; new keys go right behind the last one."""
    if new is old:
        return
    body, end, indent = piece.body[:1], 1, ""
    for line in piece.body[1:]:
        name = _name(line)
        if name is not None and name not in new:
            continue
        if name is not None and repr(old[name]) != repr(new[name]):
            body.append(_with_value(line, name, new[name]))
        else:
            body.append(line)
        if name is not None:
            end, indent = len(body), line[: -len(line.lstrip())]
    body[end:end] = _key_lines({name: new[name] for name in new if name not in old}, newline, indent)
    piece.body = body


def _with_value(line: str, name: str, value: object) -> str:
    import tomlkit

    document = tomlkit.parse(line)
    document[name] = value
    return document.as_string()


def _key_lines(values: Table, newline: str, indent: str = "") -> list[str]:
    import tomlkit

    return [
        f"{indent}{tomlkit.key(name).as_string()} = {tomlkit.item(value).as_string()}{newline}"
        for name, value in values.items()
    ]


def _closed_up(pieces: Sequence[_Piece]) -> list[_Piece]:
    """The pieces that are not gone; comments that stood apart from those that are stay."""
    kept: list[_Piece] = []
    for piece in pieces:
        if not piece.gone:
            kept.append(piece)
            continue
        lines = kept[-1].rest or kept[-1].body
        if not lines or not lines[-1].strip():
            _strip(piece.rest, 0)
        kept[-1].rest += piece.rest
    if pieces[-1].gone:
        _strip(kept[-1].rest, -1)
    return kept


def _strip(lines: list[str], end: int) -> None:
    """Take empty lines from one end of ``lines``: 0 or -1."""
    while lines and not lines[end].strip():
        del lines[end]


def _append(pieces: list[_Piece], tables: Sequence[list[str]], newline: str) -> None:
    """Put ``tables`` behind the last rule, or at the end where there is none, an empty line before each."""
    new = [_Piece(body=[f"[[rule]]{newline}", *lines], rest=[newline]) for lines in tables]
    place = max((place for place, piece in enumerate(pieces) if piece.heads_rule), default=None)
    if place is None:
        place, last = len(pieces) - 1, pieces[-1]
        _strip(last.rest, -1)
        last.rest += [newline] if last.body or last.rest else []
    else:
        # Comments that stand apart from the last rule are about what follows.
        new[-1].rest, pieces[place].rest = pieces[place].rest or [newline], [newline]
    pieces[place + 1 : place + 1] = new
    if pieces[-1] is new[-1]:
        _strip(new[-1].rest, -1)


def _inline_place(head: _Piece) -> int | None:
    """The line of ``rule = [{...}, ...]``, if there is one."""
    return next((place for place, line in enumerate(head.body) if _name(line) == "rule"), None)


def _changed_array(
    line: str,
    rules: Sequence[Table],
    after: Mapping[int, Table],
    new: Sequence[Table],
) -> str:
    """The line of ``rule = [{...}, ...]`` with ``rules`` changed to ``after`` and ``new`` behind them."""
    import tomlkit

    document: Any = tomlkit.parse(line)
    array = document["rule"]
    # From the end, for a removal moves those behind it.
    for number in reversed(range(len(rules))):
        if number not in after:
            del array[number]
            continue
        for name in rules[number].keys() - after[number].keys():
            del array[number][name]
        for name, value in after[number].items():
            if name not in rules[number] or repr(value) != repr(rules[number][name]):
                array[number][name] = value
    for table in new:
        array.append(tomlkit.inline_table())
        array[-1].update(table)
    return str(document.as_string())
