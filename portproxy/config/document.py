"""A TOML file, read and parsed: its tables, or problems with line and column."""

from __future__ import annotations

from typing import Any

from portproxy.errors import printable

MAX_BYTES = 64 << 20
"""About half a million rules; more is some other file."""


def read(path: str, problems: list[str]) -> str:
    """The text of a file; one that cannot be read is a problem, and empty."""
    where = printable(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            problems.append(f"{where}: larger than {MAX_BYTES >> 20} MiB, which no configuration is")
            return ""
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(
            f"{where}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8, which TOML is written in"
        )
    except OSError as error:
        problems.append(f"{where}: cannot be read: {error.strerror}")
    except ValueError:
        problems.append(f"{where}: no file can have this name")
    return ""


def tables(text: str, where: str, problems: list[str]) -> dict[str, Any]:
    """The top of a TOML document; a syntax error is a problem, and an empty document."""
    # A relay whose rules are all on the command line does not pay for this.
    import tomli

    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        problems.append(f"{where}: line {error.lineno}, column {error.colno}: {printable(error.msg)}")
    except RecursionError:
        problems.append(f"{where}: nested deeper than any configuration is")
    except ValueError:
        # sys.get_int_max_str_digits()
        problems.append(f"{where}: holds a number of thousands of digits, which nothing takes")
    return {}
