"""What workers have been told: whoever comes later is told all of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from portproxy.model import Rule
from portproxy.wire import worker_frames as wire


@dataclass(slots=True)
class State:
    """The rules that run, and the sockets that are listened on, by their numbers."""

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
                    self.rules.pop(number, None)

    def batches(self, numbers: Sequence[int]) -> Iterator[tuple[tuple[wire.Listening, socket.socket], ...]]:
        """These listening sockets, as many at a time as go with one message."""
        for first in range(0, len(numbers), wire.DESCRIPTORS):
            yield tuple(self.listening[number] for number in numbers[first : first + wire.DESCRIPTORS])
