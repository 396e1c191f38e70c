"""Rules come, change, go and come back; their numbers and counts stay what they should be."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from portproxy import counters
from portproxy.model import Config, Endpoint, Rule, RuleType
from portproxy.reasons import ConnectFailed
from portproxy.reconcile import plan
from portproxy.supervisor.services import Service, Services
from portproxy.supervisor.statuses import rule_statuses
from portproxy.tallies import BLOCKS, OWN, Tallies

ROWS = 3
NAMES = "abc"


def make(port: int, connectport: int) -> Rule:
    """Three ports bear the same name, as where a rule moves to another port."""
    return Rule(RuleType.V4TOV4, Endpoint("*", port), Endpoint("host", connectport), NAMES[port % 3])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    ports = draw(st.lists(st.integers(0, 8), max_size=3, unique_by=lambda port: port % 3))
    return Config(rules=tuple(make(port, draw(st.integers(1, 2))) for port in ports))


class Relaying(RuleBasedStateMachine):
    """Services, and workers that begin and end sessions in those that a supervisor has not retired."""

    def __init__(self) -> None:
        super().__init__()
        self.tallies = Tallies(ROWS)
        self.services = Services(self.tallies)
        self.config = Config()
        self.held: dict[str, list[Service]] = {}
        self.written: dict[str, int] = {}
        self.before: dict[str, int] = {}

    @rule(config=configs())
    def adopt(self, config: Config) -> None:
        """A change, up to where the rules that go have not been retired yet."""
        steps = plan(self.config, config)
        assert not self.services.lacks_room(len(steps.start))
        names = {each.name for each in config.rules}
        self.services.adopt(steps)
        self.config = config
        assert {name: service.rule for name, service in self.services.running.items()} == {
            each.name: each for each in config.rules
        }
        started = {self.services.running[each.name].number for each in steps.start}
        for number in started:
            assert sum(self.tallies.total(number)) == 0, "not zeroed"
        assert names == self.services.running.keys()

    @rule()
    def retire(self) -> None:
        leaving = set(self.services.leaving)
        busy = self.services.retire()
        assert busy == {service for service in leaving if self.active(service)}
        assert not self.services.leaving
        assert self.services.retired >= busy
        for service in leaving - busy:
            assert service.number == OWN

    @rule(data=st.data(), row=st.integers(1, ROWS - 1))
    def begin(self, data: st.DataObject, row: int) -> None:
        """A connection; one of a rule that is leaving was queued."""
        able = [*self.services.running.values(), *self.services.leaving]
        if able:
            service = data.draw(st.sampled_from(sorted(able, key=lambda each: each.number)))
            block = self.tallies.block(service.number, row)
            block[counters.CONNECTIONS] += 1
            block[counters.ACTIVE] += 1
            name = service.rule.name
            self.written[name] = self.written.get(name, 0) + 1

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """The last session of a rule in a worker ends: it says so where the rule is retired."""
        places = [
            (service, row)
            for service in sorted(self.services.all(), key=lambda each: each.number)
            for row in range(1, ROWS)
            if self.tallies.block(service.number, row)[counters.ACTIVE]
        ]
        if places:
            service, row = data.draw(st.sampled_from(places))
            number = service.number
            self.finish(self.tallies.block(number, row))
            if service in self.services.retired:
                self.services.note_idle(number)
                assert (service in self.services.retired) == bool(
                    service.number != OWN and self.active(service)
                )

    @rule(number=st.integers(OWN, 9))
    def idle_again(self, number: int) -> None:
        """Said late, or of another that had the number."""
        self.services.note_idle(number)

    @rule(row=st.integers(1, ROWS - 1))
    def lose_a_worker(self, row: int) -> None:
        blocks = [self.tallies.block(service.number, row) for service in self.services.all()]
        in_hand = sum(block[counters.ACTIVE] for block in blocks)
        assert self.services.write_off(row) == in_hand
        assert not any(block[counters.ACTIVE] for block in blocks)
        assert self.services.write_off(row) == 0

    @rule()
    def begin_a_status(self) -> None:
        """One made by turns: what it is of is settled, and nothing is read yet."""
        self.held = {}
        for service in self.services.all():
            self.held.setdefault(service.rule.name, []).append(service)

    @invariant()
    def a_status_counts_everything_once(self) -> None:
        """However much is let go meanwhile, by whoever bears the name yet."""
        for name, alike in self.held.items():
            here = [service for service in self.services.all() if service.rule.name == name]
            both = self.services.counted([*alike, *here])[counters.CONNECTIONS]
            assert both == (self.written.get(name, 0) if here else 0)

    @rule()
    def everyone_leaves(self) -> None:
        """As a drain does: when all have ended and it was said of each, nobody is waited for."""
        self.services.await_idle(self.services.running.values())
        waited_for = dict(self.services.busy)
        assert waited_for.keys() == {
            service.number
            for service in (*self.services.running.values(), *self.services.retired)
            if self.active(service)
        }
        for number in waited_for:
            for row in range(1, ROWS):
                self.finish(self.tallies.block(number, row))
                self.services.note_idle(number)
        assert not self.services.busy
        assert not self.services.retired

    def finish(self, block: memoryview) -> None:
        block[counters.ENDED] += block[counters.ACTIVE]
        block[counters.ACTIVE] = 0

    def active(self, service: Service) -> int:
        return sum(self.tallies.block(service.number, row)[counters.ACTIVE] for row in range(ROWS))

    @invariant()
    def numbers_are_one_s_own(self) -> None:
        alive = [service.number for service in self.services.all()]
        assert len(set(alive)) == len(alive)
        assert OWN not in alive
        assert set(alive).isdisjoint(self.services._free)
        assert len(alive) + len(self.services._free) == self.services._next - 1 - OWN

    @invariant()
    def freed_blocks_are_zero(self) -> None:
        for number in self.services._free:
            assert sum(self.tallies.total(number)) == 0

    @invariant()
    def retired_are_busy(self) -> None:
        for service in self.services.retired:
            assert self.services.busy[service.number] is service
            assert self.active(service)

    @invariant()
    def totals_by_name_add_up(self) -> None:
        """What was written under a name is there for as long as a rule bears it."""
        statuses = list(rule_statuses(self.config, self.services, {}, draining=False))
        assert len({status.rule.name for status in statuses}) == len(statuses)
        now = {status.rule.name: status.block[counters.CONNECTIONS] for status in statuses}
        for name in NAMES:
            if name not in now:  # nobody bears it, so it begins anew
                self.written.pop(name, None)
                self.before.pop(name, None)
        assert now == {name: self.written.get(name, 0) for name in now}
        assert all(now[name] >= count for name, count in self.before.items())
        self.before = now


def test_rules_come_and_go() -> None:
    run_state_machine_as_test(Relaying)


def test_what_a_retired_rule_counted_goes_to_the_one_that_is_left_of_its_name() -> None:
    """Two rules of one name have come and gone, and nobody bears it now but they."""
    tallies = Tallies(2)
    services = Services(tallies)
    configs = [Config(), Config(rules=(make(1, 1),)), Config(rules=(make(4, 1),)), Config()]
    blocks = []
    for was, config in itertools.pairwise(configs):
        services.adopt(plan(was, config))
        services.retire()
        for service in services.running.values():
            blocks.append(tallies.block(service.number, 1))
            blocks[-1][counters.CONNECTIONS] = blocks[-1][counters.ACTIVE] = 1
    first, second = sorted(services.retired, key=lambda service: service.number)
    blocks[0][counters.ACTIVE] = 0
    services.note_idle(first.number)
    assert services.retired == {second}
    assert services.counted([first, second])[counters.CONNECTIONS] == 2


def test_a_rule_is_waited_for_until_it_is_idle_in_every_worker() -> None:
    tallies = Tallies(ROWS)
    services = Services(tallies)
    config = Config(rules=(make(1, 1),))
    services.adopt(plan(Config(), config))
    service = services.running["b"]
    workers = tallies.blocks(service.number)[1:]
    for block in workers:
        block[counters.ACTIVE] = 1
    services.adopt(plan(config, Config()))
    assert services.retire() == {service}
    workers[0][counters.ACTIVE] = 0
    services.note_idle(service.number)
    assert services.retired == {service}
    workers[1][counters.ACTIVE] = 0
    services.note_idle(service.number)
    assert services.retired == set()
    assert services.busy == {}


def test_a_changed_rule_counts_on_under_its_new_name() -> None:
    tallies = Tallies(2)
    services = Services(tallies)
    old = Config(rules=(make(1, 1),))
    services.adopt(plan(Config(), old))
    service = services.running["b"]
    tallies.block(service.number, 1)[counters.CONNECTIONS] = 5
    new = Config(rules=(replace(make(1, 1), name="new"),))
    services.adopt(plan(old, new))
    assert services.running == {"new": service}
    assert services.counted([service])[counters.CONNECTIONS] == 5
    assert services.retire() == set()


def test_room_is_asked_for_before_it_is_needed() -> None:
    services = Services(Tallies(1))
    assert not services.lacks_room(BLOCKS - 1)
    assert services.lacks_room(BLOCKS)
    rules = tuple(replace(make(port, 1), name=f"rule {port}") for port in range(BLOCKS - 1))
    services.adopt(plan(Config(), Config(rules=rules)))
    assert max(service.number for service in services.all()) == BLOCKS - 1
    assert not services.lacks_room(0)
    assert services.lacks_room(1)
    services.adopt(plan(Config(rules=rules), Config(rules=rules[2:])))
    assert services.lacks_room(1), "they may still get sessions"
    services.retire()
    assert not services.lacks_room(2)
    assert services.lacks_room(3)


def busy(services: Services, tallies: Tallies, name: str) -> memoryview:
    """A rule's block that has a session."""
    block = tallies.block(services.running[name].number, 1)
    block[counters.CONNECTIONS] += 1
    block[counters.ACTIVE] += 1
    return block


