"""Text to roff with the macros of man(7), in which every line here is written.

What is special at the start of a line, and what groff and mandoc print as other characters than those
that can be pasted: groff_char(7), "Special character escape forms"; man-pages(7).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

_ESCAPES = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})
_CODE = re.compile(r"`([^`]+)`")
_COLUMNS = 78
"""Of the source, not of the page."""


def escaped(text: str) -> str:
    """``text`` as it stands, anywhere but at the start of a line."""
    printed = text.translate(_ESCAPES)
    return "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in printed)


def bold(text: str) -> str:
    """``text`` in bold, as what is to be typed."""
    return rf"\fB{escaped(text)}\fR"


def italic(text: str) -> str:
    """``text`` in italics, as what stands for something else."""
    return rf"\fI{escaped(text)}\fR"


def prose(text: str) -> str:
    """``text``, folded; what stands between backquotes is to be typed."""
    # Every second piece was between backquotes.
    pieces = [bold(piece) if odd % 2 else escaped(piece) for odd, piece in enumerate(_CODE.split(text))]
    return line("".join(pieces))


def line(roff: str) -> str:
    """``roff`` from the start of a line on, folded."""
    folded = textwrap.wrap(roff, _COLUMNS, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_guarded, folded))


def _guarded(roff: str) -> str:
    """A line that is no request, though it starts like one."""
    return rf"\&{roff}" if roff.startswith((".", "'")) else roff


def verbatim(text: str) -> str:
    """The lines of ``text`` as they are, indented."""
    lines = [_guarded(escaped(one)) for one in text.splitlines()]
    return "\n".join([".RS 4", ".nf", *lines, ".fi", ".RE"])


def paragraphs(text: str) -> Iterable[str]:
    """Those of a help text; one that click is told not to fold (``\\b``) is not folded here either."""
    for paragraph in text.split("\n\n"):
        fixed = paragraph.removeprefix("\b\n")
        yield prose(paragraph) if fixed == paragraph else verbatim(fixed)


def apart(blocks: Iterable[str]) -> str:
    """Paragraphs one under the other."""
    return "\n.PP\n".join(blocks)


def item(term: str, text: str) -> str:
    """A paragraph with its term, which is roff, beside it."""
    return f".TP\n{term}\n{prose(text)}"


def table(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Items whose terms are to be typed."""
    return (item(bold(term), text) for term, text in rows)
