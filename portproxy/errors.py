"""The few exceptions that reach a user, each carrying lines for people."""

from __future__ import annotations

from collections.abc import Sequence


class PortproxyError(Exception):
    """Something a person can mend; ``lines`` says what, where, and what would be right."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines: tuple[str, ...] = lines


class ConfigError(PortproxyError):
    """Bad usage or configuration: every problem found, one line each."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)


class StartError(PortproxyError):
    """The relay could not start: a port in use, a missing privilege, no such address."""


_SHOWN_CHARACTERS = 60
_SHOWN_ITEMS = 4


def printable(text: str) -> str:
    """``text`` with line ends, control characters and lone surrogates escaped: fit for an error line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object, depth: int = 0) -> str:
    """A value from a user, as TOML spells it, short enough to stand inside an error line."""
    match value:
        case str():
            cut = value[:_SHOWN_CHARACTERS] + ("..." if len(value) > _SHOWN_CHARACTERS else "")
            return f'"{printable(cut)}"'
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 128:
            return f"a number of {value.bit_length()} bits"
        case list():
            if depth:
                return "[...]"
            more = ["..."] if len(value) > _SHOWN_ITEMS else []
            return f"[{', '.join([shown(item, depth + 1) for item in value[:_SHOWN_ITEMS]] + more)}]"
        case dict():
            return "{...}"
        case _:
            return printable(str(value))
