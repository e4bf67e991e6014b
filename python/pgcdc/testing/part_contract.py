"""What the parts of a sink do that keeps how far each partition of a topic is, as a class of tests.

    class TestJournal(SinkContract, PartitionedSinkContract):
        def make_sink(self, place: Path) -> Journal:
            return Journal(place / "journal.sqlite")

        def content(self, place: Path) -> dict[int, dict[str, Any]]:
            ...

No broker is needed: batches are given to the parts as a pipeline that reads from Kafka gives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from pgcdc.errors import PositionError, SinkRejected
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, SchemaVersions
from pgcdc.schema import SchemaChange, change_of
from pgcdc.sink import PartitionedSink, SinkPart, ToldPart
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Transaction, delete, insert, transaction, update
from pgcdc.testing.contract_changes import changed
from pgcdc.testing.contract_target import ContractTarget, called, position_of

__all__ = ["PartitionedSinkContract"]

_LONG_NOTE: Final = """{"offset": 4711, "said": "it's \\"é\\" %s {0} $1 ?"}""" + " and so on" * 40
"""What is in a note is the pipeline's business."""


class PartitionedSinkContract(ContractTarget):
    """What the parts of a sink do that keeps a copy of a table: `make_sink` gives one that has `part`.

    A subclass has to have `make_sink` and `content`, as one of `SinkContract`; it may be one of both. pytest's fixture
    `tmp_path` is used.

    Attributes:
        table: The table that changes are of.
        added: A column that the table gets in the middle, and its type; None for a target that keeps no such thing.
        refused: A row that the target never takes; the part raises SinkRejected for it. Its test exists only then.
        several: Whether several processes can have the sink open. When not, it is one that has all parts.
    """

    several: ClassVar[bool] = True
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "test_parts_follow_a_column_that_is_added": ("added",),
        "test_a_part_keeps_its_note_when_a_row_is_refused": ("refused",),
        "test_another_process_has_other_parts": ("several",),
    }

    def test_a_part_says_what_came_with_its_last_write(self, tmp_path: Path) -> None:
        """To whoever opens it next: when it is opened again, by another part of this name, and after a restart."""
        table, row = self.table, self.row
        changes = [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            update(table, row(1, 1)),
            delete(table, row(2, 0)),
        ]
        one, two, three, four = _each(changes)

        async def write() -> None:
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                assert await called(part.open) is None, "nothing was written yet"
                await called(part.write, one, "first")
                await called(part.write, two, _LONG_NOTE)
                assert await called(part.open) == _LONG_NOTE
                await called(part.write, three, "third")
                await called(part.close)
                part = self._part(sink)
                assert await called(part.open) == "third"
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                assert await called(part.open) == "third", "after a restart"
                await called(part.write, four, "fourth")
                await called(part.close)
            assert await self._notes(tmp_path) == ["fourth", None]

        asyncio.run(write())
        self._check(tmp_path, changes)

    def test_parts_are_written_side_by_side(self, tmp_path: Path) -> None:
        """Each has its own note, and all write the same table."""
        table, row = self.table, self.row
        changes = [insert(table, row(key, 0)) for key in range(1, 5)] + [
            update(table, row(1, 1)),
            update(table, row(2, 1)),
        ]

        async def write() -> None:
            async with self._opened(tmp_path) as sink:
                parts = [self._part(sink, number) for number in (0, 1)]
                assert [await called(part.open) for part in parts] == [None, None]
                for number, batch in enumerate(_each(changes)):
                    await called(parts[number % 2].write, batch, f"after {number}")
            assert await self._notes(tmp_path) == ["after 4", "after 5"]

        asyncio.run(write())
        self._check(tmp_path, changes)

    def test_another_process_has_other_parts(self, tmp_path: Path) -> None:
        """That opens the sink while the first one writes: each writes for what it has."""
        table, row = self.table, self.row
        changes = [insert(table, row(key, 0)) for key in range(1, 6)]
        batches = _each(changes)

        async def write() -> None:
            async with self._opened(tmp_path) as first:
                mine = self._part(first, 0)
                await called(mine.open)
                await called(mine.write, batches[0], "0")
                async with self._opened(tmp_path) as second:
                    other = self._part(second, 1)
                    assert await called(other.open) is None
                    for number, part in enumerate((other, mine, other), 1):
                        await called(part.write, batches[number], str(number))
                await called(mine.write, batches[4], "4")
            assert await self._notes(tmp_path) == ["4", "3"]

        asyncio.run(write())
        self._check(tmp_path, changes)

    def test_who_had_a_part_before_writes_nothing(self, tmp_path: Path) -> None:
        """PositionError, whatever it writes: rows, a dead letter, another shape. It can take the part back."""
        table, row = self.table, self.row
        one, late, two, three, later = _each([insert(table, row(key, 0)) for key in (1, 90, 2, 3, 91)])

        async def write() -> None:
            async with self._opened(tmp_path) as first, self._another(tmp_path, first) as second:
                part, other = self._part(first), self._part(second)
                assert await called(part.open) is None
                await called(part.write, one, "first")
                assert await called(other.open) == "first"
                await _fails(PositionError, part.write, late, "late")
                await called(other.write, two, "second")
                if self.added is not None and isinstance(part, ToldPart):
                    [*_, change] = self._altered()
                    await _fails(PositionError, part.schema_changed, change, "late")
                await _fails(PositionError, part.rewrite, late)
                assert await called(part.open) == "second", "taken back"
                await called(part.write, three, "third")
                await _fails(PositionError, other.write, later, "late")
                await _fails(PositionError, other.rewrite, later)
            assert await self._notes(tmp_path) == ["third", None]

        asyncio.run(write())
        self._check(tmp_path, [insert(table, row(key, 0)) for key in (1, 2, 3)])

    def test_a_dead_letter_of_a_part_leaves_its_note(self, tmp_path: Path) -> None:
        """It comes behind later changes, with the position that it had, and twice after a crash."""
        table, row = self.table, self.row
        changes = [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            update(table, row(1, 1)),
            insert(table, row(3, 0)),
        ]
        before, letter, behind, last = _each(changes)

        async def write() -> None:
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                await called(part.open)
                await called(part.write, before, "before")
                await called(part.write, behind, "behind")
                await called(part.rewrite, letter)
                assert await called(part.open) == "behind"
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                assert await called(part.open) == "behind"
                await called(part.rewrite, letter)
                await called(part.write, last, "last")
            assert await self._notes(tmp_path) == ["last", None]

        asyncio.run(write())
        self._check(tmp_path, changes)

    def test_the_position_of_the_slot_is_another(self, tmp_path: Path) -> None:
        """What parts write does not move it: nothing was applied there."""
        changes = [insert(self.table, self.row(1, 0)), insert(self.table, self.row(2, 0))]
        one, letter = _each(changes)

        async def write() -> None:
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                await called(part.open)
                await called(part.write, one, "first")
                await called(part.rewrite, letter)
                assert await position_of(sink) is None
            async with self._opened(tmp_path) as sink:
                assert await position_of(sink) is None

        asyncio.run(write())
        self._check(tmp_path, changes)

    def test_parts_follow_a_column_that_is_added(self, tmp_path: Path) -> None:
        """One part is told where it has `schema_changed`, and keeps the note; else each process's sink is."""
        before, after, change = self._altered()

        async def write() -> None:
            async with self._opened(tmp_path) as first, self._another(tmp_path, first) as second:
                parts = [self._part(first, 0), self._part(second, 1)]
                for number, part in enumerate(parts):
                    await called(part.open)
                    await called(part.write, before.take([number]), "before")
                if isinstance(parts[0], ToldPart):
                    await called(parts[0].schema_changed, change, "told")
                    assert await called(parts[0].open) == "told"
                else:
                    for sink in (first,) if second is first else (first, second):
                        if hasattr(sink, "schema_changed"):
                            await called(sink.schema_changed, change)
                for number, part in enumerate(parts):
                    await called(part.write, after.take([number]), f"after {number}")
            assert await self._notes(tmp_path) == ["after 0", "after 1"]

        asyncio.run(write())
        self._check(tmp_path, self._wider())

    def test_a_part_keeps_its_note_when_a_row_is_refused(self, tmp_path: Path) -> None:
        """SinkRejected, and nothing of the batch takes effect; what is around that row can be written."""
        assert self.refused is not None
        table, row = self.table, self.row
        before = insert(table, row(1, 0))
        around = [insert(table, row(2, 0)), update(table, row(1, 1))]
        one, whole = _each([before, transaction(around[0], insert(table, self.refused), around[1])])

        async def write() -> None:
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                await called(part.open)
                await called(part.write, one, "before")
                await _fails(SinkRejected, part.write, whole, "with it")
            self._check(tmp_path, [before])
            async with self._opened(tmp_path) as sink:
                part = self._part(sink)
                assert await called(part.open) == "before"
                await called(part.write, whole.take([0, 2]), "without it")
            assert await self._notes(tmp_path) == ["without it", None]

        asyncio.run(write())
        self._check(tmp_path, [before, *around])

    # What they are made of.

    @asynccontextmanager
    async def _opened(self, place: Path) -> AsyncIterator[PartitionedSink]:
        sink = self.make_sink(place)
        assert isinstance(sink, PartitionedSink), "it has position() and part()"
        await called(sink.open)
        try:
            yield sink
        finally:
            await called(sink.close)

    @asynccontextmanager
    async def _another(self, place: Path, first: PartitionedSink) -> AsyncIterator[PartitionedSink]:
        """The sink as another process has it, or as this one has it, where it is the only one."""
        if not self.several:
            yield first
            return
        async with self._opened(place) as sink:
            yield sink

    def _part(self, sink: PartitionedSink, number: int = 0) -> SinkPart:
        return sink.part(f"contract.{self.table.name}/{number}")

    async def _notes(self, place: Path) -> list[str | None]:
        """The notes of both parts, as they are found after a restart."""
        async with self._opened(place) as sink:
            found = []
            for number in (0, 1):
                part = self._part(sink, number)
                found.append(await called(part.open))
                await called(part.close)
            return found

    def _wider(self) -> list[Change]:
        assert self.added is not None
        table, row = self.table, self.row
        name, kind = self.added
        wide = changed(table, {**table.columns, name: kind})
        return [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            *(insert(wide, row(key, 0) | {name: self.added_value(key)}) for key in (3, 4)),
        ]

    def _altered(self) -> tuple[Batch, Batch, SchemaChange]:
        """Changes before and after the column was added, and what a sink is told in between."""
        whole = _batch(self._wider())
        (_, old, _, _), (cut, new, position, _) = whole.shape_runs()
        assert position is not None
        starts = [(Position(0, 0), 1), (position, 2)]
        before, after = whole.with_versions(SchemaVersions({old.oid: starts})).split_at(cut)
        return before, after, change_of(old, new, old_version=1, version=2, position=position)


def _batch(changes: Sequence[Transaction | Change]) -> Batch:
    messages = Capture.of(changes).messages
    return Batch.of([payload for _, payload in messages], [lsn for lsn, _ in messages]).select()


def _each(changes: Sequence[Transaction | Change]) -> list[Batch]:
    """A batch for each transaction."""
    whole, done, batches = _batch(changes), 0, []
    for one in changes:
        count = len(one.changes) if isinstance(one, Transaction) else 1
        batches.append(whole.take(range(done, done + count)))
        done += count
    return batches


async def _fails(error: type[Exception], method: Callable[..., Any], *arguments: Any) -> None:
    try:
        await called(method, *arguments)
    except error:
        return
    raise AssertionError(f"{method.__name__} raises {error.__name__}")
