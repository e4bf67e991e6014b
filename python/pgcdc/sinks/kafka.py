"""The sink for Kafka: a topic per table, and records and position in one transaction.

Over 400 lines, because all formats and the sink's promises to its users are in one class.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import Batch, DebeziumEnvelope
from pgcdc.schema import SchemaChange
from pgcdc.sinks.kafka_topics import Topic, Topics
from pgcdc.sinks.kafka_transactions import Record, Report, Transactions

if TYPE_CHECKING:
    from pgcdc.schema.avro import AvroWriter
    from pgcdc.schema.protobuf import ProtobufWriter

__all__ = ["Kafka", "KafkaFormat"]

logger = logging.getLogger("pgcdc.kafka")

KafkaFormat: TypeAlias = Literal["debezium", "json", "pgcdc", "avro", "protobuf"]
"""What the values are; see `Kafka`."""

_Headers: TypeAlias = list[tuple[str, str | bytes | None]]


class Kafka:
    """A topic for each table: exactly once, for readers with `isolation.level=read_committed`.

    The records of a batch and the position of its last change are written in one Kafka transaction. Whoever takes the
    pipeline over fences whoever had it before: that one's open transaction is undone, and it can write no more. Two
    exceptions: rows of an initial copy that a crash cut short come again, with equal values; and a dead letter that is
    delivered again comes behind what is newer, with its old position and the header `pgcdc.rewritten`.

    Each record has a key: a JSON object of the columns of the table's primary key, so that all changes of a row are in
    one partition, in order. Rows of a table without a key go to partition 0, without one. Headers say what a value may
    not: `pgcdc.position`, which compares as text, and `pgcdc.schema_version`.

    | change | `"debezium"` | `"json"` | `"pgcdc"` |
    |---|---|---|---|
    | insert, update | `op` `c`, `u`; `r` in the copy | the event | `Batch.to_bytes` |
    | delete | `d`, then a tombstone | the event, then a tombstone | `Batch.to_bytes` |
    | change of key | `d`, tombstone, `c` | tombstone of the old key, then the event | in every partition |
    | TRUNCATE | `t` in every partition | the event in every partition | in every partition |
    | another shape | nothing | `SchemaChange` in every partition | likewise |
    | unchanged TOAST | `"__debezium_unavailable_value"` | the column is left out | as it was sent |
    | logical message | `m`, in the topic `{prefix}.message` | likewise the event | `Batch.to_bytes` |

    What stands in every partition is a barrier: it has the header `pgcdc.barrier` (`"truncate"`, `"schema"`, `"key"`)
    and `pgcdc.partitions`, how many there are, and no key, so a compacted topic refuses it. Topics are made where they
    are missing; do not change the number of their partitions, because keys would move.

    Args:
        bootstrap: Brokers, `"host:port,host:port"`.
        prefix: What the names of topics begin with; Debezium's `topic.prefix`.
        format: What the values are: `"debezium"`: what `DebeziumEnvelope` describes; `"json"`: lines of
            `Batch.to_json`; `"pgcdc"`: for `pgcdc run --from kafka://`, everything as it was received; `"avro"` and
            `"protobuf"`: what `"json"` has, with a schema for each shape of a table in a registry.
        registry: The URL of a schema registry with the API of Confluent's, or settings of `SchemaRegistryClient`.
        topic: The topic of a table, with `{prefix}`, `{schema}` and `{table}`; or a function of its `Relation`. What a
            topic cannot be named becomes `_`.
        keys: The columns of keys by `"schema.table"` or `"table"`, in place of those of the primary key. They have to
            be part of the replica identity.
        name: The consumer's name in Kafka, of which its `transactional.id` is made; with the same one, two processes
            fence each other. By default the prefix.
        partitions: How many a topic gets that is made; the broker's `num.partitions` when None.
        replication_factor: How many copies it gets; the broker's `default.replication.factor` when None.
        topic_settings: Further settings of topics that are made, such as `{"retention.ms": "-1"}`. In format `"pgcdc"`
            they are not compacted, whatever the broker's default is.
        tombstones: Whether a key that is gone gets a record without a value; never in format `"pgcdc"`.
        headers: Whether records have headers. Barriers always do.
        decimal: `decimal.handling.mode` of format `"debezium"`.
        time: `time.precision.mode` of format `"debezium"`.
        database: `source.db` of format `"debezium"`.
        timeout: How long a call to the broker may take, in seconds, before the sink is taken to be unavailable.
        settings: Further settings of librdkafka, such as `{"security.protocol": "SSL"}`.

    Raises:
        ConfigError: When an argument is none of the above.

    Source:
        Kafka's documentation, "Transactions"; librdkafka's, "Transactional Producer".
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        prefix: str = "pgcdc",
        format: KafkaFormat = "debezium",
        topic: str | Callable[[Relation], str] = "{prefix}.{schema}.{table}",
        keys: Mapping[str, Sequence[str]] | None = None,
        name: str | None = None,
        partitions: int | None = None,
        replication_factor: int | None = None,
        topic_settings: Mapping[str, str] | None = None,
        tombstones: bool = True,
        headers: bool = True,
        decimal: Literal["precise", "string"] = "precise",
        time: Literal["adaptive", "isostring"] = "adaptive",
        database: str = "",
        registry: str | Mapping[str, Any] | None = None,
        timeout: float = 30.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if format not in get_args(KafkaFormat):
            raise ConfigError(f"format={format!r} is none of {', '.join(map(repr, get_args(KafkaFormat)))}")
        self._writer = _writer(format, registry)
        self._envelope = DebeziumEnvelope(prefix, db=database, decimal=decimal, time=time)
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._format: KafkaFormat = format
        self._keys = dict(keys or {})
        self._name = name or prefix
        self._tombstones = tombstones
        self._headers = headers
        self._timeout = timeout
        own = {"bootstrap.servers": bootstrap, "logger": logger}
        self._settings = {**own, **(settings or {})}
        made = dict(topic_settings or {})
        # Who reads such topics needs every change: what the last one of a key leaves out is in those before it.
        if format == "pgcdc" and "compact" in made.setdefault("cleanup.policy", "delete"):
            raise ConfigError('format="pgcdc" is for who needs every change, and compaction leaves the last ones alone')
        self._topics = Topics(self._settings, prefix, topic, partitions, replication_factor, made, timeout)
        self._transactions = self._transactions_of(self._name)
        self._has_parts = False
        self._source: tuple[Mapping[str, str], str, Collection[str]] | None = None

    def __repr__(self) -> str:
        return f"<Kafka {self._format} {self._prefix} at {self._bootstrap}>"

    def open(self) -> None:
        """Fence whoever wrote before, and read the position.

        Raises:
            SinkUnavailable: When no broker answers.
            ConfigError: When librdkafka does not take a setting, or the changes come from topics of the same prefix.
        """
        self._refuse_loop()
        self._transactions.connected()
        if self._has_parts:
            self._transactions.drop()  # other processes have the sink open, too

    def position(self) -> Position | None:
        """The position of the last change that was committed."""
        stored = self._transactions.stored
        return None if stored is None or not stored.position else Position.parse(stored.position)

    def write(self, batch: Batch) -> None:
        """Commit the records of a batch and its position.

        Args:
            batch: The batch.

        Raises:
            SinkUnavailable: When no broker answers in time, or one refused for now.
            SinkRejected: When a record is larger than a broker takes, or it refused it as such.
            RegistryError: When the registry refuses the schema of a table's new shape.
            PositionError: When another process has taken the sink over.
        """
        self._transactions.connected()
        if self._transactions.was_committed(_about(batch)):
            return
        what, last, known = _about(batch), batch.last_position, self.position()
        if batch.first_position is not None and batch.first_position.index != SNAPSHOT_INDEX and known:
            batch = batch.after(known)
        if not batch.changes_count:
            return
        position = last if last is None or known is None else max(last, known)
        self._commit(self._transactions, batch, position=None if position is None else str(position), what=what)

    def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; the position stays.

        Args:
            batch: A batch of one change.
        """
        self._rewrite(self._transactions, batch)

    def schema_changed(self, change: SchemaChange) -> None:
        """Tell every partition of the table's topic that it has another shape from here on.

        Args:
            change: What happened.
        """
        self._tell(self._transactions, change)

    def part(self, name: str) -> KafkaPart:
        """Give what writes the changes of one partition of a topic that is read, with a producer of its own.

        Args:
            name: The partition's.

        Returns:
            The part.
        """
        self._has_parts = True
        return KafkaPart(self, self._transactions_of(f"{self._name}[{name}]", claims=True))

    def reads_from(self, settings: Mapping[str, str], prefix: str, topics: Collection[str]) -> None:
        """Say where the changes come from: nothing may be written to these topics.

        Args:
            settings: Of librdkafka, for those who read there.
            prefix: What the names of these topics begin with.
            topics: What is read.
        """
        self._source = settings, prefix, topics

    def close(self) -> None:
        """Let go of the connections."""
        self._transactions.close()
        if self._writer is not None:
            self._writer.registry.close()

    # What the others are made of.

    def _transactions_of(self, name: str, *, claims: bool = False) -> Transactions:
        of = f"pgcdc.{self._prefix}.{name}"
        return Transactions(name, of, self._topics, self._settings, self._timeout, claims=claims)

    def _refuse_loop(self) -> None:
        """See that what is written is not read again; where it is another cluster, names say nothing."""
        if self._source is None or _cluster(self._source[0], self._timeout) != _cluster(self._settings, self._timeout):
            return
        _, prefix, topics = self._source
        self._topics.refuse(topics)
        # Who has written them has positions and producers of these names.
        if prefix == self._prefix:
            raise ConfigError(
                f"the changes of this pipeline come from topics with the prefix {self._prefix!r}, and its sink would"
                " write to topics with the same",
                hint="give the sink another prefix than the topics have that are read: Kafka(…, prefix=…)",
            )

    def _key(self, batch: Batch) -> Callable[[Relation], Sequence[str]] | None:
        if not self._keys:
            return None

        def key(relation: Relation) -> Sequence[str]:
            chosen = self._keys.get(f"{relation.schema}.{relation.name}", self._keys.get(relation.name))
            return batch.key_columns(relation) if chosen is None else chosen

        return key

    def _records(self, batch: Batch) -> Sequence[Record]:
        key = self._key(batch)
        match self._format:
            case "debezium":
                return batch.records(self._envelope.at(time.time_ns()), key=key, tombstones=self._tombstones)
            case "json":
                return batch.records("plain", key=key, tombstones=self._tombstones)
            case "pgcdc":
                return batch.records("batch", key=key)
            case "avro" | "protobuf":
                lines = batch.records("plain", key=key, tombstones=self._tombstones)
                return list(self._registered(lines, key or batch.key_columns))

    def _registered(
        self, lines: Sequence[Record], key_columns: Callable[[Relation], Sequence[str]]
    ) -> Iterator[Record]:
        """Records of JSON in the language of the registry's schemas."""
        writer = self._writer
        assert writer is not None
        last: Relation | None = None
        topic = ""
        for number, relation, what, key, value, position, version in lines:
            if relation is not None and relation is not last:
                last, topic = relation, self._topics.of(relation).name
                writer.use(topic, relation, key_columns(relation))
            try:
                if relation is None:
                    made = writer.message(self._topics.messages.name, key, value)
                else:
                    made = writer.row(topic, key, value)
            except (ValueError, TypeError, OverflowError) as error:
                raise SinkRejected(
                    f"a change cannot be written as {self._format}: {type(error).__name__}",
                    table=None if relation is None else f"{relation.schema}.{relation.name}",
                    positions=[] if position is None else [Position.parse(position.decode())],
                ) from None
            yield number, relation, what, *made, position, version

    def _commit(self, transactions: Transactions, batch: Batch, headers: _Headers | None = None, **stored: Any) -> None:
        """Commit the records of a batch, and what is stored with them."""
        records = self._records(batch)
        for relation in batch.relations:
            self._topics.of(relation)  # made now, if it is not there: not while the transaction is open

        def produce(some: Sequence[Record], report: Report | None) -> None:
            self._produce(transactions, some, headers or [], report)

        transactions.commit(records, produce, **stored)

    def _rewrite(self, transactions: Transactions, batch: Batch) -> None:
        self._commit(transactions, batch, [("pgcdc.rewritten", b"1")])

    def _tell(self, transactions: Transactions, change: SchemaChange, note: str | None = None) -> None:
        tells = self._format in ("json", "pgcdc")
        if not tells and note is None:
            return
        transactions.connected()
        what = ("schema", change.new.oid, change.version)
        if transactions.was_committed(what):
            return
        if not tells:  # the note is kept all the same: whoever has the partition next goes on from there
            transactions.commit([], lambda _records, _report: None, note=note, what=what)
            return
        value, position = msgspec.json.encode(change), str(change.position).encode()
        headers: _Headers = [("pgcdc.position", position), ("pgcdc.schema_version", b"%d" % change.version)]
        topics = {self._topics.of(relation).name: self._topics.of(relation) for relation in (change.old, change.new)}

        def produce(_records: Sequence[Record], report: Report | None) -> None:
            told = None if report is None else report(0)
            for topic in topics.values():
                self._barrier(transactions, self._latest(transactions, topic), "schema", value, headers, told)

        barrier = (0, change.new, "schema", None, value, position, change.version)
        transactions.commit([barrier], produce, note=note, what=what)

    def _produce(
        self,
        transactions: Transactions,
        records: Sequence[Record],
        headers: _Headers,
        report: Report | None,
    ) -> None:
        """Hand all records over to librdkafka."""
        with_headers = self._headers or bool(headers)
        last: Relation | None = None
        topic: Topic | None = None
        version: int | None = None
        said = b""
        latest: dict[str, Topic] = {}
        for number, relation, what, key, value, position, known in records:
            if topic is None or relation is not last:
                last = relation
                topic = self._topics.messages if relation is None else self._topics.of(relation)
            if known != version:
                version, said = known, b"%d" % (known or 0)
            own: _Headers | None = None
            if with_headers or what in ("truncate", "key"):
                own = [] if position is None else [("pgcdc.position", position)]
                if known is not None:
                    own.append(("pgcdc.schema_version", said))
                own += headers
            if what in ("truncate", "key"):
                told = None if report is None else report(number)
                if topic.name not in latest:
                    latest[topic.name] = self._latest(transactions, topic)
                self._barrier(transactions, latest[topic.name], what, value, own or [], told, number)
                continue
            options: dict[str, Any] = {} if key is not None else {"partition": 0}
            if own is not None:
                options["headers"] = own
            if report is not None:
                options["on_delivery"] = report(number)
            transactions.send(topic.name, value, key, options, number)

    def _latest(self, transactions: Transactions, topic: Topic) -> Topic:
        """A topic with the partitions that it has now: nobody is told of those that were added."""
        partitions = transactions.partitions(topic.name)
        return topic if partitions in (0, topic.partitions) else self._topics.count(topic.name, partitions)

    def _barrier(
        self,
        transactions: Transactions,
        topic: Topic,
        what: str,
        value: bytes | None,
        headers: _Headers,
        report: Callable[[KafkaError | None, object], None] | None = None,
        number: int = 0,
    ) -> None:
        """The same in every partition."""
        own = [*headers, ("pgcdc.barrier", what.encode()), ("pgcdc.partitions", b"%d" % topic.partitions)]
        options: dict[str, Any] = {} if report is None else {"on_delivery": report}
        for partition in range(topic.partitions):
            transactions.send(topic.name, value, None, {"partition": partition, "headers": own, **options}, number)


