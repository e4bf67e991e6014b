"""What is seen of a real server of each version, and that looking goes on when its connection was ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("starlette")

from pgcdc.console.observation import Observer
from pgcdc.console.subject import Subject
from pgcdc.console.troubles import troubles_of
from pgcdc.console.watch import numbers_of

if TYPE_CHECKING:
    from tests.conftest import Database


def test_a_server_of_each_version(database: Database) -> None:
    slot = f"left_{database.name}"
    database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    observer = Observer(Subject(database.dsn))
    try:
        seen = observer.observe()
        assert (seen.error, seen.database, seen.is_standby, seen.consumers) == (None, database.name, False, [])
        assert seen.server.startswith(str(database.server.version))
        assert seen.unknown == [], "tables that are not there are no secret"
        found = seen.slot(slot)
        assert found is not None and not found.active and not found.lost
        assert numbers_of(seen)[f"slot/{slot}/held"] >= 0
        [trouble] = [one for one in troubles_of(seen) if slot in one.what]
        assert trouble.grave == "warning" and "drop it when nobody does" in trouble.then
        assert database.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcdc'") == [(0,)]

        database.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'pgcdc'"
        )
        seen = observer.observe()
        assert seen.error is not None and seen.error.startswith("the server cannot be asked")
        assert [one.grave for one in troubles_of(seen)] == ["critical"]
        assert observer.observe().slot(slot) is not None, "the next look has another connection"
    finally:
        observer.close()
