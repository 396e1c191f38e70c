"""What the relay must withstand, it withstands with one worker and with two."""

from __future__ import annotations

import pytest

from tests.relay import rig

WITH_TWO = {
    "test_addresses",
    "test_changes",
    "test_exhaustion",
    "test_floods",
    "test_reasons",
    "test_reload",
    "test_sessions",
    "test_sessions_listed",
    "test_signals",
    "test_totals",
}
"""The modules whose tests run twice, but for those marked ``alone``, which say why."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in WITH_TWO and not metafunc.definition.get_closest_marker("alone"):
        metafunc.parametrize("workers", [1, 2], indirect=True, ids=["one worker", "two workers"])


@pytest.fixture(autouse=True)
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many workers the relays of this test have."""
    number: int = getattr(request, "param", 1)
    monkeypatch.setattr(rig, "workers", number)
    return number
