"""The topics of the Kafka sink: what they are called, how many partitions they have, and that of its positions."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # no __all__

from pgcdc.errors import ConfigError, SinkUnavailable
from pgcdc.events import Relation

__all__ = ["Topic", "Topics", "legal_name", "read_stored"]

logger = logging.getLogger("pgcdc.kafka")

_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST: Final = 249

_NEVER: Final = frozenset({KafkaError.INVALID_CONFIG, KafkaError.INVALID_PARTITIONS, KafkaError.POLICY_VIOLATION})
"""What becomes no other by waiting, when a topic is made."""
_TOO_FEW: Final = KafkaError.INVALID_REPLICATION_FACTOR

_OF_POSITIONS: Final = {
    "cleanup.policy": "compact",
    # Small, so that little is read at a start: only closed segments are compacted.
    "segment.bytes": "1048576",
    "min.cleanable.dirty.ratio": "0.1",
}


class Topic(NamedTuple):
    """A topic that exists.

    Attributes:
        name: Its name.
        partitions: How many it has.
    """

    name: str
    partitions: int


class Topics:
    """The topics of one sink; each is looked for, and made where it is missing, when it is first used.

    Args:
        settings: Of librdkafka.
        prefix: What names begin with.
        name: Of a table's topic: a template or a function.
        partitions: How many a new one gets, None for the broker's choice.
        replication_factor: How many copies, likewise.
        topic_settings: Further settings of new ones.
        timeout: For each call, in seconds.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        prefix: str,
        name: str | Callable[[Relation], str],
        partitions: int | None,
        replication_factor: int | None,
        topic_settings: Mapping[str, str],
        timeout: float,
    ) -> None:
        if isinstance(name, str):
            try:
                name.format(prefix=prefix, schema="", table="")
            except (KeyError, IndexError, ValueError):
                raise ConfigError(
                    f"topic={name!r} is no template", hint="it may have {prefix}, {schema} and {table} in it"
                ) from None
        self.positions = legal_name(f"{prefix}.pgcdc_positions")
        self._settings = settings
        self._prefix = prefix
        self._name = name
        for what, count in (("partitions", partitions), ("replication_factor", replication_factor)):
            if count is not None and count < 1:
                raise ConfigError(f"{what} is 1 at least, or None for what the broker says")
        self._partitions = -1 if partitions is None else partitions
        self._copies = -1 if replication_factor is None else replication_factor
        self._topic_settings = topic_settings
        self._timeout = timeout
        self._client: AdminClient | None = None
        self._known: dict[str, Topic] = {}
        self._counts: dict[str, int] = {}
        self._of: dict[tuple[str, str], Topic] = {}
        # Those that must not be written to: the changes come from there.
        self._sources: frozenset[str] = frozenset()
        # What legal names were made of, and the OID of the table that each is of.
        self._named: dict[str, tuple[str, int]] = {self.positions: (f"{prefix}.pgcdc_positions", 0)}

    @property
    def client(self) -> AdminClient:
        """A client that can ask for topics and make them."""
        if self._client is None:
            self._client = AdminClient(dict(self._settings))
        return self._client

    def of(self, relation: Relation) -> Topic:
        """The topic of a table.

        Args:
            relation: The table.

        Raises:
            SinkUnavailable: When no broker answers, or it cannot be made for now.
            ConfigError: When another table's topic becomes the same by what a topic's name may have in it.
        """
        topic = self._of.get((relation.schema, relation.name))
        if topic is None:
            if callable(self._name):
                name = self._name(relation)
            else:
                name = self._name.format(prefix=self._prefix, schema=relation.schema, table=relation.name)
            self._refuse_twin(relation, name)
            topic = self._of[relation.schema, relation.name] = self._there(legal_name(name))
        return topic

    def _refuse_twin(self, relation: Relation, name: str) -> None:
        """See that no other table's topic has another name, and is the same: templates can have two in one topic."""
        legal = legal_name(name)
        other, oid = self._named.setdefault(legal, (name, relation.oid))
        # A table that was renamed goes on in its topic.
        if oid != relation.oid and (other != name or not oid):
            table = f"{relation.schema}.{relation.name}"
            raise ConfigError(
                f"the topic of {table} would be {legal}, which is that of {other}",
                hint="topic=… can be a function that gives each table a topic of its own",
                table=table,
            )

    @property
    def messages(self) -> Topic:
        """That of logical messages."""
        return self._there(legal_name(f"{self._prefix}.message"))

    def refuse(self, sources: Collection[str]) -> None:
        """See that nothing is written to the topics that the changes come from.

        Args:
            sources: Those topics.
        """
        self._sources = frozenset(sources)

    def forget(self) -> None:
        """Look again what topics there are: one may have been deleted, or have other partitions."""
        self._known.clear()
        self._of.clear()

    def count(self, name: str, partitions: int) -> Topic:
        """A topic has so many partitions now.

        Args:
            name: Its name.
            partitions: How many.

        Returns:
            The topic.
        """
        former = self._counts.get(name, partitions)
        self._counts[name] = partitions
        topic = self._known[name] = Topic(name, partitions)
        if former != partitions:
            # The others that have the former number find the new one here.
            self._of = {table: topic if one.name == name else one for table, one in self._of.items()}
            logger.warning(
                "topic %s has %d partitions now and had %d: changes of a row may be in another one than those before,"
                " where nothing keeps their order; format pgcdc's readers end with PositionError",
                name,
                partitions,
                former,
            )
        return topic

    def make_positions(self) -> bool:
        """Make the topic of positions, where it is missing.

        Returns:
            Whether it was there.
        """
        if self.positions in self._listed():
            return True
        # A broker that does not list it may not know of it yet, or not have a leader for it: what is in it counts.
        return not self._make(NewTopic(self.positions, 1, self._copies, config=dict(_OF_POSITIONS)))

    def _there(self, name: str) -> Topic:
        known = self._known.get(name)
        if known is not None:
            return known
        if name in self._sources:
            raise ConfigError(
                f"the changes of this pipeline come from topic {name}, and its sink would write to it",
                hint="give the sink another prefix than the topics have that are read: Kafka(…, prefix=…)",
            )
        partitions = self._listed().get(name)
        if partitions is None:
            self._make(NewTopic(name, self._partitions, self._copies, config=dict(self._topic_settings)))
            partitions = self._made(name)
        return self.count(name, partitions)

    def _listed(self) -> dict[str, int]:
        try:
            listed = self.client.list_topics(timeout=self._timeout).topics
        except KafkaException as error:
            raise SinkUnavailable(f"no broker lists its topics: {error.args[0].str()}") from error
        return {name: len(topic.partitions) for name, topic in listed.items() if topic.error is None}

    def _make(self, topic: NewTopic) -> bool:
        """Make a topic; whether it was not there."""
        [made] = self.client.create_topics([topic], request_timeout=self._timeout).values()
        try:
            made.result(2 * self._timeout)  # the client itself says sooner that there is no answer
        except TimeoutError:
            raise SinkUnavailable(f"topic {topic.topic} cannot be made: no answer in time") from None
        except KafkaException as error:
            said = error.args[0]
            if said.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            if said.code() in _NEVER:
                raise ConfigError(
                    f"topic {topic.topic} cannot be made: {said.str()}",
                    hint="see partitions=, replication_factor= and topic_settings=, or make the topic yourself",
                ) from error
            hint = "there are too few brokers, now or always" if said.code() == _TOO_FEW else None
            raise SinkUnavailable(f"topic {topic.topic} cannot be made: {said.str()}", hint=hint) from error
        return True

    def _made(self, name: str) -> int:
        """How many partitions a new topic has, once all brokers may know."""
        deadline = time.monotonic() + self._timeout
        while not (partitions := self._listed().get(name, 0)):
            if time.monotonic() > deadline:
                raise SinkUnavailable(f"topic {name} was made, and no broker lists it")
            time.sleep(0.02)
        return partitions


