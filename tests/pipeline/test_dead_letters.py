"""Changes that cannot be delivered: parked, held with what comes after them, delivered again, dropped (fault F11).

Over 400 lines because parked, held and redelivered letters are shown by one shop of sinks and handlers.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

import pgcdc
from pgcdc import ConfigError, ConnectionLost, DecodeError, Delete, SinkError, SinkRejected, Truncate, transforms
from pgcdc.pipeline import DeadLetter, MemoryDeadLetters, MemoryPositions, PostgresDeadLetters, SqlitePositions
from pgcdc.pipeline import run as run_module
from pgcdc.pipeline.describing import describe
from pgcdc.pipeline.holding import EVERYTHING, Hold
from pgcdc.protocol import BatchReader
from tests.pipeline.running import Running, confirmed, running, until
from tests.pipeline.targets import Recorder, SqliteMirror, logged, mirrored
from tests.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from tests.conftest import Database

POISON = "poison"


def status_of(change: Any) -> str | None:
    return None if isinstance(change, Truncate | Delete) else change.new.status


class Picky(Recorder):
    """Rejects every batch that has a poisoned row, with the whole of it; may say which."""

    def __init__(self, *, names: bool = False) -> None:
        super().__init__()
        self.names = names
        self.cured = False
        self.writes = 0

    def write(self, batch: pgcdc.Batch) -> None:
        self.writes += 1
        bad = [one for one in batch.changes() if not isinstance(one, DecodeError) and status_of(one) == POISON]
        if bad and not self.cured:
            raise SinkRejected("poison", positions=[one.position for one in bad] if self.names else ())
        super().write(batch)

    @property
    def rows(self) -> list[tuple[int, str | None]]:
        """Each change as the key and status that it set; None where it removed."""
        return [
            (0, "truncate")
            if isinstance(one, Truncate)
            else (one.old.id, None)
            if isinstance(one, Delete)
            else (one.new.id, one.new.status)
            for one in self.changes
        ]


def letters_of(pipeline: pgcdc.Pipeline) -> list[tuple[str, str | None, str]]:
    return [(one.state, one.key, one.action) for one in pipeline.dead_letters.list()]


def write_poison(database: Database, *statements: str) -> None:
    """One transaction with a poisoned row in the middle, and a second transaction."""
    database.execute(
        "INSERT INTO orders SELECT g, CASE g WHEN 7 THEN 'poison' ELSE 'x' END FROM generate_series(1, 10) g",
        "INSERT INTO orders SELECT g, 'x' FROM generate_series(11, 15) g",
        *statements,
    )


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are seen, and positions stored, more often than once a second, so that the tests are short."""
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.05)


