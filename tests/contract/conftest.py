"""What every test of the data plane's contract starts from."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from portproxy.model import DataPlaneChoice
from tests.contract.rig import Rig


@pytest.fixture(params=list(DataPlaneChoice))
def dataplane(request: pytest.FixtureRequest) -> DataPlaneChoice:
    """Every line of the contract holds for each."""
    choice: DataPlaneChoice = request.param
    return choice


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    """Who acts in the test; the contract is the same for both."""
    name: str = request.param
    return name


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()
