"""One relay process: logs, signals, status and control around a supervisor."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable

import trio

from portproxy import __version__
from portproxy.accesslog import Record, encode_json, encode_text
from portproxy.control.server import health_reply, serve_control
from portproxy.errors import PortproxyError
from portproxy.log import Event, LibraryHandler, Log, encoder
from portproxy.model import Config, Server
from portproxy.net.descriptors import raise_limit, sessions_within
from portproxy.reasons import Ended
from portproxy.sink import LineSink
from portproxy.snapshot import Snapshot
from portproxy.supervisor import Supervisor

_SAID_ONE_BY_ONE = 20
"""Rules whose listening is said in a line each; of more, only the number."""
_AT_START_ONLY = ("status", "control", "log", "accesslog")
"""Keys of ``[server]`` that a reload does not follow."""

Load = Callable[[], Config]


class Logs:
    """The process's two logs: what happens, on standard error, and a line a session, where wanted."""

    def __init__(self, server: Server) -> None:
        """Raises StartError where the access log cannot be opened."""
        stderr = sys.stderr
        self._events: LineSink[Event] = LineSink(2, encoder(server.log, stderr, os.environ.get("NO_COLOR")))
        self.log = Log(self._events.put)
        self._sessions: LineSink[Record] | None = None
        if server.accesslog is not None:
            target = 1 if server.accesslog == "-" else server.accesslog
            encode = encode_json if server.log == "json" else encode_text
            self._sessions = LineSink(target, encode, self.log.error)

    @property
    def report(self) -> Callable[[Record], None] | None:
        """Takes access-log records; None where none are wanted."""
        return self._sessions.put if self._sessions else None

    @property
    def lost(self) -> dict[str, int]:
        """Lines lost so far, by log."""
        access = {"access": self._sessions.lost} if self._sessions else {}
        return {"events": self._events.lost, **access}

    def reopen(self) -> None:
        """Go on in new files, after logrotate(8) has moved the old ones away."""
        if self._sessions:
            self._sessions.reopen()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, and then what is left."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._events.run)
            if self._sessions:
                await nursery.start(self._sessions.run)
            task_status.started()


async def serve(config: Config, load: Load) -> None:
    """Run ``config`` until SIGTERM or SIGINT, then drain; a second one ends the sessions at once.

    SIGHUP opens log files anew and reloads what ``load`` returns, where that is valid; ``load`` may
    block. Raises StartError.
    """
    logs = Logs(config.server)
    logging.getLogger().addHandler(LibraryHandler(logs.log))
    failures: list[PortproxyError] = []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(logs.run)
            try:
                await _relay(config, load, logs, signals)
            except* PortproxyError as group:
                failures += _leaves(group)
            nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]


async def _relay(config: Config, load: Load, logs: Logs, signals: AsyncIterator[int]) -> None:
    supervisor = Supervisor(logs.log, logs.report)

    def snapshot() -> Snapshot:
        return supervisor.snapshot(logs.lost)

    limit = raise_limit()
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run, config)
        if config.server.status:
            # Only here: it brings h11 and prometheus_client, which a plain relay has no use for.
            from portproxy.status.server import bind_status, serve_status

            await nursery.start(serve_status, bind_status(config.server.status), snapshot)
        if config.server.control:
            handlers = {"health": lambda request: health_reply(snapshot())}
            await nursery.start(serve_control, config.server.control, handlers)
        _say_ready(logs.log, config, limit)
        await _obey(signals, supervisor, load, logs)
        nursery.cancel_scope.cancel()


def _say_ready(log: Log, config: Config, limit: int) -> None:
    for warning in config.warnings:
        log.warning(warning)
    if len(config.active) <= _SAID_ONE_BY_ONE:
        for rule in config.active:
            log.info("listening", rule=rule.name, listen=rule.listen, connect=rule.connect)
    log.info(
        "ready",
        version=__version__,
        rules=len(config.active),
        status=config.server.status or "off",
        control=config.server.control or "off",
        descriptors=limit,
        sessions_allowed=sessions_within(limit),
    )


async def _obey(signals: AsyncIterator[int], supervisor: Supervisor, load: Load, logs: Logs) -> None:
    """Do what signals ask for, until the relay has stopped."""
    async for number in signals:
        if number != signal.SIGHUP:
            break
        logs.reopen()
        await _reload(supervisor, load, logs.log)
    logs.log.info(
        "stopping; a second signal ends the sessions at once",
        sessions=supervisor.sessions,
        draintimeout=supervisor.config.server.draintimeout,
    )

    async def hurry() -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                logs.log.warning("second signal", sessions_reset=supervisor.sessions)
                supervisor.end_sessions(Ended.SHUTDOWN)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hurry)
        await supervisor.drain()
        nursery.cancel_scope.cancel()
    logs.log.info("stopped")


async def _reload(supervisor: Supervisor, load: Load, log: Log) -> None:
    try:
        config = await trio.to_thread.run_sync(load)
    except PortproxyError as error:
        for line in error.lines:
            log.error("not reloaded", problem=line)
        return
    for key in _AT_START_ONLY:
        if getattr(config.server, key) != getattr(supervisor.config.server, key):
            log.warning("takes effect at the next start only", key=f"[server] {key}")
    for warning in config.warnings:
        log.warning(warning)
    log.info("reloaded", plan=await supervisor.reload(config))


def _leaves(group: BaseExceptionGroup[PortproxyError]) -> list[PortproxyError]:
    found: list[PortproxyError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
