"""Several workers, each a process: kept alive, kept alike, and their losses counted."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from portproxy import counters
from portproxy.errors import StartError
from portproxy.log import Log
from portproxy.model import Rule, Server
from portproxy.net.user import User
from portproxy.snapshot import SessionStatus
from portproxy.tallies import OWN, Tallies
from portproxy.wire import worker_frames as wire
from portproxy.workers.member import Answer, Member, start

RESTART_FIRST = 0.5
RESTART_LAST = 30.0
"""Seconds until a worker that died is replaced: at once, then doubled from the first to the last, where each
died early."""
SETTLED = 60.0
"""Seconds after which a death is not an early one."""
OBEY = 10.0
"""Seconds a worker has to carry out a change; one that does not is stuck, and ended."""
ANSWER = 1.0
"""Seconds a worker has to answer a question; after that the others' answers have to do. Whoever asks for our
health does not wait for much longer."""
LEAVE = 5.0
"""Seconds a worker has to end when it is told to."""
OFFER_AGAIN = 5.0
"""Seconds until a listening socket is offered again to a worker that had no descriptor for it."""


@dataclass(slots=True)
class _State:
    """What every worker has been told so far: a new one is told all of it."""

    rules: dict[int, Rule] = field(default_factory=dict)
    listening: dict[int, tuple[wire.Listening, socket.socket]] = field(default_factory=dict)

    def note(self, request: wire.Request) -> None:
        """Remember what ``request`` changes."""
        match request:
            case wire.Run():
                self.rules.update(request.begin)
                self.rules.update(request.change)
            case wire.Retire():
                for number in request.numbers:
                    del self.rules[number]

    def batches(self, numbers: Sequence[int]) -> Iterator[tuple[tuple[wire.Listening, socket.socket], ...]]:
        """These listening sockets, as many at a time as go with one message."""
        for first in range(0, len(numbers), wire.DESCRIPTORS):
            yield tuple(self.listening[number] for number in numbers[first : first + wire.DESCRIPTORS])


class Processes:
    """``server.workers`` processes, which are ``user`` where one is given: see ``Crew``.

    ``on_idle`` hears the numbers of retired rules that have no session left in one worker, ``on_loss`` that
    what a dead worker had in hand is counted as lost.
    """

    def __init__(
        self,
        server: Server,
        user: User | None,
        tallies: Tallies,
        log: Log,
        on_idle: Callable[[int], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._server = server
        self._user = user
        self._tallies = tallies
        self._log = log
        self._on_idle = on_idle
        self._on_loss = on_loss
        self._state = _State()
        self._members: dict[int, Member] = {}
        self._serials = itertools.count(1)
        self._deaths = 0
        self._changing = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the workers until cancelled, and end them then; started once all are there.

        Raises StartError where one does not come up the first time.
        """
        try:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as starting:
                    for row in range(1, self._server.workers + 1):
                        starting.start_soon(nursery.start, self._keep, row)
                nursery.start_soon(self._offer_again)
                task_status.started()
        finally:
            for listening in list(self._state.listening):
                self._forget(listening)
            self._tallies.close()

    @property
    def size(self) -> int:
        """How many workers there are to be."""
        return self._server.workers

    @property
    def missing(self) -> int:
        """How many of them are not there."""
        return self._server.workers - len(self._members)

    @property
    def deaths(self) -> int:
        """How many have died so far."""
        return self._deaths

    @property
    def pids(self) -> list[int]:
        """The processes, in the order of their rows."""
        return [self._members[row].pid for row in sorted(self._members)]

    async def grow(self) -> None:
        """Have another segment of counters, in every worker."""
        async with self._changing:
            self._tallies.grow()
            await self._all(wire.Grow(), self._tallies.descriptors[-1:])

    async def tell(self, request: wire.Request) -> None:
        """Have every worker do as ``request`` says, now and when it is replaced."""
        async with self._changing:
            self._state.note(request)
            await self._all(request)

    async def ask(self, request: wire.Request) -> list[wire.Reply]:
        """What the workers say who answer in time."""
        encoded = wire.encode_request(request)
        replies = await _answered([member.send(encoded) for member in self._members.values()])
        return [reply for reply in replies if reply]

    async def serve(
        self, known: Sequence[wire.Listening], new: Sequence[tuple[wire.Listening, socket.socket]]
    ) -> Mapping[int, int]:
        """Accept on these; see ``Crew``."""
        async with self._changing:
            listening = self._state.listening
            for item in known:
                listening[item.number] = (item, listening[item.number][1])
            listening.update({item.number: (item, sock) for item, sock in new})
            if known:
                await self._all(wire.Serve(known=tuple(known)))
            nowhere = await self._offer(self._members, [item.number for item, _ in new])
            for number in nowhere:
                self._forget(number)
            return nowhere

    async def release(self, numbers: Sequence[int]) -> None:
        """Accept what is queued on these and close them.

        A queue is reset with the last descriptor of its socket, so one worker has them alone before it
        accepts what is left.
        """
        async with self._changing:
            rows = sorted(self._members)
            others, last = ({row: self._members[row] for row in part} for part in (rows[1:], rows[:1]))
            await self._obeyed(others, wire.Release(tuple(numbers), last=False))
            for number in numbers:
                self._forget(number)
            await self._obeyed(last, wire.Release(tuple(numbers), last=True))

    async def sessions(self, rule: str | None) -> tuple[SessionStatus, ...]:
        """The sessions of the rule of this name, or of all; a worker's serial number is part of their ids."""
        members = list(self._members.values())
        request = wire.encode_request(wire.Sessions(rule, time.monotonic()))
        replies = await _answered([member.send(request) for member in members])
        found = [
            replace(status, id=f"{member.serial}.{status.id}")
            for member, reply in zip(members, replies, strict=True)
            if isinstance(reply, wire.Found)
            for status in reply.sessions
        ]
        return tuple(sorted(found, key=lambda status: -status.age))

    async def kill(self, id: str) -> SessionStatus | None:
        """Reset both sides of a session."""
        serial, _, number = id.partition(".")
        members = [member for member in self._members.values() if str(member.serial) == serial]
        request = wire.encode_request(wire.Kill(number))
        for reply in await _answered([member.send(request) for member in members]):
            if isinstance(reply, wire.Found) and reply.sessions:
                return replace(reply.sessions[0], id=id)
        return None

    # One process after another, in each row.

    async def _keep(self, row: int, *, task_status: trio.TaskStatus[None]) -> None:
        began, delay = trio.current_time(), 0.0
        joined = False

        def on_join() -> None:
            nonlocal joined
            joined = True
            task_status.started()

        try:
            fate = await self._live(row, on_join)
        except OSError as error:
            raise StartError(f"worker {row} cannot be started: {error.strerror or error}") from None
        if not joined:
            raise StartError(f"worker {row} ended while it started: {fate}")
        while True:
            if trio.current_time() - began >= SETTLED:
                delay = 0.0
            await trio.sleep(delay)
            delay = min(max(2 * delay, RESTART_FIRST), RESTART_LAST)
            began = trio.current_time()
            try:
                await self._live(row, lambda: None)
            except OSError as error:
                why = error.strerror or str(error)
                self._log.error("a worker cannot be started", worker=row, error=why, again=f"{delay:g}s")

    async def _live(self, row: int, on_join: Callable[[], None]) -> str:
        """One process, from its start to its end: how that came. Raises OSError if there can be none."""
        member = await start(next(self._serials), self._user)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._join, row, member, on_join)
                await member.run(self._on_idle)
                nursery.cancel_scope.cancel()
        except BaseException:  # a cancellation, by itself or in a group
            self._tallies.block(OWN, 0)[counters.STOPPING] = 1
            raise
        finally:
            self._members.pop(row, None)
            await member.end(LEAVE)
            lost = self._write_off(row)
        self._deaths += 1
        self._log.error(
            "a worker died",
            worker=row,
            pid=member.pid,
            fate=member.fate,
            sessions_lost=lost,
            lines_lost=self._write_off_lines(row),
        )
        self._on_loss()
        return member.fate

    async def _join(self, row: int, member: Member, on_join: Callable[[], None]) -> None:
        """Tell a new process all that the others were told, and count it in."""
        async with self._changing:
            here = {row: member}
            setup = wire.Setup(self._server, row, self._tallies.rows)
            await self._obeyed(here, setup, self._tallies.descriptors)
            (done,) = await self._obeyed(here, wire.Run(tuple(self._state.rules.items())))
            if done:
                await self._offer(here, list(self._state.listening))
                self._members[row] = member
                on_join()
                self._log.info("a worker relays", worker=row, pid=member.pid)

    def _write_off(self, row: int) -> int:
        """Count what the process of ``row`` had in hand as lost: how many sessions."""
        blocks = (self._tallies.block(number, row) for number in range(OWN + 1, self._tallies.size))
        return sum(counters.write_off(block) for block in blocks if block[counters.CONNECTIONS])

    def _write_off_lines(self, row: int) -> int:
        """Count the log lines that the process of ``row`` had not written yet as lost: how many."""
        own = self._tallies.block(OWN, row)
        lost = own[counters.WAITING]
        own[counters.WAITING] = 0
        own[counters.LOST_EVENTS if self._server.accesslog is None else counters.LOST_RECORDS] += lost
        return lost

    # What several are asked at once.

    async def _all(self, request: wire.Request, descriptors: Sequence[int] = ()) -> None:
        await self._obeyed(self._members, request, descriptors)

    async def _obeyed(
        self, members: Mapping[int, Member], request: wire.Request, descriptors: Sequence[int] = ()
    ) -> list[wire.Reply | None]:
        """What ``members`` answer who carry out ``request``; who does not in time is ended."""
        asked, encoded = list(members.items()), wire.encode_request(request)
        answers = [member.send(encoded, descriptors) for _, member in asked]
        replies = await _answered(answers, OBEY)
        for (row, member), answer in zip(asked, answers, strict=True):
            if not answer.arrived.is_set():
                self._log.error("a worker does not obey; it is killed", worker=row, pid=member.pid)
                member.process.kill()
        return replies

    async def _offer(self, members: Mapping[int, Member], numbers: Sequence[int]) -> Mapping[int, int]:
        """Have ``members`` accept on these listening sockets; the errno of each that none of them could take.

        A worker that is gone could not say so: its successor is asked again.
        """
        failed: dict[int, int] = {}
        taken: set[int] = set()
        members = dict(members)  # some may die meanwhile
        for batch in self._state.batches(numbers):
            request = wire.Serve(new=tuple(item for item, _ in batch))
            replies = await self._obeyed(members, request, [sock.fileno() for _, sock in batch])
            for member, reply in zip(members.values(), replies, strict=True):
                if isinstance(reply, wire.Served):
                    member.lacking |= set(reply.missing)
                    failed |= dict.fromkeys(reply.missing, reply.error)
                    taken |= {item.number for item, _ in batch} - member.lacking
        return {number: error for number, error in failed.items() if number not in taken}

    async def _offer_again(self) -> None:
        while True:
            await trio.sleep(OFFER_AGAIN)
            for row, member in list(self._members.items()):
                if member.lacking:
                    async with self._changing:
                        numbers, member.lacking = list(member.lacking & self._state.listening.keys()), set()
                        await self._offer({row: member}, numbers)

    def _forget(self, number: int) -> None:
        if found := self._state.listening.pop(number, None):
            found[1].close()


async def _answered(answers: Sequence[Answer], within: float = ANSWER) -> list[wire.Reply | None]:
    """What came within so many seconds, and None for what did not."""
    with trio.move_on_after(within):
        for answer in answers:
            await answer.arrived.wait()
    return [answer.reply for answer in answers]
