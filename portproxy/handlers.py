"""What a running relay answers on its control socket: each command's request to its reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import trio

from portproxy.changes import Changed, Changes
from portproxy.config.edits import Labelled
from portproxy.control.server import Handlers as ByCommand
from portproxy.counters import ACTIVE
from portproxy.errors import PortproxyError, shown
from portproxy.model import Rule, RuleType
from portproxy.netsh import render
from portproxy.netsh.grammar import ALL, Command, Verb
from portproxy.options import rule_values
from portproxy.reconcile import Plan, TunnelPlan
from portproxy.report import ChangeData, count, sessions_data, status_data
from portproxy.snapshot import RuleState, Snapshot, TunnelState
from portproxy.supervisor import Supervisor
from portproxy.tunnel.model import Tunnel
from portproxy.wire.control_frames import Reply, Request

T = TypeVar("T")

_LISTED = 20
"""Rules, or tunnels, of one kind of step that are listed one by one."""


class Handlers:
    """What the commands of one relay do. ``lost_lines`` counts log lines dropped so far, by log."""

    def __init__(
        self, supervisor: Supervisor, changes: Changes, lost_lines: Callable[[], dict[str, int]]
    ) -> None:
        self._supervisor = supervisor
        self._changes = changes
        self._lost_lines = lost_lines
        # What is built of many rules is large, and takes tenths of a second, so it is built one at a time and
        # in a thread; what is sent is bounded by the server.
        self._building = trio.Lock()
        self.by_command: ByCommand = {
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
            "tunnels": self._tunnels,
        }

    async def _snapshot(self) -> Snapshot:
        return await self._supervisor.snapshot(self._lost_lines())

    async def _health(self, request: Request) -> Reply:
        return health_reply(await self._snapshot())

    async def _names(self, request: Request) -> Reply:
        """The rules' names, for those who complete them."""
        return Reply(True, "\n".join(rule.name for rule in self._supervisor.config.rules))

    async def _show(self, request: Request) -> Reply:
        wanted = request.args.get("type", ALL)
        types = tuple(rule_type for rule_type in RuleType if wanted in (ALL, rule_type))
        if not types:
            raise PortproxyError(f"{shown(wanted)}: no such rule type")
        return Reply(True, render.show(self._supervisor.config.rules, types))

    async def _dump(self, request: Request) -> Reply:
        rules = self._supervisor.config.rules
        # Where [defaults] sets an option, leaving it out would not stand for portproxy's own default.
        always = frozenset(self._changes.source.defaults)
        async with self._building:
            return Reply(True, await _off_the_loop(render.dump, rules, always))

    async def _status(self, request: Request) -> Reply:
        async with self._building:
            snapshot = await self._snapshot()
            return Reply(True, "", dict(await _off_the_loop(status_data, snapshot)))

    async def _sessions(self, request: Request) -> Reply:
        name = request.args.get("rule")
        if name is not None:
            name = self._find(name).name
        async with self._building:
            statuses = await self._supervisor.session_statuses(name)
            return Reply(True, "", dict(await _off_the_loop(sessions_data, statuses)))

    async def _tunnels(self, request: Request) -> Reply:
        # Here, because most relays have none.
        from portproxy.tunnel.report import tunnels_data

        return Reply(True, "", dict(tunnels_data(self._supervisor.last_snapshot().tunnels)))

    async def _kill(self, request: Request) -> Reply:
        session = request.args.get("session", "")
        killed = await self._supervisor.kill(session)
        if killed is None:
            raise PortproxyError(
                f"{shown(session)}: there is no such session; `portproxy sessions` lists them"
            )
        return Reply(True, f"killed session {killed.id} of {killed.rule}, from {killed.client}")

    async def _explain(self, request: Request) -> Reply:
        # Here, because every start would pay for it.
        from portproxy.explain import as_data, as_text, explain

        rule = self._find(request.args.get("rule", ""))
        explanation = await explain(rule, self._supervisor, request.args.get("from"))
        return Reply(explanation.failed is None, as_text(explanation), as_data(explanation))

    async def _change(self, request: Request) -> Reply:
        wanted = request.change
        commands = [
            Labelled(Command(Verb(line.verb), line.type, line.tags), line.where) for line in wanted.commands
        ]
        changed = await self._changes.carry_out(
            commands, save=wanted.save, dry_run=wanted.dry_run, partly=wanted.partly
        )
        return self._told(changed, wanted.dry_run)

    async def _reload(self, request: Request) -> Reply:
        dry_run = request.change.dry_run
        return self._told(await self._changes.reload(dry_run=dry_run), dry_run)

    def _told(self, changed: Changed, dry_run: bool) -> Reply:
        steps, supervisor = changed.steps, self._supervisor
        lines = plan_lines(steps) or [unchanged(steps)]
        if dry_run:
            lines += kept_lines(steps)
        data: ChangeData = {
            "refused": changed.refused,
            "warnings": list(changed.warnings),
            "not_listening": {} if dry_run else _failed(steps, supervisor.errors),
            "not_up": {} if dry_run else _failed(steps.tunnels, supervisor.tunnel_errors),
        }
        return Reply(not data["not_listening"] and not data["not_up"], "\n".join(lines), data)

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
                names = ", ".join(rule.name for rule in found[:4])
                raise PortproxyError(f"{shown(word)} may be {names}; name one of them")
        raise PortproxyError(f"{shown(word)}: there is no such rule; `portproxy status` lists them")


