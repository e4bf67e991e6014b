"""A sink that keeps its position, on Kafka: `pgcdc run --from` in several processes, kills, moving; nothing twice."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import duckdb
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

import pgcdc
from pgcdc.pipeline.kafka_storing import Storing
from pgcdc.sinks import Kafka, Parquet, Postgres
from pgcdc.sinks.parquet import change_log_sql
from pgcdc.transforms.outbox import PREFIX
from tests.demo.running import environment
from tests.pipeline.kafka_load import Load
from tests.pipeline.kafka_reading import Reading
from tests.pipeline.kafka_shop import TABLES
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer
    from tests.servers.kafka_cluster import KafkaCluster

REPOSITORY = Path(__file__).parents[2]
FILE = """
[pipeline]
name = "shop"
dsn = "${SHOP_DSN}"
tables = ["orders", "entries"]
source = "${SOURCE}"

[consumers.copy]
sink = "postgres"
options = { dsn = "${SHOP_DSN}", name = "shop", schema = "copy" }
"""


def writing(database: Database, kafka: KafkaServer | KafkaCluster, partitions: int) -> tuple[pgcdc.Pipeline, str]:
    """The pipeline that writes to Kafka, and the address of what it writes."""
    prefix = f"shop-{uuid.uuid4().hex[:8]}"
    pipeline = pgcdc.Pipeline("writer", database.dsn, tables=["orders", "entries"])
    sink = Kafka(kafka.bootstrap, prefix=prefix, format="pgcdc", partitions=partitions)
    pipeline.add(sink, messages=[f"{PREFIX}order.paid"])
    return pipeline, f"kafka://{kafka.bootstrap}/{prefix}?session.timeout.ms=6000"


def rows(database: Database, table: str) -> list[Any]:
    if database.execute(f"SELECT to_regclass('{table}')") == [(None,)]:
        return []
    # A new column comes to the copy with the first row that has a value for it.
    return database.execute(f"SELECT jsonb_strip_nulls(to_jsonb(t)) FROM {table} t ORDER BY 1")


def in_step(database: Database, alive: Callable[[], None], seconds: float = 60) -> None:
    """Waits until the copies have what the source has, neither less nor more."""

    def same() -> bool:
        alive()
        return all(rows(database, f"copy.{table}") == rows(database, table) for table in ("orders", "entries"))

    until(same, "the same rows", seconds, pause=0.1)


def copying(database: Database, lake: Path) -> pgcdc.Pipeline:
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders", "entries"])
    pipeline.add(Parquet(lake), name="lake", max_wait=0)
    pipeline.add(Postgres(database.dsn, name="shop", schema="copy"), name="copy")
    return pipeline


def test_what_the_group_does_not_know_is_not_written_twice(
    newest_database: Database, kafka: KafkaServer, tmp_path: Path
) -> None:
    database = newest_database
    database.execute(TABLES, "INSERT INTO entries SELECT n, 'copied' FROM generate_series(1, 20) n")
    database.execute("INSERT INTO orders SELECT n, n, 'copied' FROM generate_series(1, 20) n")
    writer, source = writing(database, kafka, 2)
    lake = tmp_path / "lake"
    entries = [*range(1, 23)]

    def logged() -> list[int]:
        with duckdb.connect() as connection:
            log = f"SELECT number FROM ({change_log_sql(lake, 'entries')}) ORDER BY number"
            return [number for (number,) in connection.execute(log).fetchall()]

    def alive(read: Reading) -> None:
        if not read.alive:
            raise read.error or AssertionError("it has ended")

    with running(copying(database, lake)) as slot:
        slot.streaming()
        database.execute("INSERT INTO entries VALUES (21, 'by the slot')")
        slot.catch_up(database)
        with running(writer) as write:
            write.streaming()
            database.execute("INSERT INTO entries VALUES (22, 'by both')")
            slot.catch_up(database)
            slot.stop()
            for number in (30, 40, 50):
                database.execute(f"INSERT INTO entries SELECT n, 'n' FROM generate_series({number}, {number} + 5) n")
                database.execute(f"UPDATE orders SET note = '{number}' WHERE id % 3 = 0")
                # As if it was killed each time before it could store anything.
                with mock.patch.object(Storing, "store", return_value=False):
                    read = Reading(copying(database, lake), source)
                    try:
                        in_step(database, lambda read=read: alive(read))  # type: ignore[misc]
                        entries.extend(range(number, number + 6))
                        until(lambda: len(logged()) >= len(entries), "the log", pause=0.1)
                    finally:
                        read.stop()
                    assert read.error is None
                    assert logged() == entries
            database.execute("UPDATE orders SET id = id + 100 WHERE id = 3", "TRUNCATE entries")
            database.execute("INSERT INTO entries VALUES (60, 'behind it')")
            (tmp_path / "shop.toml").write_text(FILE)
            worker = Worker(tmp_path / "log", database, str(tmp_path / "shop.toml"), SOURCE=source)
            try:
                in_step(database, worker.check)
            finally:
                code = worker.end(signal.SIGTERM)
            assert code == 0, worker.log[-3000:]


class Worker:
    """`pgcdc run` as a process."""

    def __init__(self, log: Path, database: Database, *arguments: str, **variables: str) -> None:
        variables = environment(SHOP_DSN=database.dsn, **variables)
        variables["PYTHONPATH"] += f":{REPOSITORY}"
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgcdc.cli", "run", *arguments],
                env=variables,
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def check(self) -> None:
        """Fails when it has ended."""
        assert self.process.poll() is None, self.log[-3000:]

    def has(self, partition: str) -> bool:
        """Whether it was given a partition, and has not given it back."""
        said = [line for line in self.log.splitlines() if f"{partition}," in f"{line}, ".replace(" back", ",")]
        return bool(said) and "has partitions" in said[-1]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


def members(kafka: KafkaServer | KafkaCluster, group: str) -> list[int]:
    """How many partitions each member of a group has."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    try:
        found = admin.describe_consumer_groups([group])[group].result(10)
    except KafkaException:
        return []  # there is no such group yet
    return [len(member.assignment.topic_partitions) for member in found.members]


