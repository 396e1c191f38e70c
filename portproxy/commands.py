"""What a running relay answers on its control socket: each command's request to its reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from portproxy.changes import Change, Changes
from portproxy.config.edits import Labelled
from portproxy.control.server import health_reply
from portproxy.errors import PortproxyError, printable, shown
from portproxy.explain import as_data, as_text, explain
from portproxy.model import Rule, RuleType
from portproxy.netsh import render
from portproxy.netsh.grammar import Command, Verb
from portproxy.options import rule_values
from portproxy.options.kinds import nearest
from portproxy.reconcile import Plan
from portproxy.report import sessions_data, status_data
from portproxy.snapshot import Snapshot
from portproxy.supervisor import Supervisor
from portproxy.wire.control_frames import Reply, Request

_CHANGING = {Verb.ADD, Verb.SET, Verb.DELETE, Verb.RESET}
_NOTHING_CHANGES = "no rule that listens changes"
_LISTED = 20
"""Rules of one kind of step that are listed one by one."""


class Commands:
    """The commands of one relay. ``lost_lines`` counts log lines dropped so far, by log."""

    def __init__(
        self, supervisor: Supervisor, changes: Changes, lost_lines: Callable[[], dict[str, int]]
    ) -> None:
        self._supervisor = supervisor
        self._changes = changes
        self._lost_lines = lost_lines
        # What is built is large with many rules; what is sent is bounded by the server.
        self._building = trio.Lock()
        self.handlers: Mapping[str, Callable[[Request], Awaitable[Reply]]] = {
            "change": self._change,
            "dump": self._dump,
            "explain": self._explain,
            "health": self._health,
            "kill": self._kill,
            "names": self._names,
            "reload": self._reload,
            "sessions": self._sessions,
            "show": self._show,
            "status": self._status,
        }

    async def _snapshot(self) -> Snapshot:
        return await self._supervisor.snapshot_by_turns(self._lost_lines())

    async def _health(self, request: Request) -> Reply:
        return health_reply(await self._snapshot())

    async def _names(self, request: Request) -> Reply:
        """The rules' names, for those who complete them."""
        return Reply(True, "\n".join(printable(rule.name) for rule in self._supervisor.config.rules))

    async def _show(self, request: Request) -> Reply:
        wanted = request.args.get("type", "all")
        types = tuple(RuleType) if wanted == "all" else (_rule_type(wanted),)
        return Reply(True, render.show(self._supervisor.config.rules, types))

    async def _dump(self, request: Request) -> Reply:
        rules = self._supervisor.config.rules
        # Where [defaults] sets an option, leaving it out would not stand for portproxy's own default.
        return Reply(True, render.dump(rules, self._changes.source.defaults.keys()))

    async def _status(self, request: Request) -> Reply:
        async with self._building:
            snapshot = await self._snapshot()
            # In a thread: a tenth of a second for 10,000 rules.
            return Reply(True, "", dict(await trio.to_thread.run_sync(status_data, snapshot)))

    async def _sessions(self, request: Request) -> Reply:
        name = request.args.get("rule")
        if name is not None:
            name = self._find(name).name
        async with self._building:
            statuses = await self._supervisor.session_statuses(name)
            return Reply(True, "", dict(await trio.to_thread.run_sync(sessions_data, statuses)))

    async def _kill(self, request: Request) -> Reply:
        session = request.args.get("session", "")
        killed = self._supervisor.kill(session)
        if killed is None:
            raise PortproxyError(
                f"{shown(session)}: there is no such session; `portproxy sessions` lists them"
            )
        return Reply(True, f"killed session {killed.id} of {printable(killed.rule)}, from {killed.client}")

    async def _explain(self, request: Request) -> Reply:
        rule = self._find(request.args.get("rule", ""))
        explanation = await explain(rule, self._supervisor, request.args.get("from"))
        return Reply(explanation.failed is None, as_text(explanation), as_data(explanation))

    async def _change(self, request: Request) -> Reply:
        args = request.args
        commands = [_command(tags) for tags in request.commands]
        dry_run = args.get("dry_run") == "yes"
        change = await self._changes.carry_out(
            commands, save=args.get("save") != "no", dry_run=dry_run, partly=args.get("partly") == "yes"
        )
        return self._changed(change, dry_run)

    async def _reload(self, request: Request) -> Reply:
        dry_run = request.args.get("dry_run") == "yes"
        return self._changed(await self._changes.reload(dry_run=dry_run), dry_run)

    def _changed(self, change: Change, dry_run: bool) -> Reply:
        steps = change.steps
        failed = {} if dry_run else self._not_listening(steps)
        lines = plan_lines(steps) or [_NOTHING_CHANGES]
        if dry_run:
            lines.append(f"keep    {len(steps.keep)} rule{'s' * (len(steps.keep) != 1)}")
        data = {
            "refused": {str(number): told for number, told in change.refused.items()},
            "warnings": list(change.warnings),
            "not_listening": failed,
        }
        return Reply(not failed, "\n".join(lines), data)

    def _not_listening(self, steps: Plan) -> dict[str, str]:
        """The rules that a change wanted to listen, and that do not, with the reason."""
        touched = {rule.name for rule in steps.start} | {rule.name for _, rule in steps.change}
        errors = self._supervisor.errors
        return {name: errors[name] for name in touched if name in errors}

    def _find(self, word: str) -> Rule:
        """The rule of this name; or the only one on this listening endpoint or port."""
        rules = self._supervisor.config.rules
        for meant in (
            lambda rule: rule.name,
            lambda rule: str(rule.listen),
            lambda rule: str(rule.listen.port),
        ):
            found = [rule for rule in rules if meant(rule) == word]
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(printable(rule.name) for rule in found[:4])
                raise PortproxyError(f"{shown(word)} may be {names}; name one of them")
        raise PortproxyError(f"{shown(word)}: there is no such rule; `portproxy status` lists them")