@pytest.fixture
def empty(newest_database: Database) -> Database:
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    return newest_database


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("policy", ["park", "hold"])
def test_the_rest_of_a_transaction_is_delivered(empty: Database, names: bool, policy: Any) -> None:
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    sink, other = Picky(names=names), Recorder()
    pipeline.add(sink, name="sink", on_failure=policy)
    pipeline.add(other, name="other")
    with running(pipeline) as run:
        run.streaming()
        write_poison(empty)
        run.catch_up(empty)
        statistics = pipeline.statistics().consumers
        assert sink.rows == [(number, "x") for number in range(1, 16) if number != 7]
        assert len(other.changes) == 15
        assert (statistics["sink"].dead_letters, statistics["sink"].held_keys) == (1, int(policy == "hold"))
        assert statistics["sink"].state == "running" and statistics["other"].dead_letters == 0
    [one] = pipeline.dead_letters.list()
    poisoned = other.changes[6]
    assert (one.pipeline, one.consumer, one.position) == ("shop", "sink", poisoned.position)
    assert (one.table, one.action, one.key, one.state) == ("public.orders", "insert", '{"id": "7"}', "failed")
    assert (one.error_type, one.error_text, one.attempts) == ("pgcdc.errors.SinkRejected", "poison", 1)
    whole = pipeline.dead_letters.show(one.id)
    [change] = pipeline.dead_letters.batch(whole).changes()
    assert str(poisoned).startswith(str(change)[:-1]), "but for the version of its table, which the bytes do not say"
    values = json.loads(whole.values or "")
    assert values.pop("schema_version") == 1
    assert values == json.loads(pipeline.dead_letters.batch(whole).to_json())
    pipeline.dead_letters.close()
    again, second = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"]), Picky()
    again.add(second, name="sink", on_failure=policy)
    again.add(Recorder(), name="other")
    with running(again) as run:
        run.streaming()
        run.catch_up(empty)
    assert second.changes == [] and len(again.dead_letters.list()) == 1, "its position is past it"
    again.destroy()
    assert again.dead_letters.list() == []
    again.dead_letters.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_handler_that_raises_goes_on_behind_it(empty: Database, asynchronous: bool) -> None:
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    seen: list[int] = []

    def handle(change: pgcdc.Change[Any]) -> None:
        if change.new.status == POISON:  # type: ignore[union-attr]
            raise ValueError("what the user says")
        seen.append(change.new.id)  # type: ignore[union-attr]

    async def handle_async(change: pgcdc.Change[Any]) -> None:
        handle(change)

    pipeline.on("orders", "insert", name="search", on_failure="park")(handle_async if asynchronous else handle)
    with running(pipeline) as run:
        run.streaming()
        write_poison(empty)
        run.catch_up(empty)
        assert pipeline.statistics().consumers["search"].delivered == 14
        assert pipeline.statistics().consumers["search"].last_error == "ValueError", "no text of a foreign exception"
    assert seen == [number for number in range(1, 16) if number != 7]
    [one] = pipeline.dead_letters.list()
    assert (one.error_type, one.error_text) == ("ValueError", "what the user says")
    pipeline.dead_letters.close()


def test_later_changes_of_a_row_wait_also_after_a_restart_and_follow_in_order(empty: Database) -> None:
    """Also the row that it moves to; a truncate waits for all, and all wait for it."""
    empty.execute("CREATE TABLE items (id bigint PRIMARY KEY, status text)")

    def make(sink: Picky) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders", "items"])
        pipeline.add(sink, name="sink", on_failure="hold")
        return pipeline

    first = Picky()
    with running(make(first)) as run:
        run.streaming()
        empty.execute(
            "INSERT INTO orders VALUES (1, 'x'), (2, 'poison'), (3, 'x')",
            "UPDATE orders SET status = 'y'",
            "UPDATE orders SET id = 4 WHERE id = 2",
            "INSERT INTO orders VALUES (2, 'other')",
        )
        run.catch_up(empty)
        assert first.rows == [(1, "x"), (3, "x"), (1, "y"), (3, "y")]
        assert run.pipeline.statistics().consumers["sink"].held_keys == 2
    second = Picky()
    pipeline = make(second)
    with running(pipeline) as run:
        run.streaming()
        empty.execute("UPDATE orders SET status = 'z'", "TRUNCATE orders")
        empty.execute("INSERT INTO orders VALUES (1, 'new')", "INSERT INTO items VALUES (2, 'free')")
        run.catch_up(empty)
        assert second.rows == [(1, "z"), (3, "z"), (2, "free")]
        waiting = pipeline.dead_letters.list()
        assert [one.state for one in waiting] == ["failed"] + 7 * ["held"]
        assert {one.table for one in waiting} == {"public.orders"}
        with pytest.raises(ConfigError, match="wait behind others"):
            pipeline.dead_letters.retry(ids=[waiting[3].id])
        second.changes.clear()
        second.cured = True
        assert pipeline.dead_letters.retry(table="orders") == [waiting[0].id]
        until(lambda: pipeline.dead_letters.list() == [], "all are delivered")
        assert second.rows == [
            (2, POISON), (2, "y"), (4, "y"), (2, "other"), (4, "z"), (2, "z"), (0, "truncate"), (1, "new"),
        ] or second.rows == [
            (2, POISON), (2, "y"), (4, "y"), (2, "other"), (2, "z"), (4, "z"), (0, "truncate"), (1, "new"),
        ]  # fmt: skip
        assert [one.position for one in second.changes] == [one.position for one in waiting]
        until(lambda: pipeline.statistics().consumers["sink"].held_keys == 0, "nothing is held")
        empty.execute("UPDATE orders SET status = 'last'")
        run.catch_up(empty)
        assert second.rows[-1] == (1, "last")
    pipeline.dead_letters.close()


