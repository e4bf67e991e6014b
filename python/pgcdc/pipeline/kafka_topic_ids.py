"""The ids of a consumer's topics, which its group remembers with another topic, that of the writer's positions.

With a topic the broker deletes what groups have stored of it. A consumer whose topic was deleted and made again looks
like a new one then, which begins with what the new topic has, and what it had not read of the former one would be
missed without a word. The writer's positions outlive that: as long as these are there, it goes on where it was, and
copies nothing again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any, Final

__all__ = ["TopicIds"]

logger = logging.getLogger("pgcdc.pipeline")

AGAIN: float = 60.0
"""Seconds between two stores. Of topics that it does not read a group's offsets expire when they are not stored again;
and a group that has never read that one would have a lag there."""
SOON = 1.0
"""Seconds after which it is tried again when it failed; these pauses double, up to `AGAIN`."""
ASK_WITHIN = 2.0
"""Seconds that a question to the broker may take: the member does not notice meanwhile that it is to end."""
_LENGTH: Final = 8
"""Characters that are kept of what stands for a topic's name, and of its id."""
_MOST: Final = 250
"""Topics that have room in what brokers take with an offset, 4096 bytes."""


class TopicIds:
    """What one member knows and stores of them.

    Args:
        kafka: The client library.
        group: The group.
        topics: What the group reads.
        positions: The topic of the writer's positions.
    """

    def __init__(self, kafka: Any, group: str, topics: Collection[str], positions: str) -> None:
        self._kafka = kafka
        self._group = group
        self._keys = {topic: _short(topic) for topic in topics}
        self._positions = positions
        self._reading: Future[Any] | None = None
        self._at = 0.0
        self._pause = SOON
        self._has_warned = False

    @property
    def place(self) -> Any:
        """Where the group has them."""
        return self._kafka.TopicPartition(self._positions, 0)

    def is_place(self, partition: Any) -> bool:
        """Whether a partition of a topic is that place."""
        return bool(partition.topic == self._positions)

    def tells_another(self, text: str | None, topic: str, topic_id: str) -> bool:
        """Whether a topic had another id.

        Args:
            text: What the group has stored.
            topic: The topic.
            topic_id: Its id; empty where brokers give none.
        """
        known = _read(text).get(self._keys[topic])
        return known is not None and topic_id != "" and known != topic_id[:_LENGTH]

    def keep(self, admin: Any, client: Any, ids: Callable[[], Mapping[str, str]]) -> None:
        """Have the group remember them, from time to time.

        Args:
            admin: The client that asks.
            client: The one that stores, which is the group's member.
            ids: Gives the ids of the topics that the member has partitions of. What is stored of others stays.
        """
        if self._reading is None:
            if time.monotonic() >= self._at and ids():
                self._at = time.monotonic() + AGAIN
                [end] = admin.list_offsets({self.place: self._kafka.admin.OffsetSpec.latest()}).values()
                self._reading = end
            return
        end = self._reading
        if not end.done():
            return
        self._reading = None
        try:
            # By the member, not by the other client, whose list_consumer_group_offsets ends the process (SIGSEGV) when
            # the group's coordinator has just moved: librdkafka's issue 5040.
            [found] = client.committed([self.place], timeout=ASK_WITHIN)
            if found.error is not None:
                self.stored(found.error)
                return
            known = _read(found.metadata)
            known = {key: known[key] for key in self._keys.values() if key in known}
            known.update((self._keys[topic], topic_id[:_LENGTH]) for topic, topic_id in ids().items() if topic_id)
            text = "".join(f"{key}{value}" for key, value in list(known.items())[:_MOST])
            place = self._kafka.TopicPartition(self._positions, 0, end.result().offset, metadata=text)
            client.commit(offsets=[place], asynchronous=True)
        except self._kafka.KafkaException as error:
            self.stored(error.args[0])

    def soon(self) -> None:
        """Store them now: there are others."""
        self._at = 0.0

    def stored(self, error: Any) -> None:
        """What became of storing them.

        Args:
            error: What went wrong, if anything did.
        """
        if error is None:
            self._pause = SOON
            return
        codes = self._kafka.KafkaError
        if error.code() == codes.UNKNOWN_TOPIC_OR_PART:
            return  # where nobody has written, nothing is lost
        if error.code() == codes.TOPIC_AUTHORIZATION_FAILED:
            self._warn(
                f"has no right to READ topic {self._positions!r}",
                f"allow READ of it (kafka-acls --add --operation Read --topic {self._positions} …)",
            )
            return
        if self._pause >= AGAIN:
            self._warn(f"cannot store the ids of its topics with topic {self._positions!r}", error.str())
        self._at = min(self._at, time.monotonic() + self._pause)
        self._pause = min(2 * self._pause, AGAIN)

    def _warn(self, what: str, hint: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            consequence = "a topic that is deleted and made again while nobody reads will not be noticed"
            logger.warning("group %r %s, so %s: %s", self._group, what, consequence, hint)


def _short(topic: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(topic.encode()).digest())[:_LENGTH].decode()


def _read(text: str | None) -> dict[str, str]:
    width = 2 * _LENGTH
    if not text or len(text) % width:
        return {}
    return {text[at : at + _LENGTH]: text[at + _LENGTH : at + width] for at in range(0, len(text), width)}
