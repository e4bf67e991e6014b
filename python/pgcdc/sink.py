"""What a target is: a sink has `open`, `write` and `close`, and a `write` that returns is durable.

    class Printer:
        def open(self) -> None: ...
        def write(self, batch: Batch) -> None:
            for change in batch.changes():
                print(change.position, change.action)
        def close(self) -> None: ...

The methods may be coroutines. `SinkUnavailable` means "try the same batch again later"; `SinkRejected` means that it
will never be accepted, as does a `UnicodeEncodeError`. A sink that has a method `schema_changed(change)` is told with a
`SchemaChange` that a table has another shape, before the first change of it. A sink that has an attribute `defaults`
says with it how the pipeline calls it where the caller of `Pipeline.add` says nothing: `{"max_rows": 100_000,
"max_wait": 10}`. One that has `renames_columns = True` gets dead letters from before a table or column was renamed
under the names of now. One that can stand still though its writes return has an attribute `parked`, a `Parked` while it
does: then the pipeline is not ready. Every change carries its position: a target that keeps the last one applied can
skip what it has seen.

Batches know the keys of their tables (`batch.key_columns(relation)`), also where the stream does not say them. For
targets that keep rows as JSON, `batch.json_rows()` gives key and row of each change, with no Python object for a value.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pgcdc.lsn import Position
    from pgcdc.protocol import Batch
    from pgcdc.schema import SchemaChange

__all__ = ["Parked", "PartitionedSink", "RewritingSink", "Sink", "SinkPart", "ToldPart", "TransactionalSink"]


class Parked(NamedTuple):
    """A target that applies nothing for now, and is brought up to date later, from elsewhere.

    Attributes:
        why: In words, no values of rows.
        since: Since when, in seconds since 1970.
    """

    why: str
    since: float


class Sink(Protocol):
    """A target of changes."""

    def open(self) -> Awaitable[None] | None:
        """Get ready; called once, before the first write, when the pipeline is this process's: nobody else writes."""

    def write(self, batch: Batch) -> Awaitable[None] | None:
        """Apply a batch; when this returns, the batch survives a crash.

        Args:
            batch: Changes in commit order, already filtered to the tables that this sink asked for. The same batch may
                come again after a crash or a `SinkUnavailable`.

        Raises:
            SinkUnavailable: When the target cannot take it now.
            SinkRejected: When the target will never take it.
        """

    def close(self) -> Awaitable[None] | None:
        """Let go of everything; called once, also after an error."""


@runtime_checkable
class TransactionalSink(Sink, Protocol):
    """A sink that stores the position of what it applied in the same transaction as the data: exactly once."""

    def position(self) -> Position | None:
        """The last position applied, None when there is none; called after `open`."""


@runtime_checkable
class RewritingSink(TransactionalSink, Protocol):
    """One that can be given dead letters again: changes from before its position, which must stay as it is."""

    def rewrite(self, batch: Batch) -> Awaitable[None] | None:
        """Apply a change that was a dead letter; the position that is stored stays as it is.

        Args:
            batch: A batch of one change, with the position that it had. It may come again after a crash.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
        """


class SinkPart(Protocol):
    """One partition of a topic, for a sink that keeps how far each is. What it writes, all parts of the sink write.

    Its methods are called as the sink's own: from the same thread, one call after another.
    """

    def open(self) -> Awaitable[str | None] | str | None:
        """Take the partition over: whoever had it before writes nothing for it any more from here on.

        Returns:
            The note that came with the last write, None when there was none.

        Raises:
            SinkUnavailable: When the target cannot be reached.
        """

    def write(self, batch: Batch, note: str) -> Awaitable[None] | None:
        """Apply a batch, and put the note in the place of the last one, in one transaction.

        Args:
            batch: Changes of the partition. All of it is new: what `open` says to be written does not come again.
            note: What `open` is to give to whoever has the partition next; some hundred bytes.

        Raises:
            SinkUnavailable: As the sink's `write`. The same batch comes again, and may have been applied.
            SinkRejected: As the sink's `write`.
            PositionError: When somebody else has opened the partition since.
        """

    def rewrite(self, batch: Batch) -> Awaitable[None] | None:
        """Apply a change that was a dead letter; the note that is stored stays as it is.

        Args:
            batch: A batch of one change.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """

    def close(self) -> Awaitable[None] | None:
        """Let go of the partition; called before it is another process's, as far as that is known."""


@runtime_checkable
class ToldPart(SinkPart, Protocol):
    """One for a sink that writes down what becomes of shapes: it is told once, by one partition for all of them.

    Where a part has no such method, the sink's own `schema_changed` is called in each process.
    """

    def schema_changed(self, change: SchemaChange, note: str) -> Awaitable[None] | None:
        """Write down that a table has another shape from here on, and keep the note, in one transaction.

        Args:
            change: What happened. All partitions have written what comes before it, and none what comes after.
            note: As that of `write`.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """


@runtime_checkable
class PartitionedSink(TransactionalSink, Protocol):
    """One that can keep, in place of its one position, how far each partition of a topic is: exactly once on Kafka.

    There, several processes have the sink open at once, each with some of the partitions. `open` is called in each of
    them, and `position` says what was applied on the slot before; `write` is not called.
    """

    def part(self, name: str) -> SinkPart:
        """Give what writes the changes of one partition.

        Args:
            name: The partition's, the same in all processes: `"shop.public.orders/3"`.

        Returns:
            The part, not opened yet.
        """
