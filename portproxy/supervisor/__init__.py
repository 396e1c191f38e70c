"""A Config and what runs of it: started, reloaded by plan, drained."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import trio

from portproxy.accesslog import Record
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.loop import Accountable
from portproxy.errors import StartError
from portproxy.log import Log
from portproxy.model import Config, Rule
from portproxy.net.holder import Listeners, Place, who_holds
from portproxy.net.resolver import Lookup, Resolver, lookup
from portproxy.reasons import Ended
from portproxy.reconcile import Plan, PortKey, plan, port_key
from portproxy.relay.census import by_turns, rule_statuses, session_by_id, session_statuses
from portproxy.relay.instance import Instance, Surroundings
from portproxy.relay.names import ListenNames
from portproxy.relay.port import Port
from portproxy.relay.shortage import Shortage
from portproxy.snapshot import RuleStatus, SessionStatus, Snapshot

RETRY_FIRST = 1.0
RETRY_LAST = 30.0
"""Seconds between attempts to listen for a rule that failed: doubled from the first to the last."""
_SAY_FALLBACKS_EVERY = 60.0
_ARRANGED_AT_ONCE = 32
"""Ports that are arranged between two turns of those that relay."""

T = TypeVar("T")


class Supervisor:
    """Runs the rules of one configuration at a time, in one process.

    ``config`` is what runs now. ``report`` takes access-log records, or is None where none are wanted;
    ``lookup`` resolves host names, in a thread.
    """

    def __init__(
        self, log: Log, report: Callable[[Record], None] | None = None, *, lookup: Lookup = lookup
    ) -> None:
        self.config = Config()
        self.engine = Engine(self._fault)
        self._log = log
        self._report = report
        self._lookup = lookup
        self._instances: dict[str, Instance] = {}
        self._leaving: set[Instance] = set()
        self._retired: set[Instance] = set()
        self._ports: dict[PortKey, Port] = {}
        self._errors: dict[str, str] = {}
        self._changing = trio.Lock()
        self._idle = trio.Event()
        self._failing = trio.Event()
        self._pauses = 0
        self._shortage = Shortage(self.engine, self._on_pause)
        self._fallbacks = 0
        self._fallback_said = -math.inf
        self._draining = False
        self._began = self.engine.clock()
        self._retrying = trio.CancelScope()
        self.resolver: Resolver
        self._nursery: trio.Nursery
        self._names: ListenNames
        self._around: Surroundings

    async def run(
        self, config: Config, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run ``config`` until cancelled; started once every rule listens.

        Raises StartError, one line for each rule that cannot listen. What is left of sessions when it is
        cancelled is reset.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self.resolver = Resolver(self._nursery, self._lookup)
                self._names = ListenNames(self.resolver)
                self._around = Surroundings(
                    self.engine,
                    self.resolver,
                    self._shortage,
                    self._spawn,
                    self.leads_back,
                    self._report,
                    self._on_idle,
                    self._on_fallback,
                    itertools.count(1),
                )
                self._nursery.start_soon(self.engine.run)
                await self._apply(config)
                self._errors = self._errors_now()
                if self._errors:
                    self._nursery.cancel_scope.cancel()
                else:
                    self._nursery.start_soon(self._retry)
                    task_status.started()
        finally:
            for port in self._ports.values():
                port.abandon()
            self.end_sessions(Ended.SHUTDOWN)
            self._shortage.close()
            self.engine.shut()
        if self._errors:
            raise StartError(*(f"rule {name}: {why}" for name, why in self._errors.items()))

    async def reload(self, config: Config) -> Plan:
        """Get to ``config`` by plan; returns what was done.

        A rule that cannot listen is left ``failed`` and retried; nothing else suffers from it.
        """
        steps = await self._apply(config)
        self._note_errors()
        return steps

    async def drain(self) -> None:
        """Accept what is queued, stop listening, wait for the sessions to end, ``draintimeout`` at most.

        Sessions that are left then are reset.
        """
        self._draining = True
        self._retrying.cancel()
        async with self._changing:
            for port in self._ports.values():
                port.close()
        with trio.move_on_after(self.config.server.draintimeout):
            while self.sessions:
                self._idle = trio.Event()
                await self._idle.wait()
        self.end_sessions(Ended.DRAIN)

    def end_sessions(self, reason: Ended) -> None:
        """Reset every session now."""
        for instance in list(self.all_instances()):  # one that is idle then and retired goes
            instance.end_sessions(reason)

    @property
    def errors(self) -> Mapping[str, str]:
        """Why rules do not listen, by their names."""
        return self._errors

    @property
    def draining(self) -> bool:
        """Whether the relay has been told to stop."""
        return self._draining

    @property
    def sessions(self) -> int:
        """How many sessions dial or relay now."""
        return sum(len(instance.sessions) for instance in self.all_instances())

    def snapshot(self, lost_lines: dict[str, int] | None = None) -> Snapshot:
        """What is true now; ``lost_lines`` is passed on. 10,000 rules take some 50 ms."""
        return self._snapshot(tuple(self._rule_statuses()), lost_lines)

    async def snapshot_by_turns(self, lost_lines: dict[str, int] | None = None) -> Snapshot:
        """The same, while those that relay go on; of the configuration that runs when it begins."""
        return self._snapshot(await by_turns(self._rule_statuses()), lost_lines)

    async def session_statuses(self, rule: str | None = None) -> tuple[SessionStatus, ...]:
        """The sessions of the rule of this name, or of all, the oldest first; those that relay go on."""
        return await by_turns(session_statuses(self.all_instances(), rule))

    def kill(self, id: str) -> SessionStatus | None:
        """Reset both sides of a session now; says what it was, or None where there is none of this ``id``."""
        session = session_by_id(self.all_instances(), id)
        if session is None:
            return None
        status = session.status()
        session.abort(Ended.KILLED)
        return status

    def _snapshot(self, rules: tuple[RuleStatus, ...], lost_lines: dict[str, int] | None) -> Snapshot:
        uptime = self.engine.clock() - self._began
        return Snapshot(rules, self._pauses, lost_lines or {}, self._draining, uptime)

    def _rule_statuses(self) -> Iterator[RuleStatus]:
        leaving = self._leaving | self._retired
        return rule_statuses(self.config, self._instances, leaving, self._errors, draining=self._draining)

    # Getting from one configuration to another.

    async def _apply(self, config: Config) -> Plan:
        async with self._changing:
            if self._draining:  # what has stopped listening has done so for good
                return plan(self.config, self.config)
            await self._names.look_up(config.active)
            steps = plan(self.config, config)
            before, self._instances = self._instances, self._next_instances(steps)
            self._leaving |= set(before.values()) - set(self._instances.values())
            self.config = config
            await self._arrange(steps.ports)
            self._retire(config.server.draintimeout)
            self.engine.keep_pools({rule.pipesize for rule in config.active})
            return steps

    def _next_instances(self, steps: Plan) -> dict[str, Instance]:
        instances = {rule.name: self._instances[rule.name] for rule in steps.keep}
        for was, rule in steps.change:
            instances[rule.name] = self._instances[was.name]
            instances[rule.name].change(rule)
        for rule in steps.start:
            instances[rule.name] = Instance(rule, self._around)
        return instances

    async def _arrange(self, keys: Sequence[PortKey]) -> None:
        rules: dict[PortKey, list[Rule]] = {key: [] for key in keys}
        for rule in self.config.active:
            if port_key(rule) in rules:
                rules[port_key(rule)].append(rule)
        for key in keys:
            if key not in self._ports:
                self._ports[key] = Port(*key, self.engine, self._names, self._shortage)
        listeners = None
        if any(self._ports[key].gives_way(rules[key]) for key in keys):
            listeners = await _in_thread(Listeners)
        for number, key in enumerate(keys):
            if number % _ARRANGED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            self._ports[key].arrange(rules[key], self._instances, listeners)
            if not rules[key]:
                del self._ports[key]
        await self._name_holders()

    async def _name_holders(self) -> None:
        """Say who holds the ports that are in use: in a thread, because it looks at every process."""
        places: list[Place] = []
        unknown: list[tuple[Port, str]] = []
        for key, port in self._ports.items():
            for name, address in port.in_use.items():
                if self._errors.get(name, "").startswith(port.errors[name]):
                    port.errors[name] = self._errors[name]
                else:
                    places.append((address, *key[::-1]))
                    unknown.append((port, name))
        if places:
            found = await _in_thread(lambda: who_holds(places))
            for (port, name), holder in zip(unknown, found or [""] * len(places), strict=True):
                port.errors[name] += f" by {holder}" if holder else ""

    def _retire(self, within: float) -> None:
        """Let the sessions of rules that are gone end by themselves, ``within`` seconds at most."""
        leaving, self._leaving = self._leaving, set()
        busy = {instance for instance in leaving if instance.sessions}
        self._retired |= busy
        self._let_go(leaving - busy)
        for instance in busy:
            self._nursery.start_soon(self._end_after, instance, within)

    def _let_go(self, idle: Iterable[Instance]) -> None:
        """Forget rules that are gone and ``idle``; who bears the name of one counts on from its totals."""
        heirs = {instance.rule.name: instance for instance in (*self._leaving, *self._retired)}
        for instance in idle:
            heir = self._instances.get(instance.rule.name) or heirs.get(instance.rule.name)
            if heir:
                instance.hand_over(heir)

    async def _end_after(self, instance: Instance, seconds: float) -> None:
        await trio.sleep(seconds)
        instance.end_sessions(Ended.DRAIN)

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
            await self._names.look_up(self.config.active)
            # By what was noted: a port that a fault kept from being arranged has forgotten its errors.
            failed = [port_key(rule) for rule in self.config.active if rule.name in self._errors]
            await self._arrange(tuple(dict.fromkeys(failed)))
        self._note_errors()

    def _errors_now(self) -> dict[str, str]:
        return {name: why for port in self._ports.values() for name, why in port.errors.items()}

    def _note_errors(self) -> None:
        errors = self._errors_now()
        for name, why in errors.items():
            if self._errors.get(name) != why:
                self._log.error("a rule does not listen", rule=name, error=why)
        for name in self._errors.keys() - errors.keys():
            if name in self._instances:
                self._log.info("a rule listens again", rule=name)
        if errors.keys() - self._errors.keys():
            self._failing.set()
        self._errors = errors

    # What instances and acceptors tell and ask.

    def _spawn(self, task: Callable[[], Awaitable[object]], who: Accountable) -> None:
        async def guarded() -> None:
            try:
                await task()
            except Exception:
                self._fault("a task")
                who.on_fault()

        self._nursery.start_soon(guarded)

    def leads_back(self, rule: Rule, address: str) -> bool:
        """Whether a connection of ``rule`` to ``address`` comes back to it, through whichever rules."""
        passed: set[Instance] = set()
        ways = [(rule, address)]
        while ways:
            at, address = ways.pop()
            reached = self.serving(at, address)
            if reached is None or reached in passed:
                continue
            if reached.rule.endpoint == rule.endpoint:
                return True
            passed.add(reached)
            ways += [(reached.rule, further) for further in reached.last_addresses()]
        return False

    def _on_idle(self, instance: Instance) -> None:
        if instance in self._retired:
            self._retired.remove(instance)
            self._let_go([instance])
        self._idle.set()

    def _on_pause(self, error: OSError | None) -> None:
        if error is None:
            self._log.info("accepting again")
        else:
            self._pauses += 1
            self._log.warning(
                "accepting paused; sessions go on", error=error.strerror, sessions=self.sessions
            )

    def _on_fallback(self, rule: Rule, legs: int) -> None:
        """Say that sessions are copied: once in a while, because it comes by the thousand."""
        self._fallbacks += legs
        now = self.engine.clock()
        if now >= self._fallback_said + _SAY_FALLBACKS_EVERY:
            self._log.warning(
                "splice or its pipe was refused; sessions are copied instead",
                rule=rule.name,
                legs=self._fallbacks,
            )
            self._fallbacks, self._fallback_said = 0, now

    def _fault(self, what: str) -> None:
        error = sys.exception()
        assert error
        self._log.fault(f"a fault of portproxy in {what}", error)

    def serving(self, rule: Rule, address: str) -> Instance | None:
        """The rule of this relay that takes a connection of ``rule`` to ``address``, if any does."""
        port = self._ports.get((rule.type.connect_family, rule.connect.port))
        return port.serving(address) if port else None

    def bound_address(self, rule: Rule) -> str:
        """The literal that ``rule`` binds. Raises ResolveError where a name has none."""
        return self._names.address(rule)

    def instance(self, name: str) -> Instance | None:
        """The running rule of this name; None where there is none, or it is shadowed."""
        return self._instances.get(name)

    def all_instances(self) -> Iterator[Instance]:
        """Every rule that has sessions or may get some; those that are going away included."""
        yield from self._instances.values()
        yield from self._leaving
        yield from self._retired


async def _in_thread(work: Callable[[], T]) -> T | None:
    """What ``work``, which blocks, returns; None where it has to be done without."""
    try:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except (RuntimeError, MemoryError):  # what Python makes of pthread_create(3)'s EAGAIN
        return None