def plan_lines(steps: Plan) -> list[str]:
    """What stops, changes and starts, for people."""
    changes = [f"{printable(new.name)}: {'; '.join(_differences(old, new))}" for old, new in steps.change]
    return [
        *_listed("stop", [printable(rule.name) for rule in steps.stop]),
        *_listed("change", changes),
        *_listed("start", [_described(rule) for rule in steps.start]),
    ]


def _listed(verb: str, items: Sequence[str]) -> list[str]:
    more = [f"{len(items) - _LISTED} rules more"] if len(items) > _LISTED else []
    return [f"{verb:<7} {item}" for item in [*items[:_LISTED], *more]]


def _described(rule: Rule) -> str:
    return f"{printable(rule.name)}: {rule.type} {rule.listen} -> {rule.connect}"


def _differences(old: Rule, new: Rule) -> list[str]:
    what = [
        ("name", printable(old.name), printable(new.name)),
        ("type", old.type, new.type),
        ("listen", old.listen, new.listen),
        ("connect", old.connect, new.connect),
    ]
    what += [
        (option.name, option.text(before), option.text(after))
        for (option, before), (_, after) in zip(rule_values(old), rule_values(new), strict=True)
    ]
    return [f"{name} {before} -> {after}" for name, before, after in what if before != after]


def _rule_type(word: str) -> RuleType:
    try:
        return RuleType(word)
    except ValueError:
        raise PortproxyError(f"{shown(word)}: {nearest(word, ('all', *RuleType))}") from None


def _command(tags: Mapping[str, str]) -> Labelled:
    """A command as it came over the control socket: its verb, and its tags."""
    rest = dict(tags)
    verb, where = rest.pop("verb", ""), rest.pop("where", "")
    if verb not in _CHANGING:
        raise PortproxyError(f"{shown(verb)}: changes nothing; {', '.join(sorted(_CHANGING))} do")
    return Labelled(Command(Verb(verb), rest.pop("type", ""), rest), where)
