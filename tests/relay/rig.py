"""A relay in the test's own process, or with two workers in processes of their own, and the far ends."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from portproxy.accesslog import Record
from portproxy.log import Event, Level, Log
from portproxy.metrics import RelayCollector
from portproxy.model import Config, Endpoint, Rule, RuleType, Server
from portproxy.net.resolver import Lookup, lookup
from portproxy.reasons import ConnectFailed, Ended, Reason, Refused
from portproxy.relay.instance import Instance
from portproxy.relay.worker import Worker
from portproxy.snapshot import Snapshot
from portproxy.supervisor import Supervisor
from portproxy.workers.alone import Alone
from portproxy.workers.processes import Processes

workers = 1
"""How many the relays of a test have: see conftest.py."""

PATIENCE = 60.0
"""Seconds until a test that waits for an event gives up; no test's outcome depends on less."""

_METRICS = {
    Refused: "portproxy_refused_total",
    ConnectFailed: "portproxy_connect_failures_total",
    Ended: "portproxy_sessions_ended_total",
}


# Below the range that the kernel takes local ports from: no client of ours can be sitting on it. Below those
# of the benchmark too; and each of the processes that test side by side has its own part.
_PART = 9600 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_FIRST = 10_200 + _PART * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_START = os.getpid() % 96 * 100 % _PART
_ports: Iterator[int] = itertools.cycle(
    [*range(_FIRST + _START, _FIRST + _PART), *range(_FIRST, _FIRST + _START)]
)


def free_port() -> int:
    """A port that nobody listens on, in either family, and that no other caller has been given."""
    for port in _ports:
        with (
            socket.socket(socket.AF_INET) as v4,
            socket.socket(socket.AF_INET6) as v6,
        ):
            v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                v4.bind(("0.0.0.0", port))
                v6.bind(("::", port))
            except OSError:
                continue
            return port
    raise AssertionError("cycle() never ends")


@contextmanager
def upstream(
    address: str = "127.0.0.1", port: int = 0, backlog: int = 128
) -> Iterator[trio.socket.SocketType]:
    """A listening socket that stands for the service behind a rule."""
    family, *_, sockaddr = socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0]
    with trio.socket.from_stdlib_socket(
        socket.create_server(sockaddr, family=family, backlog=backlog)
    ) as listener:
        yield listener


def port_of(listener: trio.socket.SocketType) -> int:
    port: int = listener.getsockname()[1]
    return port


def make_rule(connect: str = "127.0.0.1:1", type: RuleType = RuleType.V4TOV4, **options: Any) -> Rule:
    """A rule on a free port of the loopback address, to ``connect``."""
    host, _, port = connect.rpartition(":")
    listen = Endpoint(type.listen_family.loopback, free_port())
    values: dict[str, Any] = {"type": type, "listen": listen, "name": "rule", **options}
    return Rule(connect=Endpoint(host.strip("[]"), int(port)), **values)


def to(listener: trio.socket.SocketType, **options: Any) -> Rule:
    """A rule to ``listener``."""
    host, port = listener.getsockname()[:2]
    connect_family = "v6" if ":" in host else "v4"
    type = options.pop("type", RuleType(f"v4to{connect_family}"))
    return make_rule(f"[{host}]:{port}", type, **options)


def dial(rule: Rule, source: str | None = None) -> trio.socket.SocketType:
    """A client's connection to the rule's listener."""
    host = rule.bind_address if not rule.wildcard else rule.type.listen_family.loopback
    return dial_endpoint(host, rule.listen.port, source)


def dial_endpoint(host: str, port: int, source: str | None = None) -> trio.socket.SocketType:
    """A client's connection to ``host`` and ``port``, from ``source`` where that is given."""
    # Blocks, but no longer than the loopback interface takes; and the relay, whose loop stands still
    # meanwhile, cannot reset it before it is there.
    sock = socket.create_connection((host, port), source_address=(source, 0) if source else None)
    return trio.socket.from_stdlib_socket(sock)


async def receive_all(sock: trio.socket.SocketType) -> bytes:
    """What comes before the end of stream."""
    got = bytearray()
    while chunk := await sock.recv(1 << 16):
        got += chunk
    return bytes(got)


