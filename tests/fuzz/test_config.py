"""Configurations that nobody would write: each is a Config or a ConfigError with printable lines."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time
from random import Random

import pytest

from portproxy import config
from portproxy.errors import ConfigError
from portproxy.model import Config, RuleType
from portproxy.options import RULE_KEYS, RULE_OPTIONS, SERVER_OPTIONS
from tests.fuzz.examples import seeded, text


def made_or_refused(make: Callable[[], Config]) -> Config | None:
    """What ``make`` returns, None where it refuses in the agreed way."""
    try:
        made = make()
    except ConfigError as error:
        lines = error.lines
        made = None
    else:
        assert isinstance(made, Config)
        assert len({rule.name for rule in made.rules}) == len(made.rules)
        assert len({rule.endpoint for rule in made.active}) == len(made.active)
        lines = (*made.warnings, "")
    assert lines, "a refusal without a reason"
    assert [line for line in lines if not line.isprintable()] == []
    return made


KEYS = [option.name for option in RULE_KEYS + RULE_OPTIONS + SERVER_OPTIONS]
WORDS = [
    *(
        "off",
        "on",
        "true",
        "5s",
        "250ms",
        "0",
        "1",
        "80",
        "65536",
        "http",
        "tcp",
        "udp",
        "auto",
        "copy",
        "64k",
    ),
    *(
        "json",
        "*",
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "localhost",
        "a.example",
        "::ffff:192.0.2.1",
        "127.1",
    ),
    *(
        "fe80::1%eth0",
        "10.0.0.0/8",
        "2001:db8::/32",
        "10.0.0.1/8",
        "[::1]:9180",
        "127.0.0.1:9180",
        "/run/x.sock",
    ),
    *("-", "", "\n", "\x00", "\u2028", "\u00e9" * 70),
    *RuleType,
]
"""Values that some key takes, so that rules come into being, and a few that none does."""

FRAGMENTS = [
    *(
        "[[rule]]\n",
        "[rule]\n",
        "[server]\n",
        "[defaults]\n",
        "[",
        "]",
        "{",
        "}",
        "=",
        ",",
        ".",
        "#",
        "\n",
        " ",
    ),
    *(
        "'",
        '"',
        '"""',
        "\\",
        "\\u0000",
        "\x00",
        "\x7f",
        "\u2028",
        "0x",
        "1e",
        "nan",
        "-inf",
        "1979-05-27",
        "\r\n",
    ),
    *(f"{key} = " for key in KEYS),
    *(f'"{word}"\n' for word in WORDS if word.isprintable()),
    '[[rule]]\ntype = "v6tov4"\nlistenport = 80\n',
]


def parsed_or_refused(written: str) -> Config | None:
    return made_or_refused(lambda: config.parse(written, "portproxy.toml"))


def fragments(random: Random) -> str:
    if random.random() < 0.2:
        return text(random, 40)
    return "".join(random.choices(FRAGMENTS, k=random.randrange(25)))


@seeded
def test_text_as_a_document(random: Random) -> None:
    parsed_or_refused(fragments(random))


@pytest.mark.parametrize(
    "written",
    [
        "a = " + "[" * 500,
        "a = " + "9" * 5000,
        f"[[rule]]\nlistenport = 0x{'f' * 5000}",
        '[[rule]]\n"\\u0007" = "\\u0007"\nname = "\\u0007"',
    ],
    ids=["nested", "decimal", "hexadecimal", "control"],
)
def test_a_document_that_a_reader_may_fail_at(written: str) -> None:
    parsed_or_refused(written)


NUMBERS = [
    True,
    False,
    0,
    1,
    -1,
    80,
    70_000,
    10**400,
    -(10**20),
    0.0,
    -0.0,
    1e-9,
    5.5,
    float("nan"),
    float("inf"),
]
DATES = [date(1979, 5, 27), time(7, 32), datetime(1979, 5, 27, 7, 32)]
HEADS = ["[[rule]]"] * 5 + ["[server]", "[defaults]", "[x]"]
TYPICAL = {
    "type": [*RuleType, "v4tov4", "v4tov4"],
    "listenport": [80, 81, 82],
    "listenaddress": ["*", "*", "*", "0.0.0.0", "::", "127.0.0.1"],
    "connectport": [80, 81, 82],
    "connectaddress": ["localhost", "a.example", "127.0.0.1", "192.0.2.1", "2001:db8::1"],
}
"""Values that make rules, and rings of rules."""


