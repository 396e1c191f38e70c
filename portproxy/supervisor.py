"""A Config and what runs of it: started, reloaded by plan, drained."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from portproxy import counters
from portproxy.accesslog import Record
from portproxy.dataplane.engine import Engine
from portproxy.dataplane.loop import Accountable
from portproxy.errors import StartError
from portproxy.log import Log
from portproxy.model import Config, Family, Rule
from portproxy.net.dial import is_local
from portproxy.net.resolver import Lookup, Resolver, lookup
from portproxy.reasons import Ended
from portproxy.reconcile import Plan, PortKey, plan, port_key
from portproxy.relay.instance import Instance, Surroundings
from portproxy.relay.port import Port
from portproxy.relay.shortage import Shortage
from portproxy.snapshot import RuleState, RuleStatus, Snapshot

RETRY_FIRST = 1.0
RETRY_LAST = 30.0
"""Seconds between attempts to listen for a rule that failed: doubled from the first to the last."""
_SAY_FALLBACKS_EVERY = 60.0


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
        self._blocks: dict[str, memoryview] = {}
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
        self._nursery: trio.Nursery
        self._resolver: Resolver
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
                self._resolver = Resolver(self._nursery, self._lookup)
                self._around = Surroundings(
                    self.engine,
                    self._resolver,
                    self._shortage,
                    self._spawn,
                    self._leads_back,
                    self._report,
                    self._on_idle,
                    self._on_fallback,
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
        for instance in list(self._all_instances()):  # one that is idle then and retired goes
            _abort(instance, reason)

    @property
    def sessions(self) -> int:
        """How many sessions dial or relay now."""
        return sum(len(instance.sessions) for instance in self._all_instances())

    def snapshot(self, lost_lines: dict[str, int] | None = None) -> Snapshot:
        """What is true now; ``lost_lines`` is passed on."""
        shadowed = dict(self.config.shadowed)
        retired: dict[str, list[Instance]] = {}
        for instance in self._retired:
            retired.setdefault(instance.rule.name, []).append(instance)
        statuses = []
        for rule in self.config.rules:
            if rule.name in shadowed:
                why = f"rule {shadowed[rule.name]} holds the same endpoint"
                statuses.append(RuleStatus(rule, RuleState.SHADOWED, why, counters.new_block()))
            else:
                error = self._errors.get(rule.name, "")
                instances = [self._instances[rule.name], *retired.pop(rule.name, [])]
                statuses.append(RuleStatus(rule, self._state(error), error, _counted(instances)))
        statuses += [
            RuleStatus(instances[0].rule, RuleState.DRAINING, "", _counted(instances))
            for instances in retired.values()
        ]
        return Snapshot(tuple(statuses), self._pauses, lost_lines or {}, self._draining)

    # Getting from one configuration to another.

    async def _apply(self, config: Config) -> Plan:
        async with self._changing:
            steps = plan(self.config, config)
            before, self._instances = self._instances, self._next_instances(steps)
            self._leaving = set(before.values()) - set(self._instances.values())
            self.config = config
            await self._arrange(steps.ports)
            stopped = {rule.name for rule in steps.stop}
            for instance in self._leaving:
                stop = instance.rule.name in stopped
                self._retire(instance, config.server.draintimeout if stop else math.inf)
            self._leaving = set()
            return steps

    def _next_instances(self, steps: Plan) -> dict[str, Instance]:
        instances = {rule.name: self._instances[rule.name] for rule in steps.keep}
        for was, rule in steps.change:
            if was.name == rule.name:
                instances[rule.name] = self._instances[rule.name]
                instances[rule.name].change(rule)
            else:
                instances[rule.name] = self._new_instance(rule)
        return instances | {rule.name: self._new_instance(rule) for rule in steps.start}

    def _new_instance(self, rule: Rule) -> Instance:
        # A rule that moves to another endpoint under its old name goes on counting.
        block = self._blocks.setdefault(rule.name, counters.new_block())
        return Instance(rule, block, self._around)

    async def _arrange(self, keys: Sequence[PortKey]) -> None:
        rules: dict[PortKey, list[Rule]] = {key: [] for key in keys}
        for rule in self.config.active:
            if port_key(rule) in rules:
                rules[port_key(rule)].append(rule)
        for key in keys:
            port = self._ports.get(key)
            if port is None:
                port = self._ports[key] = Port(*key, self.engine, self._resolver, self._shortage)
            await port.arrange(rules[key], self._instances)
            if not rules[key]:
                del self._ports[key]

    def _retire(self, instance: Instance, within: float) -> None:
        """Let the sessions of a rule that is gone end by themselves, ``within`` seconds at most."""
        self._retired.add(instance)
        self._on_idle()
        if instance in self._retired and within < math.inf:
            self._nursery.start_soon(self._end_after, instance, within)

    async def _end_after(self, instance: Instance, seconds: float) -> None:
        await trio.sleep(seconds)
        _abort(instance, Ended.DRAIN)

    async def _retry(self) -> None:
        """Try again to listen for rules that failed, ever more patiently; a new failure begins anew."""
        delay = RETRY_FIRST
        while not self._draining:
            if not self._errors:
                await self._failing.wait()
            with trio.move_on_after(delay):
                await self._failing.wait()
                self._failing = trio.Event()
                delay = RETRY_FIRST
                continue
            delay = min(2 * delay, RETRY_LAST)
            await self._listen_again()

    async def _listen_again(self) -> None:
        async with self._changing:
            if self._draining:
                return
            await self._arrange([key for key, port in self._ports.items() if port.errors])
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

    def _leads_back(self, address: str, family: Family, port: int) -> bool:
        there = self._ports.get((family, port))
        if there is None:
            return False
        return address in there.addresses or (family.wildcard in there.addresses and is_local(address))

    def _on_idle(self) -> None:
        gone = {instance for instance in self._retired if not instance.sessions}
        if gone:
            self._retired -= gone
            names = self._instances.keys() | {instance.rule.name for instance in self._retired}
            for name in {instance.rule.name for instance in gone} - names:
                del self._blocks[name]
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

    def _state(self, error: str) -> RuleState:
        if self._draining:
            return RuleState.DRAINING
        return RuleState.FAILED if error else RuleState.LISTENING

    def _all_instances(self) -> Iterator[Instance]:
        yield from self._instances.values()
        yield from self._leaving
        yield from self._retired


def _counted(instances: Sequence[Instance]) -> list[int]:
    """The counters that ``instances`` of one name share, with what their sessions have moved so far."""
    block = list(instances[0].block)
    for instance in instances:
        instance.add_live(block)
    return block


def _abort(instance: Instance, reason: Ended) -> None:
    for session in list(instance.sessions):
        session.abort(reason)
