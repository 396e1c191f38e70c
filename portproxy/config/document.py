"""A TOML file, read and parsed: its tables, or problems with line and column."""

from __future__ import annotations

import re
from typing import Any

from portproxy.errors import printable, shown

MAX_BYTES = 64 << 20
"""About half a million rules; more is some other file."""
_SHOWN_CHARACTERS = 60
"""Of the line where TOML cannot be read."""

_BARE = re.compile(r"""\s*([A-Za-z0-9_-]+)\s*=\s*([^\s"'\\#=,\[\]{}]+)\s*(?:#.*)?""")
"""A key and a value that looks like text without its quotes."""
_NO_VALUE = ("Invalid value", "Expected newline or end of document after a statement")
"""What tomli says of such a value; the latter where it begins with a number, as 192.0.2.1 does."""
_TWICE = "Cannot overwrite a value"


def read(path: str, problems: list[str]) -> bytes:
    """What the file at ``path`` holds; one that cannot be read is a problem, and empty."""
    where = printable(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data
        problems.append(f"{where}: larger than {MAX_BYTES >> 20} MiB, which no configuration is")
    except OSError as error:
        problems.append(f"{where}: cannot be read: {error.strerror}")
    except ValueError:
        problems.append(f"{where}: no file can have this name")
    return b""


def decode(data: bytes, path: str, problems: list[str]) -> str:
    """``data`` as text; what is not UTF-8 is a problem, and empty."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        told = f"line {line}: byte 0x{byte:02x} is not UTF-8, which TOML is written in"
        problems.append(f"{printable(path)}: {told}")
    return ""


def digest(data: bytes) -> bytes:
    """What tells versions of a file apart."""
    # OpenSSL comes with it, and the commands that ask a relay read no file.
    import hashlib

    return hashlib.sha256(data).digest()


def tables(text: str, where: str, problems: list[str]) -> dict[str, Any]:
    """The top of a TOML document; a syntax error is a problem, and an empty document."""
    # A relay whose rules are all on the command line does not pay for this.
    import tomli

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line = _line(error.doc, error.pos)
        told = printable(error.msg) + _hint(error.msg, line)
        seen = f"{printable(line.strip()[:_SHOWN_CHARACTERS])}: " if line.strip() else ""
        problems.append(f"{where}: line {error.lineno}, column {error.colno}: {seen}{told}")
    except RecursionError:
        problems.append(f"{where}: nested deeper than any configuration is")
    except ValueError:
        # sys.get_int_max_str_digits()
        problems.append(f"{where}: holds a number of thousands of digits, which nothing takes")
    return {}


def _line(text: str, position: int) -> str:
    """The line of ``text`` that ``position`` is in."""
    end = text.find("\n", position)
    return text[text.rfind("\n", 0, position) + 1 : end if end >= 0 else len(text)]


def _hint(message: str, line: str) -> str:
    bare = _BARE.fullmatch(line)
    if bare and message in _NO_VALUE:
        return f"; text stands in quotes: {bare[1]} = {shown(bare[2])}"
    return "; this key has a value already, leave one out" if message == _TWICE else ""
