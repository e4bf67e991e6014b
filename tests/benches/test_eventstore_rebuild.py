"""The bench of the rebuild runs, with few events; and what it asks of PostgreSQL sees what is wrong."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from benches import bench_eventstore_rebuild as bench
from benches import eventstore_events as events
from benches.eventstore_projections import await_running

if TYPE_CHECKING:
    from tests.conftest import Database


def test_a_round() -> None:
    sections, [line] = bench.measure(["--history=5000", "--writers=2"])
    assert (line["missing"], line["duplicate"], line["out_of_order"]) == (0, 0, 0)
    assert isinstance(line["rebuilt"], int) and isinstance(line["appended"], int)
    assert 5000 < line["rebuilt"] <= 5000 + line["appended"] == line["checked"]
    assert "out of order" in sections[0].table


def test_what_is_wrong_is_seen(newest_database: Database) -> None:
    with bench.store_of(newest_database.dsn) as store:
        store.init()
        store.append("early-0", [events.ORDERED] * 5, metadata=events.METADATA)
        pipeline = store.pipeline()
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        try:
            await_running(store, "ledger", 60)
            for number in range(5):
                store.append(f"late-{number}", [events.ORDERED], metadata=events.METADATA)
            store.wait("ledger", store.lsn(), timeout=60)
        finally:
            pipeline.stop()
            thread.join()

    def found(*statements: str) -> list[tuple[int, ...]]:
        with newest_database.connect() as connection:
            for statement in ("BEGIN", *statements):
                connection.execute(statement)
            rows = connection.execute(bench.FAULTS).fetchall()
            connection.execute("ROLLBACK")
        return rows

    assert found() == [(10, 0, 0, 0)]
    one = "stream = 'late-2'"
    assert found(f"DELETE FROM ledger WHERE {one}") == [(10, 1, 0, 0)]
    assert found(f"UPDATE ledger SET times = 2 WHERE {one}") == [(10, 0, 1, 0)]
    assert found("INSERT INTO ledger (stream, sequence, times) VALUES ('other', 1, 1)") == [(10, 0, 1, 0)]
    assert found(f"UPDATE ledger SET number = 1000 WHERE {one}") == [(10, 0, 0, 1)], "a transaction came too late"
    first = "stream = 'early-0' AND sequence = 1"
    assert found(f"UPDATE ledger SET number = 1000 WHERE {first}")[0][3] > 0, "an event of a stream came too late"
