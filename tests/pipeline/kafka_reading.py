"""Pipelines that write to Kafka and read from it, and the judge of what workers were given."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import pgcdc
from pgcdc.sinks import Kafka
from tests.pipeline.kafka_worker import Target, pipeline_of
from tests.pipeline.running import Running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer
    from tests.servers.kafka_cluster import KafkaCluster

ORDERS = "CREATE TABLE orders (id integer PRIMARY KEY, amount numeric, note text)"


def source_rows(database: Database) -> list[Any]:
    return database.execute("SELECT id, jsonb_strip_nulls(to_jsonb(o) - 'amount') FROM orders o ORDER BY id")


def mirror_rows(database: Database) -> list[Any]:
    return database.execute(
        "SELECT id, jsonb_strip_nulls(data - 'amount') FROM mirror WHERE data IS NOT NULL ORDER BY id"
    )


def in_step(database: Database, *readers: Reading, seconds: float = 40) -> None:
    """Waits until the mirror has what the source has."""

    def same() -> bool:
        for reader in readers:
            if not reader.alive and reader.error is not None:
                raise reader.error
        return mirror_rows(database) == source_rows(database)

    until(same, "the same rows", seconds, pause=0.1)


def writing(
    database: Database,
    kafka: KafkaServer | KafkaCluster,
    partitions: int = 3,
    session: int = 45,
    *,
    name: str = "writer",
    follow: bool = False,
    **options: Any,
) -> tuple[pgcdc.Pipeline, str]:
    """The pipeline that writes to Kafka, and the address of what it writes."""
    prefix = f"shop-{uuid.uuid4().hex[:8]}"
    pipeline = pgcdc.Pipeline(name, database.dsn, tables=["orders"])
    sink = Kafka(kafka.bootstrap, prefix=prefix, format="pgcdc", partitions=partitions, **options)
    pipeline.add(sink, on_schema_change={"rename_table": "follow"} if follow else {})
    return pipeline, f"kafka://{kafka.bootstrap}/{prefix}?session.timeout.ms={session * 1000}"


class Reading(Running):
    """A pipeline that reads from Kafka, in a thread."""

    def __init__(self, pipeline: pgcdc.Pipeline, source: str) -> None:
        self.source = source
        super().__init__(pipeline)

    def _run(self) -> None:
        try:
            self.pipeline.run(source=self.source)
        except BaseException as error:
            self.error = error


@contextlib.contextmanager
def reading(database: Database, source: str, name: str = "one") -> Iterator[Reading]:
    """Runs the pipeline of the worker in a thread."""
    with contextlib.closing(Target(database.dsn, name)) as target:
        run = Reading(pipeline_of(database.dsn, target), source)
        try:
            yield run
        finally:
            run.stop()
        if run.error is not None:
            raise run.error


def judge(database: Database) -> None:
    """What the workers were given, in the order in which they did it: each row's changes, and barriers between all."""
    handled = database.execute("SELECT number, action, id, position FROM handled ORDER BY number")
    highest: dict[int, str] = {}
    seen: set[tuple[int, str]] = set()
    for _, action, key, position in handled:
        if action != "truncate":
            # What a kill repeats begins again with something that was given before, and goes on in order.
            assert position > highest.get(key, "") or (key, position) in seen, f"row {key} goes back to {position}"
            highest[key] = position
            seen.add((key, position))
    truncates = {position for _, action, _, position in handled if action == "truncate"}
    for at in truncates:
        numbers = [number for number, action, _, position in handled if (action, position) == ("truncate", at)]
        before = [number for number, action, _, position in handled if position < at and action != "truncate"]
        behind = [number for number, action, _, position in handled if position > at and action != "truncate"]
        assert max(before, default=0) < numbers[0], "everything before a truncate is done before it"
        assert numbers[-1] < min(behind, default=numbers[-1] + 1), "and everything behind it after it"
