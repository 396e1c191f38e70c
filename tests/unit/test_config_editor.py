"""What a change does to the text of a configuration, and what it leaves alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from portproxy import config
from portproxy.config.editor import (
    Clear,
    Edit,
    EditError,
    Put,
    Remove,
    Value,
    decode_job,
    decode_result,
    encode_job,
    encode_result,
    rewrite,
)
from portproxy.config.entries import Key
from portproxy.options import RULE_KEYS, RULE_OPTIONS, by_name

WEB: Key = ("v6tov4", "*", 80)
MAIL: Key = ("v4tov4", "192.0.2.1", 25)
NEW: Key = ("v6tov6", "*", 22)

FILE = """\
# The relay of example.net.

[server]
status = "off"   # nobody asks

# The web.
[[rule]]  # first
type = "V6tov4"
listenport = "http"  # 80
connecttimeout = "5s"
'maxconn' = 0x64
# maxlifetime = "1h"

# Below: mail.

[defaults]
nodelay = true

[[rule]]
type = 'v4tov4'
  listenaddress = "192.0.2.1"
  listenport = 25"""

WEB_TABLE = """\
# The web.
[[rule]]  # first
type = "V6tov4"
listenport = "http"  # 80
connecttimeout = "5s"
'maxconn' = 0x64
# maxlifetime = "1h"

