"""Hundreds of random sessions at once in a running engine: every byte compared, every ledger adds up."""

from __future__ import annotations

import random
import socket
from collections import Counter
from contextlib import suppress
from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from portproxy.dataplane.base import Ledger, Outcome
from portproxy.model import DataPlaneChoice
from portproxy.reasons import Ended
from tests.contract.rig import Rig, Session, noise, reset

SESSIONS = 300
AT_ONCE = 100
LARGEST = 1 << 20
NOISE = noise(LARGEST + 4096)
FAMILIES = (socket.AF_INET, socket.AF_INET6)
SIDES = ("client", "server")


class Player:
    """Plays one random session to its end."""

    def __init__(self, session: Session, seed: int) -> None:
        self._session = session
        self._random = random.Random(seed)
        self._sent: dict[str, bytes] = {}
        self._got = {side: bytearray() for side in SIDES}
        for side in SIDES:
            size = self._random.choice([0, 1, 100, 70_000, 300_000, LARGEST])
            start = self._random.randrange(4096)
            self._sent[side] = NOISE[start : start + size]
        self._resetter = self._random.choice(["", "", *SIDES])
        self._expected = (OSError,) if self._resetter else ()

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            for side in SIDES:
                nursery.start_soon(self._take_part, side)

    async def _take_part(self, side: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, side)
            nursery.start_soon(self._read, side)
            if side == self._resetter:
                for _ in range(self._random.randrange(40)):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        if side == self._resetter:
            reset(self._session.end(side))

    async def _write(self, side: str) -> None:
        sock = trio.socket.from_stdlib_socket(self._session.end(side))
        rest = memoryview(self._sent[side])
        with suppress(*self._expected):
            while rest:
                rest = rest[await sock.send(rest[: self._random.randint(1, 100_000)]) :]
                await self._dawdle()
            sock.shutdown(socket.SHUT_WR)

    async def _read(self, side: str) -> None:
        sock = trio.socket.from_stdlib_socket(self._session.end(side))
        with suppress(*self._expected):
            while chunk := await sock.recv(self._random.randint(1, 200_000)):
                self._got[side] += chunk
                await self._dawdle()

    async def _dawdle(self) -> None:
        if self._random.random() < 0.1:
            for _ in range(self._random.randrange(30)):
                await trio.lowlevel.checkpoint()

    def check(self) -> Ended:
        """What was received is what was sent, or its beginning where the session was reset."""
        outcome = self._session.outcome
        ledgers = {"client": outcome.up, "server": outcome.down}
        for side, other in zip(SIDES, reversed(SIDES), strict=True):
            sent, got = self._sent[side], bytes(self._got[other])
            assert sent.startswith(got)
            assert len(got) <= ledgers[side].delivered <= ledgers[side].accepted <= len(sent)
            if outcome.reason is Ended.FINISHED:
                assert ledgers[side] == Ledger(len(sent), len(sent), 0)
                if other != self._resetter:
                    assert len(got) == len(sent)
        allowed = {"": Ended.FINISHED, "client": Ended.CLIENT_RESET, "server": Ended.UPSTREAM_RESET}
        # A session may have finished before it was to be reset.
        assert outcome.reason in {allowed[self._resetter], Ended.FINISHED}
        return outcome.reason


async def run_all(rig: Rig) -> list[Player]:
    """Play every session, so many at once; they have all ended."""
    players: list[Player] = []
    slots = trio.Semaphore(AT_ONCE)
    random_ = random.Random(1)

    async def play(session: Session, ended: trio.Event) -> None:
        players.append(Player(session, len(players)))
        await players[-1].play()
        await ended.wait()
        slots.release()

    async with trio.open_nursery() as nursery:
        for _ in range(SESSIONS):
            await slots.acquire()
            session = rig.open(
                families=(random_.choice(FAMILIES), random_.choice(FAMILIES)),
                buffers=random_.choice([None, None, 4096, 65536]),
            )
            ended = trio.Event()
            dataplane, pipesize = random_.choice(list(DataPlaneChoice)), random_.choice([1 << 16, 1 << 20])
            rig.begin(session, dataplane, pipesize=pipesize, on_end=partial(_set, ended))
            nursery.start_soon(play, session, ended)
    return players


def _set(event: trio.Event, _: Outcome) -> None:
    event.set()


async def test_random_sessions(rig: Rig) -> None:
    async with rig.running():
        with trio.fail_after(60):
            players = await run_all(rig)
        await wait_all_tasks_blocked()
        turns = rig.engine.turns
        await wait_all_tasks_blocked()
        assert rig.engine.turns == turns
    reasons = Counter(player.check() for player in players)
    assert set(reasons) == {Ended.FINISHED, Ended.CLIENT_RESET, Ended.UPSTREAM_RESET}
    assert reasons[Ended.FINISHED] >= SESSIONS // 3
