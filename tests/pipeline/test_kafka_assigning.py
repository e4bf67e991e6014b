"""Processes that are given partitions while the group's coordinator does not say what is stored of them."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from typing import TYPE_CHECKING
from unittest import mock

import confluent_kafka
import pytest
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

import pgcdc
from pgcdc.errors import ConfigError, ConnectionLost, SchemaError
from pgcdc.pipeline import kafka_asking
from pgcdc.pipeline.kafka_asking import Asking
from pgcdc.pipeline.kafka_storing import Storing
from pgcdc.pipeline.kafka_topic_watch import TopicWatch
from tests.pipeline.kafka_refusing import (
    DESCRIBE_CONFIGS,
    LIST_OFFSETS,
    LOADS,
    MOVED,
    OFFSET_COMMIT,
    OFFSET_FETCH,
    SASL_HANDSHAKE,
    SYNC_GROUP,
    Coordinator,
    coordinator,
)
from tests.pipeline.kafka_topics import GROUP, Shop
from tests.pipeline.running import until
from tests.pipeline.test_kafka_rights import allow
from tests.servers.kafka import KafkaServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.pipeline.kafka_reading import Reading


NO_RIGHT = 29
"""TOPIC_AUTHORIZATION_FAILED"""
UNKNOWN = -1
"""UNKNOWN_SERVER_ERROR"""


@pytest.fixture(scope="module")
def broker(kafka: KafkaServer) -> Iterator[tuple[Coordinator, KafkaServer]]:
    """A broker that is reached through what can refuse; `kafka` for its skip where there is none."""
    with coordinator() as both:
        yield both


@pytest.fixture
def refusing(newest_database: Database, broker: tuple[Coordinator, KafkaServer]) -> Iterator[tuple[Shop, Coordinator]]:
    between, server = broker
    yield Shop(newest_database, server, 2), between
    between.settle()


@pytest.fixture
def shop(newest_database: Database, kafka: KafkaServer) -> Shop:
    kafka.start()
    return Shop(newest_database, kafka, 2)


def waits(reader: Reading, caplog: pytest.LogCaptureFixture, count: int = 1) -> None:
    """Until so many readers have said that they wait."""

    def said() -> int:
        return sum("does not say yet" in one.getMessage() for one in caplog.records)

    until(lambda: said() >= count or not reader.alive, "it waits", pause=0.05)
    assert reader.error is None
    assert said() == count


@pytest.mark.parametrize("refusal", [MOVED, LOADS])
def test_a_coordinator_that_refuses_is_waited_for(
    refusing: tuple[Shop, Coordinator], refusal: int, caplog: pytest.LogCaptureFixture
) -> None:
    shop, between = refusing
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing(), shop.reading(given=30) as first:
        between.refusal = refusal
        with shop.reading() as second:
            # Both are being assigned: one partition goes from the first to the second.
            waits(second, caplog)
            between.refusal = 0
            shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 90) n")
            shop.until_given(90, second)
            assert first.alive
            assert first.error is None
    assert len(set(shop.given)) == 90
    assert second.error is None


def test_a_coordinator_that_refuses_for_long_is_said(refusing: tuple[Shop, Coordinator]) -> None:
    shop, between = refusing
    shop.source = shop.source.replace("session.timeout.ms=45000", "session.timeout.ms=6000&max.poll.interval.ms=6000")
    with shop.writing():
        between.refusal = MOVED
        with shop.reading() as reader:
            error = shop.until_ended(reader)
    assert isinstance(error, ConnectionLost)
    said = r"the group's coordinator has not said for \d+ s what is stored of its partitions: .*[Cc]oordinator"
    assert re.search(said, str(error)), error
    assert "max.poll.interval.ms" in str(error.hint)
    assert shop.given == []


def test_a_process_that_waits_for_the_coordinator_can_be_stopped(
    refusing: tuple[Shop, Coordinator], caplog: pytest.LogCaptureFixture
) -> None:
    shop, between = refusing
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        between.refusal = LOADS
        with shop.reading() as reader:
            waits(reader, caplog)
            reader.stop()
        assert reader.error is None
        assert shop.given == []
        between.refusal = 0
        with shop.reading(given=30):
            pass


def test_what_it_has_waits_too_when_its_session_may_be_over(
    refusing: tuple[Shop, Coordinator], caplog: pytest.LogCaptureFixture
) -> None:
    shop, between = refusing
    shop.source = shop.source.replace("session.timeout.ms=45000", "session.timeout.ms=6000")
    caplog.set_level(logging.INFO, logger="pgcdc.pipeline")
    doubted = threading.Event()
    doubt = Storing.doubt

    def seen(storing: Storing) -> None:
        doubt(storing)
        doubted.set()

    def moved() -> bool:
        return "consumer 'one' gives partitions" in caplog.text

    with shop.writing(), shop.reading(given=30) as first:
        with shop.reading() as second:
            until(lambda: moved() and members(shop) == [1, 1], "one partition each", pause=0.05)
            doubted.clear()
            between.refusal = MOVED
            with mock.patch.object(Storing, "doubt", seen):
                second.stop()
                waits(first, caplog)
                until(doubted.is_set, "others may have what it has", pause=0.05)
        between.refusal = 0
        shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 90) n")
        shop.until_given(90, first)
    assert len(set(shop.given)) == 90


@pytest.mark.parametrize("of", ["a partition", "the place of the topics' ids"])
def test_a_partition_of_which_nothing_is_said_is_not_one_of_which_nothing_is_stored(
    refusing: tuple[Shop, Coordinator], of: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would begin with the topic's first record: all of it again, or without what a new consumer leaves out."""
    shop, between = refusing
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        with shop.reading(given=30):
            pass
        between.refusals = {(shop.topic, 1) if of == "a partition" else (shop.positions, 0): LOADS}
        with shop.reading() as reader:
            waits(reader, caplog)
            between.refusals = {}
            shop.database.execute("INSERT INTO orders SELECT n, n, 'b' FROM generate_series(31, 90) n")
            shop.until_given(90, reader)
    assert len(set(shop.given)) == 90