def value(random: Random, depth: int = 0) -> object:
    """A value of any of TOML's types."""
    match random.randrange(6 if depth == 0 else 4):
        case 4:
            return [value(random, 1) for _ in range(random.randrange(4))]
        case 5:
            return {random.choice(WORDS): value(random, 1) for _ in range(random.randrange(3))}
        case kind:
            return random.choice([WORDS, WORDS, NUMBERS, DATES][kind])


def spelled(value: object) -> str:
    """``value`` as TOML has it; numbers spell themselves."""
    match value:
        case str():
            return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(spelled, value))}]"
        case dict():
            return f"{{{', '.join(f'{spelled(key)} = {spelled(item)}' for key, item in value.items())}}}"
        case date() | time():
            return value.isoformat()
        case _:
            return str(value)


def document(random: Random) -> str:
    lines = []
    for head in random.choices(HEADS, k=random.randrange(5)):
        table: dict[str, object] = {}
        if head == "[[rule]]":
            table = {key: random.choice(values) for key, values in TYPICAL.items() if random.random() < 0.8}
        for _ in range(random.choice([0, 0, 0, 1, 2])):
            table[random.choice(KEYS if random.random() < 0.9 else WORDS)] = value(random)
        lines += [head, *(f"{spelled(key)} = {spelled(item)}" for key, item in table.items())]
    return "\n".join(lines)


@seeded
def test_tables_of_every_type(random: Random) -> None:
    parsed_or_refused(document(random))


VALID = [
    "v6tov4 8080 127.0.0.1 80",
    "netsh interface portproxy add v4tov4 listenport=1024 connectaddress=192.168.198.200 connectport=1024",
    "v4tov6 80 2001:db8::1 listenaddress=192.0.2.1 name='my web' maxconn=100 allow=10.0.0.0/8,192.0.2.7",
    "v6tov6 listenport=443 connectaddress=a.example idletimeout=off keepalive=5s dataplane=copy",
]
PIECES = [" ", "=", "'", '"', "\\", ";", "#", "\udc80", "x", *(f" {key}=" for key in KEYS), *WORDS]


def mutated(random: Random) -> str:
    """A valid rule with up to three pieces of it replaced."""
    line = random.choice(VALID)
    for _ in range(random.choice([0, 0, 1, 2, 3])):
        start = random.randrange(len(line) + 1)
        line = line[:start] + random.choice(PIECES) + line[start + random.randrange(7) :]
    return line


def rules(random: Random) -> list[str]:
    if random.random() < 0.2:
        return [text(random, 20) for _ in range(random.randint(1, 2))]
    return [mutated(random) for _ in range(random.randrange(1, 4))]


def read_or_refused(rules: list[str]) -> Config | None:
    environ = {"PORTPROXY_RULES": ";".join(rules[1:])}
    return made_or_refused(lambda: config.read(None, rules[:1], environ).config())


@seeded
def test_rules_in_netsh_s_words(random: Random) -> None:
    read_or_refused(rules(random))


@pytest.mark.parametrize(
    "rules",
    [["''", "'' 80"], ["v6tov4 80 name=x", "v6tov4 listenaddress=:: 80 name=x"]],
    ids=["empty words", "one name"],
)
def test_rules_that_are_refused_together(rules: list[str]) -> None:
    assert read_or_refused(rules) is None


def test_what_is_drawn_gets_far_enough() -> None:
    """Of each, some make a configuration, and some are refused."""
    randoms = [Random(seed) for seed in range(300)]
    for made in (
        [parsed_or_refused(fragments(random)) for random in randoms],
        [parsed_or_refused(document(random)) for random in randoms],
        [read_or_refused(rules(random)) for random in randoms],
    ):
        assert 10 < made.count(None) < 290
