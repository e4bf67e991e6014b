"""Whether a consumer's topics are still what they were: not made again, not divided otherwise, and not compacted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from pgcdc.errors import ConfigError, PositionError
from pgcdc.pipeline.kafka_address import ASK_WITHIN
from pgcdc.pipeline.kafka_anew import begin_anew
from pgcdc.pipeline.kafka_asking import Asking
from pgcdc.pipeline.kafka_records import Mark

__all__ = ["Described", "TopicWatch"]

logger = logging.getLogger("pgcdc.pipeline")

Answer = TypeVar("Answer")

LOOK_EVERY = 10.0
"""Seconds between two looks whether the topics are still what they were."""
SEEK_EVERY = 1.0
"""Seconds between two looks for brokers, while one that is asked is away: what they say is of all topics."""


class Described(NamedTuple):
    """What a broker says of a topic.

    Attributes:
        partitions: How many it has.
        id: Its id, which another one of the same name does not have; empty where brokers give none.
    """

    partitions: int
    id: str


class TopicWatch:
    """What one member sees of its topics.

    Args:
        kafka: The client library.
        name: The consumer's name.
        group: The group.
        admin: The client that asks. The consumer itself may be in a call: another one that serves callbacks meanwhile
            would abort the process at its end.
        asking: Asks brokers that may be away.
    """

    def __init__(self, kafka: Any, name: str, group: str, admin: Any, asking: Asking) -> None:
        self._kafka = kafka
        self._name = name
        self._group = group
        self._admin = admin
        self._asking = asking
        self._look_at = 0.0
        self._looking: dict[str, Future[Any]] = {}
        # Topics that were not there when they were looked for last.
        self._gone: set[str] = set()
        self._has_warned = False

    def describe(self, topics: Collection[str], since: float) -> Mapping[str, Described]:
        """Ask what topics are now, and wait for the answer.

        Args:
            topics: The topics.
            since: When the member began to ask, by the monotonic clock.

        Raises:
            Leaving: When the member is about to leave.
            ConnectionLost: When there is no answer in time.
            ConfigError: When the consumer may not know.
        """

        def question(within: float) -> Mapping[str, Described]:
            every = self._ask_for(topics, within)
            self._asking.settle(every.values(), 2 * within)
            return {topic: described(asked.result()) for topic, asked in every.items()}

        return self._asking.ask(self._seeking(question), "a broker", "what its topics are", since)

    def check_policies(self, topics: Collection[str], since: float) -> None:
        """See that brokers do not remove, by compaction, what was not read yet.

        Args:
            topics: The topics.
            since: When the member began to ask, by the monotonic clock.

        Raises:
            Leaving: When the member is about to leave.
            ConfigError: When they do.
            ConnectionLost: When there is no answer in time.
        """
        what = "what removes records of its topics"
        question = self._seeking(lambda within: self._check_policies(topics, within))
        self._asking.ask(question, "a broker", what, since)

    def _seeking(self, question: Callable[[float], Answer]) -> Callable[[float], Answer]:
        """Before it is asked again, have the client find out which broker is asked: that one may be what is away.

        Once a second: the answer is about all topics of the cluster.
        """
        has_asked, seek_at = False, 0.0

        def again(within: float) -> Answer:
            nonlocal has_asked, seek_at
            if has_asked and time.monotonic() >= seek_at:
                self._admin.list_topics(timeout=within)  # of all: to ask for one makes it, if brokers make topics
                seek_at = time.monotonic() + SEEK_EVERY
            has_asked = True
            return question(within)

        return again

    def _check_policies(self, topics: Collection[str], within: float) -> None:
        kind = self._kafka.admin.ConfigResource.Type.TOPIC
        wanted = [self._kafka.admin.ConfigResource(kind, topic) for topic in topics]
        every = self._admin.describe_configs(wanted, request_timeout=within)
        self._asking.settle(every.values(), 2 * within)
        for resource, asked in every.items():
            try:
                policy = asked.result()["cleanup.policy"].value
            except self._kafka.KafkaException as error:
                if error.args[0].code() != self._kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "consumer %r has no right to DESCRIBE_CONFIGS of topic %r, so one that is compacted, and loses"
                        " changes, will not be noticed: allow it (kafka-acls --add --operation DescribeConfigs --topic"
                        " …), or see that none is",
                        self._name,
                        resource.name,
                    )
                continue
            if "compact" in policy:
                raise ConfigError(
                    f"topic {resource.name!r} is compacted, which removes changes before consumer {self._name!r} has"
                    " read them",
                    hint="set the topic's cleanup.policy to delete; what compaction has removed is missing, unless"
                    " everything is read up to now: else make the topic again with a copy of existing rows",
                )

    def look(self, topics: Collection[str]) -> Mapping[str, Described]:
        """See from time to time what topics are now; nothing waits here for the answer.

        Args:
            topics: The topics that the member has partitions of.

        Returns:
            What an answer says that has just come.

        Raises:
            PositionError: When one is gone.
        """
        if not self._looking:
            if topics and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_EVERY
                self._looking = self._ask_for(topics, ASK_WITHIN)
            return {}
        if not all(asked.done() for asked in self._looking.values()):
            return {}
        looked, self._looking = self._looking, {}
        found = {}
        for topic, asked in looked.items():
            try:
                found[topic] = described(asked.result())
            except self._kafka.KafkaException as error:
                if error.args[0].code() != self._kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue  # the client tells of it, and asks again
                if topic in self._gone:  # twice: a broker that has just started may not know of it yet
                    raise self.deleted(topic, "was deleted") from None
                self._gone.add(topic)
            else:
                self._gone.discard(topic)
        return found

    def check(self, topic: str, marks: Iterable[Mark], now: Described) -> None:
        """Whether a topic is still what it was when something of it was stored.

        Args:
            topic: The topic.
            marks: What was stored.
            now: What it is.

        Raises:
            PositionError: When it is not.
        """
        for mark in marks:
            if mark.topic and now.id and mark.topic != now.id:
                raise self.deleted(topic, "was deleted and made again")
            if mark.partitions not in (0, now.partitions):
                raise PositionError(
                    f"topic {topic!r} had {mark.partitions} partitions and has {now.partitions} now: its keys are in"
                    " others than before",
                    hint="the number of partitions is fixed: make a new topic for another one",
                )

    def deleted(self, topic: str, what: str, less: str = "") -> PositionError:
        """That a topic is another one.

        Args:
            topic: The topic.
            what: What became of it.
            less: What else may be done.
        """
        return PositionError(
            f"topic {topic!r} {what} while consumer {self._name!r} was not done with it",
            hint=f"what was not read of it is gone: {begin_anew(self._group)}{less}",
        )

    def _ask_for(self, topics: Collection[str], within: float) -> dict[str, Future[Any]]:
        wanted = self._kafka.TopicCollection(list(topics))
        asked: dict[str, Future[Any]] = self._admin.describe_topics(wanted, request_timeout=within)
        return asked


def described(found: Any) -> Described:
    """Read what the client gave.

    Args:
        found: Its description of a topic.
    """
    topic_id = found.topic_id
    has_one = topic_id is not None and (topic_id.get_most_significant_bits() or topic_id.get_least_significant_bits())
    return Described(len(found.partitions), str(topic_id) if has_one else "")
