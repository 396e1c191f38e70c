"""One relay process: logs, signals, status and control around a supervisor."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import nullcontext

import trio

from portproxy import __version__
from portproxy.changes import Changes, Load
from portproxy.config.source import Source
from portproxy.errors import PortproxyError, StartError
from portproxy.log import LibraryHandler, Log
from portproxy.logs import Logs
from portproxy.model import Config
from portproxy.net.capabilities import raise_net_bind_service
from portproxy.net.descriptors import raise_limit, sessions_within
from portproxy.net.user import User, acting_as, check_reaches, give_socket, look_up
from portproxy.reasons import Ended
from portproxy.reconcile import sockets
from portproxy.snapshot import Snapshot
from portproxy.supervisor import Supervisor

_SAID_ONE_BY_ONE = 20
"""Rules whose listening is said in a line each; of more, only the number."""


async def serve(source: Source, config: Config, load: Load) -> None:
    """Run ``config`` until SIGTERM or SIGINT, then drain; a second one ends the sessions at once.

    ``config`` is what ``source``, as it was written, says. SIGHUP opens log files anew and reloads what
    ``load`` returns, where that is valid; ``load`` may block. Raises StartError.
    """
    # Before threads are started, which would each have capabilities of their own.
    raise_net_bind_service()
    user = look_up(config.server.user) if config.server.user else None
    if user:
        check_reaches(user)
    with acting_as(user) if user else nullcontext():
        try:
            logs = Logs(config.server)
        except StartError as error:
            raise StartError(
                *(f"{line}, to user {user.name}" if user else line for line in error.lines)
            ) from None
    logging.getLogger().addHandler(LibraryHandler(logs.log))
    failures: list[PortproxyError] = []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(logs.run)
            try:
                await _Relay(source, config, load, logs, user).run(signals)
            except* PortproxyError as group:
                failures += _leaves(group)
            nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]


class _Relay:
    """The relay's life: starting, running, draining. Signals are obeyed in each."""

    def __init__(self, source: Source, config: Config, load: Load, logs: Logs, user: User | None) -> None:
        self._config = config
        self._user = user
        self._logs = logs
        self._log = logs.log
        self._supervisor = Supervisor(logs.log, logs.report, user=user)
        self._changes = Changes(source, config.server, load, self._supervisor, logs.log)
        self._reload_asked = trio.Event()
        self._stop_asked = trio.Event()

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Run until a signal says to stop, and what follows from that. Raises StartError."""
        limit = raise_limit()
        needed = sockets(self._config)
        if needed > limit:
            raise StartError(
                f"{needed} listening sockets take more descriptors than the {limit} that RLIMIT_NOFILE"
                " allows: raise it (ulimit -n, systemd: LimitNOFILE=), or have fewer rules"
            )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey, signals)
            async with trio.open_nursery() as living:
                living.start_soon(self._until_stopped, living.cancel_scope)
                await self._start(nursery)
                _say_ready(self._log, self._config, limit)
                await self._reload_when_asked()
            await self._drain()
            nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._logs.reopen()
                self._supervisor.reopen_logs()
                self._reload_asked.set()
            elif self._stop_asked.is_set():
                self._log.warning("second signal", sessions_reset=self._supervisor.sessions)
                await self._supervisor.end_sessions(Ended.SHUTDOWN)
            else:
                self._stop_asked.set()

    async def _until_stopped(self, living: trio.CancelScope) -> None:
        await self._stop_asked.wait()
        living.cancel()

    async def _start(self, nursery: trio.Nursery) -> None:
        server = self._config.server
        await nursery.start(self._supervisor.run, self._config)
        if server.status:
            # Only here: it brings h11 and prometheus_client, which a plain relay has no use for.
            from portproxy.status.server import bind_status, serve_status

            await nursery.start(serve_status, bind_status(server.status), self._snapshot)
        if server.control:
            from portproxy.control.server import serve_control
            from portproxy.handlers import Handlers

            handlers = Handlers(self._supervisor, self._changes, lambda: self._logs.lost)
            await nursery.start(serve_control, server.control, handlers.by_command, self._log)
        if self._user:
            if server.control:
                give_socket(server.control, self._user)
            self._supervisor.drop_root()
            self._check_reloadable(self._user)

    def _check_reloadable(self, user: User) -> None:
        file = self._changes.source.file
        if file and not os.access(file.path, os.R_OK, effective_ids=True):
            self._log.warning(
                "the configuration file cannot be read by the relay's user: it cannot be reloaded",
                user=user.name,
                file=file.path,
            )

    async def _snapshot(self) -> Snapshot:
        return await self._supervisor.snapshot(self._logs.lost)

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked = trio.Event()
            await self._reload()

    async def _reload(self) -> None:
        try:
            await self._changes.reload()
        except PortproxyError as error:
            for line in error.lines:
                self._log.error("not reloaded", problem=line)
        except Exception as error:
            # No thread to read the file in, for one: that is no reason to end what runs.
            self._log.fault("a fault of portproxy in a reload", error)

    async def _drain(self) -> None:
        self._log.info(
            "stopping; a second signal ends the sessions at once",
            sessions=self._supervisor.sessions,
            draintimeout=f"{self._supervisor.config.server.draintimeout:g}s",
        )
        await self._supervisor.drain()
        lost = {name: lines for name, lines in self._supervisor.lost_lines(self._logs.lost).items() if lines}
        if lost:
            self._log.warning("log lines were lost", **lost)
        self._log.info("stopped")


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
        **({"tunnels": len(config.tunnels)} if config.tunnels else {}),
        status=config.server.status or "off",
        control=config.server.control or "off",
        workers=config.server.workers,
        **({"user": config.server.user} if config.server.user else {}),
        descriptors=limit,
        sessions_allowed=config.server.workers * sessions_within(limit),
    )


def _leaves(group: BaseExceptionGroup[PortproxyError]) -> list[PortproxyError]:
    found: list[PortproxyError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