def test_one_that_fails_again_stays_with_what_waits_and_one_that_is_dropped_frees_it(empty: Database) -> None:
    sink = Picky()
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    pipeline.add(sink, name="sink", on_failure="hold")
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'poison'), (2, 'poison')", "UPDATE orders SET status = 'y'")
        run.catch_up(empty)
        assert sink.rows == []
        ids = pipeline.dead_letters.retry(consumer="sink")
        assert len(ids) == 2
        until(lambda: [one.attempts for one in pipeline.dead_letters.list(ids=ids)] == [2, 2], "failed again")
        assert [one.requested for one in pipeline.dead_letters.list()] == 4 * [False]
        assert pipeline.dead_letters.drop(ids=[ids[1]]) == 1
        until(lambda: sink.rows == [(2, "y")], "what waited behind it is delivered")
        until(lambda: len(pipeline.dead_letters.list()) == 2, "and is no letter any more")
    pipeline.dead_letters.close()


@pytest.mark.parametrize("keyed", [True, False])
def test_under_full_identity_the_primary_key_is_the_key_and_else_the_row(empty: Database, keyed: bool) -> None:
    """Its flags are on every column: by them each update of a row would have another key."""
    empty.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    if not keyed:
        empty.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    sink = Picky()
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    pipeline.add(sink, name="sink", on_failure="hold")
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'poison'), (2, 'x')", "UPDATE orders SET status = 'y'")
        empty.execute("UPDATE orders SET status = 'z'")
        run.catch_up(empty)
    assert sink.rows == [(2, "x"), (2, "y"), (2, "z")]
    keys = ['{"id": "1"}' if keyed else f'{{"id": "1", "status": "{status}"}}' for status in (POISON, "y", "z")]
    assert letters_of(pipeline) == list(
        zip(("failed", "held", "held"), keys, ("insert", "update", "update"), strict=True)
    )
    pipeline.dead_letters.close()


class Order(msgspec.Struct):
    id: int
    status: str

    def __post_init__(self) -> None:
        if self.status == POISON:
            raise ValueError("no order")


def test_what_cannot_be_decoded_keeps_its_bytes(empty: Database) -> None:
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    seen: list[int] = []

    @pipeline.on("orders", row=Order, on_failure="hold")
    def typed(change: pgcdc.Change[Order]) -> None:
        assert not isinstance(change, Delete)
        seen.append(change.new.id)

    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'poison'), (3, 'x')", "UPDATE orders SET status = 'y'")
        run.catch_up(empty)
    assert seen == [1, 3, 1, 3]
    assert letters_of(pipeline) == [("failed", '{"id": "2"}', "insert"), ("held", '{"id": "2"}', "update")]
    [one, _] = pipeline.dead_letters.list()
    assert one.error_type == "pgcdc.errors.InvalidValue"
    [change] = pipeline.dead_letters.batch(pipeline.dead_letters.show(one.id)).changes()
    assert isinstance(change, pgcdc.Insert) and change.new.status == POISON
    pipeline.dead_letters.close()


def test_bytes_that_are_no_message_hold_everything() -> None:
    relation = wire.relation(1, "one", [("id", 23)])
    messages = [relation, wire.begin(1000), wire.insert(1, ["1"]), wire.insert(1, ["2"])[:-1], wire.insert(1, ["x"])]
    good, cut, wrong = describe(BatchReader().read([wire.xlogdata(one, 100) for one in messages]))
    assert good[:3] == ("public.one", "insert", '{"id": "1"}') and good.holds == (Hold(1, '["1"]', '[[0, ""]]'),)
    assert (cut.action, cut.values) == ("insert", None)
    assert cut.holds in ((EVERYTHING,), (Hold(1, None),))
    assert wrong[:3] == ("public.one", "insert", None) and wrong.holds == (Hold(1, None),)
    assert len({good.digest, cut.digest, wrong.digest}) == 3


