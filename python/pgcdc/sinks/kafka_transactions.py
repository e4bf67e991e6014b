"""Transactions of the Kafka sink: a producer with a `transactional.id`, and what the topic of positions has of it.

Over 400 lines, because what may go wrong in a transaction and what is done about it is in one place.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from pgcdc.errors import ConfigError, Error, PositionError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.sinks.kafka_topics import Topics, read_stored

__all__ = ["Produce", "Record", "Report", "Stored", "Transaction", "Transactions"]

Record: TypeAlias = tuple[int, Relation | None, str, bytes | None, bytes | None, bytes | None, int | None]
"""Of `Batch.records`: the number of its change, its table, what it is, key, value, position and version."""

Report: TypeAlias = Callable[[int], Callable[[KafkaError | None, object], None]]
"""Gives what is to be told of the delivery of a change's record."""

Produce: TypeAlias = Callable[[Sequence[Record], Report | None], None]
"""Hands records over, with the headers that belong to them."""

_OF_A_ROW: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_MSG})
"""What is wrong with one record and not with the broker."""

_FENCED: Final = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.FENCED_INSTANCE_ID}
)

_BROKEN: Final = frozenset({KafkaError._STATE, KafkaError._FATAL})
"""What librdkafka says of a record when the transaction has failed already: undoing it says why."""

PATIENCE = 0.5
"""Seconds that others' open transactions in the topic of positions are waited for, where these wait for us, too."""


class Stored(msgspec.Struct, omit_defaults=True):
    """What the topic of positions has under a name.

    Attributes:
        write: The id of the write that it came with.
        position: `str(Position)`; empty for a partition of a topic that is read.
        note: What the pipeline keeps of such a partition.
    """

    write: str
    position: str = ""
    note: str | None = None


class _Claim(msgspec.Struct):
    """Whose a partition is: who has written this last may write for it.

    Attributes:
        owner: Of one `Transactions`, and nobody else's.
    """

    owner: str


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


