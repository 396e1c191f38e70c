"""The contract: where splice or its pipe is refused, copy serves, and says so."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from portproxy.model import DataPlaneChoice
from tests.contract.rig import Rig, noise
from tests.contract.without_splice import REFUSALS

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("how", REFUSALS)
def test_refused_by_the_kernel(dataplane: DataPlaneChoice, how: str) -> None:
    command = [sys.executable, "-m", "tests.contract.without_splice", how, dataplane]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    spliced = "copy" if dataplane is DataPlaneChoice.COPY else "splice"
    assert before == {"whole": True, "reason": "finished", "dataplane": spliced, "fallbacks": 0}
    refused = 0 if dataplane is DataPlaneChoice.COPY else 2
    assert after == {"whole": True, "reason": "finished", "dataplane": "copy", "fallbacks": refused}


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Nothing can be opened meanwhile: EMFILE."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# With small buffers no read ever fills the relay's, so that copy alone asks for a pipe.
@pytest.mark.parametrize("buffers", [None, 4096])
@pytest.mark.parametrize("prefix", [b"", b"a prefix"])
async def test_out_of_descriptors(
    rig: Rig, dataplane: DataPlaneChoice, side: str, prefix: bytes, buffers: int | None
) -> None:
    session = rig.open(buffers=buffers)
    data = noise(32 << 20)
    with no_descriptor_left():
        rig.begin(session, dataplane, prefix=prefix)
        assert await rig.receive(session.server, len(prefix)) == prefix
        sent = await rig.stall(session, side, data)
        assert session.leg(side).pipe is None
    assert sha256(await rig.receive(session.other(side), sent)).digest() == sha256(data[:sent]).digest()
    await rig.send(session.other(side), b"answer")
    assert await rig.receive(session.end(side), 6) == b"answer"
    for sock in session.client, session.server:
        sock.shutdown(socket.SHUT_WR)
    await rig.until(lambda: session.ended)
    assert not session.leg(side).spliced
    ledger = session.outcome.up if side == "client" else session.outcome.down
    assert ledger.delivered == sent + (len(prefix) if side == "client" else 0)
    assert session.outcome.fallbacks == (0 if dataplane is DataPlaneChoice.COPY else 1)