def test_three_processes_one_killed_one_added(newest_database: Database, kafka: KafkaServer, tmp_path: Path) -> None:
    database = newest_database
    database.execute(TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 300) n")
    database.execute("INSERT INTO entries SELECT n, 'old' FROM generate_series(-300, -1) n")
    writer, source = writing(database, kafka, 3)
    workers: dict[str, Worker] = {}

    def start(name: str) -> None:
        arguments = ("tests.pipeline.kafka_shop:make", "--from", source)
        workers[name] = Worker(tmp_path / f"{name}.log", database, *arguments)

    def alive() -> None:
        for worker in workers.values():
            worker.check()

    def three_at_work() -> None:
        def shared() -> bool:
            alive()
            counts = members(kafka, "shop.copy")
            return len(counts) == 3 and min(counts) > 0 and sum(counts) == 6

        until(shared, "three share the partitions", 60, pause=0.2)

    def say(number: int) -> None:
        with database.connect() as connection, connection.transaction():
            pgcdc.emit(connection, "order.paid", {"order": number}, key=str(number))

    with running(writer) as run, contextlib.ExitStack() as stack:
        stack.callback(lambda: [one.end(signal.SIGKILL) for one in workers.values() if one.process.poll() is None])
        run.streaming()
        for name in ("one", "two", "three"):
            start(name)
        load = Load(database, 11, "INSERT INTO entries VALUES (%s, 'new')")
        stack.callback(load.end)
        three_at_work()
        say(1)
        load.execute("TRUNCATE orders")
        load.execute("ALTER TABLE orders ADD COLUMN paid boolean")
        # The one that writes the table in which a row would be twice.
        entries = f"{source.partition('?')[0].rpartition('/')[2]}.public.entries/0"
        until(lambda: sum(one.has(entries) for one in workers.values()) == 1, "one has it", 30, pause=0.1)
        killed = next(name for name, one in workers.items() if one.has(entries))
        workers.pop(killed).end(signal.SIGKILL)
        say(2)
        start("four")
        three_at_work()
        load.execute("TRUNCATE orders")
        say(3)
        load.end()
        database.execute("INSERT INTO orders (id, note, paid) VALUES (-1, 'the last', true)")
        in_step(database, alive)
        said = "SELECT array_agg(DISTINCT key ORDER BY key) FROM said"
        until(lambda: database.execute(said) == [(["1", "2", "3"],)], "the events", pause=0.1)
        for worker in workers.values():
            assert worker.end(signal.SIGTERM) == 0, worker.log[-3000:]
    in_step(database, lambda: None, 1)
    assert database.execute("SELECT old, new FROM migrated") == [(3, 4)]
    assert database.execute("SELECT paid FROM copy.orders WHERE id = -1") == [(True,)]
