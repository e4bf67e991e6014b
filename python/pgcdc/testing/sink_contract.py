"""What every sink does, as a class of tests: inherit, say how yours is made and what is in the target, run pytest.

    class TestSearchIndex(SinkContract):
        def make_sink(self, place: Path) -> SearchIndex:
            return SearchIndex(place / "index.sqlite")

        def content(self, place: Path) -> dict[int, dict[str, Any]]:
            ...

Nothing here needs a server: changes are played into a pipeline (`pgcdc.testing.play`). Longer than other files, because
a class of tests is read as a whole.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Final

from msgspec import UNSET
from msgspec.structs import replace

from pgcdc.errors import Error, SinkRejected
from pgcdc.lsn import Position
from pgcdc.pipeline import MemoryPositions, Move, Pipeline, PositionStore, StoredPosition
from pgcdc.protocol import Batch
from pgcdc.sink import Sink
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Transaction, delete, insert, table_name, transaction, truncate, update
from pgcdc.testing.contract_changes import applied, at_random, changed, copied_empty, rows_without, without
from pgcdc.testing.contract_target import called
from pgcdc.testing.late_contract import LateContract
from pgcdc.testing.playing import play
from pgcdc.testing.sinks import FaultySink, RecordingSink
from pgcdc.testing.text_contract import TextContract

__all__ = ["SinkContract"]

_HANGS: Final = 0.5
"""Seconds after which a call that has not returned waits for its target."""


class SinkContract(LateContract, TextContract):
    """What a sink does that keeps a copy of a table.

    A subclass has to have `make_sink` and `content`. The other attributes have defaults; set `toast`, `added`,
    `retyped` and `dropped` to None for a target that does not keep such a thing, and `letters` to False for one that
    skips whatever comes late, `shared` for one whose file the sink has for itself. A test of `down`, `busy`, `refused`
    or `renamed` exists only where the subclass has these. pytest's fixture `tmp_path` is used.

    Attributes:
        table: The table that changes are of.
        toast: A column whose value may be so long that an update does not send it again.
        added: A column that the table gets in the middle, and its type.
        dropped: A column that the table loses.
        retyped: A column that gets another type, and that type, in which its values are the same. Of no meaning for a
            table without that column.
        renamed: A column that gets another name in the middle, and that name, for a target that gives rows from before
            the new name, too. None for one whose rows keep the names that they were written with.
        letters: Whether it takes a change that comes behind later ones, as a dead letter that is delivered again: one
            that keeps its position has `rewrite` for that.
        late: Whether what comes late is held against what is newer: a row against the position of its last change, and
            all against that of the last TRUNCATE. When not, dead letters have to come in order: `on_failure="hold"`.
        shared: Whether `content` can read the target while the sink has it open.
        durable: Whether a sink that is made again for the same place finds what the one before had written. When not,
            positions start anew with it.
        refused: A row that the target never takes; the sink raises SinkRejected for it.
        whole: Whether nothing of a batch takes effect that has such a row. When not, all other rows of it do.
        named: Whether SinkRejected says which rows of the batch it is about: `positions=`. When not, the pipeline
            writes parts of the batch until it knows, which costs some writes more.
        without: Of `toast`, `added`, `down`, `busy`, `refused`, `letters`, `dropped`, `renamed` and `shared` those
            whose test it does not have, and why: see `left_out`.
    """

    dropped: ClassVar[str | None] = "note"
    retyped: ClassVar[tuple[str, str] | None] = ("amount", "numeric(14,2)")
    renamed: ClassVar[tuple[str, str] | None] = None
    shared: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    named: ClassVar[bool] = True

    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "test_keeps_what_an_update_did_not_send": ("toast",),
        "test_follows_a_column_that_is_added": ("added",),
        "test_goes_on_when_the_target_is_back": ("down",),
        "test_waits_for_a_target_that_is_slow": ("busy",),
        "test_a_row_that_is_refused_is_refused_with_its_whole_batch": ("refused",),
        "test_a_refusal_names_its_row": ("refused", "named"),
        "test_goes_on_without_a_column_that_is_dropped": ("dropped",),
        "test_follows_a_column_that_is_renamed": ("renamed",),
        "test_what_a_write_has_taken_is_there": ("shared",),
    }

    # What a subclass says, beside `make_sink` and `content`.

    def down(self, place: Path) -> AbstractContextManager[None]:
        """Make the target unreachable for the length of a block; the sink raises SinkUnavailable meanwhile.

        Args:
            place: The target.
        """
        raise NotImplementedError

    def busy(self, place: Path) -> AbstractContextManager[None]:
        """Keep the target from answering for the length of a block; the sink waits, or raises SinkUnavailable.

        Args:
            place: The target.
        """
        raise NotImplementedError

    # The tests.

    def test_applies_inserts_updates_and_deletes(self, tmp_path: Path) -> None:
        """What was written is there, in its last state."""
        self._applies(tmp_path, self._plain())

    def test_what_a_write_has_taken_is_there(self, tmp_path: Path) -> None:
        """Before the sink is closed: from here on the position is confirmed, and the process may die at any moment."""
        changes = self._plain()
        messages = Capture.of(changes).messages
        batch = Batch.of([payload for _, payload in messages], [lsn for lsn, _ in messages]).select()
        sink = self.make_sink(tmp_path)
        with asyncio.Runner() as runner:
            runner.run(called(sink.open))
            try:
                runner.run(called(sink.write, batch))
                self._check(tmp_path, changes)
            finally:
                runner.run(called(sink.close))

    def test_applies_several_changes_of_a_key_in_one_transaction(self, tmp_path: Path) -> None:
        """The last one wins; what was made and removed within it leaves nothing."""
        table, row = self.table, self.row
        self._applies(
            tmp_path,
            [
                transaction(
                    insert(table, row(1, 0)),
                    update(table, row(1, 1)),
                    delete(table, row(1, 1)),
                    insert(table, row(1, 2)),
                    update(table, row(1, 3)),
                    insert(table, row(2, 0)),
                    delete(table, row(2, 0)),
                ),
            ],
        )

    def test_a_deleted_row_is_gone(self, tmp_path: Path) -> None:
        """Also when it is written again afterwards, and deleted again."""
        table, row = self.table, self.row
        twice = [
            change for number in (0, 1) for change in (insert(table, row(1, number)), delete(table, row(1, number)))
        ]
        self._applies(tmp_path, [insert(table, row(2, 0)), *twice])

    def test_follows_a_change_of_key(self, tmp_path: Path) -> None:
        """The old key is gone, and can be used again."""
        table, row = self.table, self.row
        self._applies(
            tmp_path,
            [
                transaction(insert(table, row(1, 0)), insert(table, row(2, 0))),
                update(table, self._moved(1, 10, 1), old=row(1, 0)),
                insert(table, row(1, 3)),
                transaction(
                    update(table, self._moved(2, 20, 1), old=row(2, 0)),
                    update(table, self._moved(2, 30, 2), old=self._moved(2, 20, 1)),
                ),
            ],
        )

    def test_keeps_what_an_update_did_not_send(self, tmp_path: Path) -> None:
        """An unchanged TOAST value stays, in the same batch as its row and in another, also under another key."""
        for at_once in (1, 100):
            self._applies(tmp_path / str(at_once), self._toasted(), messages_at_once=at_once)

    def test_a_truncated_table_is_empty(self, tmp_path: Path) -> None:
        """And is filled again, also within one transaction."""
        table, row = self.table, self.row
        self._applies(
            tmp_path,
            [
                transaction(*(insert(table, row(key, 0)) for key in range(1, 6))),
                truncate(table),
                insert(table, row(2, 1)),
                transaction(insert(table, row(3, 1)), truncate(table), insert(table, row(4, 1))),
            ],
        )

    def test_follows_a_column_that_is_added(self, tmp_path: Path) -> None:
        """In the middle of everything."""
        self._applies(tmp_path, self._widened())

    def test_goes_on_without_a_column_that_is_dropped(self, tmp_path: Path) -> None:
        """Whatever becomes of its values: all others are there, of rows from before, too."""
        table, row, column = self.table, self.row, self.dropped
        assert column is not None
        narrow = changed(table, without(table.columns, column))

        def less(key: int, variant: int) -> dict[str, Any]:
            return without(row(key, variant), column)

        changes = [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            insert(table, row(3, 0)),
            insert(narrow, less(4, 0)),
            update(narrow, less(2, 1)),
            delete(narrow, less(3, 0)),
        ]
        self._play(tmp_path, Capture.of(changes), MemoryPositions())
        kept = {1: row(1, 0), 2: row(2, 1), 4: row(4, 0)}
        content, expected = self.content(tmp_path), self.expected(kept, list(table.columns))
        assert rows_without(content, column) == rows_without(expected, column)

    def test_follows_a_column_that_is_renamed(self, tmp_path: Path) -> None:
        """In rows from before, too, also in one that was a dead letter meanwhile."""
        assert self.renamed is not None
        table, row = self.table, self.row
        former, name = self.renamed

        def now(key: int, variant: int) -> dict[str, Any]:
            return {name if one == former else one: value for one, value in row(key, variant).items()}

        columns = {name if one == former else one: kind for one, kind in table.columns.items()}
        other = changed(table, columns)
        changes = [
            insert(table, row(1, 0)),
            insert(table, row(2, 0)),
            insert(table, row(3, 0)),
            insert(other, now(4, 0)),
            update(other, now(3, 1)),
        ]
        rows = {1: now(1, 0), 2: now(2, 0), 3: now(3, 1), 4: now(4, 0)}
        expected = self.expected(rows, list(columns))
        for place in (tmp_path / "played", tmp_path / "late"):
            place.mkdir()
        self._play(tmp_path / "played", Capture.of(changes), MemoryPositions())
        assert self.content(tmp_path / "played") == expected
        if self.letters:
            self._write_later(tmp_path / "late", changes, 1)
            assert self.content(tmp_path / "late") == expected

    def test_takes_a_table_that_is_altered_before_its_first_row(self, tmp_path: Path) -> None:
        """One without rows when it was copied, or emptied since: the target may have no such table, and nothing of it.

        Whichever way it is altered.
        """
        table = self.table
        for what, former, now, columns in self._alterations():
            altered = changed(table, columns)
            rows = [self.row(key, variant) for key, variant in ((1, 0), (2, 0), (2, 1))]
            for row in rows:
                value = self.added_value(row[table.keys[0]]) if former is None else row.pop(former)
                if now is not None:
                    row[now] = value
            changes = [insert(altered, rows[0]), insert(altered, rows[1]), update(altered, rows[2])]
            emptied = [insert(table, self.row(1, 0)), truncate(table), *changes]
            for name, capture in (("empty", copied_empty(table, changes)), ("emptied", Capture.of(emptied))):
                place = tmp_path / f"{what}_{name}"
                place.mkdir()
                self._play(place, capture, MemoryPositions())
                content, expected = self.content(place), self.expected(*applied(changes))
                if former is not None and former != now:  # it may have been there before the table was emptied
                    content, expected = rows_without(content, former), rows_without(expected, former)
                assert content == expected, place.name

    def test_takes_the_rows_of_an_initial_copy(self, tmp_path: Path) -> None:
        """Before what the stream brings."""
        table, row = self.table, self.row
        existing = [insert(table, row(key, 0)) for key in range(1, 8)]
        self._applies(tmp_path, [delete(table, row(2, 0)), update(table, row(3, 1))], existing=existing)

    def test_a_replay_changes_nothing(self, tmp_path: Path) -> None:
        """Everything comes again, because the positions were lost: the target is the same."""
        changes = self._all()
        self._applies(tmp_path, changes)
        self._play(tmp_path, Capture.of(changes), MemoryPositions())
        self._check(tmp_path, changes)

    def test_a_restart_changes_nothing(self, tmp_path: Path) -> None:
        """The stream is cut at any message, also within a transaction, and goes on where the positions say."""
        changes = self._all()
        whole = Capture.of(changes)
        for number in range(3, len(whole), max(1, len(whole) // 12)):
            place, positions = tmp_path / str(number), MemoryPositions()
            place.mkdir()
            self._play(place, whole.cut(number), positions, messages_at_once=5)
            self._play(place, whole, positions if self.durable else MemoryPositions())
            self._check(place, changes)

    def test_what_is_written_and_not_stored_comes_again(self, tmp_path: Path) -> None:
        """As after kill -9 between the sink's write and the position's: what was written comes again."""
        changes = self._all()
        whole = Capture.of(changes)
        for number in range(3, len(whole), max(1, len(whole) // 7)):
            place, positions = tmp_path / str(number), MemoryPositions()
            place.mkdir()
            self._play(place, whole.cut(number // 2), positions)
            before = MemoryPositions()
            for stored in positions.load("contract").values():
                before.move("contract", [Move(None, stored)])
            self._play(place, whole.cut(number), positions)
            self._play(place, whole, before if self.durable else MemoryPositions())
            self._check(place, changes)

    def test_what_comes_again_comes_in_other_batches(self, tmp_path: Path) -> None:
        """Changes at random, of few rows; after each restart the stream begins further back, and batches end elsewhere.

        Keys that are used again, by rows whose values are not sent with the change of their key, and TRUNCATE are where
        what was written before and what comes again have most to do with each other.
        """
        chance = random.Random(5)  # noqa: S311  # the same each time; of these that which has found most
        changes = at_random(self.table, self.toast, self.row, chance, 30)
        stored: list[StoredPosition | None] = [None]
        done, cut = 0, 0
        while done < len(changes) or cut:
            done = min(len(changes), done + chance.randint(0, 5))
            whole = Capture.of(changes[:done])
            # Cut off, also before it is where it was, or not.
            cut = chance.choice((0, 0, 1, 2, 3, 8)) if done else 0
            positions = self._positions_at(stored[max(0, len(stored) - chance.randint(1, 4))])
            at_once = chance.choice((1, 2, 3, 5, 9, 100))
            self._play(tmp_path, whole.cut(len(whole) - cut), positions, messages_at_once=at_once)
            stored.append(positions.load("contract")["sink"])
            if not cut:
                self._check(tmp_path, changes[:done])

    def test_what_was_kept_one_by_one_comes_at_once(self, tmp_path: Path) -> None:
        """As from Kafka, or from a spool: each record says its table's shape anew."""
        changes = at_random(self.table, self.toast, self.row, random.Random(5), 12)  # noqa: S311  # the same each time
        messages = Capture.of(changes).messages
        whole = Batch.of([payload for _, payload in messages], [lsn for lsn, _ in messages]).select()
        records = [Batch.from_bytes(whole.take([number]).to_bytes()) for number in range(whole.changes_count)]
        for alike in (True, False):
            place = tmp_path / f"alike_{alike}".lower()
            place.mkdir()
            asyncio.run(self._write_at_once(place, Batch.concat(records, alike=alike)))
            self._check(place, changes)

    def test_a_copy_that_is_made_again_is_there(self, tmp_path: Path) -> None:
        """It was cut off. It begins with a TRUNCATE then, which has the position that its rows have, too."""
        table, row = self.table, self.row
        existing = [insert(table, row(key, 0)) for key in range(1, 8)]
        changes = [update(table, row(3, 1)), delete(table, row(5, 0)), insert(table, row(8, 0))]
        positions = MemoryPositions()
        self._play(tmp_path, Capture.of([], existing[:4]), positions)
        for _ in range(2):
            begun = replace(positions.load("contract")["sink"], snapshot="begun", position=None)
            positions = self._positions_at(begun)
            self._play(tmp_path, Capture.of([], existing), positions)
            self._check(tmp_path, existing)
        whole = Capture.of(changes, existing)
        self._play(
            tmp_path,
            whole,
            self._positions_at(positions.load("contract")["sink"]) if self.durable else MemoryPositions(),
        )
        self._check(tmp_path, [*existing, *changes])

    def test_a_write_that_failed_on_the_way_back_is_repeated(self, tmp_path: Path) -> None:
        """The n-th write took effect and was reported as failed, for n = 1, 2, 3 until none does."""
        changes = self._all()
        whole, number, failed = Capture.of(changes), 0, True
        while failed:
            number += 1
            place, positions = tmp_path / str(number), MemoryPositions()
            place.mkdir()
            sink = FaultySink(self.make_sink(place), fail_at=number, written=True, error=ConnectionError())
            failed = self._fails(sink, whole, positions)
            self._play(place, whole, positions if self.durable else MemoryPositions())
            self._check(place, changes)
        assert number > 1, "no write failed"

    def test_goes_on_when_the_target_is_back(self, tmp_path: Path) -> None:
        """What is written while the target cannot be reached is not lost, and not written twice."""
        self._held(tmp_path, self.down)

    def test_waits_for_a_target_that_is_slow(self, tmp_path: Path) -> None:
        """Others go on meanwhile."""
        self._held(tmp_path, self.busy)

    def test_a_row_that_is_refused_is_refused_with_its_whole_batch(self, tmp_path: Path) -> None:
        """SinkRejected, and nothing of the batch takes effect (or all else): what is around that row can be written."""
        assert self.refused is not None
        table, row = self.table, self.row
        before: list[Transaction | Change] = [insert(table, row(1, 0))]
        good = [insert(table, row(2, 0)), update(table, row(1, 1))]
        capture = Capture.of([*before, transaction(good[0], insert(table, self.refused), good[1])])
        whole = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])
        first, culprit = whole.first_position, Position(capture.end_lsn, 1)
        assert first is not None
        sink = self.make_sink(tmp_path)

        async def write() -> None:
            await called(sink.open)
            try:
                await called(sink.write, whole.up_to(first))
                try:
                    await called(sink.write, whole.after(first))
                except SinkRejected:
                    pass
                else:
                    raise AssertionError("the sink raises SinkRejected")
            finally:
                await called(sink.close)
            self._check(tmp_path, before if self.whole else [*before, *good])
            await called(sink.open)
            try:
                await called(sink.write, whole.after(first).up_to(Position(culprit.commit_lsn, culprit.index - 1)))
                await called(sink.write, whole.after(culprit))
            finally:
                await called(sink.close)

        asyncio.run(write())
        self._check(tmp_path, [*before, *good])

    def test_a_refusal_names_its_row(self, tmp_path: Path) -> None:
        """`positions` has that of the row, and of no other: only this one becomes a dead letter."""
        assert self.refused is not None
        table, row = self.table, self.row
        changes = transaction(insert(table, row(1, 0)), insert(table, self.refused), insert(table, row(2, 0)))
        capture = Capture.of([changes])
        whole = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])

        async def refusal() -> Collection[tuple[int, int]]:
            sink = self.make_sink(tmp_path)
            await called(sink.open)
            try:
                await called(sink.write, whole)
            except SinkRejected as error:
                return error.positions
            finally:
                await called(sink.close)
            raise AssertionError("the sink raises SinkRejected")

        assert asyncio.run(refusal()) == {Position(capture.end_lsn, 1)}

    # What they are made of.

    def _plain(self) -> list[Transaction | Change]:
        table, row = self.table, self.row
        return [
            transaction(*(insert(table, row(key, 0)) for key in range(1, 6))),
            update(table, row(2, 1)),
            transaction(delete(table, row(3, 0)), update(table, row(4, 1)), update(table, row(4, 2))),
            insert(table, row(3, 3)),
            delete(table, row(5, 0)),
        ]

    def _toasted(self) -> list[Transaction | Change]:
        table, row = self.table, self.row
        assert self.toast is not None
        unsent = {self.toast: UNSET}
        return [
            insert(table, row(1, 0)),
            update(table, row(1, 1) | unsent),
            insert(table, row(3, 0)),
            update(table, self._moved(3, 30, 1) | unsent, old=row(3, 0)),
            transaction(insert(table, row(5, 0)), update(table, row(5, 1) | unsent)),
            transaction(
                update(table, row(5, 2) | unsent),
                update(table, self._moved(5, 50, 3) | unsent, old=row(5, 2)),
                update(table, self._moved(5, 51, 4) | unsent, old=self._moved(5, 50, 3)),
            ),
        ]

    def _alterations(self) -> Iterator[tuple[str, str | None, str | None, dict[str, str | int]]]:
        """How a table is altered: a word for it, a column's name before and after, and what all are then."""
        columns, added, retyped = dict(self.table.columns), self.added, self.retyped
        if added is not None:
            yield "added", None, added[0], {**columns, added[0]: added[1]}
        if retyped is not None and retyped[0] in columns:
            yield "retyped", retyped[0], retyped[0], {**columns, retyped[0]: retyped[1]}
        renamed = self.renamed
        if renamed is None and added is not None and self.dropped is not None:  # any name will do for it
            renamed = self.dropped, f"new_{self.dropped}"
        if renamed is not None:
            names = {renamed[0]: renamed[1]}
            yield "renamed", *renamed, {names.get(one, one): kind for one, kind in columns.items()}
        if self.dropped is not None:
            yield "dropped", self.dropped, None, without(columns, self.dropped)

    def _widened(self) -> list[Transaction | Change]:
        assert self.added is not None
        table, row = self.table, self.row
        name, kind = self.added
        wide = changed(table, {**table.columns, name: kind})
        return [
            transaction(insert(table, row(1, 0)), insert(table, row(2, 0))),
            transaction(update(table, row(1, 1)), insert(wide, row(3, 0) | {name: self.added_value(3)})),
            update(wide, row(2, 1) | {name: self.added_value(2)}),
            insert(wide, row(4, 0)),
        ]

    def _all(self) -> list[Transaction | Change]:
        table, row = self.table, self.row
        return [
            *self._plain(),
            truncate(table),
            *(self._plain() if self.toast is None else self._toasted()),
            transaction(*(insert(table, row(key, 0)) for key in range(100, 140))),
            update(table, self._moved(100, 200, 1), old=row(100, 0)),
        ]

    async def _write_at_once(self, place: Path, batch: Batch) -> None:
        sink = self.make_sink(place)
        await called(sink.open)
        await called(sink.write, batch)
        await called(sink.close)

    def _positions_at(self, stored: StoredPosition | None) -> MemoryPositions:
        """Positions that say so, and nothing else."""
        positions = MemoryPositions()
        if stored is not None and self.durable:
            positions.move("contract", [Move(None, stored)])
        return positions

    def _applies(
        self,
        place: Path,
        changes: Sequence[Transaction | Change],
        *,
        existing: Iterable[Change] = (),
        messages_at_once: int = 100,
    ) -> None:
        place.mkdir(exist_ok=True)
        there = list(existing)
        self._play(place, Capture.of(changes, there), MemoryPositions(), messages_at_once=messages_at_once)
        self._check(place, [*there, *changes])

    def _play(self, place: Path, capture: Capture, positions: PositionStore, *, messages_at_once: int = 100) -> None:
        self._run(self.make_sink(place), capture, positions, messages_at_once)

    def _run(self, sink: Sink, capture: Capture, positions: PositionStore, at_once: int) -> None:
        play(self._pipeline(sink), capture, positions=positions, messages_at_once=at_once)

    def _pipeline(self, sink: Sink) -> Pipeline:
        pipeline = Pipeline("contract", tables=[table_name(self.table)])
        pipeline.add(sink, name="sink")
        return pipeline

    def _held(self, place: Path, hold: Callable[[Path], AbstractContextManager[None]]) -> None:
        changes = self._plain()
        first, whole, positions = Capture.of(changes[:1]), Capture.of(changes), MemoryPositions()
        self._play(place, first, positions)
        counted = FaultySink(self.make_sink(place))
        pipeline, other = self._pipeline(counted), RecordingSink()
        errors: list[BaseException] = []
        pipeline.add(other, name="other")

        def run() -> None:
            try:
                play(pipeline, whole, positions=positions)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        try:
            with hold(place):
                thread.start()
                # The other one is new, and gets everything while the first is held.
                other.wait(sum(len(one.changes) if isinstance(one, Transaction) else 1 for one in changes))
                # One that connects when it is opened hangs there.
                _until(
                    lambda: (
                        counted.writes > 0
                        or self._retries(pipeline)
                        or not thread.is_alive()
                        or (counted.opening is not None and time.monotonic() - counted.opening > _HANGS)
                    )
                )
        finally:
            thread.join(60)
        assert not thread.is_alive(), "it did not go on"
        assert errors == []
        self._check(place, changes)

    def _retries(self, pipeline: Pipeline) -> bool:
        consumer = pipeline.statistics().consumers.get("sink")
        return consumer is not None and consumer.last_error is not None

    def _fails(self, sink: Sink, capture: Capture, positions: PositionStore) -> bool:
        try:
            self._run(sink, capture, positions, 20)
        except Error as error:
            if not isinstance(error.__cause__, ConnectionError):
                raise
            return True
        return False


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.01)
