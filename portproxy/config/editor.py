"""Changes of rules, written into the text of a configuration with everything else kept byte for byte.

What the rules are to be is worked out on plain values; ``toml_text`` has the text say so, and what came
out is read again and compared: a text that says anything else is never returned. A relay has this done in a
process of its own, by ``store.rewritten``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from portproxy.config import document, toml_text
from portproxy.config.entries import Key, key_of, label
from portproxy.errors import PortproxyError, shown
from portproxy.options import RULE_KEYS, RULE_OPTIONS, by_name
from portproxy.options.kinds import FLAG, PREFIXES, RefusedError

Value = str | int | float | bool | list[str]

_OPTIONS = by_name(RULE_KEYS + RULE_OPTIONS)
_ORDER = {name: place for place, name in enumerate(_OPTIONS)}
_WHERE = "the configuration file"
_MARK = "\ufeff"
_DISTURBED = f"{_WHERE} cannot be changed without disturbing what is around the rule; change it by hand"


NO_SAVE = "change the running relay alone with --no-save"
"""What can be done where the file cannot be changed."""


class EditError(PortproxyError):
    """The text cannot be changed as asked; nothing was."""


class Put(msgspec.Struct, frozen=True, tag=True):
    """The entry's table holds ``tags`` afterwards, exactly: TOML's values, or text as netsh's tags are."""

    key: Key
    tags: dict[str, Value]


class Remove(msgspec.Struct, frozen=True, tag=True):
    """The entry is gone, if there was one, and the comments that belong to it."""

    key: Key


class Clear(msgspec.Struct, frozen=True, tag=True):
    """Every entry is gone but those ``kept``, which stay where they are, with their comments."""

    kept: frozenset[Key] = frozenset()


Edit = Put | Remove | Clear


class _Job(msgspec.Struct, frozen=True):
    text: str
    edits: list[Edit]


class _Result(msgspec.Struct, frozen=True):
    text: str = ""
    errors: list[str] = []


def encode_job(text: str, edits: Sequence[Edit]) -> bytes:
    """What ``main`` reads."""
    return msgspec.json.encode(_Job(text, list(edits)))


def decode_job(data: bytes) -> tuple[str, list[Edit]]:
    """The arguments of ``rewrite``; raises msgspec.DecodeError."""
    job = msgspec.json.decode(data, type=_Job)
    return job.text, job.edits


def encode_result(result: str | EditError) -> bytes:
    """What ``main`` writes."""
    made = _Result(text=result) if isinstance(result, str) else _Result(errors=list(result.lines))
    return msgspec.json.encode(made)


def decode_result(data: bytes) -> str:
    """What ``rewrite`` returned; raises the EditError it raised, or msgspec.DecodeError."""
    result = msgspec.json.decode(data, type=_Result)
    if result.errors:
        raise EditError(*result.errors)
    return result.text


def main() -> None:
    """Rewrite in a process of its own: a job on standard input, its result on standard output."""
    try:
        result: str | EditError = rewrite(*decode_job(sys.stdin.buffer.read()))
    except EditError as error:
        result = error
    sys.stdout.buffer.write(encode_result(result))


def rewrite(text: str, edits: Sequence[Edit]) -> str:
    """The TOML document ``text``, as decoded from UTF-8, after ``edits``, one after the other.

    What no edit touches stays as it is, to the byte: comments, order, spaces, quotes, line ends, a byte
    order mark. A value that means the same as before (``"http"`` and 80, ``"5s"`` and 5.0) is not touched.
    A new entry goes behind the last one. Raises EditError, one line, where the text is no TOML or has one
    entry twice, or where a change would disturb the rest.
    """
    import tomli
    from tomlkit.exceptions import TOMLKitError

    bare = text.removeprefix(_MARK)
    before = _parsed(bare)
    rules = before.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise EditError(f"{_WHERE}: rule = {shown(rules)}: each rule is a table of its own, headed [[rule]]")
    entries = _planned(rules, edits)
    after = {entry.number: entry.table for entry in entries if entry.number is not None}
    new = [entry.table for entry in entries if entry.number is None]
    try:
        written = toml_text.change(bare, rules, after, new)
        # No entries at all may be left as an empty array, or as nothing.
        says = {"rule": []} | tomli.loads(written)
        if not _same(says, before | {"rule": [entry.table for entry in entries]}):
            raise EditError(_DISTURBED)
    # tomlkit's own, and what else odd texts make it and tomli raise.
    except (TOMLKitError, ValueError, LookupError, TypeError, RecursionError):
        raise EditError(_DISTURBED) from None
    return text[: len(text) - len(bare)] + written


def _parsed(text: str) -> dict[str, Any]:
    problems: list[str] = []
    tables = document.tables(text, _WHERE, problems)
    if problems:
        raise EditError(problems[0])
    return tables


def _same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether two documents say the same, to the types of values and the order of keys but for the topmost.

    ``==`` would not do: for it True is 1, and a NaN is not itself.
    """
    return repr(sorted(one.items())) == repr(sorted(other.items()))


@dataclass(slots=True)
class _Entry:
    """What a rule's table is to hold, and which of the rules it was, from 0; None for a new one."""

    table: dict[str, Any]
    number: int | None = None


def _planned(rules: Sequence[dict[str, Any]], edits: Sequence[Edit]) -> list[_Entry]:
    """The rules after ``edits``, on plain values alone: what the text has to say in the end."""
    # A rule without a key of its own is kept, and no edit can mean it.
    entries: dict[Key | int, _Entry] = {}
    for number, rule in enumerate(rules):
        key = _key(rule)
        if key is not None and key in entries:
            raise EditError(f"{_WHERE}: two rules are {label(key)}; leave one out")
        entries[number if key is None else key] = _Entry(rule, number)
    for edit in edits:
        match edit:
            case Put(key, tags) if key in entries:
                entries[key].table = _merged(entries[key].table, tags)
            case Put(key, tags):
                entries[key] = _Entry(_merged({}, tags))
            case Remove(key):
                entries.pop(key, None)
            case Clear(kept):
                entries = {key: entry for key, entry in entries.items() if key in kept}
    return list(entries.values())


def _key(rule: Mapping[str, Any]) -> Key | None:
    try:
        return key_of(rule)
    except RefusedError:
        return None


def _merged(old: dict[str, Any], tags: Mapping[str, Value]) -> dict[str, Any]:
    """``old`` made to mean ``tags``: what means the same already is left as it is, new keys come last."""
    kept = {
        name: value if _alike(name, value, tags[name]) else _as_written(name, tags[name])
        for name, value in old.items()
        if name in tags
    }
    new = sorted(tags.keys() - old.keys(), key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    return kept | {name: _as_written(name, tags[name]) for name in new}


def _alike(name: str, one: object, other: object) -> bool:
    """Whether two values of the key ``name`` mean the same."""
    if name in _OPTIONS:
        convert = _OPTIONS[name].kind.convert
        with suppress(RefusedError):
            return bool(convert(one) == convert(other))
    return type(one) is type(other) and one == other


def _as_written(name: str, value: Value) -> Value:
    """``value`` as a person would write it in TOML, where it is a tag's text."""
    if name not in _OPTIONS or not isinstance(value, str):
        return value
    kind = _OPTIONS[name].kind
    try:
        meant = kind.convert(value)
    except RefusedError:
        return value
    if kind is FLAG:
        return bool(meant)
    if kind is PREFIXES:
        return [item.strip() for item in value.split(",")] if meant else []
    # A name of digits is text all the same, and its kind takes no number.
    return int(value) if value.isdecimal() and _alike(name, int(value), value) else value
