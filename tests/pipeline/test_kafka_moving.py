"""A pipeline that moves from its slot to Kafka, dead letters there, rebalances without end, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

import pgcdc
from pgcdc.errors import ConfigError, PositionError, SchemaError, SinkUnavailable
from pgcdc.pipeline.kafka_member import Member
from pgcdc.pipeline.kafka_sharing import SharedHandler
from tests.pipeline.kafka_reading import ORDERS, Reading, in_step, judge, reading, writing
from tests.pipeline.kafka_worker import TABLES, Target, pipeline_of
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer


def test_a_pipeline_moves_from_its_slot_to_kafka(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS, TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 20) n")
    writer, source = writing(database, kafka)
    with contextlib.closing(Target(database.dsn, "slot")) as target, running(pipeline_of(database.dsn, target)) as slot:
        slot.streaming()
        database.execute("ALTER TABLE orders ADD COLUMN paid boolean", "UPDATE orders SET note = 'v2' WHERE id = 1")
        slot.catch_up(database)
        with running(writer) as write:
            write.streaming()
            database.execute("INSERT INTO orders SELECT n, n, 'slot' FROM generate_series(21, 40) n")
            slot.catch_up(database)
            slot.stop()
            assert slot.error is None
            database.execute("INSERT INTO orders SELECT n, n, 'moved' FROM generate_series(41, 60) n")
            database.execute("DELETE FROM orders WHERE id % 4 = 0")
            database.execute("ALTER TABLE orders ADD COLUMN sent date", "UPDATE orders SET note = 'v3' WHERE id = 2")
            with reading(database, source, "kafka") as read:
                in_step(database, read)
    judge(database)
    twice = database.execute("SELECT position, id FROM handled GROUP BY 1, 2 HAVING count(DISTINCT worker) > 1")
    assert twice == [], "what the slot gave does not come again"
    versions = database.execute("SELECT DISTINCT worker, version FROM handled ORDER BY 2")
    assert versions == [("slot", 1), ("slot", 2), ("kafka", 2), ("kafka", 3)] or versions == [
        ("slot", 1),
        ("kafka", 2),
        ("slot", 2),
        ("kafka", 3),
    ]
    assert database.execute("SELECT worker, old, new FROM migrated ORDER BY 2") == [("slot", 3, 4), ("kafka", 4, 5)]


def test_partitions_move_all_the_time(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS, TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 100) n")
    writer, source = writing(database, kafka, partitions=4)
    with running(writer) as write, reading(database, source, "stays") as stays:
        write.streaming()
        in_step(database, stays)  # rows of a copy share a position, so of those a batch may come again
        for number in range(1, 5):
            database.execute(f"INSERT INTO orders SELECT n, n, 'new' FROM generate_series({number}001, {number}100) n")
            with reading(database, source, f"comes{number}") as comes:
                database.execute(
                    f"UPDATE orders SET note = 'round {number}'", "UPDATE orders SET id = id + 10000 WHERE id = 1"
                )
                until(lambda comes=comes: state(comes) == "running" or not comes.alive, "it has partitions", pause=0.05)  # type: ignore[misc]
                in_step(database, stays, comes)
        in_step(database, stays)
    judge(database)


def state(read: Reading) -> str:
    return read.pipeline.statistics().consumers["mirror"].state


class Guarded:
    """What a handler got, per key; refuses some keys while `refuses` is set."""

    def __init__(self) -> None:
        self.got: dict[int, list[str]] = {}
        self.refuses: set[int] = set()
        self.away = threading.Event()
        self.truncated: list[dict[int, list[str]]] = []

    def take(self, change: Any) -> None:
        if self.away.is_set():
            raise SinkUnavailable("it is away")
        if change.action == "truncate":
            self.truncated.append({key: list(notes) for key, notes in self.got.items()})
            return
        row = change.new
        if row.id in self.refuses:
            raise ValueError("it does not take this one")
        self.got.setdefault(row.id, []).append(row.note)


def test_dead_letters_hold_their_rows_and_barriers(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 9) n")
    writer, source = writing(database, kafka)
    guarded, other = Guarded(), Guarded()
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.on("orders", "insert", "update", "truncate", name="held", on_failure="hold")(guarded.take)
    pipeline.on("orders", "insert", "update", "truncate", name="other")(other.take)
    guarded.refuses = {5}
    run = Reading(pipeline, source)
    try:
        with running(writer) as write:
            write.streaming()
            database.execute("UPDATE orders SET note = 'b'", "TRUNCATE orders", "INSERT INTO orders VALUES (7, 7, 'c')")
            until(lambda: other.got.get(7) == ["a", "b", "c"] or not run.alive, "the other has all", pause=0.05)
            assert run.alive, run.error
            letters = pipeline.dead_letters.list()
            until(lambda: len(pipeline.dead_letters.list()) == 2, "both changes of 5 are letters", pause=0.05)
            letters = pipeline.dead_letters.list()
            assert [letter.state for letter in letters] == ["failed", "held"]
            assert {letter.consumer.partition("[")[0] for letter in letters} == {"held"}
            assert len({letter.consumer for letter in letters}) == 1, "a key is in one partition"
            others = {key: ["a", "b"] for key in range(1, 10) if key != 5}
            until(lambda: guarded.got == others, "the other rows go on", pause=0.05)
            assert guarded.truncated == [], "what is behind the barrier waits"
            guarded.refuses = set()
            pipeline.dead_letters.retry()
            until(lambda: 7 in guarded.got and guarded.got[7] == ["a", "b", "c"], "all of it", pause=0.05)
            assert guarded.truncated == [{key: ["a", "b"] for key in range(1, 10)}]
            assert pipeline.dead_letters.list() == []
    finally:
        run.stop()
    assert run.error is None


def test_a_consumer_whose_target_is_away_keeps_nobody_waiting(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS)
    writer, source = writing(database, kafka)
    away, other = Guarded(), Guarded()
    away.away.set()
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], max_rows_in_flight=10)
    retry = pgcdc.Retry(longest=0.2)
    pipeline.on("orders", "insert", "update", name="away", retry=retry)(away.take)
    pipeline.on("orders", "insert", "update", name="other")(other.take)
    with running(writer) as write:
        write.streaming()
        database.execute("INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 200) n")
        run = Reading(pipeline, source)
        try:
            until(lambda: len(other.got) == 200 or not run.alive, "the other has all", pause=0.05)
            until(lambda: pipeline.statistics().consumers["away"].state == "retrying", "it is tried again", pause=0.05)
            assert not away.got
            away.away.clear()
            until(lambda: len(away.got) == 200 or not run.alive, "it has all, too", 60, pause=0.05)
        finally:
            run.stop()
    assert run.error is None
    assert all(notes == ["a"] for notes in away.got.values()), "each once"


def test_a_stop_while_partitions_are_given_back_waits_for_calls(
    newest_database: Database, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that end in time are stored, and the process says that it leaves: nothing is given twice."""
    database = newest_database
    database.execute(ORDERS)
    writer, source = writing(database, kafka, partitions=4)
    given: list[int] = []
    first_calls, next_calls, stopped = threading.Event(), threading.Event(), threading.Event()
    begun: list[int] = []

    def pipeline() -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])

        async def handle(change: Any) -> None:
            begun.append(change.new.id)
            await asyncio.to_thread((next_calls if first_calls.is_set() else first_calls).wait, 30)
            given.append(change.new.id)

        made.on("orders", "insert", name="each", concurrency=8)(handle)
        return made

    revoke = Member._revoke

    def stopping(member: Member, partitions: Any) -> None:
        if not stopped.is_set():  # these calls take 2.4 seconds from now on, and the next ones 2.5
            stopped.set()
            first.pipeline.stop()
            for seconds, calls in ((2.4, first_calls), (4.9, next_calls)):
                timer = threading.Timer(seconds, calls.set)
                timer.daemon = True
                timer.start()
        revoke(member, partitions)

    monkeypatch.setattr(Member, "_revoke", stopping)
    with running(writer) as write:
        write.streaming()
        database.execute("INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 8) n")
        write.catch_up(database)
        first = Reading(pipeline(), source)
        until(lambda: len(begun) == 8 or not first.alive, "all of them", pause=0.05)
        database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(9, 100) n")
        write.catch_up(database)
        second = Reading(pipeline(), source)
        try:
            until(lambda: not first.alive or not second.alive, "one has ended", pause=0.05)
            assert first.error is None and stopped.is_set()
            until(lambda: len(set(given)) == 100 or not second.alive, "all are given", pause=0.05)
        finally:
            next_calls.set()
            first.stop()
            second.stop()
    assert second.error is None and sorted(given) == list(range(1, 101)), "each once"
    assert not any("left behind" in record.message or "in time" in record.message for record in caplog.records)


