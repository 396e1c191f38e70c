"""The table: every value whole, in lines for programs and folded for terminals."""

from __future__ import annotations

from collections import Counter

import pytest

from portproxy.config import parse
from portproxy.table import show

PREFIXES = [f"2001:db8:{number}::/48" for number in range(1, 9)]
CONFIG = parse(
    f"""
    [[rule]]
    type = "v6tov4"
    listenaddress = "::"
    listenport = 81
    connectaddress = "a-rather-long-name-of-a-host.in.a.rather-long-domain.example.net"
    name = "a name with spaces"
    allow = {PREFIXES}
    maxlifetime = "1h"
    usertimeout = 20
    [[rule]]
    type = "v6tov4"
    listenport = 81
    name = "late"
    """,
    "here",
)
SERVER = "status=off control=off log=console accesslog=- draintimeout=30s user=off workers=1"
LATE = "shadowed by a name with spaces"
VALUES = (
    "a name with spaces",
    "[::]:81",
    "a-rather-long-name-of-a-host.in.a.rather-long-domain.example.net:81",
    "maxlifetime=1h",
    "usertimeout=20s",
    "allow=" + ",".join(PREFIXES),
)


def test_a_rule_is_a_line_with_every_value_whole() -> None:
    lines = show(CONFIG).splitlines()
    assert all(value in lines[1] for value in VALUES)
    assert lines[2].split(maxsplit=5) == ["late", "v6tov4", "*:81", "127.0.0.1:81", "defaults", LATE]
    for name, value in zip(("listens on", "connects to", "options"), VALUES[1:4], strict=True):
        assert lines[0].index(name) == lines[1].index(value)
    assert lines[3:5] == ["", f"server: {SERVER}"]
    assert lines[5] == f"warning: {CONFIG.warnings[0]}"
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("width", [40, 80, 132])
def test_cells_are_folded_and_never_cut(width: int) -> None:
    whole, folded = ([*show(CONFIG, limit).partition("\n\n")] for limit in (None, width))
    assert max(map(len, folded[0].splitlines())) <= width
    assert Counter("".join(folded[0].split())) == Counter("".join(whole[0].split()))
    assert folded[1:] == whole[1:]


def test_what_fits_is_not_folded() -> None:
    lines = show(CONFIG)
    assert show(CONFIG, max(map(len, lines.splitlines()[:3]))) == lines


def test_names_are_no_markup() -> None:
    config = parse('[[rule]]\ntype = "v4tov4"\nlistenport = 1\nconnectport = 2\nname = "[red]x"', "here")
    for width in (None, 60):
        assert "[red]x" in show(config, width)
