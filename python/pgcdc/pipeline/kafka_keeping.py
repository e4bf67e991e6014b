"""Sinks that keep, in one transaction with their rows, how far each partition is: every change once, also after a kill.

What they keep is ahead of the group's offsets, which are stored a moment later: whoever is given a partition asks the
sink, which from then on takes nothing more from whoever had it before, and leaves out what is there already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from pgcdc.errors import PositionError
from pgcdc.lsn import Position
from pgcdc.pipeline.kafka_anew import begin_anew
from pgcdc.pipeline.kafka_lane import Offsets, PartitionLane
from pgcdc.pipeline.kafka_records import Mark
from pgcdc.pipeline.kafka_sharing import SharedSink
from pgcdc.pipeline.pieces import Progress
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.subscription import SinkSubscription
from pgcdc.pipeline.target import GaveUp, Reach, SinkFailed
from pgcdc.pipeline.target_sink import SinkTarget
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange
from pgcdc.sink import PartitionedSink, ToldPart

__all__ = ["KeepingPart", "KeepingTarget", "Note", "Notes"]

T = TypeVar("T")


class Note(msgspec.Struct, frozen=True):
    """What a sink keeps of a partition.

    Attributes:
        topic: The id of the topic, which another one of the same name does not have; empty where brokers give none.
        offset: That of the first record that is not in the sink.
        mark: What belongs to it.
        told: The OID and version of the last shape that the sink was told of in this partition, in the same way.
    """

    topic: str
    offset: int
    mark: Mark
    told: tuple[int, int] = (0, 0)


class Notes(Offsets):
    """What the sink of one partition is to keep with what it is given next.

    Args:
        consumer: The consumer's name, with the partition.
        group: The consumer's group.
        lane: The partition.
        topic: The id of its topic.
        high: The offset behind its last record.
        refusal: Why it could not begin where the lane begins; right unless the target has what is before.
    """

    def __init__(
        self,
        consumer: str,
        group: str,
        lane: PartitionLane,
        topic: str,
        high: int,
        refusal: PositionError | None = None,
    ) -> None:
        super().__init__(lane)
        self._consumer = consumer
        self._group = group
        self._refusal = refusal
        self._topic = topic
        self._high = high
        self._last = Note(topic, 0, Mark())

    def begin(self, text: str | None) -> None:
        """Go on behind what the sink has.

        Args:
            text: What it has kept.

        Raises:
            PositionError: When that cannot be of this topic, or was more before.
        """
        note = None if text is None else msgspec.json.decode(text, type=Note)
        known = self._lane.mark.kept
        if known > (0 if note is None else note.offset):
            what = "nothing of" if note is None else f"only the records up to offset {note.offset} of"
            raise self._contradiction(f"has {what} this partition, and had those up to {known}: it lost rows")
        if self._refusal is not None:
            if note is None or note.offset < self._lane.begins:
                raise self._refusal
            self._lane.prove()
        if note is None:
            return
        if note.topic and self._topic and note.topic != self._topic:
            raise self._contradiction(f"was filled from another topic that was called {self._lane.topic!r}")
        if note.offset > self._high:
            raise self._contradiction(
                f"has the records up to offset {note.offset} of this partition, which ends at {self._high}"
            )
        self._last = note
        self._lane.begin_at(note.offset, msgspec.structs.replace(note.mark, kept=note.offset))

    def _contradiction(self, what: str) -> PositionError:
        return PositionError(
            f"the target of consumer {self._consumer!r} {what}",
            hint=begin_anew(self._group, "empty the target and what it has kept of its partitions")
            + "; or put the target back that belongs to them",
        )

    def next(self, done: int, last: Position) -> Note:
        """What is to be kept when changes up to some one are in the sink.

        Args:
            done: How many changes are done then of what is being written.
            last: The position of the last of them.
        """
        if self._barrier is not None:
            offset, mark = self._barrier.offset + 1, self._lane.mark.after(self._barrier.position, self._barrier)
            return Note(self._topic, offset, mark, self._last.told)
        offset = max(self._last.offset, self.behind(done))
        return Note(self._topic, offset, self._lane.mark.after(str(last)), self._last.told)

    def telling(self, change: SchemaChange) -> Note | None:
        """What is to be kept when the sink is told of another shape: it is where it was, and knows that one.

        Args:
            change: What it is told.

        Returns:
            The note; None when it was told that before.
        """
        what = change.new.oid, change.version
        return None if self._last.told == what else msgspec.structs.replace(self._last, told=what)

    def keep(self, note: Note) -> None:
        """The sink has kept it.

        Args:
            note: What.
        """
        self._last = note
        self._lane.keep(note.offset)


class KeepingPart:
    """What one partition takes for such a sink, which it shares with the others that the process has.

    Args:
        whole: The sink.
        name: What the partition is called there.
        notes: What it keeps.
        ours: Finds out whether the group says that the partition is this process's, or waits until it has gone.

    Attributes:
        coming: The note of the next write.
    """

    def __init__(
        self,
        whole: SharedSink,
        name: str,
        notes: Notes,
        ours: Callable[[], Awaitable[bool]],
    ) -> None:
        sink = whole.sink
        assert isinstance(sink, PartitionedSink)
        self._whole = whole
        self._sink = sink
        self._part = sink.part(name)
        self._notes = notes
        self._ours = ours
        self._own: Position | None = None
        # The note that the sink has, as far as this process knows.
        self._text: str | None = None
        # That somebody else has opened the partition, until that is looked into.
        self._doubt: PositionError | None = None
        self.coming: Note | None = None

    async def open(self) -> None:
        """Take the partition over, and go on behind what the sink has."""
        await self._whole.open()
        self._own = await self._whole.call(self._sink.position)
        try:
            self._text = await self._whole.call(self._part.open)
            self._notes.begin(self._text)
        except PositionError:
            # Who is late may find that whoever has the partition is ahead.
            if await self._ours():
                raise
            raise GaveUp from None

    def position(self) -> Position | None:
        """What the sink was given from the slot."""
        return self._own

    async def write(self, batch: Batch) -> None:
        """Write a batch with the note that comes with it.

        Args:
            batch: The batch.
        """
        note = self.coming
        assert note is not None
        await self._keeping(note, self._part.write, batch)

    async def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter.

        Args:
            batch: A batch of one change.
        """
        await self._as_owner(lambda: self._whole.call(self._part.rewrite, batch), self._text)

    @property
    def is_told(self) -> bool:
        """Whether what it is told of shapes is written by the part, once for all processes."""
        return isinstance(self._part, ToldPart)

    async def schema_changed(self, change: SchemaChange) -> None:
        """Tell the sink of another shape: once in this process, or in a transaction with a note that says so.

        Args:
            change: The change.
        """
        if isinstance(self._part, ToldPart):
            note = self._notes.telling(change)
            if note is not None:
                await self._keeping(note, self._part.schema_changed, change)
        elif hasattr(self._sink, "schema_changed"):
            await self._whole.schema_changed(change)

    async def close(self) -> None:
        """Let go of the partition; the sink goes on for the others."""
        await self._whole.call(self._part.close)

    async def _keeping(self, note: Note, method: Callable[[T, str], Awaitable[None] | None], what: T) -> None:
        """Write something together with a note."""
        text = msgspec.json.encode(note).decode()
        await self._as_owner(lambda: self._whole.call(method, what, text), text)
        self._text = text
        self._notes.keep(note)

    async def _as_owner(self, call: Callable[[], Awaitable[None]], text: str | None) -> None:
        """What the sink says of another owner is right where that one is of the group: then this one is late.

        Args:
            call: What is to be done.
            text: The note that the sink has afterwards.
        """
        while True:
            if self._doubt is not None:
                # The other one may be late itself: it was opening the partition when it was stopped, and has written
                # nothing since. Then the partition is taken back.
                found = await self._whole.call(self._part.open)
                if found not in (self._text, text):
                    raise self._doubt
                self._doubt = None
                if found != self._text:
                    break
            try:
                await call()
                break
            except PositionError as error:
                if not await self._ours():
                    raise GaveUp from None
                self._doubt = error


