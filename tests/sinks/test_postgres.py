"""Another PostgreSQL as a target: the contract of sinks, and what is special to it.

Over 400 lines because two servers, all types and both ways to write are one sink.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import pytest

import pgcdc
from pgcdc.errors import ConfigError, PositionError, SinkRejected, SinkUnavailable
from pgcdc.protocol import Batch
from pgcdc.schema import change_of
from pgcdc.sinks import Postgres, postgres, postgres_session, postgres_wire
from pgcdc.sinks.postgres_session import Move
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Table, delete, insert, truncate, update
from pgcdc.testing.contracts import PartitionedSinkContract, SinkContract
from tests.conftest import Database, _new_database
from tests.faults.judge import until
from tests.pipeline.running import running
from tests.sinks import shop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.servers.postgres import PostgresServer


class OfPostgres(SinkContract, PartitionedSinkContract):
    """On a database whose name the fixture says; each place is a schema."""

    renamed: ClassVar[tuple[str, str] | None] = ("name", "title")
    late: ClassVar[bool] = False
    without: ClassVar = {
        "late": "it keeps one position, not one for each row: dead letters wait for each other, `hold`"
    }

    @pytest.fixture(autouse=True)
    def _database(self, target: Database) -> None:
        self._target = target

    def _schema(self, place: Path) -> str:
        return f"at {abs(hash(place))}"

    def make_sink(self, place: Path) -> Postgres:
        schema = self._schema(place)
        return Postgres(self._target.dsn, name=schema, schema=schema)

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        with self._target.connect() as connection:
            cursor = connection.execute(f'SELECT * FROM "{self._schema(place)}".contract')
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return {row["id"]: row for row in rows}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """The database takes no connections, and those that there are have ended."""
        name = self._target.name
        with self._target.server.connect() as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
            try:
                yield
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """Somebody has locked the table."""
        with self._target.connect() as connection, connection.transaction():
            connection.execute(f'LOCK TABLE "{self._schema(place)}".contract IN ACCESS EXCLUSIVE MODE')
            yield

    refused: ClassVar = {"id": 9, "name": "no text in PostgreSQL has a \0", "amount": None, "note": None}


class TestPostgres(OfPostgres):
    @pytest.fixture
    def target(self, newest_database: Database) -> Database:
        return newest_database


class TestPostgresByCopy(TestPostgres):
    """As many rows are written, however few there are."""

    @pytest.fixture(autouse=True)
    def _copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres, "FEW_ROWS", 0)


ITEMS = Table("items", {"id": "bigint", "name": "text", "price": "numeric(10,2)"}, key=("id",))
ROW = {"id": 1, "name": "a", "price": Decimal("1.50")}


def batch_of(*changes: Any) -> Batch:
    capture = Capture.of(list(changes))
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def in_order(*groups: Sequence[Any]) -> Iterator[Batch]:
    """Batches that come one after the other, with these changes."""
    whole = batch_of(*(change for group in groups for change in group))
    done = 0
    for group in groups:
        yield whole.take(range(done, done + len(group)))
        done += len(group)


@contextlib.contextmanager
def opened(database: Database, **options: Any) -> Iterator[Postgres]:
    sink = Postgres(options.pop("dsn", database.dsn), **options)
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


def names(database: Database) -> list[Any]:
    return [name for (name,) in database.execute("SELECT name FROM items ORDER BY id")]


@pytest.fixture
def source(newest_postgres: PostgresServer) -> Iterator[Database]:
    yield from _new_database(newest_postgres)


def test_the_whole_way_with_a_restart_in_the_middle(source: Database, database: Database) -> None:
    """To each version of PostgreSQL; the enum is one here, because somebody has made it so."""
    database.execute(
        "CREATE TYPE mood AS ENUM ('sent', 'paid', 'new')",
        "CREATE TABLE orders (total numeric, note text, status mood, id bigint PRIMARY KEY, more int DEFAULT 5)",
    )
    shop.through(source, lambda: Postgres(database.dsn))
    assert shop.content(database) == shop.content(source)
    assert database.execute("SELECT DISTINCT more FROM orders") == [(5,)]


TYPES = """
    i2 smallint, i4 int, i8 bigint, f4 real, f8 float8, n numeric, p numeric(10,2), m money, b bool, c "char",
    ch char(3), vc varchar(5), nm name, t text, raw bytea, d date, ts timestamp(3), tz timestamptz, tm time, tmz timetz,
    iv interval, u uuid, js json, jb jsonb, x xml, ip inet, net cidr, mac macaddr, bits bit(3), vb varbit, pt point,
    bx box, r int4range, mr int4multirange, ints int[], texts text[], ts2 tsvector, lsn pg_lsn, ov oidvector
