"""What the tests of this folder share: whether they take their time."""

from __future__ import annotations

import pytest


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether this is `./dev test --faults`: more rounds, more rows, longer waits."""
    return bool(request.config.getoption("--faults"))