@pytest.mark.parametrize(("refusal", "kind"), [(NO_RIGHT, ConfigError), (UNKNOWN, ConnectionLost)])
def test_a_partition_of_which_it_is_not_to_know_ends_it(
    refusing: tuple[Shop, Coordinator], refusal: int, kind: type[pgcdc.Error]
) -> None:
    shop, between = refusing
    with shop.writing():
        with shop.reading(given=30):
            pass
        between.refusals = {(shop.topic, 1): refusal}
        with shop.reading() as reader:
            error = shop.until_ended(reader)
    assert type(error) is kind
    assert f"{shop.topic}/1: " in str(error)
    assert len(shop.given) == 30


@pytest.mark.parametrize("leaves", [SYNC_GROUP, DESCRIBE_CONFIGS, OFFSET_FETCH, LIST_OFFSETS])
def test_a_broker_that_is_away_is_waited_for_whatever_it_is_asked(
    refusing: tuple[Shop, Coordinator], leaves: int, caplog: pytest.LogCaptureFixture
) -> None:
    shop, between = refusing
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        between.leaves = leaves
        with shop.reading() as reader:
            waits(reader, caplog)
            between.leaves = None
            shop.until_given(30, reader)
    assert len(set(shop.given)) == 30


@pytest.mark.parametrize("of", [DESCRIBE_CONFIGS, LIST_OFFSETS])
def test_a_topic_that_a_broker_does_not_know_yet_is_asked_for_again(
    refusing: tuple[Shop, Coordinator], of: int, caplog: pytest.LogCaptureFixture
) -> None:
    shop, between = refusing
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        between.unknown = of
        with shop.reading() as reader:
            waits(reader, caplog)
            between.unknown = None
            shop.until_given(30, reader)
    assert len(set(shop.given)) == 30


@pytest.mark.parametrize("of", [DESCRIBE_CONFIGS, LIST_OFFSETS])
def test_a_topic_that_brokers_do_not_know_for_long_is_not_there(refusing: tuple[Shop, Coordinator], of: int) -> None:
    """The bound of what is away would be minutes: a topic watch says sooner that one was deleted."""
    shop, between = refusing
    with shop.writing():
        between.unknown = of
        with mock.patch.object(kafka_asking, "KNOWN_WITHIN", 0.3), shop.reading() as reader:
            error = shop.until_ended(reader)
    assert isinstance(error, ConnectionLost)
    assert re.search(r"a broker does not say wh.*: .*Unknown topic or partition", str(error)), error
    assert shop.given == []


@pytest.mark.parametrize("comes", [True, False])
def test_a_topic_that_comes_while_it_is_asked_for(shop: Shop, comes: bool) -> None:
    name = f"{shop.topic}.late"

    def meanwhile() -> None:
        if comes:
            [made] = shop.admin.create_topics([NewTopic(name, 2, 1)]).values()
            if made.exception() is None:
                made.result()

    watch = TopicWatch(confluent_kafka, "one", GROUP, shop.admin, Asking(confluent_kafka, "one", 60.0, meanwhile))
    with mock.patch.object(kafka_asking, "KNOWN_WITHIN", kafka_asking.KNOWN_WITHIN if comes else 0.3):
        if comes:
            assert watch.describe({name}, time.monotonic())[name].partitions == 2
            watch.check_policies({name}, time.monotonic())
        else:
            with pytest.raises(ConnectionLost, match=r"does not say what its topics are: .*Unknown topic"):
                watch.describe({name}, time.monotonic())


