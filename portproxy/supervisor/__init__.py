"""A Config and what runs of it: started, reloaded by plan, drained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from portproxy import counters
from portproxy.accesslog import Record
from portproxy.errors import PortproxyError, StartError
from portproxy.log import Log
from portproxy.model import Config, Rule
from portproxy.net.resolver import Lookup, Resolver, lookup
from portproxy.net.user import User, become
from portproxy.reasons import Ended
from portproxy.reconcile import Plan, TunnelPlan, plan, port_key
from portproxy.relay.census import by_turns
from portproxy.relay.worker import Worker
from portproxy.snapshot import RuleStatus, SessionStatus, Snapshot
from portproxy.supervisor.names import ListenNames
from portproxy.supervisor.ports import Ports
from portproxy.supervisor.services import Service, Services
from portproxy.supervisor.statuses import rule_statuses
from portproxy.tallies import BLOCKS, OWN, Tallies, shareable
from portproxy.wire import worker_frames as wire
from portproxy.workers.alone import Alone
from portproxy.workers.crew import Crew

if TYPE_CHECKING:
    from portproxy.tunnel.tunnels import Tunnels

RETRY_FIRST = 1.0
RETRY_LAST = 30.0
"""Seconds between attempts to listen for a rule that failed: doubled from the first to the last."""
_RULES_AT_ONCE = 256
"""Rules that workers are told of between two turns of those that relay."""


class Supervisor:
    """Runs the rules of one configuration at a time, with as many workers as it says when it begins.

    ``config`` is what runs now. ``report`` takes access-log records, or is None where none are wanted, and
    hears of those of this process only; ``lookup`` resolves host names, in a thread. Workers in processes of
    their own are ``user`` from their start, this process after ``drop_root``.
    """

    def __init__(
        self,
        log: Log,
        report: Callable[[Record], None] | None = None,
        *,
        lookup: Lookup = lookup,
        user: User | None = None,
    ) -> None:
        self.config = Config()
        self._log = log
        self._report = report
        self._lookup = lookup
        self._user = user
        self._errors: dict[str, str] = {}
        self._changing = trio.Lock()
        self._idle = trio.Event()
        self._failing = trio.Event()
        self._begun = self._started = self._draining = False
        self._retrying = trio.CancelScope()
        self._lingering = trio.CancelScope()
        self._began = 0.0
        self._tallies = Tallies(rows=1)
        self._services = Services(self._tallies)
        self.resolver: Resolver
        self.crew: Crew
        self._nursery: trio.Nursery
        self._names: ListenNames
        self._ports: Ports
        self._tunnels: Tunnels | None = None

    async def run(
        self, config: Config, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run ``config`` until cancelled; started once every rule listens.

        Raises StartError, one line for each rule that cannot listen. What is left of sessions when it is
        cancelled is reset.
        """
        self._began = trio.current_time()
        try:
            await self._run(config, task_status)
        finally:
            self._tallies.close(self._services.numbers)

    async def _run(self, config: Config, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self._nursery:
            self.resolver = Resolver(self._nursery, self._lookup)
            self._names = ListenNames(self.resolver)
            self.crew = await self._start_crew(config)
            self._services = Services(self._tallies)
            self._ports = Ports(self._names, self.crew)
            self._begun = True
            await self._apply(config, None)
            self._errors = self._ports.errors
            refused = [f"rule {name}: {why}" for name, why in self._errors.items()]
            refused += [f"tunnel {name}: {why}" for name, why in self.tunnel_errors.items()]
            if refused:
                self._nursery.cancel_scope.cancel()
            else:
                self._started = True
                self._nursery.start_soon(self._retry)
                task_status.started()
        if refused:
            raise StartError(*refused)

    def drop_root(self) -> None:
        """Be the user from now on. Raises StartError."""
        if self._user and become(self._user):
            self._ports.dropped_to = self._user.name

    async def reload(self, config: Config, steps: Plan | None = None) -> Plan:
        """Get to ``config`` by plan, which is ``steps`` where it was made before; returns what was done.

        A rule that cannot listen is left ``failed`` and retried; nothing else suffers from it.
        """
        try:
            return await self._apply(config, steps)
        finally:
            self._note_errors()

    def check_room(self, steps: Plan) -> None:
        """Raises PortproxyError where there would be too many rules, and nothing may change."""
        if self._services.lacks_room(len(steps.start)):
            raise PortproxyError(f"there is room for {BLOCKS - 1} rules, those that drain included")

    async def drain(self) -> None:
        """Accept what is queued, stop listening, wait for the sessions to end, ``draintimeout`` at most.

        Sessions that are left then are reset.
        """
        self._draining = True
        self._retrying.cancel()
        if not self._begun:  # told to stop while it started
            return
        self.crew.hurry()
        async with self._changing:
            await self._ports.close()
            await self._retire(self.config.server.draintimeout)  # what a reload that was broken off left
            running = self._services.running.values()
            await self.crew.tell(wire.Retire(tuple(service.number for service in running)))
            self._services.await_idle(running)
        self._lingering.deadline = trio.current_time() + self.config.server.draintimeout
        with self._lingering:
            while self._services.busy:
                self._idle = trio.Event()
                await self._idle.wait()
        await self.end_sessions(Ended.DRAIN)
        await self.crew.stop()

    async def end_sessions(self, reason: Ended) -> None:
        """Reset every session now. A drain waits no more, not even for those of a worker that is stuck."""
        if self._begun:
            self.crew.hurry()
            await self.crew.end(reason)
            self._lingering.cancel()

    def reopen_logs(self) -> None:
        """Have workers in processes of their own open their log files anew; this one's are not ours."""
        if self._begun and self.crew.size > 1:
            self._nursery.start_soon(self.crew.tell, wire.Reopen())

    @property
    def errors(self) -> Mapping[str, str]:
        """Why rules do not listen, by their names."""
        return self._errors

    @property
    def tunnel_errors(self) -> Mapping[str, str]:
        """Why tunnels are not up, by their names."""
        return self._tunnels.errors if self._tunnels else {}

    @property
    def dropped_to(self) -> str | None:
        """The user that root was dropped to, if it was."""
        return self._ports.dropped_to

    @property
    def draining(self) -> bool:
        """Whether the relay has been told to stop."""
        return self._draining

    @property
    def sessions(self) -> int:
        """How many sessions dial or relay now."""
        return sum(self._services.active(service) for service in self._services.all())

    async def snapshot(self, lost_lines: Mapping[str, int] | None = None) -> Snapshot:
        """What is true now, while those that relay go on; of the configuration that runs when it begins.

        ``lost_lines`` are this process's, by log.
        """
        await self.crew.ask(wire.Publish())
        return self._snapshot(await by_turns(self._rule_statuses()), lost_lines)

    def last_snapshot(self) -> Snapshot:
        """The same without asking the workers: of sessions that run, what was counted last."""
        return self._snapshot(tuple(self._rule_statuses()), None)

    async def session_statuses(self, rule: str | None = None) -> tuple[SessionStatus, ...]:
        """The sessions of the rule of this name, or of all, the oldest first; those that relay go on."""
        return await self.crew.sessions(rule)

    async def kill(self, id: str) -> SessionStatus | None:
        """Reset both sides of a session now; says what it was, or None where there is none of this ``id``."""
        return await self.crew.kill(id)

    def runs(self, name: str) -> bool:
        """Whether there is a running rule of this name; a shadowed one does not run."""
        return name in self._services.running

    def counted(self, name: str) -> list[int]:
        """What the running rule of this name has counted; nothing, where there is none."""
        return self._services.counted(filter(None, [self._services.running.get(name)]))

    def bound_address(self, rule: Rule) -> str:
        """The literal that ``rule`` binds. Raises ResolveError where a name has none."""
        return self._names.address(rule)

    async def room(self, rule: Rule, source: str | None) -> list[wire.RoomLeft]:
        """What would await a client of ``rule`` in each worker, from ``source`` where that is given."""
        service = self._services.running.get(rule.name)
        replies = await self.crew.ask(wire.Room(service.number, source)) if service else []
        return [reply for reply in replies if isinstance(reply, wire.RoomLeft)]

    async def ways(self, rule: Rule, addresses: Sequence[str]) -> list[wire.Way]:
        """Where connections of ``rule`` to each of ``addresses`` would go; empty where no worker answers."""
        replies = await self.crew.ask(wire.Ways(rule, tuple(addresses)))
        return next((reply.ways for reply in replies if isinstance(reply, wire.WaysFound)), [])

    def _rule_statuses(self) -> Iterator[RuleStatus]:
        return rule_statuses(self.config, self._services, self._errors, draining=self._draining)

    def lost_lines(self, ours: Mapping[str, int]) -> dict[str, int]:
        """Log lines that were lost, by log: ``ours`` in this process, and those of workers in others."""
        own = self._tallies.total(OWN)
        slots = {"events": counters.LOST_EVENTS, "access": counters.LOST_RECORDS}
        return {log: lines + (own[slots[log]] if log in slots else 0) for log, lines in ours.items()}

    def _snapshot(self, rules: tuple[RuleStatus, ...], lost_lines: Mapping[str, int] | None) -> Snapshot:
        own, lost = self._tallies.total(OWN), self.lost_lines(lost_lines or {})
        uptime = trio.current_time() - self._began
        crew, pauses = self.crew, own[counters.PAUSES]
        tunnels = self._tunnels.statuses() if self._tunnels else ()
        return Snapshot(
            rules, pauses, lost, self._draining, uptime, crew.size, crew.missing, crew.deaths, tunnels
        )

    async def _start_crew(self, config: Config) -> Crew:
        server = config.server
        rows = 1 + server.workers
        if server.workers == 1:
            self._tallies = Tallies(rows)
            worker = Worker(self._log, self._report, self._tallies, 1, self._on_idle)
            await self._nursery.start(worker.run, self.resolver)
            return Alone(worker)
        # Only here: most relays need none of it.
        from portproxy.workers.processes import Processes

        shared = shareable(rows)
        self._tallies = Tallies(rows, shared)
        crew = Processes(server, self._user, self._tallies, shared, self._log, self._on_idle, self._write_off)
        await self._nursery.start(crew.run)
        return crew

    # Getting from one configuration to another.

    async def _apply(self, config: Config, steps: Plan | None) -> Plan:
        async with self._changing:
            if self._draining:  # what has stopped listening has done so for good
                return plan(self.config, self.config)
            steps = steps or plan(self.config, config)
            self.check_room(steps)
            await self._apply_tunnels(steps.tunnels)
            await self._names.look_up(config.active)
            with trio.CancelScope(shield=True):
                self._services.adopt(steps)
                self.config = config
                await self._tell_rules(steps)
            services = self._services.running
            keys = tuple(self._ports.unarranged | dict.fromkeys(steps.ports))
            await self._ports.arrange(keys, config.active, services, self._errors)
            await self._retire(config.server.draintimeout)
            return steps

    async def _apply_tunnels(self, steps: TunnelPlan) -> None:
        """Before the rules, which may listen on a tunnel's address."""
        if not self._tunnels:
            if not steps.start:
                return
            # Only here: most relays have none, and need nothing of what they take.
            try:
                from portproxy.tunnel.tunnels import Tunnels
            except ModuleNotFoundError as error:
                needed = "pip install 'portproxy[tunnel]'"
                raise StartError(f"tunnel {steps.start[0].name}: needs {error.name}: {needed}") from None

            self._tunnels = Tunnels(self._log, self._note_tunnel, lambda: self.dropped_to)
            await self._nursery.start(self._tunnels.run)
        with trio.CancelScope(shield=True):
            await self._tunnels.apply(steps)

    async def _tell_rules(self, steps: Plan) -> None:
        services = self._services.running
        begin = [(services[rule.name].number, rule) for rule in steps.start]
        change = [(services[rule.name].number, rule) for _, rule in steps.change]
        for first in range(0, max(len(begin), len(change)), _RULES_AT_ONCE):
            await trio.lowlevel.checkpoint()
            some = slice(first, first + _RULES_AT_ONCE)
            await self.crew.tell(wire.Run(tuple(begin[some]), tuple(change[some])))

    async def _retire(self, within: float) -> None:
        """Let the sessions of rules that are gone end by themselves, ``within`` seconds at most."""
        leaving = self._services.leaving
        if leaving:
            with trio.CancelScope(shield=True):
                await self.crew.tell(wire.Retire(tuple(service.number for service in leaving)))
            if busy := self._services.retire():
                self._nursery.start_soon(self._end_after, busy, within)

    async def _end_after(self, services: set[Service], seconds: float) -> None:
        await trio.sleep(seconds)
        numbers = tuple(service.number for service in services & self._services.retired)
        await self.crew.tell(wire.End(Ended.DRAIN, numbers))

    async def _retry(self) -> None:
        """Try again to listen for rules that failed, ever more patiently; a new failure begins anew."""
        delay = RETRY_FIRST
        with self._retrying:
            while True:
                if not self._errors:
                    await self._failing.wait()
                with trio.move_on_after(delay):
                    await self._failing.wait()
                    self._failing = trio.Event()
                    delay = RETRY_FIRST
                    continue
                delay = min(2 * delay, RETRY_LAST)
                try:
                    await self._listen_again()
                except Exception:
                    self._fault("listening again")

    async def _listen_again(self) -> None:
        async with self._changing:
            rules = self.config.active
            await self._names.look_up(rules)
            # By what was noted: a port that a fault kept from being arranged has forgotten its errors.
            failed = dict.fromkeys(port_key(rule) for rule in rules if rule.name in self._errors)
            failed |= self._ports.unarranged
            await self._ports.arrange(tuple(failed), rules, self._services.running, self._errors)
            await self._retire(self.config.server.draintimeout)
        self._note_errors()

    def _note_errors(self) -> None:
        errors = self._ports.errors
        for name, why in errors.items():
            if self._errors.get(name) != why:
                self._log.error("a rule does not listen", rule=name, error=why)
        for name in self._errors.keys() - errors.keys():
            if name in self._services.running:
                self._log.info("a rule listens again", rule=name)
        if errors.keys() - self._errors.keys():
            self._failing.set()
        self._errors = errors

    def _note_tunnel(self, name: str, why: str) -> None:
        if self._started:  # a start says it when it fails
            self._log.error("a tunnel is not up", tunnel=name, error=why)

    # What workers tell.

    def _on_idle(self, number: int) -> None:
        self._services.note_idle(number)
        self._idle.set()

    def _write_off(self, row: int) -> int:
        lost = self._services.write_off(row)
        self._idle.set()
        return lost

    def _fault(self, what: str) -> None:
        error = sys.exception()
        assert error
        self._log.fault(f"a fault of portproxy in {what}", error)