def test_rows_of_the_initial_copy_are_told_apart(empty: Database) -> None:
    """They share one position."""
    empty.execute("INSERT INTO orders SELECT g, CASE WHEN g IN (3, 8) THEN 'poison' ELSE 'x' END"
                  " FROM generate_series(1, 10) g")  # fmt: skip
    sink = Picky(names=True)
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    pipeline.add(sink, name="sink", on_failure="hold")
    with running(pipeline) as run:
        run.streaming()
        empty.execute("UPDATE orders SET status = 'y' WHERE id IN (3, 4)")
        run.catch_up(empty)
        assert sorted(sink.rows[:-1]) == [(number, "x") for number in (1, 2, 4, 5, 6, 7, 9, 10)]
        assert sink.rows[-1] == (4, "y")
        sink.cured = True
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
        assert sorted(sink.rows[-3:]) == [(3, POISON), (3, "y"), (8, POISON)]
        assert sink.rows.index((3, POISON)) < sink.rows.index((3, "y"))
    pipeline.dead_letters.close()


def test_a_budget_ends_what_refuses_everything(empty: Database) -> None:
    def make(limit: int) -> tuple[pgcdc.Pipeline, Picky]:
        pipeline, sink = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"]), Picky()
        pipeline.add(sink, name="sink", on_failure="park", max_dead_letters=limit)
        return pipeline, sink

    first, _ = make(3)
    run = Running(first)
    run.streaming()
    before = confirmed(empty)
    empty.execute("INSERT INTO orders SELECT g, 'poison' FROM generate_series(1, 5) g")
    error = run.ended()
    assert isinstance(error, SinkError)
    assert "consumer 'sink' has 3 dead letters and would have 4: more than its max_dead_letters=3" in str(error)
    assert "poison" not in str(error) and error.table == "public.orders"
    assert len(first.dead_letters.list()) == 3
    assert confirmed(empty) >= before
    first.dead_letters.close()
    second, _ = make(5)
    with running(second) as again:
        again.streaming()
        again.catch_up(empty)
    assert len(second.dead_letters.list()) == 5, "those that came again are not counted twice"
    second.dead_letters.close()


class Rewriting(SqliteMirror):
    """Keeps its position, and can be given old changes."""

    refuses = True

    def write(self, batch: pgcdc.Batch) -> None:
        if self.refuses and any(status_of(one) == POISON for one in batch.changes()):
            raise SinkRejected("poison")
        super().write(batch)

    def rewrite(self, batch: pgcdc.Batch) -> None:
        assert self._connection is not None
        for change in batch.changes():
            self._apply(self._connection, change)


def position_in(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT value FROM position").fetchone()[0])


@pytest.mark.parametrize("last", [False, True])
def test_a_target_that_keeps_its_position_keeps_it(empty: Database, tmp_path: Path, last: bool) -> None:
    """It does not go back for a dead letter, and is not taken for one that lost rows when the last was refused."""

    def make() -> tuple[pgcdc.Pipeline, Rewriting]:
        pipeline, sink = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"]), Rewriting(tmp_path / "mirror.db")
        pipeline.add(sink, name="mirror", on_failure="park")
        return pipeline, sink

    first, _ = make()
    with running(first) as run:
        run.streaming()
        values = "(1, 'x'), (2, 'poison')" + ("" if last else ", (3, 'x')")
        empty.execute(f"INSERT INTO orders VALUES {values}")
        run.catch_up(empty)
    rest = ["1|x"] if last else ["1|x", "3|x"]
    assert mirrored(tmp_path / "mirror.db", "orders") == rest
    first.dead_letters.close()
    second, _ = make()
    with running(second) as run:
        run.streaming()
        run.catch_up(empty)
        position = position_in(tmp_path / "mirror.db")
        second.dead_letters.retry()
        until(lambda: second.dead_letters.list() == [], "delivered")
        assert position_in(tmp_path / "mirror.db") == position
        empty.execute("INSERT INTO orders VALUES (9, 'x')")
        run.catch_up(empty)
    assert mirrored(tmp_path / "mirror.db", "orders") == sorted([*rest, "2|poison", "9|x"])
    assert len(logged(tmp_path / "mirror.db")) == len(rest) + 2
    second.dead_letters.close()


def test_a_target_that_keeps_its_position_and_cannot_go_back_is_not_made_to(empty: Database, tmp_path: Path) -> None:
    class Plain(SqliteMirror):
        def write(self, batch: pgcdc.Batch) -> None:
            if any(status_of(one) == POISON for one in batch.changes()):
                raise SinkRejected("poison")
            super().write(batch)

    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    pipeline.add(Plain(tmp_path / "mirror.db"), name="mirror", on_failure="park")
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'poison'), (2, 'x')")
        run.catch_up(empty)
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list()[0].attempts == 2, "refused")
        [one] = pipeline.dead_letters.list()
        assert "cannot be given a change from before it" in one.error_text
    pipeline.dead_letters.close()


