"""Three brokers that are restarted one after the other, while processes read from them, end, and are started."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.cimpl import NewTopic

from tests.pipeline.kafka_load import Load
from tests.pipeline.kafka_shop import TABLES
from tests.pipeline.kafka_topics import Shop
from tests.pipeline.running import running, until
from tests.pipeline.test_kafka_exactly import Worker, in_step, members, writing
from tests.servers.kafka_cluster import KafkaCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database
    from tests.servers.kafka import KafkaServer


@pytest.fixture(scope="module")
def cluster(kafka: KafkaServer) -> Iterator[KafkaCluster]:
    """Three brokers; `kafka` for its skip where there is none."""
    with KafkaCluster() as three:
        yield three


def test_a_partition_without_a_leader_is_waited_for(
    newest_database: Database, cluster: KafkaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """The client says of it what it says of a partition that is not there."""
    shop = Shop(newest_database, cluster, 2)
    settings = {"min.insync.replicas": "1"}
    topic = NewTopic(shop.topic, 2, replica_assignment=[[3], [3]], config=settings)
    [made] = shop.admin.create_topics([topic]).values()
    made.result()
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        cluster.nodes[3].stop()
        with shop.reading() as reader:
            waits = "does not say yet which records there are"
            until(lambda: waits in caplog.text or not reader.alive, "it waits", 60, pause=0.05)
            assert reader.error is None
            cluster.nodes[3].start()
            until(lambda: len(shop.given) >= 30 or not reader.alive, "30 changes", 60, pause=0.05)
        assert reader.error is None
    assert len(set(shop.given)) == 30


def test_brokers_are_restarted_one_after_the_other(
    newest_database: Database, cluster: KafkaCluster, tmp_path: Path
) -> None:
    database = newest_database
    database.execute(TABLES, "INSERT INTO orders SELECT n, n, 'old' FROM generate_series(1, 300) n")
    database.execute("INSERT INTO entries SELECT n, 'old' FROM generate_series(-300, -1) n")
    writer, source = writing(database, cluster, 3)
    workers: list[Worker] = []
    count = 0

    def start() -> None:
        nonlocal count
        count += 1
        arguments = ("tests.pipeline.kafka_shop:make", "--from", source)
        workers.append(Worker(tmp_path / f"{count}.log", database, *arguments))

    def alive() -> None:
        for worker in workers:
            worker.check()

    def shared() -> bool:
        alive()
        with contextlib.suppress(TimeoutError):
            counts = members(cluster, "shop.copy")
            return len(counts) == 3 and min(counts) > 0 and sum(counts) == 6
        return False

    with running(writer) as run, contextlib.ExitStack() as stack:
        stack.callback(lambda: [one.end(signal.SIGKILL) for one in workers if one.process.poll() is None])
        run.streaming()
        for _ in range(3):
            start()
        load = Load(database, 11, "INSERT INTO entries VALUES (%s, 'new')")
        stack.callback(load.end)
        until(shared, "three share the partitions", 60, pause=0.2)
        for number, node in cluster.nodes.items():
            if number == 2:
                node.crash()
            else:
                node.stop()
            # The first that is there has the most to give back; another one is given some meanwhile.
            ended = workers.pop(0)
            assert ended.end(signal.SIGTERM) == 0, ended.log[-3000:]
            start()
            node.start()
            until(shared, "three share the partitions again", 90, pause=0.2)
            load.execute("TRUNCATE orders")
            assert run.error is None
        load.end()
        database.execute("INSERT INTO orders (id, note) VALUES (-1, 'the last')")
        in_step(database, alive)
        for worker in workers:
            assert worker.end(signal.SIGTERM) == 0, worker.log[-3000:]
    in_step(database, lambda: None, 1)
