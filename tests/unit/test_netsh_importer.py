"""What a Windows prints, in its languages and encodings, and what people make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from portproxy.netsh.grammar import Command, Verb
from portproxy.netsh.importer import Imported, Skipped, read

SAMPLES = Path(__file__).parent / "netsh_samples"
NOTHING = "neither a command nor a part of a table"
RESET = Command(Verb.RESET)
ADD_80 = Command(Verb.ADD, "v4tov4", {"listenport": "80"})


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


def entry(verb: Verb, rule_type: str, port: str, address: str, connectport: str, **others: str) -> Command:
    return Command(
        verb,
        rule_type,
        {"listenport": port, "connectaddress": address, "connectport": connectport, **others},
    )


SHOWN = (
    (6, entry(Verb.SET, "v4tov4", "8080", "192.0.2.10", "80")),
    (7, entry(Verb.SET, "v4tov4", "2222", "198.51.100.7", "22", listenaddress="127.0.0.1")),
    (8, entry(Verb.SET, "v4tov4", "443", "192.0.2.11", "https", listenaddress="server.example.internal")),
    (14, entry(Verb.SET, "v6tov4", "5432", "192.0.2.12", "5432", listenaddress="2001:db8::7")),
)
CODE_PAGES = {
    "de": ["cp850", "cp1252"],
    "en": ["ascii"],
    "es": ["cp850", "cp1252"],
    "fr": ["cp850", "cp863"],
    "ja": ["cp932"],
    "ko": ["cp949"],
    "pt": ["cp850", "cp860"],
    "zh-CN": ["cp936", "gb18030"],
    "zh-TW": ["cp950"],
}
UNICODE = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize(
    ("language", "encoding"),
    [(language, encoding) for language in CODE_PAGES for encoding in UNICODE + CODE_PAGES[language]],
)
def test_show_in_its_languages_and_encodings(language: str, encoding: str) -> None:
    text = sample(f"show.{language}.txt")
    assert read(text.encode(encoding)) == Imported(SHOWN, (), "show")


@pytest.mark.parametrize("end", ["\r\n", "\r\r\n", "\r"])
@pytest.mark.parametrize("encoding", UNICODE)
def test_ends_of_lines(end: str, encoding: str) -> None:
    text = sample("show.en.txt").replace("\n", end)
    assert read(text.encode(encoding)) == Imported(SHOWN, (), "show")


def test_utf_16_be_with_its_mark() -> None:
    assert read(b"\xfe\xff" + sample("show.ja.txt").encode("utf-16-be")).commands == SHOWN


@pytest.mark.parametrize(
    ("dash", "encoding"),
    [("\u2500", "cp437"), ("\u30fc", "cp932"), ("\u2500", "cp936"), ("=", "ascii"), ("\u2014", "utf-8")],
)
def test_other_dashes(dash: str, encoding: str) -> None:
    assert read(sample("show.en.txt").replace("-----", dash * 5).encode(encoding)).commands == SHOWN


def test_columns_named_with_four_words_are_no_row() -> None:
    """And their names may look like addresses and services."""
    text = sample("show.en.txt").replace("Address         Port", "Address         http")
    assert read(text.encode()) == Imported(SHOWN, (), "show")


def test_dump() -> None:
    commands = (
        (6, RESET),
        (7, entry(Verb.ADD, "v4tov4", "8080", "192.0.2.10", "80")),
        (8, entry(Verb.ADD, "v6tov4", "443", "192.0.2.11", "443", listenaddress="2001:db8::7")),
        (9, entry(Verb.SET, "v4tov6", "25", "mail.example", "smtp", protocol="tcp")),
    )
    for encoding in UNICODE:
        assert read(sample("dump.en.txt").encode(encoding)) == Imported(commands, (), "dump")


@pytest.mark.parametrize("encoding", [*UNICODE, "cp866"])
def test_a_dump_of_all_contexts(encoding: str) -> None:
    why = "another context than interface portproxy, skipped to its end"
    assert read(sample("dump-all.ru.txt").encode(encoding)) == Imported(
        ((33, RESET), (34, entry(Verb.ADD, "v4tov4", "8080", "192.0.2.10", "80"))),
        (
            Skipped(4, "pushd interface", why),
            Skipped(15, "pushd interface ipv4", why),
            Skipped(46, "pushd interface tcp", why),
        ),
        "dump",
    )


SESSION = """\
Microsoft Windows [Version 10.0.19045.4780]

