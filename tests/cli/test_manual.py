"""The manual page: it is current, it renders, and everything is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from portproxy.cli import roff
from portproxy.cli.group import portproxy as group
from portproxy.cli.manual import ENVIRONMENT, EXIT_CODES, SIGNALS, page
from portproxy.options import RULE_KEYS, RULE_OPTIONS, SERVER_OPTIONS, Option
from portproxy.options.tunnels import TUNNEL_OPTIONS

TOP = Path(__file__).parents[2]
FILE = TOP / "docs/portproxy.1"

STRANGE = (
    ".SH no heading",
    "'br no request",
    "...",
    r"C:\n\fB\(aq\*[x]",
    "a \"quoted\" word, and 'another'",
    "--option=-1 ~/file ^ `code`",
    "-",
    "naïve → «ok»",
    "%s {} #",
)
"""Lines that roff might take for something else."""


def rendered(source: str) -> str:
    """The page as a terminal shows it, 100 columns wide; groff has nothing to say against it."""
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=100n"],
        input=source,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def shown() -> str:
    return rendered(page())


def folded(text: str) -> str:
    return " ".join(text.split())


def sections(shown: str) -> dict[str, str]:
    """The text below each heading; those of commands are indented."""
    pieces = re.split(r"^( {3})?(?! )(\S.*)\n", shown, flags=re.MULTILINE)
    return {heading: folded(text) for heading, text in zip(pieces[2::3], pieces[3::3], strict=True)}


def test_the_file_is_current() -> None:
    why = "run: python -m portproxy.cli.manual >docs/portproxy.1"
    assert FILE.read_text(encoding="ascii") == page(), why


def test_it_is_written_as_the_test_says() -> None:
    command = [sys.executable, "-m", "portproxy.cli.manual"]
    assert subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True).stdout == page()


def commands(within: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command that does something, by its words."""
    found: dict[str, click.Command] = {}
    for name, command in within.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found


@pytest.mark.parametrize("name", commands(group))
def test_a_command(shown: str, name: str) -> None:
    command = commands(group)[name]
    context = click.Context(command, info_name=name, parent=click.Context(group, info_name="portproxy"))
    here, shared = sections(shown)[name], sections(shown)["OPTIONS"]
    arguments = []
    for parameter in command.params:
        metavar = parameter.make_metavar(context)
        if isinstance(parameter, click.Option):
            takes = "" if parameter.is_flag else f" {metavar}"
            terms = ", ".join(f"{option}{takes}" for option in parameter.opts)
            assert f"[{parameter.opts[0]}{takes}]" in here
            assert f"{terms} {parameter.help}" in f"{here} {shared}"
        else:
            arguments.append(metavar)
    assert " ".join(["portproxy", name, *arguments]) in here
    for paragraph in re.sub("[`\b]", "", command.help or "").split("\n\n"):
        assert folded(paragraph) in here


def test_options_of_the_group(shown: str) -> None:
    text = sections(shown)["OPTIONS"]
    assert "--version Show the version and exit." in text
    assert "-h, --help Show this message and exit." in text


@pytest.mark.parametrize(
    ("heading", "options"),
    [
        ("RULES", RULE_KEYS),
        ("RULE OPTIONS", RULE_OPTIONS),
        ("SERVER OPTIONS", SERVER_OPTIONS),
        ("TUNNELS", TUNNEL_OPTIONS),
    ],
)
def test_keys(shown: str, heading: str, options: tuple[Option, ...]) -> None:
    text = sections(shown)[heading]
    for option in options:
        assert f" {option.name} {option.kind.accepts}; " in text
        assert f"{option.default_text}: {option.why.replace('`', '')}" in text


@pytest.mark.parametrize(
    ("heading", "rows"), [("EXIT STATUS", EXIT_CODES), ("SIGNALS", SIGNALS), ("ENVIRONMENT", ENVIRONMENT)]
)
def test_what_else_is_listed(shown: str, heading: str, rows: tuple[tuple[str, str], ...]) -> None:
    text = sections(shown)[heading]
    for term, meaning in rows:
        assert f"{term} {meaning.replace('`', '')}" in text


def test_strange_text_is_printed_as_it_is() -> None:
    plain = [line.replace("`", "") for line in STRANGE]
    written = {
        "VERBATIM": (map(roff.verbatim, STRANGE), STRANGE),
        "PROSE": (map(roff.prose, STRANGE), plain),
        "ITEMS": (roff.table(("x", line) for line in STRANGE), [f"x {line}" for line in plain]),
        "FONTS": (
            [f"{roff.bold(line)}, {roff.italic(line)}" for line in STRANGE],
            [f"{line}, {line}" for line in STRANGE],
        ),
    }
    source = "".join(f".SH {heading}\n{roff.apart(blocks)}\n" for heading, (blocks, _) in written.items())
    shown = sections(rendered(f'.TH X 1 "" "x" "x"\n{source}'))
    assert {heading: shown[heading] for heading in written} == {
        heading: " ".join(lines) for heading, (_, lines) in written.items()
    }


def test_hyphens_are_those_that_are_typed() -> None:
    assert "\N{HYPHEN}" not in rendered(page())
    assert roff.bold("--dry-run") == r"\fB\-\-dry\-run\fR"


@pytest.mark.parametrize("character", "-'`^~")
def test_nothing_is_left_to_typography(character: str) -> None:
    """Debian's groff prints some of these as they are; others do not."""
    assert roff.escaped(character).startswith("\\")


def test_a_dot_at_the_start_of_a_folded_line() -> None:
    for width in range(60, 80):
        source = roff.prose("x" * width + " .d/file 'br")
        assert not re.search(r"^[.']", source, re.MULTILINE)
