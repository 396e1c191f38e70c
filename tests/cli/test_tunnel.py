"""tunnel decode and tunnel encode, as a user types them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess

import pytest

from portproxy.tunnel.addresses import KINDS, decode, parse
from tests.cli.shell import PORTPROXY, Shell
from tests.cli.test_completion import proposed

TEREDO = "2001:0:4136:e378:8000:63bf:3fff:fdd2"
TWO_KINDS = "2002:9d36:1:2:0:5efe:192.168.12.9"
ONE_OF_EACH = (
    *("::", "::1", "::ffff:192.0.2.33", "::157.60.91.123", "::ffff:0:192.0.2.33", "64:ff9b::192.0.2.33"),
    *("64:ff9b:1:fffe::192.0.2.33", "100::1", TEREDO, "2001:2::1", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff"),
    *("2001:db8:ffff:ffff:200:5eff:fe00:5301", "3fff::1", "2001:1::1", TWO_KINDS, "2a00:1450::1"),
    *("fd12:3456:789a:bc::1", "fc00::1", "fe80::9d3c:5b7b", "fe80:4::1", "fec0::1", "ff02::1:ff28:9c5a"),
    *("ff7e:140:2001:db8:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "5fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
)

TABLE = """\
address                               kind    parts                                                         what it is
2001:0:4136:e378:8000:63bf:3fff:fdd2  teredo  server=65.54.227.120 flags=8000 port=40000 client=192.0.2.45  Teredo: IPv6 over UDP through a NAT (RFC 4380, 4); flags: cone NAT (C)
2002:9d36:1:2:0:5efe:c0a8:c09         6to4    ipv4=157.54.0.1 subnet=2 interface=::5efe:c0a8:c09            6to4: a site behind an IPv4 address (RFC 3056, 2)
2002:9d36:1:2:0:5efe:c0a8:c09         isatap  prefix=2002:9d36:1:2::/64 u=0 ipv4=192.168.12.9               ISATAP: IPv6 over a site's IPv4 (RFC 5214, 6.1); u: IPv4 address not globally unique
"""  # noqa: E501

BELOW = """\
2001:0:4136:e378:8000:63bf:3fff:fdd2
  teredo  Teredo: IPv6 over UDP through a NAT (RFC 4380, 4); flags: cone NAT (C)
          server=65.54.227.120 flags=8000 port=40000 client=192.0.2.45
2002:9d36:1:2:0:5efe:c0a8:c09
  6to4    6to4: a site behind an IPv4 address (RFC 3056, 2)
          ipv4=157.54.0.1 subnet=2 interface=::5efe:c0a8:c09
  isatap  ISATAP: IPv6 over a site's IPv4 (RFC 5214, 6.1); u: IPv4 address not
          globally unique
          prefix=2002:9d36:1:2::/64 u=0 ipv4=192.168.12.9