class Transactions:
    """One writer: after a failure it goes on with a new producer, which knows what the one before has committed.

    Who connects fences whoever wrote under the name before. Where several processes hand a name over to each other
    (`claims`), `take_over` writes down besides whose it is: then one that was away for a while, and comes back with a
    new producer, finds that it has a successor before it would fence that one.

    Args:
        name: What is stored is stored under this.
        transactional_id: Of the producer.
        topics: The sink's topics.
        settings: Of librdkafka, with the sink's own.
        timeout: How long a call to the broker may take, in seconds.
        claims: Whether it is handed over.

    Attributes:
        stored: What was committed last.
        producer: The producer that is in use, if one is.
    """

    def __init__(
        self,
        name: str,
        transactional_id: str,
        topics: Topics,
        settings: Mapping[str, Any],
        timeout: float,
        *,
        claims: bool = False,
    ) -> None:
        self.stored: Stored | None = None
        self.producer: Producer | None = None
        self.timeout = timeout
        self._name = name
        self._id = transactional_id
        self._topics = topics
        self._settings = settings
        self._claims = claims
        self._owner: str | None = None
        self._begun: Producer | None = None
        self._batch_size = int(settings.get("batch.size", 1_000_000))
        # The last write whose commit was not answered: the topic says whether it took place.
        self._doubtful: tuple[str, object] | None = None

    def take_over(self) -> None:
        """Begin anew, whoever has it.

        Raises:
            SinkUnavailable: When no broker answers, or what was committed cannot be read yet.
        """
        self.drop()
        self._owner = self._doubtful = None
        self.connected()

    def connected(self) -> Producer:
        """The producer; after a failure a new one, which knows what the one before has committed.

        Raises:
            SinkUnavailable: When no broker answers.
            PositionError: When another one has taken over meanwhile.
            ConfigError: When librdkafka does not take a setting.
        """
        if self.producer is not None:
            return self.producer
        if self._owner is not None and not self._is_owner():
            raise self._followed()
        # One whose beginning took too long goes on with it: beside another it would fence that one in the end.
        producer = self._begun or self._new()
        self._begun = producer
        deadline = time.monotonic() + self.timeout
        if self._claims:
            # Without a connection librdkafka looks for the coordinator every half second; there are many partitions.
            with contextlib.suppress(KafkaException):
                producer.list_topics(self._topics.positions, timeout=min(1.0, self.timeout))
        while True:
            try:
                producer.init_transactions(max(0.1, deadline - time.monotonic()))
                break
            except KafkaException as error:
                if not error.args[0].retriable():
                    self._begun = None
                    raise self.failed(error.args[0], "a broker refused the producer") from None
                if time.monotonic() > deadline:
                    raise self.failed(error.args[0], "a broker did not answer") from None
        self._begun = None
        self.producer = producer
        self._topics.forget()
        try:
            if self._claims and self._owner is None:
                self._claim()
            elif self._owner is not None and not self._is_owner():
                # Claimed between the look before and the fencing, which may be long. Who claims from here on fences us.
                raise self._followed()
            found = self._read([self._name]).get(self._name)
        except BaseException:
            self.drop()
            raise
        self.stored = None if found is None else msgspec.json.decode(found, type=Stored)
        if self._doubtful is not None and (self.stored is None or self.stored.write != self._doubtful[0]):
            self._doubtful = None
        return producer

    def was_committed(self, what: object) -> bool:
        """Whether a write whose commit was not answered took place after all; to be asked once, when connected.

        Args:
            what: Tells it from others.
        """
        doubtful, self._doubtful = self._doubtful, None
        return doubtful is not None and doubtful[1] == what

    def forget_doubt(self) -> None:
        """The last write was undone."""
        self._doubtful = None

    def commit(
        self,
        records: Sequence[Record],
        produce: Produce,
        position: str | None = None,
        note: str | None = None,
        what: object = None,
    ) -> None:
        """Write records, and what is stored with them, in one transaction.

        Args:
            records: The records.
            produce: Hands them over.
            position: The position to be stored.
            note: The note to be stored; with neither, what is stored stays.
            what: Tells this write from others, where it may come again.

        Raises:
            SinkUnavailable: When no broker answers in time, or one refused for now.
            SinkRejected: When a record is larger than a broker takes, or it refused it as such.
            PositionError: When another process has taken over.
        """
        self.connected()
        stored = None
        if position is not None or note is not None:
            stored = Stored(uuid.uuid4().hex, position or "", note)
        with Transaction(self) as transaction:
            try:
                produce(records, None)
                if stored is not None:
                    self._store(self._name, stored)
                    # From here on and not before: what was refused was not committed, though it may come again.
                    self._doubtful = stored.write, what
                transaction.commit()
            except _Refused as refused:
                with contextlib.suppress(SinkUnavailable):  # else the next producer undoes it
                    transaction.abort()
                raise _rejected(records, {refused.number: refused.error}) from None
            except _Aborted as aborted:
                transaction.abort()
                self._doubtful = None
                if culprits := self._culprits(records, produce):
                    self.drop()  # the sequence of what it sends has holes now
                    raise _rejected(records, culprits) from None
                raise self.failed(aborted.error, "the broker refused the transaction") from None
        if stored is not None:
            self._doubtful = None
            self.stored = stored

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        options: Mapping[str, Any],
        number: int = 0,
    ) -> None:
        """Hand one record over, when there is room for it.

        Args:
            topic: Its topic.
            value: Its value.
            key: Its key.
            options: What else the client is given.
            number: The number of its change.

        Raises:
            _Refused: When librdkafka does not take it.
            _Aborted: When the transaction has failed.
        """
        producer = self.producer
        assert producer is not None
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
                raise self.failed(error.args[0], "a record could not be sent") from error
            else:
                return

    def partitions(self, topic: str) -> int:
        """Ask how many partitions a topic has now; the producer takes records for all of them from then on.

        Args:
            topic: The topic's name.

        Returns:
            How many; 0 when it is not there.

        Raises:
            SinkUnavailable: When no broker answers in time.
        """
        assert self.producer is not None
        try:
            found = self.producer.list_topics(topic, timeout=self.timeout).topics[topic]
        except KafkaException as error:
            raise self.failed(error.args[0], "a broker did not say how many partitions a topic has") from None
        if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise self.failed(found.error, "a broker did not say how many partitions a topic has")
        return 0 if found.error is not None else len(found.partitions)

    def failed(self, error: KafkaError, what: str) -> Error:
        """What to raise; the next call begins with a new producer.

        Args:
            error: What librdkafka says.
            what: In which words.
        """
        self.drop()
        if error.code() in _FENCED:
            if not self._claims:
                return PositionError(
                    f"another process writes to Kafka as {self._name!r}: {error.str()}",
                    hint="one process owns a pipeline; two pipelines need two names: Kafka(…, name=…)",
                )
            if self._owner is not None and not self._is_owner():
                return self._followed()
            # Whoever fenced this one had no claim, and finds that out: one that is late, or was late itself.
            return SinkUnavailable(f"another process has begun to write to Kafka as {self._name!r}")
        return SinkUnavailable(f"{what}: {error.str()}")

    def drop(self) -> None:
        """Let go of the producer."""
        producer, self.producer = self.producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):  # one that failed for good says so once more
                producer.purge()
                producer.flush(0)

    def close(self) -> None:
        """Let go of everything."""
        self._begun = None
        self.drop()

    def _new(self) -> Producer:
        settings = {
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": 65536,
            **self._settings,
            "batch.size": self._batch_size,
            "transactional.id": self._id,
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

    # What is stored.

    def _store(self, name: str, what: msgspec.Struct) -> None:
        self.send(self._topics.positions, msgspec.json.encode(what), name.encode(), {})

    def _read(self, names: Sequence[str], *, committed: bool = True) -> Mapping[str, bytes]:
        # A process that was killed leaves transactions open, of other names perhaps that this one is to take over next.
        patience = PATIENCE if self._claims else self.timeout
        return read_stored(self._topics, self._settings, names, self.timeout, patience, committed=committed)

    @property
    def _claimed(self) -> str:
        return f"{self._name} owner"

    def _claim(self) -> None:
        self._topics.make_positions()
        claim = _Claim(uuid.uuid4().hex)
        with Transaction(self) as transaction:
            try:
                self._store(self._claimed, claim)
                transaction.commit()
            except (_Refused, _Aborted) as refused:
                transaction.abort()
                raise self.failed(refused.error, "the broker refused the transaction") from None
        self._owner = claim.owner

    def _is_owner(self) -> bool:
        """Whether nobody has claimed the name since."""
        # Also what is not committed, or was undone: whoever wrote it has fenced us.
        found = self._read([self._claimed], committed=False).get(self._claimed)
        return found is not None and msgspec.json.decode(found, type=_Claim).owner == self._owner

    def _followed(self) -> PositionError:
        return PositionError(
            f"another process has taken over what is written to Kafka as {self._name!r}",
            hint="two pipelines need two names: Kafka(…, name=…)",
        )

    # What was refused.

    def _culprits(self, records: Sequence[Record], produce: Produce) -> dict[int, KafkaError]:
        """Which changes a broker does not take.

        It refuses a whole batch of librdkafka's for one record: those that it names are sent once more, each alone.
        """
        suspects = self._refused(records, produce)
        found: dict[int, KafkaError] = {}
        sizes: dict[int, int] = {}
        for number, _, _, key, value, _, _ in records:
            sizes[number] = max(sizes.get(number, 0), len(key or b"") + len(value or b""))
        for number in sorted(suspects, key=lambda number: -sizes[number]):
            refused = self._refused([record for record in records if record[0] == number], produce)
            if number in refused:
                found[number] = refused[number]
            elif suspects[number].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                break  # the others are smaller
        if suspects and not found:
            self._batch_size = max(1, self._batch_size // 2)  # each alone is taken: together they are too large
        return found

    def _refused(self, records: Sequence[Record], produce: Produce) -> dict[int, KafkaError]:
        """Send records, each with a report, and undo it; those that were refused."""
        found: dict[int, KafkaError] = {}

        def report(number: int) -> Callable[[KafkaError | None, object], None]:
            def reported(error: KafkaError | None, _message: object) -> None:
                if error is not None and error.code() in _OF_A_ROW:
                    found[number] = error

            return reported

        with Transaction(self) as transaction:
            with contextlib.suppress(_Refused, _Aborted):
                produce(records, report)
            assert self.producer is not None
            self.producer.flush(self.timeout)
            transaction.abort()
        return found


class Transaction:
    """A Kafka transaction: committed at the end of its block, undone by an exception.

    Args:
        transactions: Whose it is; connected.
    """

    def __init__(self, transactions: Transactions) -> None:
        assert transactions.producer is not None
        self._transactions = transactions
        self._producer = transactions.producer
        self._is_open = False

    def __enter__(self) -> Transaction:
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            self._fail(error.args[0], "a transaction could not be begun")
        self._is_open = True
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.commit()
        elif self._is_open and self._transactions.producer is self._producer:
            self.abort()
            self._transactions.forget_doubt()

    def commit(self) -> None:
        """Commit, if that was not done.

        Raises:
            _Aborted: When it was undone instead.
        """
        deadline = time.monotonic() + self._transactions.timeout
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
            self._producer.abort_transaction(self._transactions.timeout)
        except KafkaException as error:
            self._fail(error.args[0], "a transaction could not be undone")

    def _fail(self, error: KafkaError, what: str) -> NoReturn:
        raise self._transactions.failed(error, what) from None


def _rejected(records: Sequence[Record], refused: Mapping[int, KafkaError]) -> SinkRejected:
    found = {number: (relation, position) for number, relation, _, _, _, position, _ in records}
    relation, _ = found[min(refused)]
    barrier = records[0][2] == "schema"
    return SinkRejected(
        f"Kafka does not take a {'barrier' if barrier else 'record'}: {refused[min(refused)].str()}",
        table=None if relation is None else f"{relation.schema}.{relation.name}",
        hint="message.max.bytes of the broker, max.message.bytes of the topic and message.max.bytes in settings say"
        " how large records may be; a compacted topic takes none without a key",
        positions=[Position.parse(said.decode()) for number in refused if (said := found[number][1]) is not None],
    )
