"""The sink for Kafka: a topic per table, and records and position in one transaction.

Over 400 lines, because what may go wrong in a transaction and what is done about it is in one place.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias, get_args

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from pgcdc.errors import ConfigError, Error, PositionError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import Batch, DebeziumEnvelope
from pgcdc.schema import SchemaChange
from pgcdc.sinks.kafka_topics import Topic, Topics, stored_position

if TYPE_CHECKING:
    from pgcdc.schema.avro import AvroWriter
    from pgcdc.schema.protobuf import ProtobufWriter

__all__ = ["Kafka", "KafkaFormat"]

logger = logging.getLogger("pgcdc.kafka")

KafkaFormat: TypeAlias = Literal["debezium", "json", "pgcdc", "avro", "protobuf"]
"""What the values are; see `Kafka`."""

_Record: TypeAlias = tuple[int, Relation | None, str, bytes | None, bytes | None, bytes | None, int | None]
_Headers: TypeAlias = list[tuple[str, str | bytes | None]]

_OF_A_ROW: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG})
"""What is wrong with one record and not with the broker."""

_FENCED: Final = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.FENCED_INSTANCE_ID}
)


_BROKEN: Final = frozenset({KafkaError._STATE, KafkaError._FATAL})
"""What librdkafka says of a record when the transaction has failed already: undoing it says why."""


class _Stored(msgspec.Struct):
    """What the topic of positions has of a sink.

    Attributes:
        position: `str(Position)`.
        write: The id of the write that it came with.
    """

    position: str
    write: str


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
        topic_settings: Further settings of topics that are made, such as `{"retention.ms": "-1"}`.
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
        self._topics = Topics(
            self._settings, prefix, topic, partitions, replication_factor, dict(topic_settings or {}), timeout
        )
        self._producer: Producer | None = None
        self._begun: Producer | None = None
        self._batch_size = int(self._settings.get("batch.size", 1_000_000))
        self._position: Position | None = None
        # The last write whose commit was not answered: the topic says whether it took place.
        self._doubtful: tuple[str, tuple[object, ...]] | None = None

    def __repr__(self) -> str:
        return f"<Kafka {self._format} {self._prefix} at {self._bootstrap}>"

    def open(self) -> None:
        """Fence whoever wrote before, and read the position.

        Raises:
            SinkUnavailable: When no broker answers.
            ConfigError: When librdkafka does not take a setting.
        """
        self._connected()

    def position(self) -> Position | None:
        """The position of the last change that was committed."""
        return self._position

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
        self._connected()
        if self._doubtful is not None:
            if self._doubtful[1] == _about(batch):
                return  # it had been committed after all: `_connected` has found it
            self._doubtful = None
        last = batch.last_position
        if batch.first_position is not None and batch.first_position.index != SNAPSHOT_INDEX and self._position:
            batch = batch.after(self._position)
        if not batch.changes_count:
            return
        position = last if last is None or self._position is None else max(last, self._position)
        self._commit(batch, position)

    def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; the position stays.

        Args:
            batch: A batch of one change.
        """
        self._connected()
        self._commit(batch, None, [("pgcdc.rewritten", b"1")])

    def schema_changed(self, change: SchemaChange) -> None:
        """Tell every partition of the table's topic that it has another shape from here on.

        Args:
            change: What happened.
        """
        if self._format not in ("json", "pgcdc"):
            return
        producer = self._connected()
        value = msgspec.json.encode(change)
        headers: _Headers = [
            ("pgcdc.position", str(change.position).encode()),
            ("pgcdc.schema_version", b"%d" % change.version),
        ]
        topics = {self._topics.of(relation).name: self._topics.of(relation) for relation in (change.old, change.new)}
        with _Transaction(self, producer) as transaction:
            try:
                for topic in topics.values():
                    self._barrier(producer, topic, "schema", value, headers)
                transaction.commit()
            except (_Refused, _Aborted) as refused:
                transaction.abort()
                if refused.error.code() not in _OF_A_ROW:
                    raise self._failed(refused.error, "the broker refused the transaction") from None
                raise SinkRejected(
                    f"Kafka does not take a barrier: {refused.error.str()}",
                    table=f"{change.schema}.{change.table}",
                    hint="a compacted topic takes no record without a key",
                ) from None

    def close(self) -> None:
        """Let go of the connections."""
        self._begun = None
        self._drop()
        if self._writer is not None:
            self._writer.registry.close()

    # What the others are made of.

    def _connected(self) -> Producer:
        """The producer; after a failure a new one, which knows what the one before has committed."""
        if self._producer is not None:
            return self._producer
        # One whose beginning took too long goes on with it: beside another it would fence that one in the end.
        producer = self._begun or self._new()
        self._begun = producer
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                producer.init_transactions(max(0.1, deadline - time.monotonic()))
                break
            except KafkaException as error:
                if not error.args[0].retriable():
                    self._begun = None
                    raise self._failed(error.args[0], "a broker refused the producer") from None
                if time.monotonic() > deadline:
                    raise self._failed(error.args[0], "a broker did not answer") from None
        self._begun = None
        found = stored_position(self._topics, self._settings, self._name, self._timeout)
        stored = None if found is None else msgspec.json.decode(found, type=_Stored)
        self._position = None if stored is None else Position.parse(stored.position)
        if self._doubtful is not None and (stored is None or stored.write != self._doubtful[0]):
            self._doubtful = None
        self._producer = producer
        return producer

    def _new(self) -> Producer:
        settings = {
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": 65536,
            **self._settings,
            "batch.size": self._batch_size,
            "transactional.id": f"pgcdc.{self._prefix}.{self._name}",
            "enable.idempotence": True,
            "acks": "all",
            # Java's, so that keys are where other producers put them.
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
        }
        try:
            return Producer(settings)
        except KafkaException as error:
            raise ConfigError(f"librdkafka does not take a setting of the Kafka sink: {error.args[0].str()}") from None

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):  # one that failed for good says so once more
                producer.purge()
                producer.flush(0)

    def _key(self, batch: Batch) -> Callable[[Relation], Sequence[str]] | None:
        if not self._keys:
            return None

        def key(relation: Relation) -> Sequence[str]:
            chosen = self._keys.get(f"{relation.schema}.{relation.name}", self._keys.get(relation.name))
            return batch.key_columns(relation) if chosen is None else chosen

        return key

    def _records(self, batch: Batch) -> Sequence[_Record]:
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
        self, lines: Sequence[_Record], key_columns: Callable[[Relation], Sequence[str]]
    ) -> Iterator[_Record]:
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

    def _commit(self, batch: Batch, position: Position | None, headers: _Headers | None = None) -> None:
        producer = self._connected()
        records = self._records(batch)
        for relation in batch.relations:
            self._topics.of(relation)  # made now, if it is not there: not while the transaction is open
        write = uuid.uuid4().hex
        self._doubtful = (write, _about(batch)) if position is not None else None
        with _Transaction(self, producer) as transaction:
            try:
                self._produce(producer, records, headers or [])
                if position is not None:
                    stored = msgspec.json.encode(_Stored(str(position), write))
                    self._send(producer, self._topics.positions, stored, self._name.encode(), {})
                transaction.commit()
            except _Refused as refused:
                with contextlib.suppress(SinkUnavailable):  # else the next producer undoes it
                    transaction.abort()
                raise self._rejected(records, {refused.number: refused.error}) from None
            except _Aborted as aborted:
                transaction.abort()
                if culprits := self._culprits(producer, records, headers or []):
                    self._drop()  # the sequence of what it sends has holes now
                    raise self._rejected(records, culprits) from None
                raise self._failed(aborted.error, "the broker refused the transaction") from None
        self._doubtful = None
        if position is not None:
            self._position = position

    def _produce(
        self,
        producer: Producer,
        records: Sequence[_Record],
        headers: _Headers,
        report: Callable[[int], Callable[[KafkaError | None, object], None]] | None = None,
    ) -> None:
        """Hand all records over to librdkafka."""
        with_headers = self._headers or bool(headers)
        last: Relation | None = None
        topic: Topic | None = None
        version: int | None = None
        said = b""
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
                self._barrier(producer, topic, what, value, own or [], told, number)
                continue
            options: dict[str, Any] = {} if key is not None else {"partition": 0}
            if own is not None:
                options["headers"] = own
            if report is not None:
                options["on_delivery"] = report(number)
            self._send(producer, topic.name, value, key, options, number)

    def _send(
        self,
        producer: Producer,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        options: Mapping[str, Any],
        number: int = 0,
    ) -> None:
        """Hand one record over, when there is room for it."""
        while True:
            try:
                producer.produce(topic, value, key, **options)
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() in _OF_A_ROW:
                    raise _Refused(number, error.args[0]) from None
                if error.args[0].code() in _BROKEN:
                    raise _Aborted(error.args[0]) from None
                raise self._failed(error.args[0], "a record could not be sent") from error
            else:
                return

    def _barrier(
        self,
        producer: Producer,
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
            self._send(producer, topic.name, value, None, {"partition": partition, "headers": own, **options}, number)

    def _culprits(self, producer: Producer, records: Sequence[_Record], headers: _Headers) -> dict[int, KafkaError]:
        """Which changes a broker does not take.

        It refuses a whole batch of librdkafka's for one record: those that it names are sent once more, each alone.
        """
        suspects = self._refused(producer, records, headers)
        found: dict[int, KafkaError] = {}
        sizes: dict[int, int] = {}
        for number, _, _, key, value, _, _ in records:
            sizes[number] = max(sizes.get(number, 0), len(key or b"") + len(value or b""))
        for number in sorted(suspects, key=lambda number: -sizes[number]):
            refused = self._refused(producer, [record for record in records if record[0] == number], headers)
            if number in refused:
                found[number] = refused[number]
            elif suspects[number].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                break  # the others are smaller
        if suspects and not found:
            self._batch_size = max(1, self._batch_size // 2)  # each alone is taken: together they are too large
        return found

    def _refused(self, producer: Producer, records: Sequence[_Record], headers: _Headers) -> dict[int, KafkaError]:
        """Send records, each with a report, and undo it; those that were refused."""
        found: dict[int, KafkaError] = {}

        def report(number: int) -> Callable[[KafkaError | None, object], None]:
            def reported(error: KafkaError | None, _message: object) -> None:
                if error is not None and error.code() in _OF_A_ROW:
                    found[number] = error

            return reported

        with _Transaction(self, producer) as transaction:
            with contextlib.suppress(_Refused, _Aborted):
                self._produce(producer, records, headers, report)
            producer.flush(self._timeout)
            transaction.abort()
        return found

    def _rejected(self, records: Sequence[_Record], refused: Mapping[int, KafkaError]) -> SinkRejected:
        places = {number: (relation, position) for number, relation, _, _, _, position, _ in records}
        relation, _ = places[min(refused)]
        said = [places[number][1] for number in refused]
        return SinkRejected(
            f"Kafka does not take a record: {refused[min(refused)].str()}",
            table=None if relation is None else f"{relation.schema}.{relation.name}",
            hint="message.max.bytes of the broker, max.message.bytes of the topic and message.max.bytes in settings say"
            " how large records may be; a compacted topic takes none without a key",
            positions=[Position.parse(position.decode()) for position in said if position is not None],
        )

    def _failed(self, error: KafkaError, what: str) -> Error:
        """What to raise; the next call begins with a new producer."""
        self._drop()
        if error.code() in _FENCED:
            return PositionError(
                f"another process writes to Kafka as {self._name!r}: {error.str()}",
                hint="one process owns a pipeline; two pipelines need two names: Kafka(…, name=…)",
            )
        return SinkUnavailable(f"{what}: {error.str()}")


class _Refused(Exception):
    """A record that librdkafka does not take.

    Args:
        number: The number of its change.
        error: Why.
    """

    def __init__(self, number: int, error: KafkaError) -> None:
        super().__init__()
        self.number = number
        self.error = error


class _Aborted(Exception):
    """The transaction has failed, and is to be undone, or was.

    Args:
        error: Why.
    """

    def __init__(self, error: KafkaError) -> None:
        super().__init__()
        self.error = error


class _Transaction:
    """A Kafka transaction: committed at the end of its block, undone by an exception."""

    def __init__(self, sink: Kafka, producer: Producer) -> None:
        self._sink = sink
        self._producer = producer
        self._is_open = False

    def __enter__(self) -> _Transaction:
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            self._fail(error.args[0], "a transaction could not be begun")
        self._is_open = True
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.commit()
        elif self._is_open and self._sink._producer is self._producer:
            self.abort()

    def commit(self) -> None:
        """Commit, if that was not done.

        Raises:
            _Aborted: When it was undone instead.
        """
        deadline = time.monotonic() + self._sink._timeout
        while self._is_open:
            try:
                self._producer.commit_transaction(max(0.1, deadline - time.monotonic()))
                self._is_open = False
            except KafkaException as raised:
                error = raised.args[0]
                if error.txn_requires_abort():
                    self.abort()
                    raise _Aborted(error) from None
                if not error.retriable() or time.monotonic() > deadline:
                    self._is_open = False
                    self._fail(error, "whether a transaction was committed is not known")

    def abort(self) -> None:
        """Undo it, if it was not ended."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._producer.abort_transaction(self._sink._timeout)
        except KafkaException as error:
            self._fail(error.args[0], "a transaction could not be undone")

    def _fail(self, error: KafkaError, what: str) -> NoReturn:
        raise self._sink._failed(error, what) from None


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
