"""Changing what a relay runs: reloads and commands, one at a time, each whole or not at all."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from portproxy import store
from portproxy.config import document
from portproxy.config.conflicts import per_worker, trust
from portproxy.config.editor import NO_SAVE, Edit
from portproxy.config.edits import Edited, Labelled, adds, apply, settled
from portproxy.config.rules import Origin
from portproxy.config.source import File, Source
from portproxy.errors import ConfigError, PortproxyError, printable
from portproxy.log import Log
from portproxy.model import Config, Server
from portproxy.net.dial import is_local
from portproxy.reconcile import Plan, plan
from portproxy.store import StoreError
from portproxy.supervisor import Supervisor

Load = Callable[[], Source]

_AT_START_ONLY = ("status", "control", "log", "accesslog", "workers", "user")
"""Keys of ``[server]`` that a reload does not follow."""
_UNSAVED = "rules were changed with --no-save; `portproxy reload` brings back what the file has"
_STOPPING = "the relay is stopping; nothing is changed any more"
_ROUNDS = 20
"""Of leaving out commands that are at odds with other rules, which may be at odds with yet others."""
_NAMED = 8
"""Rules of a change that the log names."""


Refused = dict[int, list[str]]
"""Commands that were left out, by their numbers, with the reasons."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change did, or would do: its plan, what was left out, what is to be warned of now."""

    steps: Plan
    refused: Refused = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Draft:
    """A change on paper: what would run, as it was written and checked, and what brings the file there."""

    source: Source
    config: Config
    edits: tuple[Edit, ...]
    save: bool
    changed: Changed