async def send_all(sock: trio.socket.SocketType, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[await sock.send(rest) :]


async def was_reset(sock: trio.socket.SocketType) -> bool:
    """Whether what ends the stream is a reset, not an end of stream."""
    try:
        await receive_all(sock)
    except ConnectionResetError:
        return True
    return False


def reset(sock: trio.socket.SocketType) -> None:
    """Close ``sock`` by RST (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def echo(listener: trio.socket.SocketType) -> None:
    """Serve ``listener`` until cancelled: every connection gets back what it sends."""

    async def one(sock: trio.socket.SocketType) -> None:
        with sock:
            try:
                while chunk := await sock.recv(1 << 16):
                    await send_all(sock, chunk)
            except OSError:
                return

    async with trio.open_nursery() as nursery:
        while True:
            sock, _ = await listener.accept()
            nursery.start_soon(one, sock)


async def round_trip(sock: trio.socket.SocketType, data: bytes = b"ping") -> None:
    """Send ``data`` and have it back."""
    await send_all(sock, data)
    got = b""
    while len(got) < len(data):
        chunk = await sock.recv(len(data) - len(got))
        assert chunk, "end of stream instead of an echo"
        got += chunk
    assert got == data


class Relay:
    """A supervisor with everything it says kept."""

    def __init__(self, draintimeout: float = 30.0, lookup: Lookup = lookup) -> None:
        self.records: list[Record] = []
        self.records_of: defaultdict[str, list[Record]] = defaultdict(list)
        self.events: list[Event] = []
        self.server = Server(draintimeout=draintimeout, workers=workers)
        self.supervisor = Supervisor(Log(self._said), self._reported, lookup=lookup)
        self._news = trio.Event()

    def _said(self, event: Event) -> None:
        self.events.append(event)
        self._tell()

    def _reported(self, record: Record) -> None:
        self.records.append(record)
        self.records_of[record.rule].append(record)
        self._tell()

    def of_workers(self, accesslog: str) -> None:
        """Have the workers write their accounts to this file, and what they say as JSON."""
        self.server = replace(self.server, accesslog=accesslog, log="json")

    def take_record(self, line: str) -> None:
        """Take an account that a worker has written."""
        self._reported(Record(**json.loads(line)))

    def take_event(self, line: str) -> None:
        """Take what a worker has said, whichever it was. What is no event is part of a traceback."""
        try:
            fields = json.loads(line)
        except ValueError:
            fields = {"time": 0.0, "level": "error", "event": "a worker's last words", "traceback": line}
        else:
            del fields["worker"]
        time, level, event = (fields.pop(key) for key in ("time", "level", "event"))
        self._said(Event(time, Level[level.upper()], event, fields))

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def config(self, *rules: Rule) -> Config:
        return Config(self.server, rules)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition`` holds; it is looked at after each record and log line."""
        while not condition():
            await self._news.wait()

    async def record(self, number: int = 0) -> Record:
        """The account of the session that ended as the ``number``-th, counted from 0."""
        await self.until(lambda: len(self.records) > number)
        return self.records[number]

    async def said(self, words: str) -> Event:
        """The first log event with ``words`` in it."""
        await self.until(lambda: self.heard(words))
        return self.heard(words)[0]

    def heard(self, words: str) -> list[Event]:
        return [event for event in self.events if words in event.event]

    @property
    def faults(self) -> list[Event]:
        return [event for event in self.events if "traceback" in event.fields]

    def metric(self, name: str, **labels: str) -> float:
        """One sample of what /metrics would show now."""
        registry = CollectorRegistry()
        registry.register(RelayCollector(self.snapshot))
        value = registry.get_sample_value(name, labels)
        assert value is not None, f"no sample {name}{labels}"
        return value

    @property
    def pids(self) -> list[int]:
        """The processes that relay."""
        crew = self.supervisor.crew
        return crew.pids if isinstance(crew, Processes) else [os.getpid()]

    @property
    def worker(self) -> Worker:
        """The relay's one worker, in this process."""
        assert isinstance(self.supervisor.crew, Alone)
        return self.supervisor.crew.worker

    def instance(self, name: str) -> Instance:
        """The running rule of this name."""
        (found,) = (instance for instance in self.worker.instances.values() if instance.rule.name == name)
        return found

    def snapshot(self) -> Snapshot:
        """What is true at this moment."""
        if isinstance(self.supervisor.crew, Alone):
            for instance in self.worker.instances.values():
                for session in instance.sessions:
                    session.publish()
        return self.supervisor.last_snapshot()

    def counted(self, reason: Reason, rule: str = "rule") -> float:
        """How often the metric says ``reason``."""
        return self.metric(_METRICS[type(reason)], rule=rule, reason=reason.value)


@asynccontextmanager
async def relaying(
    *rules: Rule,
    draintimeout: float = 30.0,
    lookup: Lookup = lookup,
    faults: int = 0,
    patience: float = PATIENCE,
) -> AsyncIterator[Relay]:
    """A relay that runs ``rules``; in the end it has logged as many ``faults``, and no error else."""
    relay = Relay(draintimeout, lookup)
    with trio.fail_after(patience):
        async with _heard(relay), trio.open_nursery() as nursery:
            await nursery.start(relay.supervisor.run, relay.config(*rules))
            relay.events.clear()  # each worker says that it is there
            yield relay
            nursery.cancel_scope.cancel()
    assert relay.supervisor.sessions == 0
    assert [str(fault.fields["traceback"]) for fault in relay.faults][faults:] == []
    assert len(relay.faults) == faults
    errors = [event for event in relay.events if event.level is Level.ERROR and event not in relay.faults]
    expected = ("a rule does not listen", "a worker died", "a worker cannot be started")
    assert all(event.event in expected for event in errors)


@asynccontextmanager
async def _heard(relay: Relay) -> AsyncIterator[None]:
    """All that workers in processes of their own say until they are gone, and their accounts, are in
    ``relay`` in the end.
    """
    if relay.server.workers == 1:
        yield
        return
    async with trio.open_nursery() as nursery:
        with _pipe(nursery, relay.take_record) as records, _pipe(nursery, relay.take_event) as events:
            relay.of_workers(f"/proc/{os.getpid()}/fd/{records}")
            before = os.dup(2)
            os.dup2(events, 2)
            try:
                yield
            finally:
                os.dup2(before, 2)
                os.close(before)


@contextmanager
def _pipe(nursery: trio.Nursery, take: Callable[[str], None]) -> Iterator[int]:
    """Where to write lines that ``take`` is to have; it has them all before ``nursery`` ends."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    nursery.start_soon(read_lines, trio.lowlevel.FdStream(reader), take)
    try:
        yield writer
    finally:
        os.close(writer)


async def read_lines(stream: trio.abc.ReceiveStream, take: Callable[[str], None]) -> None:
    """Have ``take`` each line that comes before the end of ``stream``."""
    async with stream:
        buffer = b""
        async for chunk in stream:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                take(line.decode())
        assert not buffer


@asynccontextmanager
async def beside(*tasks: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """``tasks`` run meanwhile."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        yield
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what nobody tells of."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.005)


def adds_up(record: Record) -> None:
    """Accepted = delivered + discarded, in both directions."""
    assert record.up_accepted == record.up_delivered + record.up_discarded
    assert record.down_accepted == record.down_delivered + record.down_discarded
