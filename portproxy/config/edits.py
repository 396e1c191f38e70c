"""netsh's commands applied to what was written: the rules afterwards, and what the file has to hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from portproxy.config.editor import NO_SAVE, Clear, Edit, Put, Remove, Value
from portproxy.config.entries import Key, key_of, label
from portproxy.config.rules import Origin, Place, Written, build
from portproxy.config.source import Source
from portproxy.errors import ConfigError, PortproxyError, printable, shown
from portproxy.netsh.grammar import Command, Verb
from portproxy.options.kinds import PORT, RefusedError

_ORDER = (Origin.FILE, Origin.ENVIRONMENT, Origin.COMMAND_LINE, Origin.CONTROL)
"""As the next start will read them."""
_NOT_IN_A_FILE = {Origin.COMMAND_LINE, Origin.ENVIRONMENT}


class _RefusedError(Exception):
    """One command that cannot be carried out as things are."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A command, and what it is called in an error line: where it was written, where that is known."""

    command: Command
    where: str = ""


@dataclass(frozen=True, slots=True)
class Edited:
    """``source`` after the commands; ``edits`` bring the file there.

    ``refused`` are the commands that could not be carried out, by their numbers, with the reason; ``places``
    has the numbers of the others by the places of their rules.
    """

    source: Source
    edits: tuple[Edit, ...]
    refused: Mapping[int, PortproxyError]
    places: Mapping[Place, int]


def apply(source: Source, commands: Mapping[int, Labelled], *, save: bool) -> Edited:
    """Carry out numbered ``commands`` (add, set, delete, reset) on ``source``, one after the other.

    ``add`` makes an entry what it says, whatever was there; ``set`` changes what it names, and adds an
    entry where there is none. With ``save`` the file is to hold what each touched entry is then. Nothing is
    checked as a whole. Raises PortproxyError where a reset cannot be carried out: nothing of what comes
    behind it would mean what it says.
    """
    table = _Table(source, save)
    refused: dict[int, PortproxyError] = {}
    for number, labelled in commands.items():
        try:
            table.carry_out(labelled, number)
        except ConfigError as error:
            refused[number] = error
        except _RefusedError as error:
            refused[number] = PortproxyError(f"{labelled.where}: {error}" if labelled.where else str(error))
    rules = sorted(table.entries.values(), key=lambda written: _ORDER.index(written.origin))
    changed = dataclasses.replace(source, rules=tuple(rules))
    return Edited(changed, table.edits() if save else (), refused, table.places)


def adds(labelled: Labelled) -> bool:
    """Whether there is a rule where the command was carried out."""
    return labelled.command.verb in (Verb.ADD, Verb.SET)


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
        rules.append(written if place == written.place else dataclasses.replace(written, place=place))
    return dataclasses.replace(source, rules=tuple(rules))


class _Table:
    """The entries while they are being changed, in the order that the file will have them in."""

    def __init__(self, source: Source, save: bool) -> None:
        self._save = save
        self._defaults = source.read_defaults([])
        self.entries = {key_of(written.tags()): written for written in source.rules}
        self._before = tuple(key for key, written in self.entries.items() if written.origin is Origin.FILE)
        self._touched: dict[Key, bool] = {}
        """Entries, and whether they stand behind all that were there before."""
        self._cleared = False
        self.places: dict[Place, int] = {}

    def carry_out(self, labelled: Labelled, number: int) -> None:
        command = labelled.command
        if command.verb is Verb.RESET:
            self._reset()
            return
        tags: dict[str, object] = {**command.tags, "type": command.type}
        key = self._key(tags, labelled.where)
        before = self.entries.get(key)
        if before and (told := self._unchangeable(before)):
            raise _RefusedError(told)
        if command.verb is Verb.DELETE:
            self._delete(key)
            return
        if command.verb is Verb.SET and before:
            tags = {**before.tags(), **tags}
        place = Place(labelled.where or label(key))
        written = Written(place, tags, self._origin(before))
        # Here and not only in the end: later commands for the entry build on this one.
        problems: list[str] = []
        build(written, self._defaults, problems)
        if problems:
            raise ConfigError(problems)
        self.places[place] = number
        self.entries[key] = written
        self._touch(key, anew=before is None or before.origin is not Origin.FILE)

    def edits(self) -> tuple[Edit, ...]:
        """What brings the file from the rules before to those now."""
        cleared: list[Edit] = []
        kept: list[Key] = []
        if self._cleared:
            kept = [key for key in self._before if key in self.entries]
            # Entries that come back where they were keep their comments.
            if list(self.entries)[: len(kept)] != kept:
                kept = []
            cleared.append(Clear(frozenset(kept)))
        # What stands elsewhere now than the file may have it is taken out first, to be put behind the others.
        moved = {key for key, anew in self._touched.items() if anew}.difference(kept)
        removes = [Remove(key) for key in self._touched if key in moved or key not in self.entries]
        puts = [Put(key, _values(self.entries[key])) for key in self.entries if key in self._touched]
        return (*cleared, *removes, *puts)

    def _touch(self, key: Key, anew: bool) -> None:
        self._touched[key] = anew or self._touched.get(key, False)

    def _origin(self, before: Written | None) -> Origin:
        if self._save:
            return Origin.FILE
        return before.origin if before else Origin.CONTROL

    def _reset(self) -> None:
        for written in self.entries.values():
            if told := self._unchangeable(written):
                raise PortproxyError(f"reset: {told}")
        self.entries.clear()
        self._touched.clear()
        self._cleared = True

    def _delete(self, key: Key) -> None:
        if key in self.entries:
            del self.entries[key]
            self._touch(key, anew=True)
            return
        type_, _, port = key
        others = [other[1] for other in self.entries if (other[0], other[2]) == (type_, port)]
        hint = f"; there is one with listenaddress={printable(others[0])}" if others else ""
        raise _RefusedError(f"{label(key)}: no such entry{hint}")

    def _key(self, tags: Mapping[str, object], where: str) -> Key:
        try:
            return key_of(tags)
        except RefusedError as refusal:
            port = tags.get("listenport")
            written = "is missing" if port is None else f"= {shown(port)}"
            told = f"listenport {written}: {str(refusal) or PORT.accepts}"
            raise ConfigError([f"{where}: {told}" if where else told]) from None

    def _unchangeable(self, written: Written) -> str:
        """Why a rule cannot be changed and saved; empty where it can."""
        if not self._save or written.origin not in _NOT_IN_A_FILE:
            return ""
        return (
            f"{written.place.where()} came from {written.origin.value}, where no change can be saved;"
            f" change it there, or {NO_SAVE}"
        )


def _values(written: Written) -> dict[str, Value]:
    """The tags of a rule that was found sound, which has no other types."""
    return cast("dict[str, Value]", dict(written.tags()))