class Failing(MemoryDeadLetters):
    """The n-th call fails, before it did anything or after; and all calls are counted."""

    def __init__(self, failing: int, *, done: bool) -> None:
        super().__init__()
        self.calls = 0
        self._failing = failing
        self._done = done

    def _count(self, call: Any) -> Any:
        self.calls += 1
        if self.calls != self._failing:
            return call()
        if self._done:
            call()
        raise ConnectionLost("the store is away")

    def claim(self, pipeline: str, consumer: str, epoch: int) -> None:
        self._count(lambda: super(Failing, self).claim(pipeline, consumer, epoch))

    def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
        self._count(lambda: super(Failing, self).add(letters, epoch))

    def read(self, id: int) -> DeadLetter | None:
        return self._count(lambda: super(Failing, self).read(id))  # type: ignore[no-any-return]

    def remove(self, ids: Collection[int]) -> int:
        return self._count(lambda: super(Failing, self).remove(ids))  # type: ignore[no-any-return]


@pytest.mark.parametrize("done", [False, True])
def test_the_nth_call_of_the_store_fails(empty: Database, done: bool) -> None:
    """For n = 1, 2, 3 … until none does: nothing is lost, and what is left is the same."""
    number, failed = 0, True
    while failed:
        number += 1
        store = Failing(number, done=done)
        sink = Picky()
        pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"], positions=MemoryPositions(), dead_letters=store)
        pipeline.add(sink, name="sink", on_failure="hold")
        with running(pipeline) as run:
            run.streaming()
            empty.execute("INSERT INTO orders VALUES (1, 'x'), (2, 'poison'), (3, 'x')")
            empty.execute("UPDATE orders SET status = 'y'")
            run.catch_up(empty)
            assert sink.rows == [(1, "x"), (3, "x"), (1, "y"), (3, "y")]
            assert letters_of(pipeline) == [("failed", '{"id": "2"}', "insert"), ("held", '{"id": "2"}', "update")]
            sink.cured = True
            pipeline.dead_letters.retry()
            until(lambda: pipeline.dead_letters.list() == [], "delivered")  # noqa: B023 (called at once)
            assert sink.rows[4:] in (
                [(2, POISON), (2, "y")],
                # What was delivered and could not be removed then is delivered again.
                [(2, POISON), (2, POISON), (2, "y")],
                [(2, POISON), (2, "y"), (2, "y")],
            )
        failed = store.calls >= number
        empty.execute("DELETE FROM orders")
        pipeline.destroy()
    assert number > 6


def test_nothing_is_confirmed_while_the_store_is_away(empty: Database) -> None:
    class Away(PostgresDeadLetters):
        back = threading.Event()

        def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
            if not self.back.is_set():
                raise ConnectionLost("no room")
            super().add(letters, epoch)

    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"], dead_letters=Away(empty.dsn))
    sink, other = Picky(), Recorder()
    pipeline.add(sink, name="sink", on_failure="park")
    pipeline.add(other, name="other")
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'poison')", "INSERT INTO orders VALUES (2, 'x')")
        until(lambda: pipeline.statistics().consumers["sink"].state == "retrying", "it waits")
        until(lambda: len(other.changes) == 2, "the other one does not")
        assert pipeline.statistics().consumers["sink"].last_error == "no room"
        assert pipeline.statistics().consumers["sink"].position is None
        assert confirmed(empty) <= other.changes[0].commit_lsn
        Away.back.set()
        run.catch_up(empty)
        assert sink.rows == [(2, "x")]
    assert len(pipeline.dead_letters.list()) == 1
    pipeline.dead_letters.close()


