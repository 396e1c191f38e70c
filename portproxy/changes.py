"""Changing what a relay runs: reloads and commands, one at a time, each whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from portproxy import store
from portproxy.config import document
from portproxy.config.edits import Edited, Labelled, apply, settled
from portproxy.config.source import Checked, File, Source
from portproxy.errors import ConfigError, PortproxyError, printable
from portproxy.log import Log
from portproxy.model import Config
from portproxy.net.dial import is_local
from portproxy.reconcile import Plan, plan
from portproxy.supervisor import Supervisor

Load = Callable[[], Source]

_AT_START_ONLY = ("status", "control", "log", "accesslog")
"""Keys of ``[server]`` that a reload does not follow."""
_NAMED = 8
"""Rules of a change that the log names."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a change did, or would do: its plan; which commands were refused, and why, by their numbers;
    what to warn of that was no cause for a warning before."""

    steps: Plan
    refused: dict[int, list[str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Changes:
    """``source`` is what runs, as it was written; ``load`` reads anew what a start would, and may block."""

    def __init__(self, source: Source, load: Load, supervisor: Supervisor, log: Log) -> None:
        self.source = source
        self._load = load
        self._supervisor = supervisor
        self._log = log
        self._one_at_a_time = trio.Lock()

    async def reload(self, *, dry_run: bool = False) -> Change:
        """Run what a start would run now. Raises ConfigError, and then nothing has changed."""

        def read() -> tuple[Source, Config]:
            source = self._load()
            return source, source.config(is_local)

        async with self._one_at_a_time:
            source, config = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            before = self._supervisor.config
            # An editor that empties the file before it fills it must not stop every rule.
            if before.rules and not config.rules:
                raise ConfigError(["no rules are left; to delete all of them, use `portproxy reset`"])
            change = Change(plan(before, config), warnings=(*_later(before, config), *config.warnings))
            if not dry_run:
                for warning in change.warnings:
                    self._log.warning(warning)
                self.source = source
                await self._supervisor.reload(config)
                self._log.info("reloaded", plan=change.steps)
            return change

    async def carry_out(
        self, commands: Sequence[Labelled], *, save: bool = True, dry_run: bool = False, partly: bool = False
    ) -> Change:
        """Carry out netsh's commands, as one change: the file first, with ``save``, then the relay.

        With ``partly``, commands that make no sound rule are left out and the others are carried out; else
        nothing is. Raises ConfigError, EditError or StoreError, and then nothing has changed.
        """
        async with self._one_at_a_time:
            if self._supervisor.draining:
                raise PortproxyError("the relay is stopping; nothing is changed any more")
            if save and self.source.file is None:
                raise store.StoreError(
                    "this relay reads no configuration file that a change could be written to;"
                    " change the running relay alone with --no-save"
                )
            edited, checked, refused = await trio.to_thread.run_sync(self._edit, commands, save, partly)
            config = dataclasses.replace(checked.config, server=self._supervisor.config.server)
            before = self._supervisor.config
            change = Change(
                plan(before, config),
                refused,
                tuple(warning for warning in config.warnings if warning not in before.warnings),
            )
            if not dry_run:
                await self._make(edited, config, save)
            return change

    def _edit(
        self, commands: Sequence[Labelled], save: bool, partly: bool
    ) -> tuple[Edited, Checked, dict[int, list[str]]]:
        """The commands that make sound rules, carried out on paper; the others, if that is allowed."""
        refused: dict[int, list[str]] = {}
        while True:
            numbers = [number for number in range(len(commands)) if number not in refused]
            edited = apply(self.source, [commands[number] for number in numbers], save=save)
            checked = edited.source.check(is_local)
            wrong = {place: lines for place, lines in checked.by_rule.items() if lines}
            ours = {
                numbers[edited.places[place]]: lines
                for place, lines in wrong.items()
                if place in edited.places
            }
            if not wrong and not checked.problems:
                return edited, checked, refused
            if not partly or not ours:
                raise ConfigError([*checked.problems, *(line for lines in wrong.values() for line in lines)])
            refused |= ours

    async def _make(self, edited: Edited, config: Config, save: bool) -> None:
        source = settled(edited.source)
        saved = await self._rewritten(edited) if save and edited.edits else None
        # From here on to its end: half of it would be a file that is not what runs.
        with trio.CancelScope(shield=True):
            if saved:
                await trio.to_thread.run_sync(saved.write)
                source = dataclasses.replace(source, file=File(saved.path, document.digest(saved.new)))
            steps = await self._supervisor.reload(config)
            self.source = source
        self._log.info("changed by command", plan=steps, rules=_names(steps), saved="yes" if save else "no")

    async def _rewritten(self, edited: Edited) -> _Rewritten:
        """The file as it is to be. Raises EditError or StoreError."""
        known = self.source.file
        assert known
        old = await trio.to_thread.run_sync(store.read, known.path)
        if document.digest(old) != known.digest:
            raise store.StoreError(
                f"{printable(known.path)} was changed since this relay read it; `portproxy reload` first,"
                " or change the running relay alone with --no-save"
            )
        new = await store.rewritten(old.decode(), edited.edits)
        return _Rewritten(known.path, old, new.encode())


def _later(before: Config, after: Config) -> list[str]:
    """What of ``[server]`` is not followed while the relay runs."""
    return [
        f"[server] {key}: takes effect at the next start only"
        for key in _AT_START_ONLY
        if getattr(before.server, key) != getattr(after.server, key)
    ]


def _names(steps: Plan) -> str:
    """The rules that ``steps`` touch, for a line of the log."""
    touched = [rule.name for rule in (*steps.stop, *(new for _, new in steps.change), *steps.start)]
    more = [f"{len(touched) - _NAMED} more"] if len(touched) > _NAMED else []
    return ", ".join(touched[:_NAMED] + more)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """A file's content, ``old`` and ``new``."""

    path: str
    old: bytes
    new: bytes

    def write(self) -> None:
        """Replace the one by the other. Blocks. Raises StoreError, and then the file is as it was."""
        store.replace(self.path, self.new, instead_of=self.old)
