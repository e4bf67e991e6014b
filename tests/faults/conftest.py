"""What the tests of this folder share: whether they take their time, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether this is `./dev test --faults`: more rounds, more rows, longer waits."""
    return bool(request.config.getoption("--faults"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives those that take their time more of it than the others."""
    if config.getoption("--faults"):
        for item in items:
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes what was measured, for the table in docs/faults.md; a long run prints it at its end."""

    def note(**measured: object) -> None:
        values = " ".join(f"{name}={value}" for name, value in measured.items())
        request.node.user_properties.append(("outcome", f"{request.node.name}: {values}"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints what was measured."""
    if config.getoption("--faults"):
        for report in terminalreporter.stats.get("passed", []):
            for name, value in report.user_properties:
                if name == "outcome" and report.when == "call":
                    terminalreporter.write_line(value)
