"""A session that has ended is gone at once: no reference cycle is left for the collector to find."""

from __future__ import annotations

import gc
import socket

import pytest

from portproxy.dataplane.leg import Leg
from portproxy.dataplane.transfer import Transfer
from portproxy.reasons import ConnectFailed, Ended
from portproxy.relay.session import Session
from tests.relay.rig import (
    beside,
    dial,
    echo,
    make_rule,
    receive_all,
    relaying,
    reset,
    round_trip,
    to,
    upstream,
)

PARTS = (Session, Transfer, Leg)


def left() -> list[object]:
    """What there is of sessions in this process."""
    return [found for found in gc.get_objects() if isinstance(found, PARTS)]


@pytest.mark.alone("looks for objects in this process")
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_session_that_relayed(by_reset: bool) -> None:
    with upstream() as listener:
        rule = to(listener)
        async with beside(lambda: echo(listener)), relaying(rule) as relay:
            gc.collect()
            gc.disable()
            try:
                with dial(rule) as client:
                    await round_trip(client)
                    assert {type(found) for found in left()} == set(PARTS)
                    if by_reset:
                        reset(client)
                    else:
                        client.shutdown(socket.SHUT_WR)
                        assert await receive_all(client) == b""
                record = await relay.record()
                assert record.reason is (Ended.CLIENT_RESET if by_reset else Ended.FINISHED)
                assert left() == []
            finally:
                gc.enable()


@pytest.mark.alone("looks for objects in this process")
async def test_a_session_that_got_no_upstream() -> None:
    rule = make_rule()
    async with relaying(rule) as relay:
        gc.collect()
        gc.disable()
        try:
            with dial(rule):
                assert (await relay.record()).reason is ConnectFailed.REFUSED
            assert left() == []
        finally:
            gc.enable()