def test_names_and_forgetting_go_with_the_position(empty: Database, tmp_path: Path) -> None:
    def make(name: str) -> pgcdc.Pipeline:
        positions = SqlitePositions(tmp_path / "positions.db")
        pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"], positions=positions)
        pipeline.add(Picky(), name=name, on_failure="park")
        return pipeline

    with running(make("old")) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'poison')")
        run.catch_up(empty)
    pipeline = make("new")
    pipeline.rename("old", "new")
    assert [one.consumer for one in pipeline.dead_letters.list()] == ["new"]
    pipeline.forget("new")
    assert pipeline.dead_letters.list() == []
    pipeline.dead_letters.close()


@pytest.mark.parametrize(
    ("before", "now", "others"),
    [("hold", "stop", False), ("hold", "stop", True), ("hold", "park", False), ("park", "hold", False)],
)
def test_letters_of_another_policy_are_seen_to_first(empty: Database, before: Any, now: Any, others: bool) -> None:
    """What waits would be forgotten, or come over newer values; also where no consumer puts anything aside any more."""

    def make(policy: Any, seen: list[str]) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
        if others:
            pipeline.add(Recorder(), name="other", on_failure="park")

        @pipeline.on("orders", "insert", "update", name="search", on_failure=policy)
        def handle(change: pgcdc.Insert[Any] | pgcdc.Update[Any]) -> None:
            if change.new.status == POISON:
                raise ValueError
            seen.append(change.new.status)

        return pipeline

    first: list[str] = []
    pipeline = make(before, first)
    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'poison')", "UPDATE orders SET status = 'y'")
        run.catch_up(empty)
    held = before == "hold"
    assert first == ([] if held else ["y"]) and len(pipeline.dead_letters.list()) == 1 + held
    empty.execute("UPDATE orders SET status = 'z'")
    second: list[str] = []
    error = Running(make(now, second)).ended()
    assert isinstance(error, pgcdc.PositionError) and second == []
    assert f"says on_failure={now!r}, but has {1 + held} dead letters from when it said {before!r}" in str(error)
    assert error.hint is not None and "pgcdc deadletter list" in error.hint and error.table == "public.orders"
    ids = [one.id for one in pipeline.dead_letters.list()]
    pipeline.dead_letters.drop(ids=ids)
    pipeline.dead_letters.close()
    with running(make(now, second)) as run:
        run.streaming()
        run.catch_up(empty)
    assert second == ["z"]


def test_who_puts_nothing_aside_makes_no_table(empty: Database) -> None:
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])
    pipeline.add(Recorder(), name="sink")
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(empty)
    assert empty.execute("SELECT to_regclass('pgcdc.dead_letters')") == [(None,)]


def test_what_is_delivered_again_has_the_version_of_its_table(empty: Database) -> None:
    """Also of one that has another shape by now."""
    failing = True
    versions: list[tuple[int, object]] = []
    pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])

    @pipeline.on("orders", "insert", name="search", on_failure="park")
    def handle(change: Any) -> None:
        if failing:
            raise ValueError
        versions.append((change.new.id, change.schema_version))

    with running(pipeline) as run:
        run.streaming()
        empty.execute("INSERT INTO orders VALUES (1, 'x')", "ALTER TABLE orders ADD COLUMN more text")
        empty.execute("INSERT INTO orders VALUES (2, 'x')")
        run.catch_up(empty)
        failing = False
        pipeline.dead_letters.retry()
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
    assert versions == [(1, 1), (2, 2)]
    pipeline.dead_letters.close()


