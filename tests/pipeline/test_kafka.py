"""The same handlers on Kafka: a consumer group per consumer, partitions over processes, barriers, kills, rebalances."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc import ConfigError
from tests.pipeline.kafka_load import Load
from tests.pipeline.kafka_reading import ORDERS, in_step, judge, reading, writing
from tests.pipeline.kafka_worker import TABLES
from tests.pipeline.running import running, until
from tests.program import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer


def test_a_pipeline_reads_what_the_sink_of_another_wrote(newest_database: Database, kafka: KafkaServer) -> None:
    database = newest_database
    database.execute(ORDERS, TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 50) n")
    writer, source = writing(database, kafka)
    with running(writer) as run:
        run.streaming()
        database.execute("INSERT INTO orders SELECT n, n, 'new' FROM generate_series(51, 100) n")
        database.execute("UPDATE orders SET note = 'changed' WHERE id % 3 = 0", "DELETE FROM orders WHERE id % 5 = 0")
        database.execute("UPDATE orders SET id = id + 1000 WHERE id = 7")
        database.execute("ALTER TABLE orders ADD COLUMN paid boolean", "INSERT INTO orders VALUES (300, 1, 'x', true)")
        with reading(database, source) as read:
            in_step(database, read)
            database.execute("TRUNCATE orders", "INSERT INTO orders VALUES (1, 1, 'again', false)")
            in_step(database, read)
        assert read.pipeline.statistics().source.confirmed_lsn > 0, "it is said at the end, too"
        assert database.execute("SELECT old, new FROM migrated") == [(3, 4)]
        assert len(database.execute("SELECT DISTINCT position FROM handled WHERE action = 'truncate'")) == 1
    judge(database)


@pytest.mark.parametrize(
    ("setting", "why"), [("nonsense=1", '"nonsense"'), ("session.timeout.ms=soon", "whole number")]
)
def test_a_setting_of_the_address_that_makes_no_sense(newest_database: Database, setting: str, why: str) -> None:
    newest_database.execute(ORDERS)
    source = f"kafka://127.0.0.1:1/shop?{setting}"
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["orders"], source=source)
    pipeline.on("orders", name="handler")(print)
    with pytest.raises(ConfigError, match=why):
        pipeline.run()


def test_workers_are_killed_and_added(newest_database: Database, kafka: KafkaServer, tmp_path: Path) -> None:
    database = newest_database
    database.execute(ORDERS, TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 300) n")
    writer, source = writing(database, kafka, partitions=6, session=6)
    workers: dict[str, Program] = {}

    def start(name: str) -> None:
        workers[name] = Program("tests.pipeline.kafka_worker", tmp_path / name, database.dsn, source, "--name", name)

    def at_work(*names: str) -> None:
        def all_are() -> bool:
            return {name for (name,) in database.execute("SELECT DISTINCT worker FROM handled")} >= set(names)

        until(all_are, f"{names} are at work", 60, pause=0.1)

    with running(writer) as run, contextlib.ExitStack() as stack:
        stack.callback(lambda: [one.end(signal.SIGKILL) for one in workers.values() if one.process.poll() is None])
        run.streaming()
        for name in ("one", "two", "three"):
            start(name)
        load = Load(database, 7)
        stack.callback(load.end)
        at_work("one", "two", "three")
        load.execute("TRUNCATE orders")
        load.execute("ALTER TABLE orders ADD COLUMN paid boolean")
        workers["two"].end(signal.SIGKILL)
        start("four")
        at_work("four")
        load.execute("TRUNCATE orders")
        load.end()
        database.execute("INSERT INTO orders (id, note) VALUES (-1, 'the last')")
        in_step(database, seconds=60)
        for name in ("one", "three", "four"):
            assert workers[name].end(signal.SIGTERM) == 0, (tmp_path / name).read_text()[-3000:]
    assert database.execute("SELECT old, new FROM migrated") == [(3, 4)]
    judge(database)
    assert len(database.execute("SELECT DISTINCT position FROM handled WHERE action = 'truncate'")) == 2
    assert database.execute("SELECT DISTINCT version FROM handled WHERE id = -1") == [(2,)]
