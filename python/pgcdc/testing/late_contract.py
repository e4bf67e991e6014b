"""What sinks do with a change that comes behind later ones: the part of their contract that is about dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pgcdc.protocol import Batch, SchemaVersions
from pgcdc.schema import change_of, named_as_now
from pgcdc.sink import RewritingSink, TransactionalSink
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, delete, insert, truncate, update
from pgcdc.testing.contract_changes import changed
from pgcdc.testing.contract_target import ContractTarget, called, position_of

__all__ = ["LateContract"]


class LateContract(ContractTarget):
    """Changes that come late; the attributes are those of `SinkContract`."""

    letters: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    late: ClassVar[bool] = True
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "test_a_dead_letter_is_written_later": ("letters",),
        "test_what_comes_late_leaves_what_is_newer": ("late",),
    }

    def test_a_dead_letter_is_written_later(self, tmp_path: Path) -> None:
        """It comes behind later changes, with the position that it had, and twice after a crash; nothing moves by it.

        So it does when its table has a column more by then.
        """
        table, row = self.table, self.row
        changes: list[Change] = [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            insert(table, row(3, 0)),
            update(table, row(1, 1)),
            delete(table, row(3, 0)),
        ]
        if self.added is not None:
            name, kind = self.added
            wide = changed(table, {**table.columns, name: kind})
            changes += [
                insert(wide, row(4, 0) | {name: self.added_value(4)}),
                update(wide, row(1, 2) | {name: self.added_value(1)}),
            ]
        self._write_later(tmp_path, changes, 1)
        self._check(tmp_path, changes)

    def test_what_comes_late_leaves_what_is_newer(self, tmp_path: Path) -> None:
        """An older stretch that comes again, and dead letters: no TRUNCATE removes what was written after it.

        Nor does what it has removed come back, nor what a row was before its last change. For a sink that cannot tell,
        say `late = False`, and give it dead letters in order: `on_failure="hold"`.
        """
        table, row = self.table, self.row
        changes: list[Change] = [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            insert(table, row(3, 0)),
            update(table, row(1, 1)),
            truncate(table),
            insert(table, row(4, 0)),
            insert(table, row(2, 1)),
            update(table, row(4, 1)),
            insert(table, row(5, 0)),
            delete(table, row(5, 0)),
        ]
        for end in (5, 6):
            place = tmp_path / f"again_{end}"
            place.mkdir()
            self._write_again(place, changes, end)
            self._check(place, changes)
        for number in (0, 1, 2, 3, 4, 5, 8) if self.letters else ():
            place = tmp_path / f"letter_{number}"
            place.mkdir()
            self._write_later(place, changes, number)
            self._check(place, changes)

    def _write_again(self, place: Path, changes: Sequence[Change], end: int) -> None:
        """Write changes, and those before one again, twice. A sink that keeps its position is never given them."""
        capture = Capture.of(changes)
        whole = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])

        async def write() -> None:
            sink = self.make_sink(place)
            await called(sink.open)
            await called(sink.write, whole)
            for again in range(0 if isinstance(sink, TransactionalSink) else 2):
                if again and self.durable:
                    await called(sink.close)
                    sink = self.make_sink(place)
                    await called(sink.open)
                await called(sink.write, whole.take(range(end)))
            await called(sink.close)

        asyncio.run(write())

    def _write_later(self, place: Path, changes: Sequence[Change], number: int) -> None:
        """Write changes without one of them, and that at the end, as a pipeline gives a dead letter; and once more."""
        capture = Capture.of(changes)
        whole = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])
        runs = whole.shape_runs()
        starts = [(position, version) for version, (_, _, position, _) in enumerate(runs, 1) if position is not None]
        whole = whole.with_versions(SchemaVersions({runs[0][1].oid: starts}))
        shapes = [relation for _, relation, _, _ in runs]
        letter, rest = whole.take([number]), whole.take(set(range(len(changes))) - {number})
        cuts = [at for at, _, _, _ in rest.shape_runs()][1:]

        async def write() -> None:
            sink = self.make_sink(place)
            named = letter
            if getattr(sink, "renames_columns", False):
                renamed = named_as_now(shapes[0], shapes)
                if renamed is not None:
                    named = letter.reshaped(lambda _: (renamed, range(len(renamed.columns))))
                    named = named.with_versions(whole.versions)  # type: ignore[arg-type]  # it has some
            await called(sink.open)
            left, done = rest, 0
            for version, cut in enumerate(cuts, 1):
                part, left = left.split_at(cut - done)
                done = cut
                await called(sink.write, part)
                if hasattr(sink, "schema_changed"):
                    old, new = shapes[version - 1 : version + 1]
                    position = starts[version][0]
                    of = change_of(old, new, old_version=version, version=version + 1, position=position)
                    await called(sink.schema_changed, of)
            await called(sink.write, left)
            for again in range(2):
                if again and self.durable:
                    await called(sink.close)
                    sink = self.make_sink(place)
                    await called(sink.open)
                before = await position_of(sink)
                give = sink.rewrite if isinstance(sink, RewritingSink) else sink.write
                await called(give, named)
                assert await position_of(sink) == before, "it does not go back, nor on"
            await called(sink.close)

        asyncio.run(write())
