"""One run of the benchmark: what every group of measures is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figures
from benchmarks.pinning import Pinning
from benchmarks.processes import Address, Process, free_port, until_idle, until_listening
from benchmarks.relays import Place, Relay

DIRECT = "direct"
"""The subject that is no relay: the client at the service itself."""


class Way(NamedTuple):
    """Where a client connects; ``process`` is the relay on the way, if there is one."""

    address: Address
    process: Process | None

    def cpu_seconds(self) -> float:
        """Of the relay, 0 where there is none."""
        return self.process.cpu_seconds() if self.process else 0.0


@dataclass
class Run:
    """``relays``: the subjects, installed ones only. ``seconds``: the length of one timed step."""

    directory: Path
    figures: Figures
    pinning: Pinning
    relays: Sequence[Relay]
    seconds: float = 3.0
    quick: bool = False
    round: int = 0

    def turn(self) -> list[Relay]:
        """The relays, each round with another of them first."""
        first = self.round % max(len(self.relays), 1)
        return [*self.relays[first:], *self.relays[:first]]

    def few(self) -> list[Relay]:
        """As ``turn``; in quick mode this relay and the first peer, for what is much like another step."""
        return list(self.relays[:2]) if self.quick else self.turn()

    def place(self, connect: Address, host: str = "::1", access_log: bool = False) -> Place:
        """Where a relay is put that listens on a free port of ``host``; its access log is begun anew."""
        log = self.directory / "access.log"
        log.unlink(missing_ok=True)
        listen = host, free_port(host)
        return Place(self.directory, listen, connect, self.pinning.relay, log if access_log else None)

    @contextlib.contextmanager
    def through(
        self, relay: Relay | None, connect: Address, host: str = "::1", access_log: bool = False
    ) -> Iterator[Way]:
        """A way to ``connect`` through a relay that listens on ``host``, or straight for None."""
        if relay is None:
            yield Way(connect, None)
            return
        place = self.place(connect, host, access_log)
        with relay.start(place) as process:
            until_listening(process, *place.listen)
            until_idle(process)
            yield Way(place.listen, process)

    @contextlib.contextmanager
    def noting(self, measure: str, subject: str) -> Iterator[None]:
        """Where the body fails, that is noted, and the run goes on."""
        try:
            yield
        except Exception as error:
            self.figures.fail(measure, subject, _why(error))

    def load(self, *words: str, name: str, check: bool = True) -> str:
        """What a client prints that ends by itself. RuntimeError as Process.wait has it."""
        with Process(words, self.directory / f"{name}.log", self.pinning.load) as client:
            return client.wait(self.seconds * 2 + 30, check)


def _why(error: Exception) -> str:
    """One line. The benchmark's own errors, and the system's, say enough without their types."""
    said = " ".join(str(error).split())
    if said and isinstance(error, RuntimeError | OSError):
        return said
    return ": ".join(filter(None, (type(error).__name__, said)))
