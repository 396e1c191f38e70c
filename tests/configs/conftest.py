"""What the tests of configs/ start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.shell import Shell


@pytest.fixture
def portproxy(tmp_path: Path) -> Shell:
    """The executable, in a directory of its own."""
    return Shell(tmp_path)