"""


def in_a_terminal(shell: Shell, width: int, *argv: str) -> str:
    """What portproxy prints on a terminal of so many columns."""
    outer, inner = os.openpty()
    environ = {**shell.environ, "COLUMNS": str(width), "TERM": "dumb"}
    process = subprocess.Popen([PORTPROXY, *argv], env=environ, stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    data = b""
    with process, contextlib.suppress(OSError):  # EIO: it is closed at the other side
        while piece := os.read(outer, 1 << 16):
            data += piece
    os.close(outer)
    assert process.returncode == 0
    return data.decode().replace("\r\n", "\n")


def test_decode_for_programs_a_row_is_a_line(portproxy: Shell) -> None:
    assert portproxy("tunnel", "decode", TEREDO, TWO_KINDS) == (0, TABLE, [])


def test_decode_on_a_terminal(portproxy: Shell) -> None:
    assert in_a_terminal(portproxy, 80, "tunnel", "decode", TEREDO, TWO_KINDS) == BELOW
    width = max(map(len, TABLE.splitlines()))
    assert in_a_terminal(portproxy, width, "tunnel", "decode", TEREDO, TWO_KINDS) == TABLE
    assert in_a_terminal(portproxy, width - 1, "tunnel", "decode", TEREDO, TWO_KINDS) == BELOW.replace(
        "not\n          globally", "not globally"
    )


def test_no_address_and_no_part_is_broken_at_80_columns(portproxy: Shell) -> None:
    shown = in_a_terminal(portproxy, 80, "tunnel", "decode", *ONE_OF_EACH)
    assert max(map(len, shown.splitlines())) <= 80
    code, output, errors = portproxy("tunnel", "decode", "--json", *ONE_OF_EACH)
    assert (code, errors) == (0, [])
    words = set(shown.split())
    kinds = set()
    for one in json.loads(output)["addresses"]:
        assert one["address"] in words
        for found in one["kinds"]:
            kinds.add(found["kind"])
            assert {found["kind"], *(f"{name}={value}" for name, value in found["parts"].items())} <= words
    assert kinds == KINDS.keys()


def test_a_row_has_four_columns_for_every_kind(portproxy: Shell) -> None:
    code, output, errors = portproxy("tunnel", "decode", *ONE_OF_EACH)
    assert (code, errors) == (0, [])
    head, *rows = [[cell.strip() for cell in line.split("  ") if cell] for line in output.splitlines()]
    assert head == ["address", "kind", "parts", "what it is"]
    assert {len(row) for row in rows} == {4}
    assert {kind for _, kind, _, _ in rows} == KINDS.keys()


def test_what_decode_prints_encode_takes(portproxy: Shell) -> None:
    _, output, _ = portproxy("tunnel", "decode", TEREDO, TWO_KINDS)
    for address, kind, parts, _ in [
        [cell.strip() for cell in line.split("  ") if cell] for line in output.splitlines()[1:]
    ]:
        assert portproxy("tunnel", "encode", kind, *parts.split()) == (0, f"{address}\n", [])


DATA: dict[str, list[object]] = {
    "addresses": [
        {
            "address": TEREDO,
            "zone": None,
            "kinds": [
                {
                    "kind": "teredo",
                    "parts": {
                        "server": "65.54.227.120",
                        "flags": "8000",
                        "port": "40000",
                        "client": "192.0.2.45",
                    },
                    "meanings": {"flags": "cone NAT (C)"},
                    "notes": [],
                    "what": "Teredo: IPv6 over UDP through a NAT",
                    "source": "RFC 4380, 4",
                }
            ],
            "embeds": [
                {"role": "Teredo server", "address": "65.54.227.120", "port": None},
                {"role": "Teredo client", "address": "192.0.2.45", "port": 40000},
            ],
        },
        {
            "address": "fe80::1",
            "zone": "\\udc80",
            "kinds": [
                {
                    "kind": "link-local",
                    "parts": {"interface": "::1"},
                    "meanings": {},
                    "notes": [],
                    "what": "link-local",
                    "source": "RFC 4291, 2.5.6",
                }
            ],
            "embeds": [],
        },
    ]
}


def test_decode_as_json(portproxy: Shell) -> None:
    code, output, errors = portproxy("tunnel", "decode", "--json", TEREDO, "fe80::1%\udc80")
    assert (code, errors) == (0, [])
    assert json.loads(output) == DATA


def test_encode_as_json_is_what_decode_says_of_it(portproxy: Shell) -> None:
    teredo = DATA["addresses"][0]
    parts = ["server=65.54.227.120", "flags=8000", "port=40000", "client=192.0.2.45"]
    code, output, errors = portproxy("tunnel", "encode", "--json", "teredo", *parts)
    assert (code, json.loads(output), errors) == (0, teredo, [])


def test_an_ipv4_address_that_makes_no_sense_is_told(portproxy: Shell) -> None:
    note = "ipv4=127.0.0.1 is loopback, and 6to4 needs a public IPv4 address"
    encode = ("tunnel", "encode", "6to4", "ipv4=127.0.0.1")
    assert portproxy(*encode) == (0, "2002:7f00:1::\n", [f"warning: {note}"])
    code, output, errors = portproxy(*encode, "--json")
    assert (code, json.loads(output)["kinds"][0]["notes"], errors) == (0, [note], [])
    code, output, errors = portproxy("tunnel", "decode", "2002:7f00:1::")
    assert (code, errors) == (0, [])
    assert output.endswith(f"(RFC 3056, 2); note: {note}\n")


def test_a_zone_stands_behind_the_address(portproxy: Shell) -> None:
    code, output, errors = portproxy("tunnel", "decode", "fe80::1%eth0", "fe80::1%\x1b")
    assert (code, errors) == (0, [])
    assert [line.split()[0] for line in output.splitlines()[1:]] == ["fe80::1%eth0", "fe80::1%\\x1b"]
    assert in_a_terminal(portproxy, 40, "tunnel", "decode", "fe80::1%eth0").startswith("fe80::1%eth0\n  link")


def test_a_mistake_keeps_nobody_from_the_others(portproxy: Shell) -> None:
    _, good, _ = portproxy("tunnel", "decode", TEREDO, TWO_KINDS)
    errors = [f'portproxy: "x": {NO_ADDRESS}', f'portproxy: "[::1]:80": {NO_ADDRESS}; leave out the port']
    assert portproxy("tunnel", "decode", TEREDO, "x", TWO_KINDS, "[::1]:80") == (2, good, errors)
    code, output, errors = portproxy("tunnel", "decode", "--json", "x", TEREDO)
    assert (code, errors) == (2, [f'portproxy: "x": {NO_ADDRESS}'])
    assert json.loads(output)["addresses"] == DATA["addresses"][:1]


NO_ADDRESS = "not an IPv6 address, such as 2001:db8::1"
MISTAKES: dict[str, list[str]] = {
    "decode": ["Missing argument 'ADDRESS...'. Try 'portproxy tunnel decode --help'."],
    "decode 192.0.2.33 2001:db8::/32 x": [
        '"192.0.2.33": an IPv4 address; in IPv6 it is ::ffff:192.0.2.33',
        f'"2001:db8::/32": {NO_ADDRESS}; leave out the prefix length',
        f'"x": {NO_ADDRESS}',
    ],
    "decode '\x1b[31m\n'": [rf'"\x1b[31m\n": {NO_ADDRESS}'],
    "decode ''": [f'"": {NO_ADDRESS}'],
    "encode": ["Missing argument 'KIND'. Try 'portproxy tunnel encode --help'."],
    "encode tredo": ['"tredo": no such kind of address; did you mean teredo?'],
    "encode ?x": [f'"?x": no such kind of address; known are {", ".join(KINDS)}'],
    "encode 6to4": ["6to4: ipv4 is missing: an IPv4 address"],
    "encode 6to4 ipv4 =1 ipv4=192.0.2.33 ipv4=192.0.2.34": [
        '"ipv4": a part is written PART=VALUE',
        '"ipv4=192.0.2.34": "ipv4" is given twice',
    ],
    "encode 6to4 =1 ipv5=192.0.2.33": [
        '6to4: "": no such part; known are ipv4, subnet, interface',
        '6to4: "ipv5": no such part; known are ipv4, subnet, interface',
        "6to4: ipv4 is missing: an IPv4 address",
    ],
    "encode global prefix=2002::/64": ["global: 2002:: is 6to4 (RFC 3056, 2)"],
    "x ::1": ["No such command 'x'. Try 'portproxy tunnel --help'."],
}
"""What is typed behind `portproxy tunnel` -> lines on standard error."""


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_a_line_and_exit_code_2(portproxy: Shell, line: str) -> None:
    expected = [f"portproxy: {problem}" for problem in MISTAKES[line]]
    assert portproxy("tunnel", *shlex.split(line)) == (2, "", expected)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["?"]])
def test_help(portproxy: Shell, argv: list[str]) -> None:
    code, output, errors = portproxy("tunnel", *argv)
    assert (code, errors) == (0, [])
    assert output.startswith("Usage: portproxy tunnel [OPTIONS]")
    for command in ("decode", "encode"):
        assert f"\n  {command} " in output
        code, output_of_it, errors = portproxy("tunnel", command, "--help")
        assert (code, errors) == (0, [])
        assert output_of_it.startswith(f"Usage: portproxy tunnel {command} ")


def test_the_examples_in_the_help_are_so(portproxy: Shell) -> None:
    _, output, _ = portproxy("tunnel", "encode", "--help")
    teredo, sixtofour = " ".join(output.replace("site's", "").split()).split("'")[1::2]
    assert portproxy("tunnel", *teredo.split()) == (0, "2001:0:4136:e378:0:63bf:3fff:fdd2\n", [])
    assert portproxy("tunnel", *sixtofour.split()) == (0, "2002:c000:201:10::\n", [])
    (six_to_four,) = decode(parse("2002:c000:201:10::")).kinds
    assert int(six_to_four.values["subnet"], 16) == 16


def test_the_help_has_every_kind_with_its_parts(portproxy: Shell) -> None:
    _, output, _ = portproxy("tunnel", "encode", "--help")
    lines = output.partition("is left\n  out.\n\n")[2].partition("\n\n")[0].splitlines()
    listed: dict[str, list[str]] = {}
    for line in lines:
        names, _, parts = line.partition(":")
        listed |= dict.fromkeys(map(str.strip, names.split(",")), parts.split())
    assert listed == {
        name: [f"[{field.name}]" if field.optional else field.name for field in kind.fields]
        for name, kind in KINDS.items()
    }


PROPOSED = {
    "portproxy tun": ["tunnel"],
    "portproxy tunnel ": ["decode", "encode", "show", "status"],
    "portproxy tunnel encode ": [*KINDS],
    "portproxy tunnel encode v4": ["v4mapped", "v4compat", "v4translated"],
    "portproxy tunnel encode teredo ": ["server=", "flags=", "port=", "client="],
    "portproxy tunnel encode teredo flags=0 server=192.0.2.1 ": ["port=", "client="],
    "portproxy tunnel encode teredo s": ["server="],
    "portproxy tunnel encode teredo server=": [],
    "portproxy tunnel encode loopback ": [],
    "portproxy tunnel encode nosuchkind ": [],
    "portproxy tunnel decode --js": ["--json"],
}
"""A line -> what is proposed at its end."""


@pytest.mark.parametrize("line", PROPOSED)
def test_what_is_proposed(line: str) -> None:
    assert proposed(line) == PROPOSED[line]