"""


@pytest.mark.parametrize("few", [0, 50])
def test_every_type_from_every_version(
    database: Database, newest_database: Database, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """From each version to the newest, through the copy and through the stream, copied there and as parameters."""
    monkeypatch.setattr(postgres, "FEW_ROWS", few)
    columns = ", ".join(one.split()[0].strip() for one in re.sub(r"\(\d+,\d+\)", "", TYPES).split(","))
    values = r"""
        -1, 2, 9223372036854775807, 0.1, 'NaN', 1e-30, 12.5, 3.14, true, 'x', 'a', 'éé', 'name', E'\t''"\\', '\x00ff',
        'infinity', '4713-01-01 BC', '2024-02-29 12:30:00.5+02', '24:00', '12:00+05:30', '1 mon -2 days 03:00',
        '00112233-4455-6677-8899-aabbccddeeff', '{"b": 1.10,  "a":2}', '{"b": 1e400}', '<a/>', '10.0.0.1/8',
        '10.0.0.0/8', '08:00:2b:01:02:03', '101', '1', '(1,2)', '(1,2),(3,4)', '[1,5)', '{[1,2),[5,9)}',
        '{{1,NULL},{3,4}}', '[0:1]={a,"b,c"}', 'a:1 b:2', '16/B374D848', '1 2 3'
    """
    made = (
        "CREATE TYPE pair AS (a int, b text)",
        f"CREATE TABLE every (id int PRIMARY KEY, {TYPES}, own pair, gone regclass)",
    )
    insert_ = f"INSERT INTO every (id, {columns}, own, gone) VALUES (%s, {values}, '(1,\"x y\")', 'pg_class')"
    database.execute(*made, insert_.replace("%s", "1"), "INSERT INTO every VALUES (2)")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["every"])
    pipeline.add(Postgres(newest_database.dsn), name="copy")
    with running(pipeline) as run:
        run.streaming()
        database.execute(
            insert_.replace("%s", "3"), "UPDATE every SET i4 = 7 WHERE id = 1", "INSERT INTO every VALUES (4)"
        )
        run.catch_up(database)
    query = f"SELECT id, ROW({columns}, own)::text FROM every ORDER BY id"
    assert newest_database.execute(query) == database.execute(query)
    types = (
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'every'::regclass AND attnum > 0"
    )
    assert newest_database.execute(types)[:-2] == database.execute(types)[:-2]
    assert newest_database.execute(types)[-2:] == [("text",), ("text",)]


def test_what_is_right_in_its_own_order_is_written(newest_database: Database) -> None:
    """By a role whose triggers and foreign keys run."""
    if not newest_database.execute("SELECT FROM pg_roles WHERE rolname = 'writer'"):
        newest_database.execute("CREATE ROLE writer LOGIN")
    newest_database.execute(
        "CREATE SCHEMA pgcdc AUTHORIZATION writer",
        "CREATE TABLE items (id bigint PRIMARY KEY, name text UNIQUE, price numeric CHECK (price > 0))",
        "INSERT INTO items VALUES (1, 'a', 1), (2, 'b', 1)",
        "ALTER TABLE items OWNER TO writer",
    )
    dsn = newest_database.server.dsn(newest_database.name, user="writer")
    swap = [
        update(ITEMS, ROW | {"name": "x"}),
        update(ITEMS, ROW | {"id": 2, "name": "a"}),
        update(ITEMS, ROW | {"name": "b"}),
    ]
    with opened(newest_database, dsn=dsn) as sink:
        sink.write(batch_of(*swap))
    assert names(newest_database) == ["b", "a"]
    refused = batch_of(
        insert(ITEMS, ROW | {"id": 3, "name": "c"}), insert(ITEMS, ROW | {"id": 4, "price": Decimal(-5)})
    )
    with opened(newest_database, dsn=dsn, name="again") as sink, pytest.raises(SinkRejected) as caught:
        sink.write(refused)
    assert caught.value.positions == {refused.last_position} and caught.value.table == "public.items"
    assert "items_price_check" in str(caught.value) and "-5" not in str(caught.value)
    assert names(newest_database) == ["b", "a"]


def test_all_that_is_refused_is_found_at_once(newest_database: Database) -> None:
    """A change that is right only behind one that is refused is refused, too; nothing is left of the search."""
    newest_database.execute(
        "CREATE TABLE items (id bigint PRIMARY KEY, name text UNIQUE, price numeric CHECK (price > 0))"
    )
    bad = {7, 8, 300, 599}
    changes = [insert(ITEMS, ROW | {"id": id, "name": str(id), "price": Decimal(id not in bad)}) for id in range(600)]
    whole = batch_of(*changes, insert(ITEMS, ROW | {"id": 600, "name": "5"}))
    with opened(newest_database) as sink:
        for _ in range(3):
            with pytest.raises(
                SinkRejected, match=r"refuses 5 changes of public\.items: .*items_price_check"
            ) as caught:
                sink.write(whole)
        positions = [change.position for change in whole.changes()]
        assert caught.value.positions == {positions[number] for number in (*bad, 600)}
        sink.write(whole.take(set(range(600)) - bad))
        found = sink._session.connection().execute("SELECT count(*) FROM pg_class WHERE relname ~ '^pgcdc_rows'")
        assert found.fetchall() == [(1,)]
    assert newest_database.execute("SELECT count(*) FROM items") == [(596,)]


def test_rows_go_both_ways_in_one_transaction(newest_database: Database) -> None:
    """A row whose key has changed is copied, what stands beside it is a parameter; one refuses both."""
    notes = Table("notes", {"id": "int", "text": "text"}, key=("id",))
    newest_database.execute("CREATE TABLE notes (id int PRIMARY KEY, text varchar(3))")
    whole = batch_of(
        insert(ITEMS, ROW),
        insert(notes, {"id": 1, "text": "a"}),
        update(ITEMS, ROW | {"id": 2}, old=ROW),
        update(notes, {"id": 1, "text": "b"}),
        insert(notes, {"id": 2, "text": "c"}),
        update(ITEMS, ROW, old=ROW | {"id": 2}),
        insert(notes, {"id": 3, "text": "too long"}),
    )
    with opened(newest_database) as sink:
        sink.write(whole.take([0, 1]))
        moved = whole.take([2, 3, 4])
        sink.write(moved)
        with pytest.raises(SinkRejected, match="StringDataRightTruncation"):
            sink.write(whole.take([5, 6]))
        assert sink.position() == moved.last_position
    assert newest_database.execute("SELECT id FROM items") == [(2,)]
    assert newest_database.execute("SELECT id, text FROM notes ORDER BY id") == [(1, "b"), (2, "c")]


def test_equal_numbers_are_one_key(newest_database: Database) -> None:
    table = Table("prices", {"price": "numeric", "name": "text"}, key=("price",))
    row = {"price": Decimal("1.0"), "name": "a"}
    with opened(newest_database) as sink:
        sink.write(batch_of(insert(table, row)))
        sink.write(batch_of(insert(table, row), update(table, row | {"price": Decimal("1.00")}, old=row)))
    assert newest_database.execute("SELECT price::text FROM prices") == [("1.00",)]


def test_columns_that_the_target_makes_are_left_to_it(newest_database: Database) -> None:
    newest_database.execute(
        "CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(3),"
        " price numeric(10,2) GENERATED ALWAYS AS (1.25) STORED)",
    )
    with opened(newest_database) as sink:
        sink.write(batch_of(insert(ITEMS, ROW), update(ITEMS, ROW | {"name": "b"})))
        with pytest.raises(SinkRejected, match="StringDataRightTruncation"):
            sink.write(batch_of(insert(ITEMS, ROW), insert(ITEMS, ROW), update(ITEMS, ROW | {"name": "too long"})))
    assert newest_database.execute("SELECT id, name, price::text FROM items") == [(1, "b", "1.25")]


def test_a_table_without_a_unique_index_is_refused(newest_database: Database) -> None:
    newest_database.execute("CREATE TABLE items (id bigint, name text, price numeric)")
    with opened(newest_database) as sink, pytest.raises(ConfigError, match="no unique index on its key") as caught:
        sink.write(batch_of(insert(ITEMS, ROW)))
    newest_database.execute(str(caught.value.hint))
    with opened(newest_database) as sink:
        sink.write(batch_of(insert(ITEMS, ROW)))
    assert names(newest_database) == ["a"]


def test_a_second_writer_takes_over(newest_database: Database) -> None:
    batch = batch_of(insert(ITEMS, ROW), insert(ITEMS, ROW | {"id": 2}))
    first_position = batch.first_position
    assert first_position is not None
    with opened(newest_database) as first, opened(newest_database) as second:
        with pytest.raises(PositionError, match="somebody else"):
            first.write(batch)
        second.write(batch.up_to(first_position))
        assert second.position() == first_position
        second.write(batch)
        assert second.position() == batch.last_position
    assert names(newest_database) == ["a", "a"]


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_whose_answer_is_lost(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """Rows of a copy have one position, and those of a table without a key are not told apart: only the count helps."""
    table = Table("notes", {"text": "text"}, replica_identity="f")
    copied = Batch.concat(Capture.of([], [insert(table, {"text": "same"}), insert(table, {"text": "same"})]).existing)
    honest = postgres_wire.run

    def lost(connection: Any, steps: Any) -> list[int]:
        monkeypatch.setattr(postgres_session, "run", honest)
        if committed:
            honest(connection, steps)
        connection.close()
        raise psycopg.OperationalError("the connection was lost")

    with opened(newest_database) as sink:
        monkeypatch.setattr(postgres_session, "run", lost)
        with pytest.raises(SinkUnavailable):
            sink.write(copied)
        sink.write(copied.take(range(copied.changes_count)))
        sink.write(copied)
    assert newest_database.execute("SELECT count(*) FROM notes") == [(4,)]


NOTES = Table("notes", {"text": "text"}, replica_identity="f")


def test_few_rows_of_tables_that_come_together_again(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all is known of them, they are sent at once; where there is more to them, they are not."""
    wider = Table("items", {**ITEMS.columns, "more": "text"}, key=("id",))
    same = insert(NOTES, {"text": "same"})
    groups: list[tuple[Any, ...]] = [
        (insert(ITEMS, ROW), same, same),
        (insert(ITEMS, ROW | {"id": 2}), same, same, update(ITEMS, ROW | {"name": "b"}), same),
        (update(ITEMS, ROW | {"id": 2, "name": "b"}), same, delete(ITEMS, {"id": 1})),  # the first delete
        (insert(ITEMS, ROW | {"id": 3}), same),
        (insert(ITEMS, ROW | {"id": 4}), same, truncate(NOTES), same),
        (insert(ITEMS, ROW | {"id": 5}), same),
        (update(ITEMS, ROW | {"id": 50}, {"id": 5}), same),
        (insert(ITEMS, ROW | {"id": 6}), same, insert(wider, ROW | {"id": 7, "more": "m"})),
        (insert(wider, ROW | {"id": 8, "more": None}), same),
        (insert(wider, ROW | {"id": 9, "more": "m"}), same, delete(wider, {"id": 50})),
    ]
    ways: list[str] = []

    def noted(way: str, method: Any) -> Any:
        def note(*arguments: Any) -> Any:
            ways[-1] += way
            return method(*arguments)

        return note

    monkeypatch.setattr(postgres_session.Session, "send", noted("s", postgres_session.Session.send))
    counts = []
    with opened(newest_database) as sink:
        for batch in in_order(*groups):
            ways.append("")
            sink.write(batch)
            assert sink.position() == batch.last_position
            counts.append(newest_database.execute("SELECT count(*) FROM notes")[0][0])
    assert counts == [2, 5, 6, 7, 1, 2, 3, 4, 5, 6]
    assert ways == ["", "s", "", "", "", "", "s", "", "", ""]
    assert newest_database.execute("SELECT id, name, more FROM items ORDER BY id") == [
        (2, "b", None), (3, "a", None), (4, "a", None), (6, "a", None), (7, "a", "m"), (8, "a", None), (9, "a", "m")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("UPDATE pgcdc.sink_positions SET epoch = epoch + 1", "somebody else"),
        ("UPDATE pgcdc.sink_positions SET written = written + 1", "moved on"),
        ("DELETE FROM pgcdc.sink_positions", "somebody else"),
        ("UPDATE pgcdc.sink_positions SET updated_at = now()", None),
    ],
)
def test_who_waits_for_its_position_sees_what_was_made_of_it(
    newest_database: Database, what: str, said: str | None
) -> None:
    """Another session has the row when the transaction begins, and commits while that waits."""
    batches = list(in_order(*[(insert(ITEMS, ROW | {"id": number}),) for number in range(1, 5)]))
    with opened(newest_database) as sink, ThreadPoolExecutor(1) as pool:
        for batch in batches[:3]:
            sink.write(batch)
        with newest_database.connect() as other:
            with other.transaction():
                other.execute(what)
                writing = pool.submit(sink.write, batches[3])
                until(lambda: newest_database.execute("SELECT pid FROM pg_locks WHERE NOT granted"))
            if said is None:
                writing.result(30)
            else:
                with pytest.raises((PositionError, SinkUnavailable), match=said):
                    writing.result(30)
    assert newest_database.execute("SELECT max(id) FROM items") == [(3 if said else 4,)]