C:\\Users\\me>netsh interface portproxy add v4tov4 80
C:\\Users\\me> netsh interface portproxy show all

Listen on ipv4:             Connect to ipv4:

Address         Port        Address         Port
--------------- ----------  --------------- ----------
*               80          127.0.0.1       80

PS C:\\Program Files> netsh.exe int portproxy del v4tov4 80
C:\\Windows\\System32\\netsh interface portproxy reset > nul
netsh>
netsh interface portproxy>add v4tov4 80
netsh interface ipv4>reset
> netsh interface portproxy reset
C:\\Users\\me>
"""


def test_a_pasted_session() -> None:
    assert read(SESSION.encode()) == Imported(
        (
            (3, ADD_80),
            (10, entry(Verb.SET, "v4tov4", "80", "127.0.0.1", "80")),
            (12, Command(Verb.DELETE, "v4tov4", {"listenport": "80"})),
            (13, RESET),
            (15, ADD_80),
            (17, RESET),
        ),
        (
            Skipped(1, "Microsoft Windows [Version 10.0.19045.4780]", NOTHING),
            Skipped(4, "netsh interface portproxy show all", "show changes nothing"),
            Skipped(16, "netsh interface ipv4 reset", "not a command of netsh interface portproxy"),
        ),
        "script",
    )


BATCH = """\
@echo off
rem the web server
:: and its friends
@netsh interface portproxy add v4tov4 80 >nul 2>&1
netsh interface portproxy set v4tov4 listenport=81 ^
  connectaddress=192.0.2.1 ^
  connectport=8081
