from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from portproxy.columns import columns

ROWS = [("rule", "error", "n"), ("web", "the port is in use by nginx (pid 7)", "12"), ("b", "", "3")]


def test_without_a_width_a_row_is_a_line() -> None:
    assert columns(ROWS) == [
        "rule  error                                n",
        "web   the port is in use by nginx (pid 7)  12",
        "b                                          3",
    ]


def test_the_widest_column_gives_way_at_spaces() -> None:
    assert columns(ROWS, 26) == [
        "rule  error             n",
        "web   the port is in    12",
        "      use by nginx",
        "      (pid 7)",
        "b                       3",
    ]


def test_a_name_is_not_broken_at_its_hyphens() -> None:
    assert columns([("a", "b"), ("x", "on my-host.example")], 18)[1:] == ["x  on", "   my-host.example"]


def test_a_word_that_does_not_fit_is_broken() -> None:
    assert columns([("a", "b"), ("abcdefgh", "1")], 6) == ["a    b", "abc  1", "def", "gh"]


def test_a_width_that_nothing_fits_into_still_shows_all() -> None:
    assert columns([("a", "b"), ("cd", "ef")], 1) == ["a  b", "c  e", "d  f"]


def letters(texts: Iterable[str]) -> Counter[str]:
    """All but spaces, at some of which lines are broken."""
    return Counter("".join("".join(texts).split()))


cells = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]))


@given(st.lists(st.tuples(cells, cells, cells)), st.integers(9, 60))
def test_nothing_is_lost_and_nothing_sticks_out(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = columns([("one", "two", "three"), *rows], width)
    assert max(map(len, lines)) <= width
    said = ("one", "two", "three", *chain.from_iterable(rows))
    assert letters(lines) == letters(said)
