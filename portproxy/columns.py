"""Rows of text as columns, for people and for programs that read lines."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

_GAP = "  "


def columns(rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Lines of aligned cells; the first of ``rows``, which are equally long, is the head.

    No cell is cut: they are folded where a row is wider than ``width`` characters, and with ``width``
    None a row is a line.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths = _narrowed(widths, width - len(_GAP) * (len(widths) - 1))
    return [line for row in rows for line in _lines(row, widths)]


def _narrowed(widths: list[int], room: int) -> list[int]:
    """``widths`` that fit into ``room``; the widest give way."""
    most = max(widths)
    while most > 1 and sum(min(size, most) for size in widths) > room:
        most -= 1
    return [min(size, most) for size in widths]


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = (
        textwrap.wrap(cell, size, break_on_hyphens=False) if len(cell) > size else [cell]
        for cell, size in zip(row, widths, strict=True)
    )
    return [
        _GAP.join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip()
        for parts in itertools.zip_longest(*cells, fillvalue="")
    ]
