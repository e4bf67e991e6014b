"""A small transaction that the sink `Postgres` has sent before it is asked to write: what is said of it, and when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from pgcdc.errors import SinkRejected, SinkUnavailable
from pgcdc.sinks import postgres_wire
from pgcdc.testing.changes import Table, insert
from tests.faults.judge import until
from tests.sinks.test_postgres import ITEMS, NOTES, ROW, in_order, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc.protocol import Batch
    from pgcdc.sinks import Postgres
    from tests.conftest import Database

PARTS = Table("parts", {"id": "bigint", "item": "bigint"}, key=("id",))


@pytest.fixture
def role(newest_database: Database) -> Iterator[str]:
    """One that may not set session_replication_role."""
    name = f"writer_of_{newest_database.name}"
    newest_database.execute(f"CREATE ROLE {name} LOGIN", f"CREATE SCHEMA pgcdc AUTHORIZATION {name}")
    yield name
    newest_database.execute(f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def sent_or_written(sink: Postgres, batch: Batch) -> bool:
    """Whether a batch was sent; it is written in any case."""
    sending = sink.send_ahead(batch)
    if sending is None:
        sink.write(batch)
    elif not sending.answered(10):
        sending.finish()
    return sending is not None


def test_a_role_whose_triggers_run_begins_and_commits(
    newest_database: Database, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said to be there is there for others; what can be deferred is looked at at the end, and undoes all."""
    newest_database.execute(
        "CREATE TABLE items (id bigint PRIMARY KEY, name text, price numeric)",
        "CREATE TABLE parts (id bigint PRIMARY KEY, item bigint REFERENCES items DEFERRABLE)",
        f"ALTER TABLE items OWNER TO {role}",
        f"ALTER TABLE parts OWNER TO {role}",
    )
    steps: list[list[bytes]] = []
    made = postgres_wire.Sent.__init__

    def note(self: postgres_wire.Sent, connection: Any, of: Any) -> None:
        steps.append([step.sql for step in of])
        made(self, connection, of)

    def both(number: int, item: int) -> list[Any]:
        return [insert(PARTS, {"id": number, "item": item}), insert(ITEMS, ROW | {"id": number})]

    *batches, orphan, last = in_order(*(both(number, number) for number in range(1, 6)), both(8, 9), both(10, 10))
    with opened(newest_database, dsn=newest_database.server.dsn(newest_database.name, user=role)) as sink:
        monkeypatch.setattr(postgres_wire.Sent, "__init__", note)
        were_sent = []
        for number, batch in enumerate(batches, 1):
            were_sent.append(sent_or_written(sink, batch))
            assert newest_database.execute("SELECT count(*) FROM items JOIN parts ON item = items.id") == [(number,)]
            assert newest_database.execute("SELECT written FROM pgcdc.sink_positions") == [(number,)]
        assert were_sent[-2:] == [True, True]
        before = sink.position()
        sending = sink.send_ahead(orphan)
        assert sending is not None and not sending.answered(10)
        assert [steps[-1][0], steps[-1][2], steps[-1][-1]] == [b"BEGIN", b"SET CONSTRAINTS ALL DEFERRED", b"COMMIT"]
        with pytest.raises(SinkRejected):
            sending.finish()
        assert sink.position() == before and newest_database.execute("SELECT count(*) FROM items") == [(5,)]
        assert sink._session.connection().info.transaction_status == TransactionStatus.IDLE
        sink.write(last)
    assert newest_database.execute("SELECT count(*) FROM parts") == [(6,)]


@pytest.mark.parametrize("is_committed", [True, False])
def test_the_answer_to_what_is_sent_for_a_partition_is_lost(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    """It has no position that says whether the batch is known: only what is unsure does."""
    *batches, last = in_order(*([insert(NOTES, {"text": "same"})] for _ in range(4)))
    counts = postgres_wire.Sent.counts

    def lost(sent: postgres_wire.Sent) -> list[int]:
        monkeypatch.setattr(postgres_wire.Sent, "counts", counts)
        if is_committed:
            counts(sent)
        else:
            pid = sink._session.connection().info.backend_pid
            newest_database.execute(f"SELECT pg_terminate_backend({pid}, 30000)")
        raise psycopg.OperationalError("the connection was lost")

    with opened(newest_database) as sink, newest_database.connect() as other:
        part = sink.part("p")
        part.open()
        for batch in batches:
            part.write(batch, "n")
        monkeypatch.setattr(postgres_wire.Sent, "counts", lost)
        with other.transaction():
            if not is_committed:
                other.execute("LOCK TABLE notes")
            with pytest.raises(SinkUnavailable):
                part.write(last, "n")
        part.write(last, "n")
    assert newest_database.execute("SELECT count(*) FROM notes") == [(4,)]
    assert newest_database.execute("SELECT written FROM pgcdc.sink_positions WHERE name ~ 'p]'") == [(4,)]


def test_nobody_waits_for_the_answer_to_what_was_sent(newest_database: Database) -> None:
    """Whoever writes it then does not take it for applied before it is."""
    *batches, last = in_order(*([insert(ITEMS, ROW | {"id": number})] for number in range(1, 5)))
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
    with opened(newest_database) as sink, ThreadPoolExecutor(1) as pool:
        for batch in batches:
            sink.write(batch)
        with newest_database.connect() as other, other.transaction():
            other.execute("LOCK TABLE items")
            assert sink.send_ahead(last) is not None
            writing = pool.submit(sink.write, last)
            until(lambda: writing.done() or len(newest_database.execute(waiting)) == 2)
            assert not writing.done()
        with pytest.raises(SinkUnavailable, match="moved on"):
            writing.result(30)
        sink.write(last)
        assert newest_database.execute("SELECT count(*) FROM items") == [(4,)]
        assert newest_database.execute("SELECT written FROM pgcdc.sink_positions") == [(4,)]


def test_a_connection_that_ends_before_the_pipeline_does_has_refused_nothing(newest_database: Database) -> None:
    """What is said last may be of the end of the connection, when all was committed."""
    with opened(newest_database) as sink:
        connection = sink._session.connection()
        sent = postgres_wire.Sent(connection, [postgres_wire.Step(b"SELECT 1")])
        assert sent.answered(10)
        ended = postgres_wire.Refusal("57P01", "terminating connection due to administrator command", 1)
        sent._said = [1], ended, False
        with pytest.raises(psycopg.OperationalError, match="the connection was lost: terminating"):
            sent.counts()
        connection.close()


def test_a_key_that_is_said_to_be_another_is_another(newest_database: Database) -> None:
    """Under FULL the shape does not say which it is: what is known of the same shapes is not taken then."""
    table = Table("notes", {"id": "int", "code": "int"}, replica_identity="f")
    newest_database.execute("CREATE TABLE notes (id int PRIMARY KEY, code int UNIQUE)")
    rows = [{"id": 1, "code": 11}, {"id": 2, "code": 12}, {"id": 3, "code": 13}, {"id": 4, "code": 13}]
    *batches, last = in_order(*([insert(table, row)] for row in rows))
    oid = last.relations[0].oid
    with opened(newest_database) as sink:
        for batch in batches:
            sent_or_written(sink, batch.with_primary_keys({oid: ["id"]}))
        sending = sink.send_ahead(last.with_primary_keys({oid: ["code"]}))
        assert sending is not None and not sending.answered(10), "it is not sent by the key of those before"
        sending.finish()
    assert newest_database.execute("SELECT id, code FROM notes ORDER BY id") == [(1, 11), (2, 12), (4, 13)]