class KafkaPart:
    """One partition of a topic that is read: what comes of its records is written in transactions of its own.

    Args:
        sink: Whose part it is.
        transactions: Under the partition's name.
    """

    def __init__(self, sink: Kafka, transactions: Transactions) -> None:
        self._sink = sink
        self._transactions = transactions

    def open(self) -> str | None:
        """Take the partition over: whoever had it is fenced, and what it had not committed is undone.

        Returns:
            The note of the last transaction.

        Raises:
            SinkUnavailable: When no broker answers, or what was committed cannot be read yet.
        """
        self._transactions.take_over()
        stored = self._transactions.stored
        return None if stored is None else stored.note

    def write(self, batch: Batch, note: str) -> None:
        """Commit the records of a batch and the note.

        Raises:
            SinkUnavailable: As `Kafka.write`.
            SinkRejected: As `Kafka.write`.
            RegistryError: As `Kafka.write`.
            PositionError: When another process has taken the partition over.
        """
        self._transactions.connected()
        what = _about(batch)
        if not self._transactions.was_committed(what):
            self._sink._commit(self._transactions, batch, note=note, what=what)

    def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; the note stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """
        self._sink._rewrite(self._transactions, batch)

    def schema_changed(self, change: SchemaChange, note: str) -> None:
        """Tell every partition of the table's topic that it has another shape from here on, and keep the note.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """
        self._sink._tell(self._transactions, change, note)

    def close(self) -> None:
        """Let go of the producer."""
        self._transactions.close()


