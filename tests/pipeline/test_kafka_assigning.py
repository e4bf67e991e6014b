"""Processes that are given partitions while the group's coordinator does not say what is stored of them."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from pgcdc.errors import ConnectionLost
from pgcdc.pipeline.kafka_storing import Storing
from tests.pipeline.kafka_refusing import LOADS, MOVED, Coordinator, coordinator
from tests.pipeline.kafka_topics import GROUP, Shop
from tests.pipeline.running import until
from tests.servers.kafka import KafkaServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database
    from tests.pipeline.kafka_reading import Reading


@pytest.fixture
def refusing(newest_database: Database, kafka: KafkaServer) -> Iterator[tuple[Shop, Coordinator]]:
    """A shop whose broker is reached through what can refuse; `kafka` for its skip where there is none."""
    with coordinator() as (between, server):
        yield Shop(newest_database, server, 2), between


def waits(reader: Reading, caplog: pytest.LogCaptureFixture, count: int = 1) -> None:
    """Until so many readers have said that they wait."""

    def said() -> int:
        return sum("does not say yet what is stored" in one.getMessage() for one in caplog.records)

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


def members(shop: Shop) -> list[int]:
    """How many partitions each member of the group has."""
    found = shop.admin.describe_consumer_groups([GROUP])[GROUP].result(10)
    return [len(member.assignment.topic_partitions) for member in found.members]