def test_a_process_ends_in_time_when_nobody_takes_how_far_it_is(
    refusing: tuple[Shop, Coordinator], caplog: pytest.LogCaptureFixture
) -> None:
    """What was done comes again; whatever ends it waits for 10 s, and kills it then."""
    shop, between = refusing
    # As long the next one waits: who leaves cannot say so.
    shop.source = shop.source.replace("session.timeout.ms=45000", "session.timeout.ms=20000")
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        with mock.patch.object(Storing, "store_some"), shop.reading(given=30) as reader:
            between.leaves = OFFSET_COMMIT
            reader.stop(9)
        assert reader.error is None
        assert "has not taken in time how far it is" in caplog.text
        between.leaves = None
        shop.database.execute("INSERT INTO orders VALUES (31, 31, 'b')")
        with shop.reading() as reader:
            until(lambda: (31, "b") in shop.given or not reader.alive, "the next one", 60, pause=0.05)
            assert reader.error is None
    assert len(set(shop.given)) == 31


def test_a_broker_that_does_not_answer_who_logs_in_refuses_nobody(
    newest_database: Database, kafka: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The client calls that a failure to log in, too."""
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with KafkaServer(user=("bob", "secret")) as server, contextlib.closing(Coordinator()) as between:
        server.start()
        shop = Shop(newest_database, server, 2)
        allow(shop, ResourceType.TOPIC, shop.topic, AclOperation.READ)
        allow(shop, ResourceType.GROUP, GROUP, AclOperation.READ)
        between.start(int(server.guarded.rpartition(":")[2]))
        between.swallows = SASL_HANDSHAKE
        shop.source = shop.source.replace(server.bootstrap, f"bob:secret@127.0.0.1:{between.port}")
        shop.source += "&socket.timeout.ms=1000"
        with shop.writing(), shop.reading() as reader:
            until(lambda: "handshake failed" in caplog.text or not reader.alive, "it says so", pause=0.05)
            assert reader.error is None
            between.swallows = None
            shop.until_given(30, reader)


def test_a_process_that_waits_for_a_broker_that_is_away_can_be_stopped(
    refusing: tuple[Shop, Coordinator], caplog: pytest.LogCaptureFixture
) -> None:
    shop, between = refusing
    # As long the next one waits: who leaves cannot say so.
    shop.source = shop.source.replace("session.timeout.ms=45000", "session.timeout.ms=6000")
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")
    with shop.writing():
        between.leaves = SYNC_GROUP
        with shop.reading() as reader:
            waits(reader, caplog)
            reader.stop()
        assert reader.error is None
        assert shop.given == []
        between.leaves = None
        with shop.reading(given=30):
            pass


def test_a_former_topic_of_which_nothing_is_said_is_not_one_that_is_not_read(
    newest_database: Database, broker: tuple[Coordinator, KafkaServer]
) -> None:
    """A renamed table goes on in another topic when all of the former one is done: the coordinator is asked."""
    between, server = broker
    shop = Shop(newest_database, server, 2, follow=True)
    between.refused = 0
    with shop.writing() as write, shop.reading() as first:
        shop.until_given(30, first)
        shop.database.execute("ALTER TABLE orders RENAME TO purchases", "UPDATE purchases SET note = 'b' WHERE id < 9")
        write.catch_up(shop.database)
        assert isinstance(shop.until_ended(first), SchemaError)
        between.refusals = {(shop.topic, number): MOVED for number in (0, 1)}
        with shop.reading("purchases") as second:
            until(lambda: between.refused >= 5 or not second.alive, "it asks again", pause=0.05)
            assert second.error is None
            between.refusals = {}
            shop.until_given(38, second)


def test_a_broker_that_takes_no_texts_with_offsets_is_said(newest_database: Database, kafka: KafkaServer) -> None:
    """Nothing would ever be stored: each start would begin at the beginning."""
    with KafkaServer({"offset.metadata.max.bytes": "10"}) as server:
        server.start()
        shop = Shop(newest_database, server, 2)
        with shop.writing(), shop.reading() as reader:
            error = shop.until_ended(reader)
    assert isinstance(error, ConfigError)
    assert "does not store how far consumer 'one' is" in str(error)
    assert "offset.metadata.max.bytes" in str(error.hint)


def members(shop: Shop) -> list[int]:
    """How many partitions each member of the group has."""
    found = shop.admin.describe_consumer_groups([GROUP])[GROUP].result(10)
    return [len(member.assignment.topic_partitions) for member in found.members]


def test_what_brokers_did_not_know_before_they_were_away_is_asked_as_long_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each broker that is restarted may not know of a topic for a moment."""
    monkeypatch.setattr(kafka_asking, "KNOWN_WITHIN", 0.3)
    kinds = confluent_kafka.KafkaError
    answers = iter([kinds.UNKNOWN_TOPIC_OR_PART, *[kinds._TRANSPORT] * 5, kinds.UNKNOWN_TOPIC_OR_PART, None])

    def question(_: float) -> str:
        code = next(answers)
        if code is not None:
            raise confluent_kafka.KafkaException(kinds(code))
        return "it is there"

    asking = Asking(confluent_kafka, "mirror", 30, lambda: None)
    assert asking.ask(question, "a broker", "where it begins", time.monotonic()) == "it is there"