def test_who_has_begun_and_is_late_writes_nothing(newest_database: Database) -> None:
    batches = list(in_order(*[(insert(ITEMS, ROW | {"id": number}),) for number in range(1, 6)]))
    with opened(newest_database) as late, opened(newest_database, name="another") as other:
        for batch in batches[:3]:
            late.write(batch)
            other.write(batch)
        with opened(newest_database) as taken:
            with pytest.raises(PositionError, match="somebody else"):
                late.write(batches[3])
            other.write(batches[3])
            assert taken.position() == batches[2].last_position
            taken.write(batches[4])
    assert len(names(newest_database)) == 5


def test_ctrl_c_while_it_writes_loses_nothing(newest_database: Database) -> None:
    """The answers that nobody has read are not taken for those of the next batch."""
    batches = list(in_order(*([insert(ITEMS, ROW | {"id": number})] for number in range(1, 6))))
    blocked = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'public.items'::regclass"

    def interrupt() -> None:
        until(lambda: newest_database.execute(blocked))
        os.kill(os.getpid(), signal.SIGINT)

    with opened(newest_database) as sink:
        for batch in batches[:2]:
            sink.write(batch)
        with newest_database.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE public.items IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                sink.write(batches[2])
            thread.join()
        for batch in batches[2:]:
            sink.write(batch)
        assert newest_database.execute("SELECT id FROM public.items ORDER BY id") == [(1,), (2,), (3,), (4,), (5,)]


