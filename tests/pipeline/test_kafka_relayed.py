"""The Kafka sink in a pipeline that reads from Kafka: other topics have each change once, in order, whatever dies."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from confluent_kafka import Message

import pgcdc
from pgcdc.errors import DecodeError
from pgcdc.pipeline.kafka_reshaping import PartitionReshaping
from pgcdc.pipeline.kafka_storing import Storing
from pgcdc.protocol import Batch, RowFormat
from pgcdc.testing import RecordingSink
from tests.pipeline.kafka_load import Load
from tests.pipeline.kafka_reading import Reading
from tests.pipeline.kafka_relay import PARTITIONS, TABLES, relaying
from tests.pipeline.running import running, until
from tests.pipeline.test_kafka_exactly import Worker, members, writing
from tests.sinks.test_kafka import consumed, fresh, headers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pgcdc.pipeline.schemas import Step
    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer

OTHERS = 3
"""The partitions of the topics that are read."""


def of_source(messages: list[Message]) -> Counter[tuple[str, str, Any]]:
    """What is in a topic of everything as it came: each change, and each barrier once."""
    found: Counter[tuple[str, str, Any]] = Counter()
    for message in messages:
        what = headers(message).get("pgcdc.barrier", "")
        if what and message.partition():
            continue
        if what == "schema":
            found["schema", "", None] += 1
            continue
        [change] = Batch.from_bytes(message.value() or b"", RowFormat("tuple")).changes()
        assert not isinstance(change, DecodeError)
        row = getattr(change, "old" if change.action == "delete" else "new", None) or [None]
        found[change.action, str(change.position), row[0]] += 1
    return found


def of_target(messages: list[Message], partition: int | None = None) -> Counter[tuple[str, str, Any]]:
    """The same of lines of JSON; of barriers those of one partition."""
    found: Counter[tuple[str, str, Any]] = Counter()
    for message in messages:
        event = json.loads(message.value() or b"")
        barrier = headers(message).get("pgcdc.barrier")
        if barrier is not None and message.partition() != (partition or 0):
            continue
        if barrier == "schema":
            found["schema", "", None] += 1
            continue
        row = event["old" if event["action"] == "delete" else "new"] if event["action"] != "truncate" else {}
        assert row.get("note") in (None, "***") or event["table"] == "entries"
        found[event["action"], headers(message)["pgcdc.position"], next(iter(row.values()), None)] += 1
    return found


def judge(kafka: KafkaServer, source: str, target: str) -> None:
    """Nothing is missing, nothing is there twice, and each key is in order, as is what concerns all of them."""
    for table in ("orders", "entries"):
        messages = consumed(kafka.bootstrap, f"{target}.public.{table}")
        expected = of_source(consumed(kafka.bootstrap, f"{source}.public.{table}"))
        for partition in range(PARTITIONS):
            found = of_target(messages, partition)
            assert found - expected == Counter(), "what is there twice"
            assert expected - found == Counter(), "what is missing"
            own = [message for message in messages if message.partition() == partition]
            highest: dict[bytes | None, str] = {}
            barrier = reached = ""
            for message in own:
                position = headers(message)["pgcdc.position"]
                if "pgcdc.barrier" in headers(message):
                    assert position >= reached, "what is before a barrier is before it"
                    barrier = position
                else:
                    assert position >= barrier, "what is behind a barrier is behind it"
                    assert position >= highest.get(message.key(), ""), "each key is in order"
                    highest[message.key()] = position
                reached = max(position, reached)


def prefix_of(source: str) -> str:
    return source.partition("?")[0].rpartition("/")[2]


Of = Callable[[list[Message]], Counter[tuple[str, str, Any]]]


def number_of(kafka: KafkaServer, topic: str, of: Of = of_target) -> int:
    """How many changes of rows are in a topic."""
    found = of(consumed(kafka.bootstrap, topic))
    return sum(count for (what, _, _), count in found.items() if what not in ("schema", "truncate"))


def in_step(
    kafka: KafkaServer, source: str, target: str, alive: Callable[[], None], of: Of = of_target, seconds: float = 90
) -> None:
    """Waits until as many changes are there; more would never be as many."""

    def same() -> bool:
        alive()
        return all(
            number_of(kafka, f"{target}.public.{table}", of) == number_of(kafka, f"{source}.public.{table}", of_source)
            for table in ("orders", "entries")
        )

    until(same, "as many changes", seconds, pause=0.3)


def test_processes_are_killed_added_and_stopped_for_a_while(
    newest_database: Database, kafka: KafkaServer, tmp_path: Path
) -> None:
    database, target = newest_database, fresh()
    kafka.start()
    database.execute(TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 300) n")
    database.execute("INSERT INTO entries SELECT n, 'old' FROM generate_series(-300, -1) n")
    writer, source = writing(database, kafka, OTHERS)
    workers: dict[str, Worker] = {}
    everyone: list[Worker] = []
    last = f"{prefix_of(source)}.public.entries/0"

    def start(name: str) -> None:
        workers[name] = Worker(
            tmp_path / f"{name}.log",
            database,
            "tests.pipeline.kafka_relay:make",
            "--from",
            source,
            TARGET_BROKERS=kafka.bootstrap,
            TARGET_PREFIX=target,
        )
        everyone.append(workers[name])

    def alive() -> None:
        for worker in workers.values():
            worker.check()

    def at_work(number: int) -> None:
        def shared() -> bool:
            alive()
            counts = members(kafka, "relay.again")
            return len(counts) == number and min(counts) > 0 and sum(counts) == 2 * OTHERS

        until(shared, f"{number} share the partitions", 60, pause=0.2)

    def owner() -> str:
        until(lambda: sum(one.has(last) for one in workers.values()) == 1, "one has it", 30, pause=0.1)
        return next(name for name, one in workers.items() if one.has(last))

    def goes_on(than: int) -> None:
        def more() -> bool:
            alive()
            return number_of(kafka, f"{target}.public.entries") > than

        until(more, "it goes on", 60, pause=0.3)

    with running(writer) as run, contextlib.ExitStack() as stack:
        stack.callback(lambda: [one.end(signal.SIGKILL) for one in everyone if one.process.poll() is None])
        run.streaming()
        for name in ("one", "two", "three"):
            start(name)
        load = Load(database, 12, "INSERT INTO entries VALUES (%s, 'new')")
        stack.callback(load.end)
        at_work(3)
        load.execute("TRUNCATE orders")
        load.execute("ALTER TABLE orders ADD COLUMN paid boolean")
        goes_on(300)
        workers.pop(owner()).end(signal.SIGKILL)
        start("four")
        at_work(3)
        load.execute("ALTER TABLE orders ALTER COLUMN note TYPE varchar(500)")
        load.execute("TRUNCATE orders, entries")
        # One is away for so long that others have its partitions, and then goes on in the middle of what it was at.
        away = owner()
        asleep = workers.pop(away)
        asleep.process.send_signal(signal.SIGSTOP)
        try:
            at_work(2)
            goes_on(number_of(kafka, f"{target}.public.entries"))
        finally:
            asleep.process.send_signal(signal.SIGCONT)
        workers[away] = asleep
        at_work(3)
        load.execute("TRUNCATE orders")
        load.end()
        in_step(kafka, prefix_of(source), target, alive)
        for worker in workers.values():
            assert worker.end(signal.SIGTERM) == 0, worker.log[-3000:]
    judge(kafka, prefix_of(source), target)
    found = of_source(consumed(kafka.bootstrap, f"{prefix_of(source)}.public.orders"))
    assert [sum(count for (what, _, _), count in found.items() if what == one) for one in ("truncate", "schema")] == [
        3,
        2,
    ]


@contextlib.contextmanager
def relayed(pipeline: pgcdc.Pipeline, source: str) -> Iterator[Reading]:
    read = Reading(pipeline, source)
    try:
        yield read
    finally:
        read.stop()
    if read.error is not None:
        raise read.error


def alive(read: Reading) -> None:
    if not read.alive:
        raise read.error or AssertionError("it has ended")


@pytest.mark.parametrize("format", ["json", "pgcdc"])
def test_what_the_group_does_not_know_is_not_written_twice(
    newest_database: Database, kafka: KafkaServer, format: str
) -> None:
    """As if it was killed each time before it could store an offset; and what is written can be read as before."""
    database, target = newest_database, fresh()
    of = of_target if format == "json" else of_source
    kafka.start()
    database.execute(TABLES, "INSERT INTO entries SELECT n, 'copied' FROM generate_series(1, 20) n")
    writer, source = writing(database, kafka, OTHERS)
    with running(writer) as write:
        write.streaming()
        for number in (100, 200, 300):
            rows = f"SELECT n, 'n' FROM generate_series({number}, {number} + 5) n"
            database.execute(f"INSERT INTO entries {rows}", f"INSERT INTO orders (id, note) {rows}")
            database.execute("UPDATE orders SET note = note || '.'", "DELETE FROM orders WHERE id % 7 = 0")
            write.catch_up(database)
            with (
                mock.patch.object(Storing, "store", return_value=False),
                relayed(relaying(database.dsn, kafka.bootstrap, target, format), source) as read,
            ):
                in_step(kafka, prefix_of(source), target, lambda read=read: alive(read), of)  # type: ignore[misc]
        # What it has written of rows is what a note is about, and what concerns all partitions comes now.
        database.execute("UPDATE orders SET id = id + 1000 WHERE id % 2 = 0", "TRUNCATE entries")
        database.execute("INSERT INTO entries VALUES (60, 'behind it')")
        write.catch_up(database)
        with relayed(relaying(database.dsn, kafka.bootstrap, target, format), source) as read:
            in_step(kafka, prefix_of(source), target, lambda: alive(read), of)
    if format == "json":
        judge(kafka, prefix_of(source), target)
        return
    everything: Counter[tuple[str, str, Any]] = Counter()
    for table in ("orders", "entries"):
        first, second = (consumed(kafka.bootstrap, f"{one}.public.{table}") for one in (prefix_of(source), target))
        assert of_source(second) == of_source(first)
        everything += of_source(first)
    # And it is read as what it was made of is: all of it, whatever partitions it comes from.
    last, found = pgcdc.Pipeline("last", database.dsn, tables=["orders", "entries"]), RecordingSink()
    last.add(found, name="last")
    with relayed(last, source.replace(prefix_of(source), target)) as read:

        def there() -> bool:
            alive(read)
            return len(found.changes) >= everything.total()

        until(there, "all of it", 60, pause=0.1)
    assert Counter(str(change.position) for change in found.changes) == Counter(
        position for _, position, _ in everything.elements()
    )


def test_a_new_shape_is_there_once_though_it_was_killed_before_it_was_taken_down(
    newest_database: Database, kafka: KafkaServer
) -> None:
    """The barrier is committed, and neither the consumer's step nor the group's offset is."""
    database, target = newest_database, fresh()
    kafka.start()
    database.execute(TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 20) n")
    writer, source = writing(database, kafka, OTHERS)
    record = PartitionReshaping._record

    async def dying(reshaping: PartitionReshaping, steps: list[Step], persist: Any) -> None:
        if any(step.version == 2 and step.state == "done" for step in steps):
            raise KeyboardInterrupt("killed")
        await record(reshaping, steps, persist)

    with running(writer) as write:
        write.streaming()
        database.execute("ALTER TABLE orders ADD COLUMN paid boolean", "INSERT INTO orders VALUES (21, 1, 'x', true)")
        write.catch_up(database)
        for _ in range(2):
            with mock.patch.object(PartitionReshaping, "_record", dying):
                read = Reading(relaying(database.dsn, kafka.bootstrap, target), source)
                until(lambda read=read: not read.alive, "it ends", pause=0.1)  # type: ignore[misc]
                assert isinstance(read.error, KeyboardInterrupt)
        assert len(consumed(kafka.bootstrap, f"{target}.public.orders")) == 20 + PARTITIONS
        with relayed(relaying(database.dsn, kafka.bootstrap, target), source) as read:
            in_step(kafka, prefix_of(source), target, lambda: alive(read))
    judge(kafka, prefix_of(source), target)


def test_topics_that_are_read_are_not_written_to(newest_database: Database, kafka: KafkaServer) -> None:
    kafka.start()
    newest_database.execute(TABLES)
    writer, source = writing(newest_database, kafka, 1)
    with running(writer) as write:
        write.streaming()
        newest_database.execute("INSERT INTO orders VALUES (1, 1, 'x')")
        write.catch_up(newest_database)
        same = relaying(newest_database.dsn, kafka.bootstrap, prefix_of(source))
        with pytest.raises(pgcdc.ConfigError, match="come from topics with the prefix"):
            same.run(source=source)
        newest_database.execute("INSERT INTO orders VALUES (2, 1, 'x')")
        write.catch_up(newest_database)  # whoever writes them is not disturbed
    assert number_of(kafka, f"{prefix_of(source)}.public.orders", of_source) == 2