pushd %~dp0
netsh interface portproxy delete v4tov4 listenport=82
popd
interface portproxy add v4tov4 80
add v4tov4 80
"""


def test_a_script() -> None:
    assert read(BATCH.encode("cp850")) == Imported(
        (
            (4, ADD_80),
            (5, entry(Verb.SET, "v4tov4", "81", "192.0.2.1", "8081")),
            (9, Command(Verb.DELETE, "v4tov4", {"listenport": "82"})),
            (11, ADD_80),
            (12, ADD_80),
        ),
        (Skipped(8, "pushd %~dp0", "another context than interface portproxy, skipped to its end"),),
        "script",
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("add v4tov4 80 protocol=udp", 'protocol = "udp": UDP is not carried; tcp is the only protocol'),
        ("add v4tov4 80 weight=1", 'weight = "1": no such tag; known are listenport, '),
        ("add v4tov5 80", '"v4tov5": no such rule type; did you mean v4tov6?'),
        ("add v4tov4", "add v4tov4: listenport is missing: "),
        ('add v4tov4 80 name="x', "no closing quotation"),
        ("add v4tov4 ?", "asks for help and changes nothing"),
        ("dump", "dump changes nothing"),
        ("reset", "does not say of what; write netsh interface portproxy reset"),
        ("netsh int p add v4tov4 80 & pause", "more than one command; give each a line of its own"),
        ("netsh advfirewall firewall add rule name=x", "not a command of netsh interface portproxy"),
        ("netsh", "not a command of netsh interface portproxy"),
        ("pause", NOTHING),
        ("--------------- ----------", NOTHING),
        ("*               80          127.0.0.1       80", NOTHING),
        ("It listens on ipv4 and on ipv6", NOTHING),
    ],
)  # fmt: skip
def test_lines_that_are_skipped(line: str, why: str) -> None:
    read_ = read(f"\n\n{line}\n".encode())
    assert read_.commands == ()
    (skipped,) = read_.skipped
    assert (skipped.line, skipped.text) == (3, line)
    assert why in skipped.why
    assert read_.kind == ""


@pytest.mark.parametrize(
    "row",
    [
        "192.0.2.1       80          192.0.2.2",
        "192.0.2.1       80          192.0.2.2       81  <- mine",
        "192.0.2.1       x:y         192.0.2.2       81",
        "192.0.2.1       123456      192.0.2.2       81",
        "this is some prose",
        "# 80 and 80",
    ],
)
def test_lines_that_are_no_row(row: str) -> None:
    text = f"{sample('show.en.txt').rstrip()}\n{row}\n*  1  db  2\n"
    (*before, (number, last)) = read(text.encode()).commands
    assert tuple(before) == SHOWN
    assert (number, last) == (16, entry(Verb.SET, "v6tov4", "1", "db", "2"))
    skipped = [(skipped.line, skipped.text) for skipped in read(text.encode()).skipped]
    assert skipped == ([] if row.startswith("#") else [(15, row)])


def test_a_heading_without_dashes_is_skipped_in_its_place() -> None:
    lines = [b"It listens on ipv4 and on ipv6", b"one", b"two", b"* 80 db 80"]
    skipped = tuple(Skipped(number, line.decode(), NOTHING) for number, line in enumerate(lines, 1))
    assert read(b"\n".join(lines)) == Imported((), skipped, "")


def test_what_stands_between_the_columns_and_the_dashes_is_not_lost() -> None:
    text = b"ipv4 ipv4\nA P A P\nseen today\n---- ---- ---- ----\n* 80 db 80"
    row = entry(Verb.SET, "v4tov4", "80", "db", "80")
    assert read(text) == Imported(((5, row),), (Skipped(3, "seen today", NOTHING),), "show")


def test_a_command_behind_a_heading_is_not_lost() -> None:
    assert read(b"Listen on ipv4: Connect to ipv4:\nadd v4tov4 80") == Imported(
        ((2, ADD_80),), (Skipped(1, "Listen on ipv4: Connect to ipv4:", NOTHING),), "script"
    )


def test_names_in_any_script_survive_a_script() -> None:
    line = 'add v4tov4 listenport=80 name="B\u00fcro \u4fa6\u542c \U0001f389"'
    ((_, command),) = read(line.encode("utf-16")).commands
    assert command.tags["name"] == "B\u00fcro \u4fa6\u542c \U0001f389"


def test_what_is_skipped_is_shown_short_and_printable() -> None:
    (skipped,) = read(b"\x1b[31m" + b"x" * 5000).skipped
    assert skipped.text == "\\x1b[31m" + "x" * 115


def test_marks_around_lines() -> None:
    """A form feed between pages, DOS's end of file, the mark of a file that was appended."""
    text = "\fpushd interface portproxy\n\ufeffadd v4tov4 80\npopd\n\f\n\x1a"
    assert read(text.encode("utf-8")) == Imported(((2, ADD_80),), (), "dump")


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff\xfe", b"\xff", b"\xfe\xff\0", b"\r\n\r\n", b"\xef\xbb\xbf"]
)
def test_nothing(data: bytes) -> None:
    imported = read(data)
    assert (imported.commands, imported.kind) == ((), "")


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        *(
            (b"add v4 ", b"x"),
            (b"add v4 ", b'"'),
            (b"netsh ", b"a "),
            (b"C:\\", b"x"),
            (b"netsh ", b"x"),
        ),
        *(
            (b"ipv4 ipv4\n", b"-"),
            (b"ipv4 ipv4\n----\n", b"x "),
            (b"", b"ipv4"),
            (b"", b"\0"),
            (b"", b"\xff"),
        ),
    ],
)
def test_a_line_of_a_megabyte_is_read_in_linear_time(before: bytes, piece: bytes) -> None:
    """A quadratic step would take minutes, which the suite's own limit ends."""
    assert read(before + piece * ((1 << 20) // len(piece))).commands == ()
