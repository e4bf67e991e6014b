"""Readers that may less than they need: they go on, and say once what they do not see."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from pgcdc.pipeline import kafka_topic_ids
from pgcdc.pipeline.kafka_topic_ids import TopicIds
from tests.pipeline.kafka_topics import GROUP, Shop
from tests.pipeline.running import until
from tests.servers.kafka import KafkaServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database


@pytest.fixture
def guarded(newest_database: Database, kafka: KafkaServer) -> Iterator[Shop]:
    """The user `bob` may read the topic, as a member of his group, and nothing else."""
    with KafkaServer(user=("bob", "secret")) as server:
        server.start()
        shop = Shop(newest_database, server, 2)
        shop.source = shop.source.replace(server.bootstrap, f"bob:secret@{server.guarded}")
        allow(shop, ResourceType.TOPIC, shop.topic, AclOperation.READ)
        allow(shop, ResourceType.GROUP, GROUP, AclOperation.READ)
        yield shop


def allow(shop: Shop, kind: ResourceType, name: str, what: AclOperation) -> None:
    literal, right = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    [made] = shop.admin.create_acls([AclBinding(kind, name, literal, "User:bob", "*", what, right)]).values()
    made.result()


@pytest.mark.parametrize("right", [None, AclOperation.DESCRIBE])
def test_what_is_not_seen_is_said_once(
    guarded: Shop, right: AclOperation | None, caplog: pytest.LogCaptureFixture
) -> None:
    if right is not None:
        allow(guarded, ResourceType.TOPIC, guarded.positions, right)
    caplog.set_level(logging.WARNING, logger="pgcdc.pipeline")

    def said(of: str) -> list[str]:
        return [text for one in caplog.records if of in (text := one.getMessage())]

    tries = 0
    keep = TopicIds.stored

    def counted(ids: TopicIds, error: object) -> None:
        nonlocal tries
        tries += 1
        keep(ids, error)

    with (
        mock.patch.object(kafka_topic_ids, "AGAIN", 0.3),
        mock.patch.object(TopicIds, "stored", counted),
        guarded.writing(),
        guarded.reading(given=30) as reader,
    ):
        until(lambda: tries >= 4, "four answers", pause=0.05)
        [positions] = said("pgcdc_positions")
        assert "READ" in positions
        assert "deleted and made again" in positions
        [policies] = said("compacted")
        assert "DESCRIBE_CONFIGS" in policies
        assert guarded.remembered() == ""
        # Who gets the right later needs no new start.
        allow(guarded, ResourceType.TOPIC, guarded.positions, AclOperation.READ)
        until(lambda: guarded.remembered() != "", "the topic's id", pause=0.05)
        assert reader.error is None