def read_stored(
    topics: Topics,
    settings: Mapping[str, Any],
    names: Collection[str],
    timeout: float,
    patience: float,
    *,
    committed: bool = True,
) -> dict[str, bytes]:
    """Read from the topic of positions what was written last under names; the topic is made where it is missing.

    Args:
        topics: The topics.
        settings: Of librdkafka.
        names: The names.
        timeout: In seconds.
        patience: How long open transactions of others, which hide what is behind them, are waited for, in seconds.
        committed: Whether what is not committed, or was undone, does not count.

    Returns:
        The last value of each name that has one.

    Raises:
        SinkUnavailable: When it cannot be read to its end in time.
    """
    if not topics.make_positions():
        return {}
    place = TopicPartition(topics.positions, 0, 0)
    deadline = time.monotonic() + timeout
    consumer = Consumer(
        {
            **settings,
            "group.id": f"pgcdc.{uuid.uuid4().hex}",  # none is made: nothing is committed
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    wanted = {name.encode(): name for name in names}
    found: dict[str, bytes] = {}
    try:
        latest = {place: OffsetSpec.latest()}  # type: ignore[no-untyped-call]
        [asked] = topics.client.list_offsets(latest, request_timeout=timeout).values()
        # Others may have open transactions there; what is behind them is not read before they end.
        end = asked.result(2 * timeout).offset
        consumer.assign([place])
        while time.monotonic() < deadline:
            message = consumer.poll(max(0.01, min(0.5, deadline - time.monotonic())))
            if message is None:
                continue
            error = message.error()
            if error is None:
                name, value = wanted.get(message.key() or b""), message.value()
                if name is not None and value is not None:
                    found[name] = value
            elif error.code() != KafkaError._PARTITION_EOF:
                raise SinkUnavailable(f"the topic of positions cannot be read: {error.str()}")
            elif (message.offset() or 0) >= end:
                return found
            else:
                deadline = min(deadline, time.monotonic() + patience)
    except TimeoutError:
        raise SinkUnavailable("the topic of positions cannot be read: no answer in time") from None
    except KafkaException as error:
        raise SinkUnavailable(f"the topic of positions cannot be read: {error.args[0].str()}") from error
    finally:
        consumer.close()
    raise SinkUnavailable("the topic of positions could not be read to its end in time")


def legal_name(name: str) -> str:
    """A name as a topic may have it."""
    return _ILLEGAL.sub("_", name)[:_LONGEST]
