"""Addresses and their parts as nobody would write them: an address, or a line for each problem."""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random

from portproxy.tunnel.addresses import KINDS, AddressError, Kind, decode, encode, parse
from tests.fuzz import checks, examples
from tests.fuzz.examples import seeded

PIECES = [
    *(":", "::", ":::", ".", "/", "/64", "%", "%eth0", "[", "]", "0", "1", "ffff", "fffff", "db8", "2001"),
    *("fe80", "5efe", "192.0.2.33", "256", "010", "-", "+", "=", " ", "_", "0x1", "1e3", "00:00:5e:00:53:01"),
    *("", "\n", "\x00", "\x1b[31m", "\udc80", "\u2028", "\u0661", "\uff11", "\u0130", "9" * 5000),
    "\U0010ffff" * 99,
]
"""Of which addresses consist, and of which they do not."""
GOOD = [
    *("192.0.2.33", "40000", "8000", "1", "2001:db8::/64", "fe80::/64", "64:ff9b:1::/96", "::1"),
    "00:00:5e:00:53:01",
]
"""What fits some part of some kind."""


def text(random: Random) -> str:
    return "".join(random.choices(PIECES, k=random.randrange(9)))


def address(random: Random) -> str:
    """An address, of which up to two pieces are replaced."""
    kind = random.choice([*KINDS.values()])
    written = decode(IPv6Address(random.getrandbits(128) & ~kind.mask | kind.bits)).text
    for _ in range(random.randrange(3)):
        start = random.randrange(len(written) + 1)
        written = written[:start] + random.choice(PIECES) + written[start + random.randrange(3) :]
    return written


def parts(random: Random) -> tuple[Kind, dict[str, str]]:
    """Values for most parts of a kind, some of them fit for it, and sometimes for one that it lacks."""
    kind = random.choice([*KINDS.values()])
    names = [field.name for field in kind.fields if random.random() < 0.9]
    names += [text(random)] if random.random() < 0.1 else []
    return kind, {name: random.choice(GOOD) if random.random() < 0.8 else text(random) for name in names}


def read_or_refused(written: str) -> bool:
    """Whether a text is an address, which encodes from each of its kinds; else it is refused with a line."""
    try:
        found = parse(written)
    except AddressError as error:
        checks.one_line(error.lines)
        return False
    decoded = decode(found)
    assert decoded.text.isprintable()
    assert int(parse(decoded.text)) == int(found)
    for one in decoded.kinds:
        assert int(encode(one.kind, one.values)) == int(found)
    return True


def made_or_refused(kind: Kind, values: dict[str, str]) -> bool:
    """Whether the parts make an address of that kind; else there are lines, one for each part at most."""
    try:
        made = encode(kind, values)
    except AddressError as error:
        lines = error.lines
    else:
        lines = ()
    if lines:
        assert len(lines) <= max(1, len({*values, *(field.name for field in kind.fields)}))
        for line in lines:
            checks.one_line([line])
        return False
    assert kind in [found.kind for found in decode(made).kinds]
    return True


@seeded
def test_a_text_is_an_address_or_a_line(random: Random) -> None:
    draw = random.choice((text, address, address, lambda random: examples.text(random, 50)))
    read_or_refused(draw(random))


@seeded
def test_parts_are_an_address_or_lines(random: Random) -> None:
    made_or_refused(*parts(random))


def test_both_are_drawn() -> None:
    """Generators of nothing but mistakes would test half."""
    drawn = [read_or_refused(address(Random(seed))) for seed in range(200)]
    assert 20 < sum(drawn) < 180
    made = [made_or_refused(*parts(Random(seed))) for seed in range(1000)]
    assert 50 < sum(made) < 950