"""


def tags(key: Key, **more: Value) -> dict[str, Value]:
    address: dict[str, Value] = {} if key[1] == "*" else {"listenaddress": key[1]}
    return {"type": key[0], "listenport": key[2], **address, **more}


def put(key: Key, **more: Value) -> Put:
    return Put(key, tags(key, **more))


WEB_AS_IT_IS: dict[str, Value] = {"connecttimeout": "5s", "maxconn": 100}

CHANGES: Mapping[str, tuple[Edit, str, str]] = {
    "a value": (
        put(WEB, connecttimeout="9s", maxconn=100),
        'connecttimeout = "5s"',
        'connecttimeout = "9s"',
    ),
    "a value, its key quoted": (
        put(WEB, connecttimeout="5s", maxconn="7"),
        "'maxconn' = 0x64",
        "'maxconn' = 7",
    ),
    "a value with a comment beside it": (
        Put(("v6tov4", "*", 80), tags(("v6tov4", "*", 8080), **WEB_AS_IT_IS)),
        'listenport = "http"  # 80',
        "listenport = 8080  # 80",
    ),
    "a key less": (put(WEB, maxconn=100), 'connecttimeout = "5s"\n', ""),
    "keys more": (
        put(WEB, **WEB_AS_IT_IS, allow="2001:db8::/32, 2001:db9::1", name="123", nodelay="yes", deny="off"),
        "'maxconn' = 0x64\n",
        "'maxconn' = 0x64\n"
        'name = "123"\nallow = ["2001:db8::/32", "2001:db9::1"]\ndeny = []\nnodelay = true\n',
    ),
    "keys more at the end of the file, which has no line end": (
        put(MAIL, connectport="smtp", idletimeout="90"),
        "  listenport = 25",
        '  listenport = 25\n  connectport = "smtp"\n  idletimeout = 90\n',
    ),
    "a rule less, with what stands right above it": (Remove(WEB), WEB_TABLE, ""),
    "the last rule less": (
        Remove(MAIL),
        "\n\n[[rule]]\ntype = 'v4tov4'\n  listenaddress = \"192.0.2.1\"\n  listenport = 25",
        "\n",
    ),
    "a rule more": (
        put(NEW, listenaddress="*", connectaddress="a.example", backlog="128", pipesize="64k"),
        "  listenport = 25",
        '  listenport = 25\n\n[[rule]]\ntype = "v6tov6"\nlistenport = 22\nlistenaddress = "*"\n'
        'connectaddress = "a.example"\nbacklog = 128\npipesize = "64k"\n',
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_what_is_asked_for_changes(change: str, newline: str, mark: str) -> None:
    edit, before, after = CHANGES[change]
    assert FILE.count(before) == 1
    expected = mark + FILE.replace(before, after).replace("\n", newline)
    assert rewrite(mark + FILE.replace("\n", newline), [edit]) == expected


@pytest.mark.parametrize(
    "same",
    [
        put(WEB, connecttimeout=5.0, maxconn="100"),
        Put(WEB, {"type": "v6tov4", "listenport": "80", "connecttimeout": "5000ms", "maxconn": 100}),
        put(MAIL),
        Remove(NEW),
        Clear(frozenset({WEB, MAIL, NEW})),
    ],
)
def test_what_means_the_same_is_left_as_it_is_written(same: Edit) -> None:
    assert rewrite(FILE, [same]) == FILE


def test_every_rule_goes_and_what_stands_apart_stays() -> None:
    assert rewrite(FILE, [Clear(frozenset({MAIL}))]) == FILE.replace(WEB_TABLE, "")
    left = rewrite(FILE, [Clear()])
    assert left == FILE.partition("# The web.")[0] + "# Below: mail.\n\n[defaults]\nnodelay = true\n"


def test_edits_follow_each_other() -> None:
    edits: list[Edit] = [put(NEW), put(NEW, name="ssh"), Remove(WEB), put(WEB), Remove(WEB), Remove(NEW)]
    assert rewrite(FILE, edits) == FILE.replace(WEB_TABLE, "")


ONE = '[[rule]]\ntype = "v6tov6"\nlistenport = 22\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ONE),
        ("\n\n", ONE),
        ("# Rules:\n\n\n", "# Rules:\n\n" + ONE),
        ("[server]\nlog = 'json'", "[server]\nlog = 'json'\n\n" + ONE),
        ("[[rule]]\n# Next:\n[server]\n", "[[rule]]\n\n" + ONE + "\n# Next:\n[server]\n"),
        ("[[rule]]\n\n# Next:\n\n[server]\n", "[[rule]]\n\n" + ONE + "\n# Next:\n\n[server]\n"),
        ("rule = []\n[server]\n", 'rule = [{type = "v6tov6", listenport = 22}]\n[server]\n'),
        ("rule = [\n  {}, # a\n]\n", 'rule = [\n  {}, # a\n  {type = "v6tov6", listenport = 22},\n]\n'),
    ],
)
def test_where_a_new_rule_goes(before: str, after: str) -> None:
    assert rewrite(before, [put(NEW)]) == after


INLINE = """\
rule = [
  {type = "v6tov4", listenport = "http", maxconn = 1}, # web
  {listenaddress = "192.0.2.1", type = "v4tov4", listenport = 25 }, # mail
] # all
"""


def test_rules_in_one_array_are_changed_too() -> None:
    changed = INLINE.replace("maxconn = 1", 'name = "a"')
    assert rewrite(INLINE, [put(WEB, name="a")]) == changed
    assert rewrite(INLINE, [Remove(MAIL)]) == "".join(INLINE.splitlines(keepends=True)[i] for i in (0, 1, 3))
    assert rewrite(INLINE, [Clear()]) == "rule = [\n] # all\n"


HEADERS = """\
[[rule]]
name = \"\"\"a "
[[rule]]
# \"\"\"
allow = [ # it's [[rule]]
]
x = '''it's
[[rule]]
'''
# it's [ "
"""


def test_a_header_in_a_string_or_a_comment_is_none() -> None:
    text = HEADERS + '\n[["rule"]]\ntype = "v6tov4"\nlistenport = 80\n'
    assert rewrite(text, [Remove(WEB)]) == HEADERS


@pytest.mark.parametrize(
    ("text", "edit", "told"),
    [
        ("rule = [", Clear(), "line 1, column 9"),
        ("rule = 1", Clear(), "each rule is a table of its own, headed [[rule]]"),
        (ONE + ONE, Clear(), "two rules are v6tov6/*:22; leave one out"),
        (ONE + "[rule.limits]\n", put(NEW), "change it by hand"),
        (ONE + "[rule.limits]\n", Remove(NEW), "change it by hand"),
        (ONE + f"[server]\nx = 0x{'f' * 5000}\n", put(NEW), "change it by hand"),
    ],
)
def test_what_cannot_be_changed_is_said_in_a_line(text: str, edit: Edit, told: str) -> None:
    with pytest.raises(EditError) as refused:
        rewrite(text, [edit])
    (line,) = refused.value.lines
    assert line.startswith("the configuration file")
    assert told in line


def test_a_wrong_text_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from portproxy.config import toml_text

    for wrong in (FILE, FILE.replace('"off"', "0"), "a = ["):
        monkeypatch.setattr(toml_text, "change", lambda *_, wrong=wrong: wrong)
        with pytest.raises(EditError, match="by hand"):
            rewrite(FILE, [Remove(WEB)])


def test_a_job_and_its_result_go_through_pipes() -> None:
    edits: list[Edit] = [
        put(WEB, allow=["a", "b"], nodelay=True, idletimeout=1.5, maxconn=2),
        Remove(MAIL),
        Clear(frozenset({MAIL})),
    ]
    assert decode_job(encode_job("é\r\n", edits)) == ("é\r\n", edits)
    assert decode_result(encode_result("é\r\n")) == "é\r\n"
    with pytest.raises(EditError, match=r"^no$"):
        decode_result(encode_result(EditError("no")))
    with pytest.raises(msgspec.DecodeError):
        decode_result(b"")


# A model of what people write, against which the text is held.

KEYS: list[Key] = [("v4tov4", "*", 1), ("v4tov4", "0.0.0.0", 1), ("v6tov4", "*", 80), ("v6tov4", "a.b", 80)]
TAG_VALUES: dict[str, list[str]] = {
    "connectaddress": ["192.0.2.1", "host.example"],
    "connectport": ["80", "http", "443"],
    "name": ["123", "a # b", "it's", 'q"q', "é"],
    "maxconn": ["off", "5"],
    "idletimeout": ["5s", "5", "1h"],
    "nodelay": ["true", "off"],
    "allow": ["off", "192.0.2.0/24,198.51.100.7"],
    "pipesize": ["64k", "65536"],
}
KINDS = {name: option.kind for name, option in by_name(RULE_KEYS + RULE_OPTIONS).items()}
some_tags = st.fixed_dictionaries({}, optional={name: st.sampled_from(of) for name, of in TAG_VALUES.items()})
a_put = st.builds(lambda key, more: put(key, **more), st.sampled_from(KEYS), some_tags)
an_edit = st.one_of(
    a_put,
    a_put,
    st.builds(Remove, st.sampled_from(KEYS)),
    st.builds(Clear, st.frozensets(st.sampled_from(KEYS))),
)


def quoted(text: str) -> st.SearchStrategy[str]:
    basic = text.replace("\\", "\\\\").replace('"', '\\"')
    styles = [f'"{basic}"', f'"""{basic}"""'] + ([f"'{text}'", f"'''{text}'''"] if "'" not in text else [])
    return st.sampled_from(styles)


@st.composite
def written_rule(draw: st.DrawFn, key: Key) -> str:
    lines = [draw(st.sampled_from(["[[rule]]", '[[ "rule" ]]  # head', "# above\n[[rule]]"]))]
    for name, value in (tags(key) | draw(some_tags)).items():
        spelled = draw(st.sampled_from([name, f'"{name}"', f"  '{name}'"]))
        listed = name == "allow" and draw(st.booleans())
        wrote = "[ # [[rule]]\n]" if listed else draw(quoted(str(value)))
        comment = draw(st.sampled_from(["", "  # why", "\n# between", "\n"]))
        equals = draw(st.sampled_from(["=", " = ", "\t=  "]))
        lines.append(f"{spelled}{equals}{wrote}{comment}")
    return "\n".join(lines)


@st.composite
def document(draw: st.DrawFn) -> str:
    parts = [draw(written_rule(key)) for key in draw(st.lists(st.sampled_from(KEYS), unique=True))]
    others = [
        '[server]\nlog = "json"',
        "[defaults]\nmaxconn = 1_000  # all",
        "# apart\n",
        "[x.y]\nz = [\n1, # c\n]",
    ]
    parts = draw(st.permutations(parts + draw(st.lists(st.sampled_from(others), unique=True))))
    text = draw(st.sampled_from(["\n", "\n\n"])).join(parts) + draw(st.sampled_from(["", "\n"]))
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


def key_of(rule: Mapping[str, Any]) -> Key:
    return rule["type"], rule.get("listenaddress", "*"), int(rule["listenport"])


def meant(rule: Mapping[str, Any]) -> dict[str, object]:
    return {name: KINDS[name].convert(value) for name, value in rule.items()}


@given(document(), st.lists(an_edit, max_size=4))
def test_what_is_written_is_what_a_plain_table_holds(text: str, edits: list[Edit]) -> None:
    before = tomli.loads(text)
    model = {key_of(rule): meant(rule) for rule in before.get("rule", [])}
    for edit in edits:
        match edit:
            case Put(key, values):
                model[key] = meant(values)
            case Remove(key):
                model.pop(key, None)
            case Clear(kept):
                model = {key: rule for key, rule in model.items() if key in kept}
    written = rewrite(text, edits)
    after = tomli.loads(written)
    assert [meant(rule) for rule in after.pop("rule", [])] == list(model.values())
    before.pop("rule", None)
    assert after == before


def tables_of(text: str) -> list[str]:
    """What stands from one header to the next, in documents that are made here."""
    return re.split(r"(?m)^(?=\[)", text)


@given(document(), a_put)
def test_a_change_to_one_rule_is_seen_in_its_lines_alone(text: str, edit: Put) -> None:
    rules = tomli.loads(text).get("rule", [])
    old = next((rule for rule in rules if key_of(rule) == edit.key), None)
    written = rewrite(text, [edit])
    if old is None:
        new = written.splitlines().count("[[rule]]") - text.splitlines().count("[[rule]]")
        assert new == 1
        return
    if meant(old) == meant(edit.tags):
        assert written == text
    differ = [(was, now) for was, now in zip(tables_of(text), tables_of(written), strict=True) if was != now]
    assert len(differ) <= 1
    for was, now in differ:
        same = {name for name in old.keys() & edit.tags.keys() if meant(old)[name] == meant(edit.tags)[name]}
        for line in was.splitlines():
            name = line.partition("=")[0].strip(" \t'\"")
            assert line in now.splitlines() or name in TAG_VALUES.keys() - same or line == "]"


@pytest.mark.parametrize("change", CHANGES)
def test_what_comes_out_is_a_configuration(change: str) -> None:
    edit = CHANGES[change][0]
    assert config.parse(rewrite(FILE, [edit]), "file").rules