def _cluster(settings: Mapping[str, Any], timeout: float) -> str | None:
    """The id of the cluster that brokers belong to."""
    try:
        return AdminClient({**settings, "log_level": 2}).list_topics(timeout=timeout).cluster_id
    except KafkaException as error:
        raise SinkUnavailable(f"no broker says which cluster it is of: {error.args[0].str()}") from error


def _writer(format: KafkaFormat, registry: str | Mapping[str, Any] | None) -> AvroWriter | ProtobufWriter | None:
    """What writes values with registered schemas, where the format has them."""
    if format not in ("avro", "protobuf"):
        if registry is not None:
            raise ConfigError(f"format={format!r} needs no registry")
        return None
    if registry is None:
        raise ConfigError(f"format={format!r} needs a registry", hint='registry="http://localhost:8081"')
    try:
        from pgcdc.schema.registry import Registry

        client = Registry({"url": registry} if isinstance(registry, str) else dict(registry))
        if format == "avro":
            from pgcdc.schema.avro import AvroWriter

            return AvroWriter(client)
        from pgcdc.schema.protobuf import ProtobufWriter

        return ProtobufWriter(client)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"format={format!r} needs the package {error.name}", hint=f"pip install 'pgcdc[kafka,{format}]'"
        ) from error


def _about(batch: Batch) -> tuple[object, ...]:
    """What tells a batch from others."""
    return batch.first_position, batch.last_position, batch.changes_count, batch.nbytes
