"""All tunnels of a relay: started, changed and stopped by plan, retried, kept on their way."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Mapping
from functools import partial

import trio

from portproxy.log import Log
from portproxy.reconcile import TunnelPlan
from portproxy.snapshot import TunnelState, TunnelStatus
from portproxy.tunnel.causes import explain
from portproxy.tunnel.endpoint import first
from portproxy.tunnel.making import open_receiver
from portproxy.tunnel.model import Tunnel, TunnelType
from portproxy.tunnel.modes.embedded import NOWHERE, SIX_TO_FOUR, packed
from portproxy.tunnel.reception import Receptions
from portproxy.tunnel.routing import Changes, Others, look_around
from portproxy.tunnel.running import RunningTunnel
from portproxy.tunnel.traffic import Traffic

RETRY_FIRST = 1.0
RETRY_LAST = 30.0
"""Seconds between attempts to make the tunnels that failed: doubled from the first to the last."""
_ROUNDS_APART = 0.1
_QUIET = 60.0
"""Seconds."""


class Tunnels:
    """What runs of a configuration's tunnels.

    ``on_failure`` hears of a tunnel that is not up, by its name, and why, once for every reason in a row.
    ``dropped_to`` says which user root was dropped to, if it was.
    """

    def __init__(
        self, log: Log, on_failure: Callable[[str, str], None], dropped_to: Callable[[], str | None]
    ) -> None:
        self._log = log
        self._on_failure = on_failure
        self._dropped_to = dropped_to
        self._wanted: dict[str, Tunnel] = {}
        self._running: dict[str, RunningTunnel] = {}
        self._scopes: dict[RunningTunnel, trio.CancelScope] = {}
        self._errors: dict[str, str] = {}
        self._others = Others()
        self._failing = trio.Event()
        self._restored: dict[str, float] = {}
        self._changing = trio.Lock()
        self._nursery: trio.Nursery
        self._receptions: Receptions

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what ``apply`` says until cancelled; then every tunnel is taken back."""
        async with trio.open_nursery() as self._nursery:
            self._receptions = Receptions(self._nursery, open_receiver, self._complain)
            self._nursery.start_soon(self._retry)
            self._nursery.start_soon(self._follow)
            task_status.started()

    async def apply(self, plan: TunnelPlan) -> None:
        """Get from what runs to what ``plan`` says; what fails is in ``errors`` and tried again."""
        async with self._changing:
            for tunnel in plan.stop:
                await self._stop(tunnel)
            # All before the first goes on: one may take the name of another, or what that gives up.
            changing = [(self._forget(was.name), tunnel) for was, tunnel in plan.change]
            for running, tunnel in changing:
                if running:
                    wanted = [other for _, other in changing if other is not tunnel]
                    await trio.to_thread.run_sync(running.give_up, tunnel, wanted)
            for running, tunnel in changing:
                await self._change(running, tunnel)
            for tunnel in plan.start:
                await self._start(tunnel)
            self._wanted = {tunnel.name: tunnel for tunnel in plan.wanted}
            await self._look_around()

    @property
    def errors(self) -> Mapping[str, str]:
        """Why tunnels are not up, by their names."""
        return self._errors

    def statuses(self) -> tuple[TunnelStatus, ...]:
        """Every tunnel as it is now, in the configuration's order."""
        return tuple(self._status(tunnel) for tunnel in self._wanted.values())

    def _status(self, tunnel: Tunnel) -> TunnelStatus:
        running = self._running.get(tunnel.name)
        traffic = running.traffic if running else Traffic()
        return TunnelStatus(
            tunnel,
            TunnelState.FAILED if tunnel.name in self._errors else TunnelState.UP,
            self._errors.get(tunnel.name) or (running.problem if running else ""),
            running.way.local if running else "",
            running.mtu if running else 0,
            traffic.packets_in,
            traffic.bytes_in,
            traffic.packets_out,
            traffic.bytes_out,
            {reason.value: count for reason, count in traffic.drops.items()},
        )

    async def _start(self, tunnel: Tunnel) -> None:
        name = tunnel.name
        self._wanted[name] = tunnel

        def on_error(what: str, error: OSError) -> None:
            self._log.warning("the kernel refused a tunnel", tunnel=name, doing=what, error=error.strerror)

        def on_problem(problem: str) -> None:
            self._log.warning("a tunnel has a problem", tunnel=name, error=problem)

        try:
            # In a thread: netlink answers soon, but the relay's sessions need not wait for it.
            made = partial(RunningTunnel, tunnel, self._others, on_error, on_problem)
            running = await trio.to_thread.run_sync(made)
            running.open(self._receptions)
        except OSError as error:
            self._fail(tunnel, error)
            return
        self._errors.pop(name, None)
        self._running[name] = running
        self._scopes[running] = trio.CancelScope()
        self._nursery.start_soon(self._carry, running)
        self._say("a tunnel is up", running)

    async def _carry(self, running: RunningTunnel) -> None:
        try:
            with self._scopes[running]:
                await running.run()
        except* OSError as group:
            self._nursery.start_soon(self._bury, running, first(group))
        finally:
            del self._scopes[running]

    async def _bury(self, running: RunningTunnel, error: OSError) -> None:
        """Somebody has removed the interface: the tunnel is to be made anew."""
        async with self._changing:
            for name, one in list(self._running.items()):
                if one is running:
                    del self._running[name]
                    self._fail(self._wanted[name], error)

    async def _stop(self, tunnel: Tunnel) -> None:
        running = self._forget(tunnel.name)
        if running:
            await self._end(running)
            self._log.info("a tunnel is stopped", tunnel=tunnel.name)

    async def _end(self, running: RunningTunnel) -> None:
        if running in self._scopes:
            self._scopes[running].cancel()
        await running.gone.wait()

    def _forget(self, name: str) -> RunningTunnel | None:
        del self._wanted[name]
        self._errors.pop(name, None)
        return self._running.pop(name, None)

    async def _change(self, running: RunningTunnel | None, tunnel: Tunnel) -> None:
        name = tunnel.name
        if not running or running.gone.is_set():
            await self._start(tunnel)
            return
        self._wanted[name] = tunnel
        self._running[name] = running
        try:
            await trio.to_thread.run_sync(running.change, tunnel)
        except OSError as error:
            await self._lose(name, running, error)
        else:
            running.take_up()
            if running.gone.is_set():  # meanwhile
                await self._start(tunnel)
            elif self._errors.pop(name, None):
                self._say("a tunnel is up", running)

    async def _lose(self, name: str, running: RunningTunnel, error: OSError) -> None:
        """``running`` cannot be as it is to be."""
        if error.errno == errno.ENODEV:  # or is somebody else's by now: it is to be made anew
            await self._end(running)
            self._running.pop(name, None)
        self._fail(self._wanted[name], error)

    def _complain(self, what: str, error: OSError) -> None:
        self._log.warning("tunnels' packets may have been lost", doing=what, error=error.strerror)

    def _say(self, event: str, running: RunningTunnel) -> None:
        self._log.info(event, tunnel=running.spec.name, local=running.way.local, mtu=running.mtu)

    def _fail(self, tunnel: Tunnel, error: OSError) -> None:
        why = explain(tunnel, error, self._dropped_to())
        if self._errors.get(tunnel.name) != why:
            self._on_failure(tunnel.name, why)
            self._failing.set()
        self._errors[tunnel.name] = why

    async def _retry(self) -> None:
        """Try again what failed, ever more patiently."""
        delay = RETRY_FIRST
        while True:
            with trio.move_on_after(delay if self._errors else math.inf):
                await self._failing.wait()
                self._failing, delay = trio.Event(), RETRY_FIRST
                continue
            delay = min(2 * delay, RETRY_LAST)
            async with self._changing:
                for name in list(self._errors):
                    await self._change(self._running.get(name), self._wanted[name])

    async def _follow(self) -> None:
        """Keep the tunnels on their way to the peer when addresses and routes of this host change."""
        changes = Changes()
        try:
            while True:
                disturbed = await changes.wait()
                async with self._changing:
                    for name, running in list(self._running.items()):
                        await self._look_again(name, running, running.index in disturbed)
                    await self._look_around()
                await trio.sleep(_ROUNDS_APART)  # with thousands of changes a second, too
        finally:
            changes.close()

    async def _look_around(self) -> None:
        """Tell the tunnels of this host's addresses, where some tunnel goes by the addresses in packets:
        others do not lead back by themselves."""
        running, here = [*self._running.values()], NOWHERE
        if any(one.spec.type.automatic for one in running):
            try:
                here = await trio.to_thread.run_sync(look_around)
            except OSError as error:
                self._complain("look at this host's addresses", error)
                return
        sites = (one for one in running if one.spec.type is TunnelType.SIXTOFOUR)
        here = here._replace(sites=frozenset(SIX_TO_FOUR + packed(one.way.local) for one in sites))
        for one in running:
            one.know(here)

    async def _look_again(self, name: str, running: RunningTunnel, disturbed: bool) -> None:
        was, was_lost = running.way.local, running.is_lost
        try:
            if disturbed and await trio.to_thread.run_sync(running.restore):
                self._tell_restored(name)
            changed = await trio.to_thread.run_sync(running.follow)
        except OSError as error:
            running.lose(error)
            await self._lose(name, running, error)
            return
        if changed:
            running.take_up()
        if running.way.local != was:
            self._say("a tunnel has moved", running)
        if was_lost:
            await self._change(running, self._wanted[name])

    def _tell_restored(self, name: str) -> None:
        """Once a minute at the most: somebody may do it all the time."""
        now = trio.current_time()
        if now >= self._restored.get(name, -math.inf) + _QUIET:
            self._restored[name] = now
            self._log.warning("a tunnel's interface was changed by others, and is restored", tunnel=name)
