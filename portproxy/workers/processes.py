"""Several workers, each a process: kept alive, kept alike, and their losses counted."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import trio

from portproxy import counters
from portproxy.errors import PortproxyError, StartError
from portproxy.log import Log
from portproxy.model import Server
from portproxy.net.listeners import accept_queued
from portproxy.net.user import User
from portproxy.reasons import Ended
from portproxy.snapshot import SessionStatus
from portproxy.tallies import OWN, Tallies
from portproxy.wire import worker_frames as wire
from portproxy.workers.member import Answer, Member, start
from portproxy.workers.state import State

RESTART_FIRST = 0.5
RESTART_LAST = 30.0
"""Seconds until a worker that died is replaced: at once, then doubled from the first to the last, where each
died early."""
SETTLED = 60.0
"""Seconds after which a death is not an early one."""
START = 60.0
"""Seconds a new process has until it answers: many may start at once."""
OBEY = 10.0
"""Seconds a worker has to carry out a change; one that does not is stuck, and ended."""
HURRY = 3.0
"""The same once the relay stops."""
ANSWER = 1.0
"""Seconds a worker has to answer a question; after that the others' answers have to do. Whoever asks for our
health does not wait for much longer."""
LEAVE = 5.0
"""Seconds a worker has to end when it is told to."""
LOOK = 5.0
"""Seconds between looks at the workers: whether each answers, and by now has a descriptor for the listening
sockets that it had none for."""


class Processes:
    """``server.workers`` processes, which are ``user`` where one is given: see ``Crew``.

    ``tallies`` map the memory ``shared``, a descriptor that is taken over. ``on_idle`` hears the numbers of
    retired rules that have no session left in one worker. ``write_off`` counts the sessions that a dead
    worker's row has in hand as lost, and says how many there were.
    """

    def __init__(
        self,
        server: Server,
        user: User | None,
        tallies: Tallies,
        shared: int,
        log: Log,
        on_idle: Callable[[int], None],
        write_off: Callable[[int], int],
    ) -> None:
        self._server = server
        self._user = user
        self._tallies = tallies
        self._shared = shared
        self._log = log
        self._on_idle = on_idle
        self._write_off = write_off
        self._state = State()
        self._members: dict[int, Member] = {}
        self._serials = itertools.count(1)
        self._deaths = 0
        self._changing = trio.Lock()
        self._patience = OBEY
        self._stopping = trio.CancelScope()
        self._stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the workers until cancelled or stopped, and end them then; started once all are there.

        Raises StartError where one does not come up the first time.
        """
        try:
            with self._stopping:
                async with trio.open_nursery() as nursery:
                    async with trio.open_nursery() as starting:
                        for row in range(1, self._server.workers + 1):
                            starting.start_soon(nursery.start, self._keep, row)
                    nursery.start_soon(self._look_after)
                    task_status.started()
        finally:
            for listening in list(self._state.listening):
                self._forget(listening)
            os.close(self._shared)
            self._stopped.set()

    def hurry(self) -> None:
        """Have less patience from now on."""
        self._patience = HURRY

    async def stop(self) -> None:
        """End the workers, and wait until all that they leave is counted."""
        self._stopping.cancel()
        await self._stopped.wait()

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

    async def tell(self, request: wire.Request) -> None:
        """Have every worker do as ``request`` says, now and when it is replaced."""
        async with self._changing:
            self._state.note(request)
            await self._all(request)

    async def ask(self, request: wire.Request) -> list[wire.Reply]:
        """What the workers say who answer in time; who owes an answer for long is stuck, and ended."""
        encoded, now = wire.encode_request(request), trio.current_time()
        answers = []
        for row, member in self._members.items():
            if member.waiting_since is None or now - member.waiting_since < ANSWER:
                answers.append(member.send(encoded))
            elif now - member.waiting_since > OBEY:
                self._give_up(row, member, now - member.waiting_since)
        return [reply for reply in await _answered(answers) if reply]

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
        """Accept what is queued on these and close them; see ``Crew``.

        The queue of a socket is reset with its last descriptor. That one is ours: what has come since the
        workers accepted, or what one that died held up, is accepted here and handed to one that lives.
        """
        async with self._changing:
            await self._all(wire.Release(tuple(numbers)))
            for number in numbers:
                await self._hand_over(*self._state.listening.pop(number))
            for member in self._members.values():
                member.lacking.difference_update(numbers)

    async def _hand_over(self, listening: wire.Listening, listener: socket.socket) -> None:
        """Close ``listener``; a worker that lives adopts what is queued on it."""
        while listener.fileno() >= 0:
            with ExitStack() as ours:
                accepted = [ours.enter_context(sock) for sock in accept_queued(listener, wire.DESCRIPTORS)]
                if len(accepted) < wire.DESCRIPTORS or not self._members:
                    listener.close()
                if accepted:
                    await self._adopted(wire.Adopt(listening), [sock.fileno() for sock in accepted])

    async def _adopted(self, request: wire.Adopt, descriptors: Sequence[int]) -> None:
        for row, member in list(self._members.items()):
            if any(await self._obeyed({row: member}, request, descriptors)):
                return

    async def end(self, reason: Ended) -> None:
        """Reset every session now."""
        encoded = wire.encode_request(wire.End(reason))
        asked = [(row, member, member.send(encoded)) for row, member in self._members.items()]
        await self._judged(asked, ANSWER)

    async def sessions(self, rule: str | None) -> tuple[SessionStatus, ...]:
        """The sessions of the rule of this name, or of all; a worker's serial number is part of their ids."""
        members = list(self._members.values())
        request = wire.encode_request(wire.Sessions(rule, time.monotonic()))
        replies = await _answered([member.send(request) for member in members])
        found: list[SessionStatus] = []
        for member, reply in zip(members, replies, strict=True):
            if not isinstance(reply, wire.Found):
                raise _silent(member)
            found += [replace(status, id=f"{member.serial}.{status.id}") for status in reply.sessions]
        return tuple(sorted(found, key=lambda status: -status.age))

    async def kill(self, id: str) -> SessionStatus | None:
        """Reset both sides of a session."""
        serial, _, number = id.partition(".")
        for member in self._members.values():
            if str(member.serial) == serial:
                request = wire.encode_request(wire.Kill(number))
                (reply,) = await _answered([member.send(request)])
                if not isinstance(reply, wire.Found):
                    raise _silent(member)
                return replace(reply.sessions[0], id=id) if reply.sessions else None
        return None

    # One process after another, in each row.

    async def _keep(self, row: int, *, task_status: trio.TaskStatus[None]) -> None:
        joined = False

        def on_join() -> None:
            nonlocal joined
            joined = True
            task_status.started()

        began, delay = trio.current_time(), 0.0
        try:
            last_words = await self._live(row, on_join)
        except OSError as error:
            raise StartError(f"worker {row} cannot be started: {error.strerror or error}") from None
        if not joined:
            raise StartError(f"worker {row} ended while it started: {last_words['fate']}")
        while True:
            if trio.current_time() - began >= SETTLED:
                delay = 0.0
            self._deaths += 1
            self._log.error("a worker died", worker=row, **last_words, again=f"{delay:g}s")
            await trio.sleep(delay)
            delay = min(max(2 * delay, RESTART_FIRST), RESTART_LAST)
            began = trio.current_time()
            last_words = await self._restart(row, delay)

    async def _restart(self, row: int, delay: float) -> dict[str, object]:
        """One more process; where there can be none it is tried again after ``delay`` seconds, and longer."""
        while True:
            try:
                return await self._live(row, lambda: None)
            except OSError as error:
                why = error.strerror or str(error)
                self._log.error("a worker cannot be started", worker=row, error=why, again=f"{delay:g}s")
            await trio.sleep(delay)
            delay = min(2 * delay, RESTART_LAST)

    async def _live(self, row: int, on_join: Callable[[], None]) -> dict[str, object]:
        """One process, from its start to its end: what is said of that. Raises OSError without one."""
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
            lost = {"sessions_lost": self._write_off(row), "lines_lost": self._write_off_lines(row)}
        return {"pid": member.pid, "fate": member.fate, **lost}

    async def _join(self, row: int, member: Member, on_join: Callable[[], None]) -> None:
        """Tell a new process all that the others were told, and count it in."""
        here = {row: member}
        setup = wire.encode_request(wire.Setup(self._server, row, self._tallies.rows))
        await self._judged([(row, member, member.send(setup, [self._shared]))], START)
        async with self._changing:
            (done,) = await self._obeyed(here, wire.Run(tuple(self._state.rules.items())))
            if done:
                await self._offer(here, list(self._state.listening))
                self._members[row] = member
                on_join()
                self._log.info("a worker relays", worker=row, pid=member.pid, sessions=f"{member.serial}.*")

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
        encoded = wire.encode_request(request)
        return await self._judged(
            [(row, member, member.send(encoded, descriptors)) for row, member in members.items()]
        )

    async def _judged(
        self, asked: Sequence[tuple[int, Member, Answer]], within: float | None = None
    ) -> list[wire.Reply | None]:
        within = self._patience if within is None else within
        replies = await _answered([answer for *_, answer in asked], within)
        for row, member, answer in asked:
            if not answer.arrived.is_set():
                self._give_up(row, member, within)
                # It holds its sockets until then.
                await member.process.wait()
        return replies

    def _give_up(self, row: int, member: Member, after: float) -> None:
        self._log.error("a worker does not answer; it is killed", worker=row, pid=member.pid)
        member.give_up(f"no answer for {after:.0f} s")

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
                    offered = {item.number for item, _ in batch}
                    missing = offered.intersection(reply.missing)
                    member.lacking |= missing
                    failed |= dict.fromkeys(
                        missing, reply.error if reply.error in errno.errorcode else errno.EIO
                    )
                    taken |= offered - missing
        return {number: error for number, error in failed.items() if number not in taken}

    async def _look_after(self) -> None:
        while True:
            await trio.sleep(LOOK)
            await self.ask(wire.Publish())
            for row, member in list(self._members.items()):
                if member.lacking:
                    async with self._changing:
                        numbers, member.lacking = list(member.lacking & self._state.listening.keys()), set()
                        await self._offer({row: member}, numbers)

    def _forget(self, number: int) -> None:
        if found := self._state.listening.pop(number, None):
            found[1].close()


def _silent(member: Member) -> PortproxyError:
    return PortproxyError(
        f"the worker with pid {member.pid} does not answer; one that stays silent is replaced: try again"
    )


async def _answered(answers: Sequence[Answer], within: float = ANSWER) -> list[wire.Reply | None]:
    """What came within so many seconds, and None for what did not."""
    with trio.move_on_after(within):
        for answer in answers:
            await answer.arrived.wait()
    return [answer.reply for answer in answers]
