"""The examples of an embedded decoder, run as their readers would run them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from examples import embed_file, embed_psycopg2, embed_slot_function

if TYPE_CHECKING:
    from tests.conftest import Database

EXAMPLES = Path(embed_file.__file__).parent
SLOT, PUBLICATION = "example", "shop"


@pytest.fixture
def shop(database: Database) -> Database:
    """A table, a publication and a slot, and three transactions after them."""
    database.execute(
        "CREATE TYPE state AS ENUM ('new', 'paid')",
        "CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2), state state, at timestamptz)",
        f"CREATE PUBLICATION {PUBLICATION} FOR TABLE orders",
        f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
        "INSERT INTO orders VALUES (1, 9.90, 'new', '2024-01-01 00:00:00+00'), (2, NULL, NULL, 'infinity')",
        "UPDATE orders SET state = 'paid' WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
    )
    return database


def changes(events: list[Any]) -> list[Any]:
    """The row changes."""
    return [event for event in events if isinstance(event, pgcdc.Insert | pgcdc.Update | pgcdc.Delete)]


def confirmed(database: Database) -> int:
    """How far the slot is, in bytes of WAL."""
    query = f"SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    return int(database.execute(query)[0][0])


def test_psycopg2_consumer(shop: Database) -> None:
    """Rows arrive typed, and the slot moves to the last commit that was handled."""
    seen: list[Any] = []

    def handle(event: pgcdc.Event) -> bool:
        seen.append(event)
        return sum(isinstance(event, pgcdc.Commit) for event in seen) == 3

    embed_psycopg2.main(shop.dsn, SLOT, PUBLICATION, handle)
    assert [change.action for change in changes(seen)] == ["insert", "insert", "update", "delete"]
    assert changes(seen)[0].new.total == Decimal("9.90")
    assert changes(seen)[0].new.at == datetime(2024, 1, 1, tzinfo=UTC)
    assert all(isinstance(change.lsn, int) for change in changes(seen))
    assert confirmed(shop) <= seen[-1].end_lsn

    shop.execute("INSERT INTO orders VALUES (3, 1, 'new', now())")
    again: list[Any] = []

    def until_commit(event: pgcdc.Event) -> bool:
        again.append(event)
        return isinstance(event, pgcdc.Commit)

    embed_psycopg2.main(shop.dsn, SLOT, PUBLICATION, until_commit)
    assert [change.new.id for change in changes(again)] == [3], "what was confirmed does not come again"


def test_psycopg2_consumer_makes_its_slot(database: Database) -> None:
    """Where there is none."""
    database.execute("CREATE PUBLICATION shop FOR ALL TABLES")
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")

        def handle(event: pgcdc.Event) -> bool:
            return isinstance(event, pgcdc.Insert)

        consumer = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "embed_psycopg2.py"), database.dsn, "fresh", "shop"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert consumer.stdout is not None
            made = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'fresh' AND active"
            while consumer.poll() is None and database.execute(made) == [(0,)]:
                pass
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("INSERT INTO t VALUES (2)")
            lines: list[str] = []
            while not any("Insert" in line and "id=2" in line for line in lines):
                line = consumer.stdout.readline()
                assert line, f"it ended: {lines}"
                lines.append(line)
        finally:
            consumer.terminate()
            consumer.communicate()


def test_slot_function(shop: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """All changes once; enums have values though they came in binary; nothing the second time."""
    events = embed_slot_function.main(shop.dsn, SLOT, PUBLICATION)
    assert [change.action for change in changes(events)] == ["insert", "insert", "update", "delete"]
    assert changes(events)[0].new.state == "new"
    assert changes(events)[1].new.at == pgcdc.PgText("infinity")
    assert "Insert" in capsys.readouterr().out
    assert changes(embed_slot_function.main(shop.dsn, SLOT, PUBLICATION)) == []


def test_file(shop: Database, tmp_path: Path) -> None:
    """Recorded by one run of the program, read by another, without a server."""

    def run(*arguments: str) -> str:
        program = [sys.executable, str(EXAMPLES / "embed_file.py"), *arguments]
        return subprocess.run(program, capture_output=True, text=True, check=True, encoding="utf-8").stdout

    path = str(tmp_path / "changes.pgoutput")
    count = int(run("record", shop.dsn, SLOT, PUBLICATION, path).split()[0])
    printed = run("read", path).splitlines()
    assert len(printed) == count
    assert sum("insert public.orders" in line for line in printed) == 2
    assert len(list(embed_file.payloads(path))) == count
    assert changes(embed_file.main(path))[0].new["total"] == Decimal("9.90")
