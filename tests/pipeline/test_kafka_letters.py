"""Rows that Kafka does not take, in a pipeline: each is a dead letter, or ends it, however often it is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pgcdc
from pgcdc.errors import SinkRejected
from pgcdc.sinks import Kafka
from tests.pipeline.running import Running, running, until
from tests.sinks.test_kafka import LARGE, consumed, fresh, key_of

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer

ORDERS = "CREATE TABLE orders (id integer PRIMARY KEY, note text)"
LARGE_NOTE = f"repeat('x', {LARGE})"


def keys(kafka: KafkaServer, prefix: str) -> list[int]:
    return sorted(key_of(one)["id"] for one in consumed(kafka.bootstrap, f"{prefix}.public.orders"))


def shop(database: Database, kafka: KafkaServer, prefix: str, **options: object) -> pgcdc.Pipeline:
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Kafka(kafka.bootstrap, prefix=prefix, format="json"), name="kafka", **options)  # type: ignore[arg-type]
    return pipeline


def test_each_row_of_a_copy_that_is_too_large_is_a_dead_letter(newest_database: Database, kafka: KafkaServer) -> None:
    """They are looked for by writing less and less, so what was refused comes again."""
    kafka.start()
    prefix = fresh()
    newest_database.execute(ORDERS, f"INSERT INTO orders SELECT n, {LARGE_NOTE} FROM generate_series(1, 6) n")
    pipeline = shop(newest_database, kafka, prefix, on_failure="park")
    with running(pipeline) as run:
        run.streaming()
        newest_database.execute("INSERT INTO orders VALUES (100, 'behind')")
        run.catch_up(newest_database)
        assert len(pipeline.dead_letters.list()) == 6
    assert keys(kafka, prefix) == [100]


def test_a_row_that_is_too_large_ends_it_however_often_it_is_tried(
    newest_database: Database, kafka: KafkaServer
) -> None:
    kafka.start()
    prefix = fresh()
    newest_database.execute(ORDERS)
    pipeline = shop(newest_database, kafka, prefix, retry=pgcdc.Retry(attempts=3, first=0.01, on=(SinkRejected,)))
    run = Running(pipeline)
    try:
        run.streaming()
        newest_database.execute(f"INSERT INTO orders VALUES (1, {LARGE_NOTE})")
        until(lambda: not run.alive or pipeline.statistics().consumers["kafka"].delivered > 0, "an end")
    finally:
        if run.alive:
            run.stop()
    assert isinstance(run.error, SinkRejected)
    assert keys(kafka, prefix) == []