def test_a_process_that_was_stopped_within_a_write_is_named(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the row of the position: whoever opens the sink meanwhile says so, and gets it when that is gone."""
    monkeypatch.setattr(postgres_session, "_LOCK_WITHIN", "50ms")
    [batch] = in_order([insert(ITEMS, ROW | {"id": 1})])
    with opened(newest_database) as stopped:
        assert batch.last_position is not None
        move = Move(stopped._kept, batch.last_position)
        stopped._session.run(stopped._session.begin(move), move)
        other = Postgres(newest_database.dsn)
        with pytest.raises(SinkUnavailable, match="another session is in a transaction") as raised:
            other.open()
        assert raised.value.hint is not None
        query = raised.value.hint.removeprefix("is its process stopped? ")
        assert len(newest_database.execute(query)) == 1
        other.open()
        other.write(batch)
        other.close()
    assert newest_database.execute("SELECT id FROM public.items") == [(1,)]


def test_a_constraint_that_says_no_at_the_commit(newest_database: Database) -> None:
    """Such a trigger also runs for replicas."""
    newest_database.execute(
        "CREATE TABLE items (id bigint PRIMARY KEY, name text, price numeric)",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.name = 'bad' THEN RAISE check_violation; END IF; RETURN NULL; END$$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON items DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
        "ALTER TABLE items ENABLE ALWAYS TRIGGER late",
    )
    first, bad, last = in_order(
        [insert(ITEMS, ROW)],
        [insert(ITEMS, ROW | {"id": 2, "name": "bad"})],
        [insert(ITEMS, ROW | {"id": 3})],
    )
    with opened(newest_database) as sink:
        sink.write(first)
        with pytest.raises(SinkRejected, match="items") as refused:
            sink.write(bad)
        assert set(refused.value.positions) == {bad.first_position}
        assert sink.position() == first.last_position
        sink.write(last)
    assert names(newest_database) == ["a", "a"]


def test_what_is_refused_where_a_pipeline_ends(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows are committed there, without BEGIN and COMMIT: what says no then leaves nothing of them."""
    newest_database.execute(
        "CREATE TABLE items (id bigint PRIMARY KEY, name text, price numeric)",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF NEW.name = 'bad' THEN RAISE check_violation; END IF;"
        " IF NEW.name = 'late' THEN RAISE lock_not_available; END IF; RETURN NULL; END$$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE ON items DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
        "ALTER TABLE items ENABLE ALWAYS TRIGGER late",
    )
    sent: list[list[bytes]] = []
    made = postgres_wire.Sent.__init__

    def note(self: Any, connection: Any, steps: Any) -> None:
        sent.append([step.sql for step in steps])
        made(self, connection, steps)

    monkeypatch.setattr(postgres_wire.Sent, "__init__", note)
    names_sent = ["a", "a", "bad", "a", "late", "a"]
    batches = in_order(*([insert(ITEMS, ROW | {"id": at, "name": name})] for at, name in enumerate(names_sent)))
    said: list[str] = []
    with opened(newest_database) as sink:
        sink._session.connection().add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        for batch, name in zip(batches, names_sent, strict=True):
            before = sink.position()
            if name == "a":
                sink.write(batch)
                assert sink.position() == batch.last_position
                continue
            with pytest.raises(SinkRejected if name == "bad" else SinkUnavailable):
                sink.write(batch)
            assert any(steps[0] == b"pgcdc_position" and b"COMMIT" not in steps for steps in sent[-2:])
            assert sink.position() == before
            if name == "late":
                newest_database.execute("ALTER TABLE items DISABLE TRIGGER late")
                sink.write(batch)
                assert sink.position() == batch.last_position
    assert names(newest_database) == ["a", "a", "a", "late", "a"]
    assert newest_database.execute("SELECT written FROM pgcdc.sink_positions") == [(5,)]
    assert not said


def copied_notes(count: int) -> Batch:
    """Rows that nothing tells apart."""
    return Batch.concat(Capture.of([], [insert(NOTES, {"text": "same"})] * count).existing)


def test_partitions_have_notes_and_owners_of_their_own(newest_database: Database) -> None:
    one, two, three = (batch_of(insert(ITEMS, ROW | {"id": number})) for number in (1, 2, 3))
    with opened(newest_database) as late, opened(newest_database) as sink:
        parts = [late.part("shop.items/0"), late.part("shop.items/1")]
        assert [part.open() for part in parts] == [None, None]
        parts[0].write(one, "first")
        parts[1].write(two, "of the other")
        taken = sink.part("shop.items/0")
        assert taken.open() == "first"
        with pytest.raises(PositionError, match="somebody else"):
            parts[0].write(three, "late")
        parts[1].write(three, "goes on")
        taken.write(copied_notes(1), "second")
        taken.rewrite(copied_notes(1))
        assert sink.part("shop.items/0").open() == "second"
        assert sink.part("shop.items/1").open() == "goes on"
        assert sink.position() is None, "the one of the slot is another"
    assert newest_database.execute("SELECT array_agg(id ORDER BY id) FROM items") == [([1, 2, 3],)]
    assert newest_database.execute("SELECT count(*) FROM notes") == [(2,)]


def test_a_table_of_positions_from_before_gets_its_column(newest_database: Database) -> None:
    with opened(newest_database) as sink:
        sink.write(batch_of(insert(ITEMS, ROW)))
        position = sink.position()
    newest_database.execute("ALTER TABLE pgcdc.sink_positions DROP COLUMN note")
    with opened(newest_database) as sink:
        assert sink.position() == position
        part = sink.part("shop.items/0")
        part.open()
        part.write(batch_of(insert(ITEMS, ROW | {"id": 2})), "here")
        assert sink.part("shop.items/0").open() == "here"


def test_many_partitions_of_one_connection(newest_database: Database) -> None:
    """psycopg prepares what it is given five times, and with a ROLLBACK takes away all that is prepared."""
    with opened(newest_database) as sink:
        parts = [sink.part(f"shop.items/{number}") for number in range(8)]
        for number, part in enumerate(parts):
            part.open()
            part.write(batch_of(insert(ITEMS, ROW | {"id": number})), "")
        with pytest.raises(SinkRejected):
            parts[0].write(batch_of(insert(ITEMS, ROW | {"name": "no text in PostgreSQL has a \0"})), "")
        for number, part in enumerate(parts):
            part.write(batch_of(insert(ITEMS, ROW | {"id": 10 + number})), "")
    assert newest_database.execute("SELECT count(*) FROM items") == [(16,)]


@pytest.mark.parametrize("fate", ["committed", "rolled back", "committed late"])
def test_a_partition_s_commit_whose_answer_is_lost(
    newest_database: Database, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    honest = postgres_wire.run
    stale: list[Any] = []

    def lost(connection: Any, steps: Any, sink: Postgres) -> list[int]:
        monkeypatch.setattr(postgres_session, "run", later)
        honest(connection, steps[:-1])
        if fate == "committed late":
            sink._session._opened = None  # the server goes on with it
            stale.append(connection)
        elif fate == "committed":
            connection.execute("COMMIT")
        raise psycopg.OperationalError("the connection was lost")

    def later(connection: Any, steps: Any) -> list[int]:
        while stale:
            with contextlib.closing(stale.pop()) as other:
                other.execute("COMMIT")
        return honest(connection, steps)

    with opened(newest_database) as sink:
        part = sink.part("shop.notes/0")
        part.open()
        part.write(copied_notes(1), "before")
        monkeypatch.setattr(postgres_session, "run", lambda connection, steps: lost(connection, steps, sink))
        with pytest.raises(SinkUnavailable):
            part.write(copied_notes(2), "lost")
        if fate == "committed late":
            with pytest.raises(SinkUnavailable, match="has moved on"):
                part.write(copied_notes(2), "lost")
        part.write(copied_notes(2), "lost")
        assert newest_database.execute("SELECT count(*) FROM notes") == [(3,)]
        part.write(copied_notes(2), "behind")
        assert sink.part("shop.notes/0").open() == "behind"
    assert newest_database.execute("SELECT count(*) FROM notes") == [(5,)]


def test_a_table_is_altered_as_at_the_source(newest_database: Database) -> None:
    later = Table("items", {"id": "bigint", "title": "text", "price": "text", "more": "int[]"}, key=("id",))
    before = batch_of(insert(ITEMS, ROW))
    after = batch_of(insert(ITEMS, ROW), insert(later, {"id": 2, "title": "b", "price": "p", "more": None}))
    change = change_of(before.relations[0], after.relations[-1])
    with opened(newest_database) as sink:
        sink.write(before)
        for _ in range(2):  # what was done already is not done again
            sink.schema_changed(change)
        sink.write(after)
    rows = newest_database.execute("SELECT id, title, price, more FROM items ORDER BY id")
    assert rows == [(1, "a", "1.50", None), (2, "b", "p", None)]
    fewer = Table("items", {"id": "bigint", "title": "text", "price": "text"}, key=("id",))
    dropped = change_of(after.relations[-1], batch_of(delete(fewer, {"id": 1})).relations[0])
    with opened(newest_database, drop_columns=True) as sink:
        sink.schema_changed(dropped)
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'items'::regclass AND attnum > 0 AND NOT attisdropped"
    assert newest_database.execute(columns) == [("id",), ("title",), ("price",)]


def test_a_type_that_values_do_not_go_into_is_a_matter_of_configuration(newest_database: Database) -> None:
    before = batch_of(insert(ITEMS, ROW))
    other = batch_of(insert(Table("items", dict(ITEMS.columns) | {"name": "int"}, key=("id",)), ROW | {"name": 1}))
    with opened(newest_database) as sink:
        sink.write(before)
        with pytest.raises(ConfigError, match="InvalidTextRepresentation") as caught:
            sink.schema_changed(change_of(before.relations[0], other.relations[0]))
    assert '"a"' not in str(caught.value)


def test_a_message_has_no_secret() -> None:
    sink = Postgres("host=127.0.0.1 port=1 password=geheim")
    assert "geheim" not in repr(sink)
    with pytest.raises(SinkUnavailable) as caught:
        sink.open()
    assert "geheim" not in str(caught.value)
