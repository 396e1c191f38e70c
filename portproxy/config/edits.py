"""netsh's commands applied to what was written: the rules afterwards, and what the file has to hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from portproxy.config.editor import Clear, Edit, Key, Put, Remove, Value
from portproxy.config.rules import Origin, Place, Written
from portproxy.config.source import Source
from portproxy.errors import PortproxyError, printable, shown
from portproxy.model import ANY, Endpoint, default_name
from portproxy.netsh.grammar import Command, Verb
from portproxy.options import RULE_KEYS, by_name
from portproxy.options.kinds import RefusedError

_LISTENPORT = by_name(RULE_KEYS)["listenport"].kind
_ORDER = (Origin.FILE, Origin.ENVIRONMENT, Origin.COMMAND_LINE, Origin.CONTROL)
"""As the next start will read them."""
_NOT_IN_A_FILE = {Origin.COMMAND_LINE, Origin.ENVIRONMENT}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A command, and what it is called in an error line: where it was written, where that is known."""

    command: Command
    where: str = ""


@dataclass(frozen=True, slots=True)
class Edited:
    """``source`` after the commands; ``edits`` bring the file there; ``places`` are those of the commands."""

    source: Source
    edits: tuple[Edit, ...]
    places: Mapping[Place, int]


def apply(source: Source, commands: Sequence[Labelled], *, save: bool) -> Edited:
    """Carry out ``commands`` (add, set, delete, reset) on ``source``, one after the other.

    ``add`` makes an entry what it says, whatever was there; ``set`` changes what it names, and adds an
    entry where there is none. With ``save`` the file is to hold what each touched entry is then. Nothing is
    checked as a whole. Raises PortproxyError where a command cannot be carried out.
    """
    table = _Table(source.rules, save)
    for number, labelled in enumerate(commands):
        table.carry_out(labelled, number)
    rules = sorted(table.entries.values(), key=lambda written: _ORDER.index(written.origin))
    changed = dataclasses.replace(source, rules=tuple(rules))
    return Edited(changed, table.edits() if save else (), table.places)


def settled(source: Source) -> Source:
    """``source`` with its rules called by where they are from now on."""
    numbers: dict[Origin, int] = {}
    rules = []
    for written in source.rules:
        number = numbers[written.origin] = numbers.get(written.origin, 0) + 1
        if written.origin is Origin.FILE and source.file:
            place = Place(printable(source.file.path), number)
        elif written.origin is Origin.CONTROL:
            place = Place(written.origin.value, number)
        else:
            place = written.place
        rules.append(dataclasses.replace(written, place=place))
    return dataclasses.replace(source, rules=tuple(rules))


def key_of(tags: Mapping[str, object]) -> Key:
    """What netsh knows an entry by: type, listenaddress as written, port. Raises RefusedError."""
    port = _LISTENPORT.convert(tags.get("listenport"))
    return str(tags.get("type", "")).lower(), str(tags.get("listenaddress", ANY)), port


class _Table:
    """The entries while they are being changed."""

    def __init__(self, rules: Iterable[Written], save: bool) -> None:
        self._save = save
        self.entries = {key_of(written.tags()): written for written in rules}
        self._before = tuple(key for key, written in self.entries.items() if written.origin is Origin.FILE)
        self._touched: dict[Key, None] = {}
        self._cleared = False
        self.places: dict[Place, int] = {}

    def carry_out(self, labelled: Labelled, number: int) -> None:
        command = labelled.command
        if command.verb is Verb.RESET:
            for written in self.entries.values():
                self._check_changeable(written)
            self.entries.clear()
            self._touched.clear()
            self._cleared = True
            return
        tags: dict[str, object] = {"type": command.type, **command.tags}
        try:
            key = key_of(tags)
        except RefusedError as refusal:
            where = labelled.where or command.type
            told = str(refusal) or _LISTENPORT.accepts
            raise PortproxyError(f"{where}: listenport = {shown(tags.get('listenport'))}: {told}") from None
        before = self.entries.get(key)
        if before:
            self._check_changeable(before)
        if command.verb is Verb.DELETE:
            self._delete(key)
        else:
            if command.verb is Verb.SET and before:
                tags = {**before.tags(), **tags}
            place = Place(labelled.where or _label(key))
            self.places[place] = number
            self.entries[key] = Written(place, tags, self._origin(before))
        self._touched[key] = None

    def edits(self) -> tuple[Edit, ...]:
        """What brings the file from the rules before to those now."""
        puts = [
            Put(key, _values(self.entries[key])) if key in self.entries else Remove(key)
            for key in self._touched
        ]
        if not self._cleared:
            return tuple(puts)
        kept = [key for key in self._before if key in self.entries]
        # Entries that come back where they were keep their comments.
        if list(self.entries)[: len(kept)] != kept:
            kept = []
        return (Clear(frozenset(kept)), *puts)

    def _origin(self, before: Written | None) -> Origin:
        if self._save:
            return Origin.FILE
        return before.origin if before else Origin.CONTROL

    def _delete(self, key: Key) -> None:
        if key in self.entries:
            del self.entries[key]
            return
        type_, _, port = key
        others = [other[1] for other in self.entries if (other[0], other[2]) == (type_, port)]
        hint = f"; there is one with listenaddress={printable(others[0])}" if others else ""
        raise PortproxyError(f"{_label(key)}: no such entry{hint}")

    def _check_changeable(self, written: Written) -> None:
        if self._save and written.origin in _NOT_IN_A_FILE:
            raise PortproxyError(
                f"{written.place.where()} came from {written.origin.value}, which no command can change;"
                " change it there, or the running relay alone with --no-save"
            )


def _values(written: Written) -> dict[str, Value]:
    """The tags of a rule that was found sound, which has no other types."""
    return cast("dict[str, Value]", dict(written.tags()))


def _label(key: Key) -> str:
    type_, address, port = key
    return printable(default_name(type_, Endpoint(address, port)))