class KeepingTarget(SinkTarget):
    """Such a sink as a target.

    Args:
        subscription: The partition's, whose sink is a `KeepingPart`.
        formats: How rows are made.
        notes: What it keeps.
    """

    def __init__(self, subscription: SinkSubscription, formats: RowFormats, notes: Notes) -> None:
        super().__init__(subscription, formats)
        # How far it is, is known together with the group's offsets.
        self.keeps_position = False
        self._notes = notes

    @property
    def tells_once(self) -> bool:
        """Whether one partition tells the sink of another shape for all of them."""
        sink = self._sink
        assert isinstance(sink, KeepingPart)
        return sink.is_told

    async def write(self, batch: Batch, reach: Reach, settled: Set[int] = frozenset()) -> None:
        """Write a batch, with a note in each transaction."""
        with _not_wrapped():
            await super().write(batch, reach, settled)

    async def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; the note stays."""
        with _not_wrapped():
            await super().rewrite(batch)

    def _give(self, piece: Progress) -> Awaitable[None] | None:
        sink = self._sink
        assert isinstance(sink, KeepingPart)
        last = piece.source.last_position if piece.failed is None else piece.failed.reached
        assert last is not None
        sink.coming = self._notes.next(self._behind(piece), last)
        return super()._give(piece)


@contextmanager
def _not_wrapped() -> Iterator[None]:
    """That it is to end is no failure of the sink."""
    try:
        yield
    except SinkFailed as failed:
        if isinstance(failed.cause, GaveUp):
            raise failed.cause from None
        raise
