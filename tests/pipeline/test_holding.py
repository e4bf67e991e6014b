"""What is held by which key: when a table or a consumer gets another one, nothing passes what waits."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import pgcdc
from pgcdc import Position, SinkRejected, transforms
from pgcdc.pipeline import DeadLetter, MemoryDeadLetters, Which, describing
from pgcdc.pipeline import parking as parking_module
from pgcdc.pipeline import run as run_module
from pgcdc.pipeline.describing import Seen
from pgcdc.pipeline.options import Options
from pgcdc.pipeline.parking import Desk, Parking
from pgcdc.pipeline.row_formats import RowFormats
from tests.pipeline.running import Running, running, until
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conftest import Database


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.05)


class Refusing(Recorder):
    """Refuses what has the number 1 in a column, until it is cured."""

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column = column
        self.cured = False
        self.numbers: list[int] = []

    def write(self, batch: pgcdc.Batch) -> None:
        numbers = [int(getattr(change.new, self.column)) for change in batch.changes()]  # type: ignore[union-attr]
        if 1 in numbers and not self.cured:
            raise SinkRejected("refused")
        self.numbers += numbers


@pytest.mark.parametrize(
    ("before", "now"), [(None, ["u"]), (["u"], None), (["u"], ["w"])], ids=["chosen", "no more", "another"]
)
def test_letters_that_hold_by_another_key_are_seen_to_first(newest_database: Database, before: Any, now: Any) -> None:
    """What comes later would be looked for under the key of now, and pass."""
    newest_database.execute("CREATE TABLE a (id int PRIMARY KEY, u int, w int, v int)")
    newest_database.execute("ALTER TABLE a REPLICA IDENTITY FULL")
    sink = Refusing("v")

    def make(key: Sequence[str] | None) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"])
        pipeline.add(sink, name="sink", on_failure="hold", key=key)
        return pipeline

    with running(make(before)) as run:
        run.streaming()
        newest_database.execute("INSERT INTO a VALUES (1, 7, 7, 1)")
        run.catch_up(newest_database)
    newest_database.execute("UPDATE a SET v = 2")
    error = Running(make(now)).ended()
    assert isinstance(error, pgcdc.PositionError) and error.table == "public.a"
    assert "keeps order by another key" in str(error) and "pgcdc deadletter list" in str(error.hint)
    assert sink.numbers == []
    sink.cured = True
    pipeline = make(before)
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(newest_database)
        assert sink.numbers == []
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == [1, 2]
    pipeline.dead_letters.close()
    with running(make(now)) as run:
        run.streaming()


@pytest.mark.parametrize("handles", [True, False])
def test_what_is_held_is_found_out_once_and_beside_the_event_loop(newest_database: Database, handles: bool) -> None:
    """The other consumers share the loop; and a batch of which much is refused is not looked through each time."""
    newest_database.execute("CREATE TABLE a (id int PRIMARY KEY, v int)")
    sink = Refusing("v")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"], snapshot="never")
    threads, described = set(), 0

    def describe(batch: pgcdc.Batch, *arguments: Any) -> list[Seen]:
        nonlocal described
        threads.add(threading.current_thread().name)
        described += batch.changes_count
        return describing.describe(batch, *arguments)

    def handle(change: Any) -> None:
        if change.new.v == 1:
            raise ValueError("no")

    if handles:
        pipeline.on("a", "insert", name="sink", on_failure="hold", retry=pgcdc.Retry(attempts=1))(handle)
    else:
        pipeline.add(sink, name="sink", on_failure="hold")
    with mock.patch.object(parking_module, "describe", describe), running(pipeline) as run:
        run.streaming()
        newest_database.execute("INSERT INTO a SELECT g, (g % 5 <> 0)::int + 1 FROM generate_series(1, 100) g")
        run.catch_up(newest_database)
        assert len(pipeline.dead_letters.list()) == 20
    assert threads == {"pgcdc-shop-dead-letters"}
    assert described <= 100 + 20


def test_a_chosen_key_is_compared_by_its_value_across_tables(newest_database: Database) -> None:
    """Its columns may be wider in one of them; in one and the same table another width is another key."""
    newest_database.execute(
        "CREATE TABLE a (id int PRIMARY KEY, u numeric(10, 0), v int)",
        "CREATE TABLE b (id int PRIMARY KEY, u numeric(12, 1), v int)",
        *(f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in "ab"),
    )
    sink = Refusing("v")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a", "b"])
    pipeline.add(sink, name="sink", on_failure="hold", key=["u"], max_rows=1)
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute(
            "INSERT INTO a VALUES (1, 7, 1)",
            "INSERT INTO b VALUES (1, 7, 2), (2, 8, 3)",
            "INSERT INTO a VALUES (2, 8, 4)",
        )
        run.catch_up(newest_database)
        assert sink.numbers == [3, 4]
        newest_database.execute("ALTER TABLE a ALTER u TYPE numeric(9, 0)", "INSERT INTO a VALUES (3, 9, 5)")
        run.catch_up(newest_database)
        assert sink.numbers == [3, 4]
        sink.cured = True
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == [3, 4, 1, 2, 5]


def test_letters_of_an_outbox_with_other_columns_are_seen_to_first(newest_database: Database) -> None:
    newest_database.execute("CREATE TABLE o (id int PRIMARY KEY, topic text, one int, other int, payload jsonb)")
    sink = Refusing("payload")

    def make(key: str | None) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["o"])
        events: Any = transforms.outbox("o", key=key) if key else ()
        pipeline.add(sink, name="sink", tables=["o"], transform=events, on_failure="hold")
        return pipeline

    with running(make("one")) as run:
        run.streaming()
        newest_database.execute("INSERT INTO o VALUES (1, 'paid', 7, 8, '1')")
        run.catch_up(newest_database)
    for key in ("other", None):
        error = Running(make(key)).ended()
        assert isinstance(error, pgcdc.PositionError) and "columns of an outbox table" in str(error)
    sink.cured = True
    pipeline = make("one")
    with running(pipeline) as run:
        run.streaming()
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == [1]
    pipeline.dead_letters.close()


@pytest.mark.parametrize(
    ("alter", "waits"),
    [
        ("ALTER TABLE a ALTER id TYPE numeric(10, 2)", True),
        ("ALTER TABLE a DROP CONSTRAINT a_pkey, ADD PRIMARY KEY (other)", True),
        ("ALTER TABLE a ALTER id TYPE bigint", False),
        ("ALTER TABLE a RENAME id TO number", False),
    ],
    ids=["prints otherwise", "another key", "wider", "another name"],
)
def test_a_table_whose_key_is_another_one_waits_as_a_whole(newest_database: Database, alter: str, waits: bool) -> None:
    """A value of the key before cannot be found again; one that can be lets the other rows go."""
    newest_database.execute("CREATE TABLE a (id int PRIMARY KEY, other int NOT NULL, v int)")
    newest_database.execute("INSERT INTO a VALUES (1, 11, 0), (2, 12, 0)")
    sink = Refusing("v")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"], snapshot="never")
    pipeline.add(sink, name="sink", on_failure="hold")
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute("UPDATE a SET v = 1 WHERE other = 11", alter)
        newest_database.execute("UPDATE a SET v = 2 WHERE other = 11", "UPDATE a SET v = 3 WHERE other = 12")
        run.catch_up(newest_database)
        assert sink.numbers == ([] if waits else [3])
        sink.cured = True
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == ([1, 2, 3] if waits else [3, 1, 2])
    pipeline.dead_letters.close()


@pytest.mark.parametrize("policy", ["park", "hold"])
def test_alike_rows_of_a_copy_are_letters_each(newest_database: Database, policy: Any) -> None:
    """They share their position; without a key nothing else tells them apart. One letter too few is a row lost."""
    newest_database.execute("CREATE TABLE a (v int)", "INSERT INTO a SELECT 1 FROM generate_series(1, 5)")
    sink = Refusing("v")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"])
    pipeline.add(sink, name="sink", on_failure=policy)
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(newest_database)
        assert len(pipeline.dead_letters.list()) == 5
        sink.cured = True
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == [1] * 5
    pipeline.dead_letters.close()


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX a_both"])
def test_a_row_is_held_by_its_primary_key_under_any_identity(newest_database: Database, identity: str) -> None:
    """With more columns in the identity the row of before and the one that has its key now are not two rows."""
    newest_database.execute(
        "CREATE TABLE a (id int PRIMARY KEY, email text NOT NULL)",
        "CREATE UNIQUE INDEX a_both ON a (id, email)",
        f"ALTER TABLE a REPLICA IDENTITY {identity}",
    )
    came: list[str] = []
    failing = True
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"])

    @pipeline.on("a", "insert", "delete", name="handler", on_failure="hold")
    def handle(change: Any) -> None:
        if failing and change.action == "delete":
            raise ValueError
        came.append(change.action)

    with running(pipeline) as run:
        run.streaming()
        newest_database.execute("INSERT INTO a VALUES (1, 'a')", "DELETE FROM a", "INSERT INTO a VALUES (1, 'b')")
        run.catch_up(newest_database)
        assert came == ["insert"]
        failing = False
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert came == ["insert", "delete", "insert"]
    pipeline.dead_letters.close()


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "tab\tulator", "größe", "c0"])
def test_a_key_holds_whatever_its_column_is_called(newest_database: Database, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    newest_database.execute(f"CREATE TABLE a ({quoted} int PRIMARY KEY, c1 int)")
    sink = Refusing("c1")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"])
    pipeline.add(sink, name="sink", on_failure="hold")
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute(
            "INSERT INTO a VALUES (7, 1)", "INSERT INTO a VALUES (8, 2)", f"UPDATE a SET c1 = 3 WHERE {quoted} = 7"
        )
        run.catch_up(newest_database)
        assert sink.numbers == [2]
        assert [json.loads(one.key or "") for one in pipeline.dead_letters.list()] == [{name: "7"}, {name: "7"}]
        sink.cured = True
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == [2, 1, 3]
    pipeline.dead_letters.close()


def test_a_number_holds_however_many_zeros_it_has(newest_database: Database) -> None:
    """The row that is deleted and the one that is made under the same number are one to the server."""
    newest_database.execute("CREATE TABLE a (id numeric PRIMARY KEY)")
    came: list[str] = []
    failing = True
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"])

    @pipeline.on("a", "insert", "delete", name="handler", on_failure="hold")
    def handle(change: Any) -> None:
        if failing and change.action == "delete":
            raise ValueError
        came.append(f"{change.action} {(change.new if change.action == 'insert' else change.old).id}")

    with running(pipeline) as run:
        run.streaming()
        newest_database.execute(
            "INSERT INTO a VALUES (1.0)", "DELETE FROM a", "INSERT INTO a VALUES (1.00)", "INSERT INTO a VALUES (10)"
        )
        run.catch_up(newest_database)
        assert came == ["insert 1.0", "insert 10"]
        failing = False
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert came == ["insert 1.0", "insert 10", "delete 1.0", "insert 1.00"]
    pipeline.dead_letters.close()


def test_events_that_cannot_be_in_order_at_once_are_refused() -> None:
    pipeline = pgcdc.Pipeline("shop", "dbname=shop", tables=["o", "p"])
    renamed: list[Any] = [transforms.rename("o", to="o2"), transforms.outbox("o2")]
    two: list[Any] = [transforms.outbox("o"), transforms.outbox("p")]
    with pytest.raises(pgcdc.ConfigError, match="cannot keep events in order by their key behind a transform"):
        pipeline.add(Recorder(), name="late", transform=renamed, concurrency=2)
    with pytest.raises(pgcdc.ConfigError, match="cannot keep events of several outbox tables in order"):
        pipeline.add(Recorder(), name="two", transform=two, concurrency=2)
    pipeline.add(Recorder(), name="one at a time", transform=two)
    pipeline.add(Recorder(), name="chosen", transform=two, concurrency=2, key=["user_id"])


@pytest.mark.parametrize("failing", [False, True])
def test_events_of_an_outbox_are_in_order_by_topic_and_key_under_concurrency(
    newest_database: Database, failing: bool
) -> None:
    """Each event is a row with a key of its own: that order would be none."""
    newest_database.execute("CREATE TABLE o (id int PRIMARY KEY, topic text, user_id int, payload jsonb)")
    came: dict[int, list[int]] = {0: [], 1: []}
    lock = threading.Lock()

    class Slow(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            for change in batch.changes():
                number = change.new.payload  # type: ignore[union-attr]
                if failing and number == 2:
                    raise SinkRejected("refused")
                with lock:
                    came[number % 2].append(number)

    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["o"], snapshot="never")
    pipeline.add(Slow(), name="sink", transform=transforms.outbox("o", key="user_id"), on_failure="hold", concurrency=4)
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute("INSERT INTO o SELECT g, 't', g % 2, to_jsonb(g) FROM generate_series(1, 200) g")
        run.catch_up(newest_database)
        assert came[1] == list(range(1, 201, 2))
        assert came[0] == ([] if failing else list(range(2, 201, 2)))
    assert len(pipeline.dead_letters.list()) == (100 if failing else 0)
    pipeline.dead_letters.close()


def test_a_numeric_key_of_fewer_digits_is_another_number(newest_database: Database) -> None:
    newest_database.execute("CREATE TABLE a (id numeric PRIMARY KEY, v int)")
    sink = Refusing("v")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["a"])
    pipeline.add(sink, name="sink", on_failure="hold")
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute("INSERT INTO a VALUES (1.26, 1)", "ALTER TABLE a ALTER id TYPE numeric(10, 1)")
        newest_database.execute("UPDATE a SET v = 2")
        run.catch_up(newest_database)
        assert sink.numbers == []
        sink.cured = True
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert sink.numbers == [1, 2]
    pipeline.dead_letters.close()


async def test_a_letter_of_a_transaction_that_may_come_again_is_left() -> None:
    """It would be delivered twice, the second time behind what came after it."""
    now = datetime.now(UTC)

    def letter(lsn: int, index: int) -> DeadLetter:
        return DeadLetter(
            pipeline="shop", consumer="sink", position=Position(lsn, index), digest=f"{lsn} {index}", state="failed",
            requested=True, table="public.a", action="insert", key=None, values=None, message=b"", first_at=now,
            last_at=now,
        )  # fmt: skip

    store = MemoryDeadLetters()
    store.claim("shop", "sink", 1)
    store.add([letter(10, 3), letter(20, -1), letter(20, 0), letter(30, 0)], 1)
    store.request([one.id for one in store.find(Which())])
    desk = Desk("shop", store)
    parking = Parking("sink", Options(on_failure="park"), desk, lambda _: None, RowFormats())
    due = [one.position async for one, _ in parking.due(20)]
    assert due == [Position(10, 3), Position(20, -1)]
    await desk.close(10)
