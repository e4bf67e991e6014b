"""What a record of the Kafka sink's format `pgcdc` is: a change, or a barrier at which all partitions of a topic meet.

The sink that writes them is a target like any other, and nothing of it is imported here: what the two have in common
are the names of headers and `Batch.to_bytes`. docs/sinks/kafka.md has the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pgcdc.errors import DecodeError, Error
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, RowFormat
from pgcdc.schema import SchemaChange

__all__ = ["BARRIER", "PARTITIONS", "POSITION", "REWRITTEN", "Barrier", "Mark", "RowRecord", "read_record"]

POSITION: Final = "pgcdc.position"
BARRIER: Final = "pgcdc.barrier"
PARTITIONS: Final = "pgcdc.partitions"
REWRITTEN: Final = "pgcdc.rewritten"

KEPT_IDS = 32
"""So many barriers of old positions are remembered by each mark: a sink's dead letters are written again one by one."""


@dataclass
class RowRecord:
    """A change of one partition.

    Attributes:
        batch: The change alone.
        offset: The record's.
        nbytes: What it takes.
        key: The record's key, a JSON object of columns; None for a row of a table without one.
    """

    batch: Batch
    offset: int
    nbytes: int
    key: bytes | None = None


@dataclass
class Barrier:
    """What concerns more than one partition of a topic: it stands in all of them.

    Attributes:
        kind: `"truncate"`, `"key"` (an update that has changed the key) or `"schema"`.
        position: Its position. A table has another shape from this change on.
        offset: The record's, in this partition.
        partitions: How many partitions there are.
        batch: The change; None for `"schema"`.
        change: What became of the shape; None for the others.
        rewritten: Whether it was a dead letter of the sink, which stands behind what is newer.
    """

    kind: str
    position: str
    offset: int
    partitions: int
    batch: Batch | None = None
    change: SchemaChange | None = None
    rewritten: bool = False

    @property
    def id(self) -> str:
        """What it has in common in all partitions, and with no other barrier."""
        of = "" if self.change is None else f":{self.change.new.oid}:{self.change.version}"
        return f"{self.position}:{self.kind}{of}{':rewritten' if self.rewritten else ''}"


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one partition is, as it is stored together with its offset.

    Attributes:
        position: The highest position, as text, of what is done; empty before anything is.
        passed: Those barriers of that position that are done: its partition has nothing before them any more.
        at: The barrier that it stands before: everything before that is done.
        partitions: How many partitions the topic had.
        epoch: How many owners it has had.
        rewritten: Those barriers that are done and stood behind newer changes; the last ones.
        kept: The offset up to which the target has said, by what it keeps itself, that all is done; 0: nothing.
        topic: The id of the topic, which another one of the same name does not have; empty where brokers give none.
        new: Whether the offset is only where it would begin: the target was not asked yet how far it is.
    """

    position: str = ""
    passed: tuple[str, ...] = ()
    at: str = ""
    partitions: int = 0
    epoch: int = 0
    rewritten: tuple[str, ...] = ()
    kept: int = 0
    topic: str = ""
    new: bool = False

    def after(self, position: str, barrier: Barrier | None = None) -> Mark:
        """The same when more is done.

        Args:
            position: Of what is done.
            barrier: The barrier that it was.
        """
        if barrier is not None and barrier.rewritten:
            return msgspec.structs.replace(self, at="", rewritten=(*self.rewritten, barrier.id)[-KEPT_IDS:])
        passed = self.passed if position <= self.position else ()
        if barrier is not None:
            passed = (*passed, barrier.id)
        return msgspec.structs.replace(self, position=max(position, self.position), passed=passed, at="")

    def has_passed(self, barrier: Barrier) -> bool:
        """Whether a barrier is done."""
        if barrier.rewritten:
            return barrier.id in self.rewritten
        return barrier.id in self.passed or self.position > barrier.position

    def has_reached(self, barrier: Barrier) -> bool:
        """Whether everything before a barrier is done."""
        return self.at == barrier.id or self.has_passed(barrier)

    def text(self) -> str:
        """What is stored."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: str | None) -> Mark | None:
        """Undo `text`; None of what somebody else has stored.

        Args:
            text: What is stored.
        """
        try:
            return msgspec.json.decode(text, type=cls) if text else None
        except msgspec.DecodeError:
            return None


def read_record(record: Any, format: RowFormat) -> RowRecord | Barrier:
    """Read a record.

    Args:
        record: What the client gave.
        format: How rows are given to those who ask a batch and do not say.

    Returns:
        The change or barrier.

    Raises:
        DecodeError: When it is none.
    """
    headers = {name: value for name, value in record.headers() or () if isinstance(value, bytes)}
    value, kind = record.value(), headers.get(BARRIER, b"").decode()
    try:
        if value is None:
            raise DecodeError("it has no value", reason="no change")
        if not kind:
            return RowRecord(Batch.from_bytes(value, format), record.offset(), len(value), record.key())
        position = Position.parse(headers[POSITION].decode())
        barrier = Barrier(kind, str(position), record.offset(), int(headers[PARTITIONS]))
        barrier.rewritten = REWRITTEN in headers
        if kind == "schema":
            barrier.change = msgspec.json.decode(value, type=SchemaChange)
        elif kind in ("truncate", "key"):
            barrier.batch = Batch.from_bytes(value, format)
        else:
            raise DecodeError("a later version of pgcdc has written it", reason="unknown barrier")
    except (Error, KeyError, ValueError, msgspec.MsgspecError) as error:
        why = str(error) if isinstance(error, Error) else type(error).__name__
        raise DecodeError(
            f"the record at offset {record.offset()} of partition {record.partition()} of topic {record.topic()!r} is"
            f" no change: {why}",
            reason="no record of the Kafka sink",
            hint='the topics are those of a sink Kafka(…, format="pgcdc"), and nobody else writes to them',
        ) from error
    return barrier
