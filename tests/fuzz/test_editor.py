"""Changes to documents that nobody would write: a text that says what was asked for, or an EditError."""

from __future__ import annotations

from random import Random
from typing import Any

import tomli

from portproxy.config.editor import Clear, Edit, EditError, Put, Remove, Value, rewrite
from tests.fuzz.examples import seeded, text

PARTS = (
    *("[[rule]]\n", '[["rule"]] # c\n', "[server]\n", "[rule.x]\n", "[[rule.x]]\n", "[a.b]\n", "rule = [\n"),
    *(
        'type = "v4tov4"\n',
        "type = 'V6tov4'\n",
        "listenport = 80\n",
        'listenport = "http"',
        "listenport=0x50\n",
    ),
    *("{type = 'v4tov4', listenport = 1}", ", ", "]\n", "}", "\n", "\r\n", "# [[rule]]\n", " # c", "\t", "="),
    *('"""', "'''", '"', "'", "\\", "\ufeff", "\x00", "é", "name.x = 1\n", 'name = """a\n[[rule]]\n# """\n'),
    *(
        'listenaddress = "*"\n',
        "maxconn = 1_0\n",
        "allow = [ # c\n  'a', # d\n]\n",
        "x = nan\n",
        "x = 1979-05-27\n",
    ),
    *(
        "[" * 500,
        "{a=" * 500,
        "]" * 500,
        f"x = 0x{'f' * 5000}\n",
        f"x = {'9' * 5000}\n",
        "idletimeout = 5.0\n",
    ),
    *("rule = []\n", "rule = 1\n", "rule.x = 1\n", 'connecttimeout = "5s" # c\n'),
)
WHOLE = (
    *('[[rule]]\ntype = "v4tov4"\nlistenport = 80\n', '[["rule"]]\nlistenport = "http"\ntype = "V6tov4"\n\n'),
    *(
        "[[rule]]\ntype = 'v4tov4'\nlistenport = 0x1 # c\nallow = [ # d\n 'a', ]\n",
        "# c\n",
        "\n",
        "[rule.x]\n",
    ),
    *('[[rule]]\nname = """a\n[[rule]]\n# """\n', "[[rule]]\nname.x = 1\nname.y = nan\n", "[[rule]]\n"),
    *("[[rule]]\nmaxconn = 1_0\nidletimeout = 5.0\nx = 1979-05-27\n", "[[rule.x]]\n", "# [[rule]]\n\n"),
)
TOPS = (
    "",
    "\ufeff",
    "# c\n",
    "[server]\n",
    "rule = []\n",
    "a = 1\n\n",
    "rule = [{type='v4tov4',listenport=1}]\n",
)
KEYS = (("v4tov4", "*", 80), ("v6tov4", "*", 80), ("v4tov4", "*", 1), ("", "\n", -1))
VALUES: tuple[Value, ...] = (
    *("80", "http", "v4tov4", "5s", "true", "", "\n\"'\\\x00\x7f\u2028", "9" * 5000, "é", "off", "1,2", "*"),
    *(0, 80, 2**70, 5.0, float("nan"), float("-inf"), True, [], ["a", "b\n"]),
)


def text_from(random: Random) -> str:
    made = random.choice(TOPS) + "".join(random.sample(WHOLE, random.randrange(6)))
    for _ in range(random.choice((0, 0, 0, 1, 3))):
        place = random.randrange(len(made) + 1)
        made = made[:place] + random.choice(PARTS) + made[place + random.choice((0, 0, 1, 5)) :]
    return made.replace("\n", "\r\n") if random.random() < 0.2 else made


def edit_from(random: Random) -> Edit:
    kind, key = random.randrange(5), random.choice(KEYS)
    if kind == 0:
        return Clear(frozenset(random.sample(KEYS, random.randrange(3))))
    if kind == 1:
        return Remove(key)
    names = ["listenaddress", "name", "allow", "nodelay", "maxconn", "idletimeout", "x", "a b", "", 'q"\n']
    tags: dict[str, Value] = {
        name: random.choice(VALUES) for name in random.sample(names, random.randrange(5))
    }
    return Put(key, {"type": key[0], "listenport": key[2], **tags})


def changed_or_refused(document: str, edits: list[Edit]) -> dict[str, Any] | None:
    """What the changed text says; None where it is refused in the agreed way."""
    try:
        written = rewrite(document, edits)
    except EditError as error:
        (line,) = error.lines
    else:
        line = ""
        if not edits:
            assert written == document
    assert line.isprintable() or not line
    return None if line else tomli.loads(written.removeprefix("\ufeff"))


def changes(random: Random) -> tuple[str, list[Edit]]:
    return text_from(random), [edit_from(random) for _ in range(random.randrange(4))]


@seeded
def test_a_text_is_changed_or_refused(random: Random) -> None:
    changed_or_refused(*changes(random))


@seeded
def test_any_text_at_all_is_changed_or_refused(random: Random) -> None:
    name = text(random, 20)
    put = Put(("v4tov4", "*", 80), {"type": "v4tov4", "listenport": 80, "name": name})
    said = changed_or_refused(text(random, random.choice((3, 50))), [put])
    assert said is None or said["rule"][-1]["name"] == name


def test_what_is_drawn_gets_far_enough() -> None:
    """Some texts are changed, and some are refused."""
    assert 50 < [changed_or_refused(*changes(Random(seed))) for seed in range(500)].count(None) < 450
