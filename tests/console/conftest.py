"""A browser and a scene for the tests of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import _new_database, _server_or_skip, _strict
from tests.servers.chromium import Chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.console.scene import Scene
    from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A real Chromium, for no longer than a module: meanwhile an event loop runs, and asynchronous tests cannot."""
    chromium = _server_or_skip(request.config, lambda: Chromium(install=_strict(request.config)))
    with chromium as browser:
        yield browser


@pytest.fixture(scope="module")
def shop(newest_postgres: PostgresServer) -> Iterator[Scene]:
    """A shop that is followed."""
    pytest.importorskip("starlette")
    from tests.console.scene import scene

    newest_postgres.start()
    for database in _new_database(newest_postgres):
        with scene(database) as made:
            yield made
