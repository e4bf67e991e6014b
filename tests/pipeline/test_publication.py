"""What is published changes while a pipeline runs: it stops, confirms nothing, and the next start makes good (F6)."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc import PositionError, PublicationNotFound
from pgcdc.pipeline.guarding import Difference, Guard
from tests.pipeline.running import Running, confirmed, flushed, running, until
from tests.pipeline.shop import shop
from tests.pipeline.targets import Recorder, SqliteMirror, mirrored

if TYPE_CHECKING:
    from pathlib import Path

    from pgcdc.replication import Connection
    from tests.conftest import Database

OUT_AND_BACK = (
    "ALTER PUBLICATION pgcdc_shop DROP TABLE orders",
    "INSERT INTO orders VALUES (50, 'unpublished')",
    "UPDATE orders SET status = 'unpublished' WHERE id = 2",
    "ALTER PUBLICATION pgcdc_shop ADD TABLE orders",
)
MADE_AGAIN = (
    "DROP TABLE orders",
    "CREATE TABLE orders (id bigint PRIMARY KEY, status text)",
    "INSERT INTO orders VALUES (50, 'unpublished')",
    "ALTER PUBLICATION pgcdc_shop ADD TABLE orders",
)


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> threading.Lock:
    """Held while a pipeline looks at the catalog: in the midst of several changes it would say something else."""
    lock, check = threading.Lock(), Guard.check

    def check_alone(self: Guard, connection: Connection) -> Difference | None:
        with lock:
            return check(self, connection)

    monkeypatch.setattr(Guard, "check", check_alone)
    return lock


@pytest.mark.parametrize("change", [OUT_AND_BACK, MADE_AGAIN], ids=["out and back", "made again"])
def test_a_table_that_was_not_published_for_a_while(
    database: Database, tmp_path: Path, looking: threading.Lock, change: tuple[str, ...]
) -> None:
    """Nothing in the stream tells of it: the catalog does, and the table is copied anew."""
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, status text)",
        "CREATE TABLE items (id bigint PRIMARY KEY)",
        "INSERT INTO orders VALUES (1, 'old'), (2, 'old')",
    )

    def pipeline() -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["orders", "items"])
        made.add(SqliteMirror(tmp_path / "mirror.db"), name="mirror")
        return made

    run = Running(pipeline())
    run.streaming()
    run.catch_up(database)
    with looking:
        database.execute(*change)
    database.execute("INSERT INTO orders VALUES (51, 'published')", "INSERT INTO items VALUES (1)")
    changed = flushed(database)
    error = run.ended()
    assert isinstance(error, PositionError)
    assert "table public.orders was taken out of" in str(error)
    assert ("and put back into" in str(error)) == (change is OUT_AND_BACK)
    assert error.table == "public.orders"
    assert confirmed(database) < changed
    with running(pipeline()) as again:
        again.streaming()
        again.catch_up(database)
        database.execute("INSERT INTO orders VALUES (52, 'behind')", "INSERT INTO items VALUES (2)")
        again.catch_up(database)
    for table in ("orders", "items"):
        columns = "id || '|' || status" if table == "orders" else "id::text"
        rows = database.execute(f"SELECT {columns} FROM {table} ORDER BY id")
        assert mirrored(tmp_path / "mirror.db", table) == [row for (row,) in rows]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (
            "ALTER PUBLICATION pgcdc_shop RENAME TO other",
            PublicationNotFound,
            "was dropped or renamed while it ran|does not exist",  # as the server says it, where it is the first
        ),
        (
            "DROP PUBLICATION pgcdc_shop; CREATE PUBLICATION pgcdc_shop FOR TABLE orders",
            PositionError,
            "was dropped and made again",
        ),
        (
            "ALTER PUBLICATION pgcdc_shop SET (publish = 'insert');"
            " ALTER PUBLICATION pgcdc_shop SET (publish = 'insert, update, delete, truncate')",
            PositionError,
            "was altered",
        ),
        ("ALTER PUBLICATION pgcdc_shop DROP TABLE orders", PositionError, "table public.orders was taken out of"),
        ("DROP TABLE orders", PositionError, "table public.orders was taken out of"),
    ],
)
def test_what_is_published_is_another(
    new_orders: Database, looking: threading.Lock, change: str, kind: type[pgcdc.Error], says: str
) -> None:
    """No change of the table comes behind it: what is written elsewhere is enough to look."""
    database = new_orders
    run = Running(shop(database))
    run.streaming()
    run.catch_up(database)
    with looking:
        database.execute(*change.split(";"))
    changed = flushed(database)
    database.execute("SELECT pg_logical_emit_message(false, 'much', repeat('x', 200000))")
    error = run.ended()
    assert isinstance(error, kind) and re.search(says, str(error))
    assert error.hint and error.publication == "pgcdc_shop"
    assert confirmed(database) <= changed


def test_what_is_nothing_to_it_does_not_stop_it(database: Database) -> None:
    """Another table is added, taken out, and dropped; the publication gets a comment; a partition more."""
    database.execute(
        "CREATE TABLE orders (id bigint, status text) PARTITION BY RANGE (id)",
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE other (id bigint)",
        "CREATE PUBLICATION mine FOR TABLE orders, other WITH (publish_via_partition_root = true)",
    )
    sink = Recorder()
    with running(shop(database, sink, publication="mine")) as run:
        run.streaming()
        for number, statement in enumerate(
            (
                "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (100) TO (200)",
                "ALTER PUBLICATION mine DROP TABLE other",
                "ALTER PUBLICATION mine ADD TABLE other",
                "DROP TABLE other",
                "COMMENT ON PUBLICATION mine IS 'ours'",
            )
        ):
            database.execute(statement, f"INSERT INTO orders VALUES ({99 + number}, 'new')")
            run.catch_up(database)
        until(lambda: confirmed(database) > sink.changes[-1].commit_lsn, "stored and confirmed")
    assert [change.new.id for change in sink.changes] == [99, 100, 101, 102, 103]
