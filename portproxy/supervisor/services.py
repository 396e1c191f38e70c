"""The rules that run, by name, and what they have counted: those that are going away included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from portproxy import counters
from portproxy.model import Rule
from portproxy.reconcile import Plan
from portproxy.tallies import BLOCKS, OWN, Tallies


@dataclass(eq=False, slots=True)
class Service:
    """A running rule. ``number`` is that of its counters, by which workers know it.

    ``heir`` counts on from the totals of one that was let go.
    """

    number: int
    rule: Rule
    heir: Service | None = None


class Services:
    """``running`` has the rules of the configuration by their names, ``leaving`` those that it had before,
    ``retired`` those of them in which no session begins any more.

    ``busy`` has by number those whose last session is waited for.
    """

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._free: list[int] = []
        self._next = OWN + 1
        self.running: dict[str, Service] = {}
        self.leaving: set[Service] = set()
        self.retired: set[Service] = set()
        self.busy: dict[int, Service] = {}

    @property
    def numbers(self) -> int:
        """How many numbers are or were in use, from 0 on."""
        return self._next

    def lacks_room(self, more: int) -> bool:
        """Whether there are no counters for so many rules ``more``."""
        return self._next + more - len(self._free) > BLOCKS

    def adopt(self, steps: Plan) -> None:
        """Become what ``steps`` lead to."""
        before = self.running
        self.running = {rule.name: before[rule.name] for rule in steps.keep}
        for was, rule in steps.change:
            self.running[rule.name] = service = before[was.name]
            service.rule = rule
        for rule in steps.start:
            self.running[rule.name] = Service(self._take(), rule)
        self.leaving |= set(before.values()) - set(self.running.values())

    def retire(self) -> set[Service]:
        """No session begins any more in those that are leaving; those that have some yet."""
        busy = {service for service in self.leaving if self.active(service)}
        self.retired |= busy
        self._let_go(self.leaving - busy)
        self.leaving = set()
        self.await_idle(busy)
        return busy

    def await_idle(self, services: Iterable[Service]) -> None:
        """Add to ``busy`` those of ``services`` that are."""
        self.busy |= {service.number: service for service in services if self.active(service)}

    def note_idle(self, number: int) -> None:
        """A worker has no session of this one any more; perhaps none has."""
        service = self.busy.get(number)
        if service and not self.active(service):
            del self.busy[number]
            if service in self.retired:
                self.retired.remove(service)
                self._let_go([service])

    def all(self) -> Iterator[Service]:
        """Every rule that has sessions or may get some."""
        yield from self.running.values()
        yield from self.leaving
        yield from self.retired

    def active(self, service: Service) -> int:
        """How many sessions it has."""
        return sum(block[counters.ACTIVE] for block in self._tallies.blocks(service.number))

    def counted(self, services: Iterable[Service]) -> list[int]:
        """The sum of what these have counted, and the heirs of those that were let go."""
        total = list(_NOTHING)
        for service in {_counting(service) for service in services} - {None}:
            assert service
            counters.add(total, self._tallies.total(service.number))
        return total

    def write_off(self, row: int) -> int:
        """Count what the writer of this row had in hand as lost: how many sessions. It is dead."""
        lost = sum(counters.write_off(self._tallies.block(service.number, row)) for service in self.all())
        for number in list(self.busy):
            self.note_idle(number)
        return lost

    def _let_go(self, idle: Iterable[Service]) -> None:
        """Forget rules that are gone and ``idle``; who bears the name of one counts on from its totals."""
        heirs = {service.rule.name: service for service in self.retired}
        for service in idle:
            heir = self.running.get(service.rule.name) or heirs.get(service.rule.name)
            if heir:
                # The first row is the supervisor's own.
                counters.add(self._tallies.block(heir.number, 0), self._tallies.total(service.number))
            self._tallies.clear(service.number)
            self._free.append(service.number)
            # For whoever holds it still, as a status that is made by turns does.
            service.number, service.heir = OWN, heir

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1


def _counting(service: Service) -> Service | None:
    """Who counts for ``service`` by now."""
    at: Service | None = service
    while at and at.number == OWN:
        at = at.heir
    return at


_NOTHING = counters.new_block()