class Changes:
    """``source`` is what runs, as it was written, in a process that was set up as ``server`` says.

    ``load`` reads anew what a start would, and may block.
    """

    def __init__(self, source: Source, server: Server, load: Load, supervisor: Supervisor, log: Log) -> None:
        self.source = source
        self._server = server
        self._load = load
        self._supervisor = supervisor
        self._log = log
        self._one_at_a_time = trio.Lock()
        self._unsaved = False

    async def reload(self, *, dry_run: bool = False) -> Changed:
        """Run what a start would run now. Raises ConfigError, and then nothing has changed."""

        def read() -> tuple[Source, Config, Changed]:
            source = self._load()
            config, before = source.config(is_local), self._supervisor.config
            if not source.rules:
                self._check_meant_empty()
            warnings = (*_later(self._server, config.server), *config.warnings)
            return source, config, Changed(plan(before, config), warnings=warnings)

        async with self._one_at_a_time:
            if self._supervisor.draining:
                raise PortproxyError(_STOPPING)
            source, config, changed = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            if not dry_run:
                for warning in changed.warnings:
                    self._log.warning(warning)
                self._supervisor.check_room(changed.steps)
                self.source, self._unsaved = source, False
                await self._supervisor.reload(config, changed.steps)
                self._log.info("reloaded", plan=changed.steps)
            return changed

    async def carry_out(
        self, commands: Sequence[Labelled], *, save: bool = True, dry_run: bool = False, partly: bool = False
    ) -> Changed:
        """Carry out netsh's commands, as one change: the file first, with ``save``, then the relay.

        With ``partly``, commands that make no sound rule are left out and the others are carried out; else
        nothing is. Raises ConfigError, EditError, StoreError or PortproxyError, and then nothing has changed.
        """
        async with self._one_at_a_time:
            if save and self.source.file is None:
                raise StoreError(
                    f"this relay reads no configuration file that a change could be written to; {NO_SAVE}"
                )
            draft = await trio.to_thread.run_sync(self._draft, commands, save, partly, abandon_on_cancel=True)
            old = await self._old(draft)
            if not dry_run and draft.config is not self._supervisor.config:
                await self._make(draft, old)
            return draft.changed

    def _check_meant_empty(self) -> None:
        """An editor that empties the file before it fills it must not stop every rule."""
        if any(written.origin is Origin.FILE for written in self.source.rules):
            told = "no rules are left; if that is meant, `portproxy reset --no-save` deletes them first"
            raise ConfigError([told])

    def _draft(self, commands: Sequence[Labelled], save: bool, partly: bool) -> _Draft:
        """The commands carried out on paper: all of them, or with ``partly`` those that make sound rules."""
        edited, checked, refused = self._sound(commands, save, partly)
        taken = (labelled for number, labelled in enumerate(commands) if number not in refused)
        before = self._supervisor.config
        if refused and not any(map(adds, taken)):
            # A reset in front of them was not meant to be all that is left of them.
            return _Draft(self.source, before, (), save, Changed(plan(before, before), refused))
        config = dataclasses.replace(checked, server=before.server)
        steps = plan(before, config)
        changed = Changed(steps, refused, _new_warnings(before, config, steps))
        return _Draft(settled(edited.source), config, edited.edits, save, changed)

    def _sound(
        self, commands: Sequence[Labelled], save: bool, partly: bool
    ) -> tuple[Edited, Config, Refused]:
        refused: Refused = {}
        for round_ in itertools.count():
            left = {number: labelled for number, labelled in enumerate(commands) if number not in refused}
            edited = apply(self.source, left, save=save)
            checked = edited.source.check(is_local)
            wrong = {place: lines for place, lines in checked.by_rule.items() if lines}
            ours = {edited.places[place]: lines for place, lines in wrong.items() if place in edited.places}
            if not (wrong or checked.problems or edited.refused):
                break
            if not (ours or edited.refused):
                raise ConfigError([*checked.problems, *(line for lines in wrong.values() for line in lines)])
            if not partly or round_ == _ROUNDS:
                # What else is wrong may only follow from these.
                errors = [*edited.refused.values(), *(ConfigError(lines) for lines in ours.values())]
                raise _together([*errors, *([PortproxyError(_UNSAVED)] if save and self._unsaved else [])])
            refused |= ours | {number: list(error.lines) for number, error in edited.refused.items()}
        return edited, checked.config, refused

    async def _old(self, draft: _Draft) -> bytes:
        """What the file holds that is to be changed, if any is. Raises StoreError where it cannot be."""
        known = draft.source.file
        if not known or not draft.edits:
            return b""
        old = await trio.to_thread.run_sync(store.read, known.path)
        if document.digest(old) != known.digest:
            raise StoreError(
                f"{printable(known.path)} was changed since this relay read it; `portproxy reload` first,"
                f" or {NO_SAVE}"
            )
        await trio.to_thread.run_sync(store.check_replaceable, known.path)
        return old

    async def _make(self, draft: _Draft, old: bytes) -> None:
        source, known = draft.source, draft.source.file
        new = (await store.rewritten(old.decode(), draft.edits)).encode() if draft.edits else b""
        # From here on to its end: half of it would be a file that is not what runs.
        with trio.CancelScope(shield=True):
            if self._supervisor.draining:
                raise PortproxyError(_STOPPING)
            self._supervisor.check_room(draft.changed.steps)
            if known and draft.edits:
                await trio.to_thread.run_sync(partial(store.replace, known.path, new, instead_of=old))
                source = dataclasses.replace(source, file=File(known.path, document.digest(new)))
            steps = await self._supervisor.reload(draft.config, draft.changed.steps)
            self.source = source
            self._unsaved |= not draft.save
        saved = "yes" if draft.save else "no"
        self._log.info("changed by command", plan=steps, rules=_names(steps), saved=saved)


def _together(errors: Sequence[PortproxyError]) -> PortproxyError:
    """One error that says what ``errors`` say."""
    told = PortproxyError(*(line for error in errors for line in error.lines))
    told.exit_code = max(error.exit_code for error in errors)
    return told


def _new_warnings(before: Config, after: Config, steps: Plan) -> tuple[str, ...]:
    """What ``steps`` give cause to warn of; what other rules gave cause for was said in its time."""
    warnings: list[str] = []
    said = {*before.warnings}
    for warn in (trust, partial(per_worker, workers=after.server.workers)):
        said.update(warn(after.active))
        warnings += warn([*steps.start, *(new for old, new in steps.change if not warn([old]))])
    return (*(warning for warning in after.warnings if warning not in said), *warnings)


def _later(runs: Server, read: Server) -> list[str]:
    """What of ``[server]`` is not followed while the relay runs."""
    return [
        f"[server] {key}: takes effect at the next start only"
        for key in _AT_START_ONLY
        if getattr(runs, key) != getattr(read, key)
    ]


def _names(steps: Plan) -> str:
    """The rules that ``steps`` touch, for a line of the log."""
    touched = [rule.name for rule in (*steps.stop, *(new for _, new in steps.change), *steps.start)]
    more = [f"{len(touched) - _NAMED} more"] if len(touched) > _NAMED else []
    return ", ".join(touched[:_NAMED] + more)