async def _off_the_loop(build: Callable[..., T], *args: object) -> T:
    """What ``build`` makes of ``args``, in a thread; here, where none can be started."""
    try:
        return await trio.to_thread.run_sync(build, *args)
    except RuntimeError:
        return build(*args)


def health_reply(snapshot: Snapshot) -> Reply:
    """Whether every rule listens and every tunnel is up, and if not, why not; how many do, and how many
    sessions run. In words only what the relay has: rules where there are no tunnels."""
    listening = sum(status.state is RuleState.LISTENING for status in snapshot.rules)
    sessions = sum(status.block[ACTIVE] for status in snapshot.rules)
    up = sum(status.state is TunnelState.UP for status in snapshot.tunnels)
    told = []
    if snapshot.rules or not snapshot.tunnels:
        told += [f"{count(listening, 'rule')} listening", count(sessions, "session")]
    if snapshot.tunnels:
        told.append(f"{count(up, 'tunnel')} up")
    data = {"listening": listening, "sessions": sessions, "tunnels_up": up}
    return Reply(not snapshot.not_ready, snapshot.not_ready or ", ".join(told), data)


def _failed(steps: Plan | TunnelPlan, errors: Mapping[str, str]) -> dict[str, str]:
    """What was to be changed or started, and is not as it was to be, with the reason."""
    touched = dict.fromkeys(one.name for one in (*(new for _, new in steps.change), *steps.start))
    return {name: errors[name] for name in touched if name in errors}


def plan_lines(steps: Plan) -> list[str]:
    """What stops, changes and starts, for people."""
    tunnels = steps.tunnels
    return [
        *_listed("stop", steps.stop, lambda rule: rule.name),
        *_listed("change", steps.change, lambda pair: f"{pair[1].name}: {'; '.join(_differences(*pair))}"),
        *_listed("start", steps.start, _described),
        *_listed("stop", tunnels.stop, lambda tunnel: f"tunnel {tunnel.name}", "tunnel"),
        *_listed("change", tunnels.change, lambda pair: _tunnel_differences(*pair), "tunnel"),
        *_listed("start", tunnels.start, str, "tunnel"),
    ]


def unchanged(steps: Plan) -> str:
    """What is said where ``steps`` are none, for people."""
    return "nothing that runs changes" if steps.tunnels.wanted else "no rule that listens changes"


def kept_lines(steps: Plan) -> list[str]:
    """How much of it is not touched, for people."""
    kept = []
    if steps.keep or not steps.tunnels.wanted:
        kept.append(count(len(steps.keep), "rule"))
    if steps.tunnels.wanted:
        kept.append(count(len(steps.tunnels.keep), "tunnel"))
    return [f"keep    {one}" for one in kept]


def _listed(verb: str, items: Sequence[T], describe: Callable[[T], str], noun: str = "rule") -> list[str]:
    described = [describe(item) for item in items[:_LISTED]]
    if len(items) > _LISTED:
        described.append(f"{count(len(items) - _LISTED, noun)} more")
    return [f"{verb:<7} {item}" for item in described]


def _tunnel_differences(old: Tunnel, new: Tunnel) -> str:
    # Here, because most relays have none.
    from portproxy.options.tunnels import TUNNEL_OPTIONS

    written = [
        (option.name, option.text(getattr(old, option.name)), option.text(getattr(new, option.name)))
        for option in TUNNEL_OPTIONS
    ]
    differences = [f"{name} {before} -> {after}" for name, before, after in written if before != after]
    return f"tunnel {new.name}: {'; '.join(differences)}"


def _described(rule: Rule) -> str:
    return f"{rule.name}: {rule.type} {rule.listen} -> {rule.connect}"


def _differences(old: Rule, new: Rule) -> list[str]:
    what = [
        ("name", old.name, new.name),
        ("type", old.type, new.type),
        ("listen", old.listen, new.listen),
        ("connect", old.connect, new.connect),
    ]
    what += [
        (option.name, option.text(before), option.text(after))
        for (option, before), (_, after) in zip(rule_values(old), rule_values(new), strict=True)
    ]
    return [f"{name} {before} -> {after}" for name, before, after in what if before != after]
