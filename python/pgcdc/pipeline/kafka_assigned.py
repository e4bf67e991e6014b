"""A partition that a member of a group has, and how its records become what is handed over: changes and barriers."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pgcdc.errors import ConfigError, PositionError
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.items import Appointment
from pgcdc.pipeline.kafka_lane import PartitionLane
from pgcdc.pipeline.kafka_records import Barrier, Mark, read_record
from pgcdc.pipeline.subscription import Subscription
from pgcdc.protocol import Batch, RowFormat
from pgcdc.protocol.json_columns import decode_columns

__all__ = ["Arranging", "Assigned", "Found", "TopicPartition"]

TopicPartition: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Found:
    """What there is of a partition when it comes to this member.

    Attributes:
        topic: The topic.
        partition: The partition's number.
        offset: The offset that is stored; -1 when none is.
        mark: What is to be stored with it from now on.
        low: The offset of the first record that the topic still has.
        high: The offset behind the last one.
        topic_id: The topic's id, which another one of the same name does not have; empty where brokers give none.
    """

    topic: str
    partition: int
    offset: int
    mark: Mark
    low: int
    high: int
    topic_id: str


@dataclass
class Assigned:
    """A partition that this member has.

    Attributes:
        lane: Its queue.
        barrier: Makes of a barrier what its lane is offered.
        skip: Changes up to here are left out: the consumer had them when it read from the slot.
        pending: What does not fit into the lane.
        paused: Whether the client reads nothing more of it.
        first: The offset of the first record that the topic has, when earlier ones are gone and none was read yet.
        taken: The offset behind the last record that was taken, or that it begins with.
        end: The offset behind everything, where no record follows what was taken.
    """

    lane: PartitionLane
    barrier: Callable[[Barrier], Appointment]
    skip: Position | None
    pending: deque[tuple[Batch, list[int], int, int] | Barrier] = field(default_factory=deque)
    paused: bool = False
    first: int | None = None
    taken: int = 0
    end: int | None = None

    def pass_end(self) -> None:
        """Go on to the end, when all that was taken is done."""
        if self.end is not None and not self.pending and self.lane.progress()[0] >= self.taken:
            self.lane.end_at(self.end)
            self.end = None

    def hand_over(self) -> None:
        """Offer the lane what there is room for."""
        while self.pending:
            item = self.pending[0]
            if isinstance(item, Barrier):
                self.lane.offer(self.barrier(item))
            elif not item[0].changes_count:
                self.lane.advance(item[2])
            elif not self.lane.offer_rows(*item):
                break
            self.pending.popleft()
        self.pass_end()


class Arranging:
    """How one consumer's records become what is handed over.

    Args:
        subscription: The consumer.
        format: How rows are given to those who ask a batch and do not say.
        ordered: The columns that the consumer keeps order by, by topic, where those are not the primary key's.
    """

    def __init__(self, subscription: Subscription, format: RowFormat, ordered: Mapping[str, Collection[str]]) -> None:
        self._subscription = subscription
        self._format = format
        self._ordered = ordered

    def arrange(self, one: Assigned, records: Sequence[Any]) -> None:
        """Make of records what is handed over: runs of changes, and barriers between them.

        Args:
            one: Their partition.
            records: What the client gave, its ends too.

        Raises:
            PositionError: When what lies between the slot and the topic's first record may be gone.
            ConfigError: When the topic is divided otherwise than the consumer needs.
            DecodeError: When one is no record of the sink's.
        """
        run: list[Batch] = []
        offsets: list[int] = []
        nbytes = 0

        def end_run(through: int) -> None:
            nonlocal nbytes
            one.pending.append((Batch.concat(run, alike=True) if run else Batch.of([]), offsets[:], through, nbytes))
            run.clear()
            offsets.clear()
            nbytes = 0

        for each in records:
            if each.error() is not None:
                # The end. There may be no records between the last one and here, only what ends transactions: who
                # stored an offset before these would be behind what is left when retention has removed them.
                one.end = each.offset()
                continue
            one.end = None
            record = read_record(each, self._format)
            if isinstance(record, Barrier):
                end_run(record.offset)
                if one.skip is None or record.rewritten or Position.parse(record.position) > one.skip:
                    self._check_first(one, Position.parse(record.position))
                    one.pending.append(record)
                else:
                    end_run(record.offset + 1)
                continue
            self.check_key(one.lane.topic, record.key)
            first = record.batch.first_position
            self._check_first(one, first)
            batch = self._select(record.batch)
            if not batch.changes_count:
                continue
            last = run[-1].last_position if run else None
            if last is not None and first is not None and last > first:
                end_run(record.offset)  # a dead letter of the sink, which is written again behind later changes
            run.append(batch)
            offsets.extend([record.offset] * batch.changes_count)
            nbytes += record.nbytes
        if (last := next((each for each in reversed(records) if each.error() is None), None)) is not None:
            one.taken = last.offset() + 1
            end_run(one.taken)

    def _check_first(self, one: Assigned, position: Position | None) -> None:
        """Whether the topic goes back to what the consumer has had from the slot."""
        first, one.first = one.first, None
        if first is not None and one.skip is not None and position is not None and position > one.skip:
            raise PositionError(
                f"consumer {self._subscription.name!r} read from the slot up to {one.skip}, and the first record that"
                f" topic {one.lane.topic!r} still has in partition {one.lane.partition} is at {position}",
                hint="what lies between may be gone: let the sink write to new topics, with a copy of existing rows, or"
                " move the consumer sooner",
                lsn=position.commit_lsn,
            )

    def check_key(self, topic: str, key: bytes | None) -> None:
        """See that all changes that the consumer keeps in order are in one partition.

        Args:
            topic: The topic.
            key: A record's key.

        Raises:
            ConfigError: When they are not.
        """
        wanted = self._ordered.get(topic)
        if wanted is None or key is None:
            return
        found = decode_columns(key)
        if not found.keys() <= set(wanted):
            raise ConfigError(
                f"consumer {self._subscription.name!r} keeps order by {', '.join(wanted)}, and topic {topic!r} is"
                f" divided by {', '.join(found)}",
                hint="let the pipeline that writes the topics write new ones, with another prefix, by"
                f' Kafka(…, keys={{"TABLE": {json.dumps(list(wanted))}}}); or leave key out',
            )

    def _select(self, batch: Batch) -> Batch:
        subscription = self._subscription
        first = batch.first_position
        if first is not None and first.index == SNAPSHOT_INDEX and not subscription.copies:
            return Batch.of([])
        if subscription.actions is None and not subscription.messages:
            return batch
        return batch.select(subscription.tables, subscription.actions, messages=subscription.messages or None)
