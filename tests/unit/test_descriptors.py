"""RLIMIT_NOFILE and the sessions it allows."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from portproxy.net.descriptors import raise_limit, sessions_within


@pytest.fixture
def _limits_restored() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_limits_restored")
def test_the_soft_limit_becomes_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert raise_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_sessions_take_two_descriptors_each_beside_those_in_use() -> None:
    allowed = sessions_within(1000)
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    try:
        assert sessions_within(1000) == allowed - 10
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert sessions_within(1002) == allowed + 1
    assert sessions_within(10) == 0