def test_at_a_stop_no_consumer_waits_for_the_calls_of_another(
    newest_database: Database, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are closed together: a second for each would be more than a supervisor waits."""
    newest_database.execute(ORDERS)
    _, source = writing(newest_database, kafka)
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["orders"])
    for name in ("one", "two", "three"):
        pipeline.on("orders", "insert", name=name)(lambda change: None)
    closing: list[SharedHandler] = []
    together, close = asyncio.Event(), SharedHandler.close

    async def closed(handler: SharedHandler, timeout: float) -> bool:
        closing.append(handler)
        if len(closing) == 3:
            together.set()
        await asyncio.wait_for(together.wait(), 20)
        return await close(handler, timeout)

    monkeypatch.setattr(SharedHandler, "close", closed)
    run = Reading(pipeline, source)
    until(lambda: pipeline.statistics().source.phase == "streaming" or not run.alive, "it reads", pause=0.05)
    run.stop()
    assert run.error is None


def test_order_by_other_columns_takes_topics_that_are_divided_by_them(
    newest_database: Database, kafka: KafkaServer
) -> None:
    database = newest_database
    database.execute("CREATE TABLE orders (id integer PRIMARY KEY, user_id integer NOT NULL, note text)")
    database.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    writer, source = writing(database, kafka, keys={"orders": ["user_id"]})
    other, other_source = writing(database, kafka, name="other")
    got: dict[int, list[int]] = {}
    lock = threading.Lock()

    def take(change: Any) -> None:
        with lock:
            got.setdefault(change.new.user_id, []).append(change.new.id)

    def reader() -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        pipeline.on("orders", "insert", "update", name="users", concurrency=4, key=["user_id"])(take)
        return pipeline

    with running(writer) as write:
        write.streaming()
        database.execute("INSERT INTO orders SELECT n, n % 5, 'new' FROM generate_series(1, 200) n")
        # A row that changes hands comes behind all of the former user, and before all of the new one.
        database.execute("UPDATE orders SET user_id = 9 WHERE id = 7", "INSERT INTO orders VALUES (300, 9, 'x')")
        database.execute("INSERT INTO orders SELECT n, n % 5, 'new' FROM generate_series(401, 450) n")
        read = Reading(reader(), source)
        try:
            until(lambda: sum(map(len, got.values())) == 252 or not read.alive, "all of it", pause=0.05)
        finally:
            read.stop()
        assert read.error is None
    for user in range(5):
        assert got[user] == [n for n in (*range(1, 201), *range(401, 451)) if n % 5 == user]
    assert got[9] == [7, 300]
    with running(other) as write:
        write.streaming()
        write.catch_up(database)
        error = Reading(reader(), other_source).ended()
    assert isinstance(error, ConfigError)
    assert "is divided by id" in str(error)


def test_a_renamed_table_goes_on_in_another_topic(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 30) n")
    writer, source = writing(database, kafka, follow=True)
    got = Guarded()

    def reader(table: str, name: str = "reader") -> Reading:
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=[table])
        pipeline.on(table, "insert", "update", name=name)(got.take)
        return Reading(pipeline, source)

    with running(writer) as write:
        write.streaming()
        database.execute("ALTER TABLE orders RENAME TO purchases", "UPDATE purchases SET note = 'b' WHERE id < 9")
        write.catch_up(database)
        error = reader("purchases", "hasty").ended()
        assert isinstance(error, SchemaError)
        assert "has not got all that is in its former topic" in str(error)
        assert got.got == {}
        error = reader("orders").ended()
        assert isinstance(error, SchemaError)
        assert "its changes go to another topic" in str(error)
        assert got.got == {key: ["a"] for key in range(1, 31)}
        read = reader("purchases")
        try:
            all_of_it = {key: ["a", "b"] if key < 9 else ["a"] for key in range(1, 31)}
            until(lambda: got.got == all_of_it or not read.alive, "the rest", pause=0.05)
        finally:
            read.stop()
    assert read.error is None
    assert got.got == all_of_it


def test_what_the_topics_do_not_have_any_more(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders SELECT n, n, 'a' FROM generate_series(1, 30) n")
    writer, source = writing(database, kafka, partitions=1)
    with running(writer) as write:
        write.streaming()
        write.catch_up(database)
    topic = f"{source.partition('?')[0].rpartition('/')[2]}.public.orders"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.delete_records([TopicPartition(topic, 0, 10)]).values():
        done.result()
    taken = Guarded()
    new = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    new.on("orders", "insert", name="new")(taken.take)
    error = Reading(new, source).ended()
    assert isinstance(error, PositionError)
    assert "has not got its beginning any more" in str(error)
    assert not taken.got
    rest = pgcdc.Pipeline("rest", database.dsn, tables=["orders"], snapshot="never")
    rest.on("orders", "insert", name="rest")(taken.take)
    run = Reading(rest, source)
    try:
        with running(writer) as write:
            write.streaming()
            database.execute("INSERT INTO orders VALUES (100, 1, 'after')")
            until(lambda: 100 in taken.got or not run.alive, "what is there", pause=0.05)
    finally:
        run.stop()
    assert run.error is None
    assert taken.got == {100: ["after"]}, "without the rows of the copy"
