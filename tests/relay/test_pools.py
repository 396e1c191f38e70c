"""The pools of pipes that a worker keeps, from one configuration to another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from portproxy.model import DataPlaneChoice
from tests.conftest import open_descriptors
from tests.relay.rig import (
    Relay,
    beside,
    dial,
    echo,
    eventually,
    relaying,
    round_trip,
    send_all,
    to,
    upstream,
)


def pipes() -> int:
    return sum(target.startswith("pipe:") for target in open_descriptors().values())


async def test_reloads_that_change_pipesize_leave_no_pipes_behind() -> None:
    with upstream() as service:
        rule = to(service, dataplane=DataPlaneChoice.SPLICE)
        before = pipes()
        async with beside(partial(echo, service)), relaying(rule) as relay:
            for number in range(10):
                await relay.supervisor.reload(relay.config(replace(rule, pipesize=(number + 1) << 16)))
                with dial(rule) as client:
                    await round_trip(client)
                await relay.record(number)
                assert before + 2 <= pipes() <= before + 2 * 2  # both ends, both directions
            assert {record.dataplane for record in relay.records} == {"splice"}
            await relay.supervisor.reload(relay.config())
            assert pipes() == before


async def test_a_pipe_in_use_outlives_its_pool_and_is_closed_then() -> None:
    with upstream() as service:
        rule = to(service, dataplane=DataPlaneChoice.SPLICE)
        data = bytes(64 << 20)  # more than the kernel takes before somebody reads
        before = pipes()
        async with relaying(rule) as relay:
            with dial(rule) as client:
                async with beside(partial(send_all, client, data)):
                    far, _ = await service.accept()
                    with far:
                        await eventually(lambda: in_flight(relay))
                        await relay.supervisor.reload(relay.config(replace(rule, pipesize=1 << 16)))
                        assert pipes() == before + 2
                        got = 0
                        while got < len(data):
                            got += len(await far.recv(1 << 20))
                        await eventually(lambda: pipes() == before)
            assert (await relay.record()).up_delivered == len(data)


def in_flight(relay: Relay) -> int:
    """Bytes on their way up that have left the client's socket."""
    (session,) = relay.instance("rule").sessions
    return session.transfer.up.pending if session.transfer else 0
