"""Words of a line and how they are quoted: a shell's rules, which hold for netsh's double quotes too.

POSIX 1003.1 section 2.2, as ``shlex.split`` has it; that takes quadratic time for a long word.
"""

from __future__ import annotations

import re

_PIECE = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<plain>[^ \t\r\n"'\\]+)
      | "(?P<double>[^"\\]*(?:\\.[^"\\]*)*)"
      | '(?P<single>[^']*)'
      | \\(?P<escaped>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED_IN_QUOTES = re.compile(r'\\(["\\])')
_NEEDS_QUOTES = re.compile(r"""[ \t\r\n"'\\]""")


def split(text: str) -> list[str]:
    """The words of ``text``. Raises ValueError, which says what has no end."""
    words: list[str] = []
    word: list[str] | None = None
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ValueError("no escaped character" if text[at] == "\\" else "no closing quotation")
        at = piece.end()
        if piece.lastgroup == "space":
            words += [] if word is None else ["".join(word)]
            word = None
            continue
        found = piece[piece.lastgroup or 0]
        word = [] if word is None else word
        word.append(_ESCAPED_IN_QUOTES.sub(r"\1", found) if piece.lastgroup == "double" else found)
    return words if word is None else [*words, "".join(word)]


def quoted(word: str) -> str:
    """``word`` as ``split`` reads it back: in double quotes where it needs any."""
    if word and not _NEEDS_QUOTES.search(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