def test_a_chosen_key_and_the_key_of_an_event_hold_what_comes_after(empty: Database) -> None:
    """Of rows with one chosen key, of events that were emitted, of those in an outbox table; also after a restart."""
    empty.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    empty.execute("CREATE TABLE outbox (id bigint PRIMARY KEY, topic text, aggregate_id bigint, payload jsonb)")
    seen: dict[str, list[int]] = {"chosen": [], "emitted": [], "outbox": []}
    failing = True

    def handle(consumer: str, number: int) -> None:
        if failing and number == 1:
            raise ValueError
        seen[consumer].append(number)

    class Outbox(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            if failing and any(change.new.payload == 1 for change in batch.changes()):  # type: ignore[union-attr]
                raise SinkRejected("poison")
            seen["outbox"] += [change.new.payload for change in batch.changes()]  # type: ignore[union-attr]

    def make() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders", "outbox"])
        pipeline.on("orders", "insert", "update", name="chosen", key=["status"], on_failure="hold")(
            lambda change: handle("chosen", change.new.id)
        )
        pipeline.on_message("paid", name="emitted", on_failure="hold")(
            lambda event: handle("emitted", event.new.payload)
        )
        events = transforms.outbox("outbox")
        pipeline.add(Outbox(), name="outbox", tables=["outbox"], transform=events, on_failure="hold")
        return pipeline

    def write(number: int, key: str | None) -> None:
        with psycopg.connect(empty.dsn) as connection:
            connection.execute("INSERT INTO orders VALUES (%s, %s)", (number, f"user {key}"))
            pgcdc.emit(connection, "paid", number, key=key)
            row = (number, key, str(number))
            connection.execute("INSERT INTO outbox VALUES (%s, 'paid', %s::bigint, %s::jsonb)", row)
            connection.execute("DELETE FROM outbox")

    with running(make()) as run:
        run.streaming()
        for number, key in ((1, "7"), (2, "7"), (3, "8"), (4, None)):
            write(number, key)
        run.catch_up(empty)
        assert seen == {"chosen": [3, 4], "emitted": [3, 4], "outbox": [3, 4]}
    pipeline = make()
    with running(pipeline) as run:
        run.streaming()
        write(5, "7")
        empty.execute("UPDATE orders SET status = 'user 9' WHERE id = 2", "INSERT INTO orders VALUES (6, 'user 9')")
        run.catch_up(empty)
        assert seen == {"chosen": [3, 4], "emitted": [3, 4], "outbox": [3, 4]}
        assert {one.key for one in pipeline.dead_letters.list(consumer="emitted")} == {'{"key": "7"}'}
        failing = False
        assert len(pipeline.dead_letters.retry()) == 3
        until(lambda: pipeline.dead_letters.list() == [], "delivered")
        assert seen == {
            "chosen": [3, 4, 1, 2, 5, 2, 6], "emitted": [3, 4, 1, 2, 5], "outbox": [3, 4, 1, 2, 5],
        }  # fmt: skip
    pipeline.dead_letters.close()


def test_an_event_without_a_key_holds_nothing(empty: Database) -> None:
    def make() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", empty.dsn, tables=["orders"])

        @pipeline.on_message("paid", name="emitted", on_failure="hold")
        def handle(event: Any) -> None:
            if event.new.payload == 1:
                raise ValueError
            seen.append(event.new.payload)

        return pipeline

    seen: list[int] = []
    with running(make()) as run:
        run.streaming()
        with psycopg.connect(empty.dsn) as connection:
            for number in (1, 2):
                pgcdc.emit(connection, "paid", number)
        run.catch_up(empty)
    pipeline = make()
    with running(pipeline) as run:  # it is no letter of another policy
        run.streaming()
    assert seen == [2] and letters_of(pipeline) == [("failed", None, "message")]
    pipeline.dead_letters.close()


def test_an_outbox_table_that_is_transformed_before_cannot_be_held_by_its_key() -> None:
    pipeline = pgcdc.Pipeline("shop", "dbname=shop", tables=["outbox"])
    late: list[Any] = [transforms.mask("outbox", "topic"), transforms.outbox("outbox")]
    with pytest.raises(ConfigError, match="cannot hold events by their key"):
        pipeline.add(Recorder(), name="late", transform=late, on_failure="hold")
    pipeline.add(Recorder(), name="parks", transform=late, on_failure="park")
    first: list[Any] = [
        transforms.where(lambda _: True),
        transforms.outbox("outbox"),
        transforms.mask("paid", "payload"),
    ]
    pipeline.add(Recorder(), name="holds", transform=first, on_failure="hold")