def test_a_dead_worker_s_sessions_are_lost_in_every_rule_and_nobody_waits_for_them() -> None:
    tallies = Tallies(ROWS)
    services = Services(tallies)
    old = Config(rules=(make(0, 1), make(1, 1), make(2, 1)))
    services.adopt(plan(Config(), old))
    blocks = [busy(services, tallies, name) for name in NAMES]
    others = tallies.block(services.running["c"].number, 2)
    others[counters.CONNECTIONS] = others[counters.ACTIVE] = 1
    retired, elsewhere = services.running["b"], services.running["c"]
    services.adopt(plan(old, Config(rules=(make(0, 1),))))
    assert services.retire() == {retired, elsewhere}
    services.await_idle(services.running.values())
    assert services.write_off(1) == 3
    assert [services.active(service) for service in services.all()] == [0, 1]
    assert services.retired == {elsewhere}
    assert list(services.busy.values()) == [elsewhere]
    assert blocks[0][counters.CONNECT_FAILED + ConnectFailed.WORKER_LOST.slot] == 1
    assert services.write_off(1) == 0
    assert services.write_off(2) == 1
    assert services.busy == {}
    assert services.retired == set()


@pytest.mark.parametrize("row", [None, 1])
def test_what_is_let_go_while_a_status_is_made_is_counted_by_its_heir_once(row: int | None) -> None:
    """Its last session ends, or is lost with its worker, before its rule's turn or after it."""
    for turns in range(4):
        tallies = Tallies(2)
        services = Services(tallies)
        configs = [Config(), *(Config(rules=(make(0, 1), make(port, 1))) for port in (1, 4, 7))]
        for was, config in itertools.pairwise(configs):
            services.adopt(plan(was, config))
            services.retire()
            busy(services, tallies, "b")
        statuses = rule_statuses(configs[-1], services, {}, draining=False)
        made = list(itertools.islice(statuses, turns))
        for service in list(services.retired):
            if row is None:
                tallies.block(service.number, 1)[counters.ACTIVE] = 0
                services.note_idle(service.number)
        if row is not None:
            services.write_off(row)
        assert services.retired == set()
        made += statuses
        assert [status.rule.name for status in made] == ["a", "b"]
        assert [status.block[counters.CONNECTIONS] for status in made] == [0, 3]
        assert services.counted([services.running["b"]])[counters.CONNECTIONS] == 3


def test_an_heir_that_is_let_go_itself_hands_on_what_it_had() -> None:
    tallies = Tallies(2)
    services = Services(tallies)
    configs = [Config(), *(Config(rules=(make(port, 1),)) for port in (1, 4, 7))]
    held = []
    for was, config in itertools.pairwise(configs):
        services.adopt(plan(was, config))
        tallies.block(services.running["b"].number, 1)[counters.CONNECTIONS] += 1
        held.append(services.running["b"])
        services.retire()
    assert [services.counted(held[: number + 1])[counters.CONNECTIONS] for number in range(3)] == [3] * 3
    # Where nobody is left of the name, nobody has counted anything.
    services.adopt(plan(configs[-1], Config()))
    services.retire()
    assert sum(services.counted(held)) == 0
