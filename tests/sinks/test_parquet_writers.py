"""Parquet's writers: entries of the manifest whose answer is lost, partitions, and several processes in one folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pgcdc import Batch, PositionError
from pgcdc.errors import SinkUnavailable
from pgcdc.sinks import Parquet
from pgcdc.sinks import manifest as manifest_module
from pgcdc.sinks import parquet as parquet_module
from pgcdc.sinks.manifest import read_manifest
from pgcdc.sinks.objects import Found, LocalFolder
from pgcdc.sinks.parquet import compact
from pgcdc.sinks.parquet_compaction import _clean
from pgcdc.testing import Capture, Table, insert
from tests.sinks.test_parquet import TABLE, batch_of, log, row, state


class Forgetful(LocalFolder):
    """Does what it is asked for, and does not answer once for an entry of the manifest."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.forgets = False

    def put(self, path: str, data: bytes | memoryview, *, create: bool = False) -> bool:
        done = super().put(path, data, create=create)
        if create and self.forgets:
            self.forgets = False
            raise SinkUnavailable("no answer")
        return done


def test_an_entry_whose_answer_is_lost_is_not_written_again(tmp_path: Path) -> None:
    """The pipeline gives the same batch as another object; rows of a copy share a position."""
    copied = Batch.concat(Capture.of([], [insert(TABLE, row(1)), insert(TABLE, row(2))]).existing)
    objects, sink = Forgetful(tmp_path), Parquet(tmp_path)
    sink._objects = objects
    sink.open()
    part = sink.part("shop.orders/0")
    part.open()
    writes: list[Callable[[Batch], None]] = [sink.write, partial(part.write, note="here")]
    for number, each in enumerate(writes):
        objects.forgets = True
        with pytest.raises(SinkUnavailable):
            each(copied.with_primary_keys({}))
        each(copied.with_primary_keys({}))
        assert len(log(tmp_path)) == 2 * number + 2
    later = batch_of(insert(TABLE, row(3)), insert(TABLE, row(4)))
    objects.forgets = True
    with pytest.raises(SinkUnavailable):
        sink.write(later)
    sink.write(later.take([0]))  # of what was written, a part comes again
    sink.write(later.take([1]))
    assert sorted(key for _, _, key in log(tmp_path)) == [1, 1, 2, 2, 3, 4]
    assert part.open() == "here"


@pytest.mark.parametrize("between", [False, True])
def test_a_partition_whose_entry_is_known_to_be_written_long_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: bool
) -> None:
    """Its rows are there once, also when another part has met the entry before it."""
    objects, sink = Forgetful(tmp_path), Parquet(tmp_path)
    sink._objects = objects
    sink.open()
    first, other = sink.part("shop.orders/0"), sink.part("shop.orders/1")
    assert [first.open(), other.open()] == [None, None]
    batch = batch_of(insert(TABLE, row(1)), insert(TABLE, row(2)))
    objects.forgets = True
    with pytest.raises(SinkUnavailable):
        first.write(batch, "here")
    if between:
        other.write(batch_of(insert(TABLE, row(3))), "there")
        compact(tmp_path)
    monkeypatch.setattr(parquet_module, "_KEPT", -1.0)
    first.write(batch, "here")
    first.write(batch_of(insert(TABLE, row(4))), "further")
    assert sorted(key for _, _, key in log(tmp_path)) == [1, 2, *([3] if between else []), 4]


class Away(LocalFolder):
    """Writes no entry of the manifest while it is away."""

    away = False

    def put(self, path: str, data: bytes | memoryview, *, create: bool = False) -> bool:
        if create and self.away:
            raise SinkUnavailable("away")
        return super().put(path, data, create=create)


def test_pieces_of_a_batch_with_one_note_are_all_written(tmp_path: Path) -> None:
    """A batch that is taken apart has one note for all of its pieces: it says of none whether it is there."""
    objects, sink = Away(tmp_path), Parquet(tmp_path)
    sink._objects = objects
    sink.open()
    part = sink.part("shop.orders/0")
    part.open()
    part.write(batch_of(insert(TABLE, row(1))), "one note")
    objects.away = True
    second = batch_of(insert(TABLE, row(2)))
    with pytest.raises(SinkUnavailable):
        part.write(second, "one note")
    objects.away = False
    part.write(second, "one note")
    assert sorted(key for _, _, key in log(tmp_path)) == [1, 2]


def test_a_partition_that_was_taken_over_while_another_wrote(tmp_path: Path) -> None:
    """What another part of the process has met on its way is not lost on this one."""
    late, sink = Parquet(tmp_path), Parquet(tmp_path)
    late.open()
    first, other = late.part("shop.orders/0"), late.part("shop.orders/1")
    assert [first.open(), other.open()] == [None, None]
    sink.open()
    sink.part("shop.orders/0").open()
    other.write(batch_of(insert(TABLE, row(1))), "it has read that the partition is another's")
    with pytest.raises(PositionError, match="another process writes"):
        first.write(batch_of(insert(TABLE, row(2))), "late")
    assert [key for _, _, key in log(tmp_path)] == [1]


class Listed(LocalFolder):
    """Counts how often it is listed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lists = 0

    def list(self, folder: str, after: str = "") -> list[Found]:
        self.lists += 1
        return super().list(folder, after)


def test_two_processes_that_write_in_turns_list_nothing(tmp_path: Path) -> None:
    """A day of small writes makes a folder that takes half a second to list: what came since is asked for by number."""
    folders, parts = [], []
    for number in range(2):
        sink = Parquet(tmp_path)
        sink._objects = folder = Listed(tmp_path)
        sink.open()
        part = sink.part(f"shop.orders/{number}")
        part.open()
        folder.lists = 0
        folders.append(folder)
        parts.append(part)
    for key in range(6):
        parts[key % 2].write(batch_of(insert(TABLE, row(key))), "here")
    assert sorted(key for _, _, key in log(tmp_path)) == list(range(6))
    assert [folder.lists for folder in folders] == [0, 0]


@pytest.mark.parametrize("opens", [False, True])
def test_who_sleeps_while_old_entries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    """The number after its own is free then, and what is written under it is in no reading."""
    monkeypatch.setattr(manifest_module, "_EVERY", 10)
    sleeper, sink = Parquet(tmp_path), Parquet(tmp_path)
    sleeper.open()
    sink.open()
    mine, other = sleeper.part("shop.orders/0"), sink.part("shop.orders/1")
    assert [mine.open(), other.open()] == [None, None]
    for key in range(25):
        other.write(batch_of(insert(TABLE, row(key))), "there")
    assert _clean(LocalFolder(tmp_path), -1).entries > 10
    sleeper._looked -= 601
    if opens:
        assert mine.open() is None
    mine.write(batch_of(insert(TABLE, row(25))), "here")
    assert sorted(key for _, _, key in log(tmp_path)) == list(range(26))
    assert read_manifest(LocalFolder(tmp_path)).parts["shop.orders/0"].note == "here"


def test_partitions_have_notes_and_writers_of_their_own(tmp_path: Path) -> None:
    one, two, three = (batch_of(insert(TABLE, row(key))) for key in (1, 2, 3))
    late, sink = Parquet(tmp_path), Parquet(tmp_path)
    late.open()
    first, other = late.part("shop.orders/0"), late.part("shop.orders/1")
    assert [first.open(), other.open()] == [None, None]
    sink.open()
    taken = sink.part("shop.orders/0")
    assert taken.open() is None
    taken.write(one, "first")
    with pytest.raises(PositionError, match="another process writes"):
        first.write(three, "late")
    # Both have met the table's first shape: the second learns of it.
    other.write(two, "of the other")
    assert [len(shapes) for shapes in read_manifest(LocalFolder(tmp_path)).shapes.values()] == [1]
    wider = Table("orders", dict(TABLE.columns) | {"more": "text"}, key=("id",))
    taken.write(batch_of(insert(wider, row(4) | {"more": "x"})), "wider")
    other.write(batch_of(insert(wider, row(5) | {"more": "y"})), "wider, too")
    assert compact(tmp_path)[:2] == (4, 2)
    taken.rewrite(batch_of(insert(wider, row(6) | {"more": "z"})))
    found = read_manifest(LocalFolder(tmp_path))
    assert [len(shapes) for shapes in found.shapes.values()] == [2]
    assert {name: part.note for name, part in found.parts.items()} == {
        "shop.orders/0": "wider",
        "shop.orders/1": "wider, too",
    }
    assert sink.part("shop.orders/1").open() == "wider, too"
    with pytest.raises(PositionError, match="another process writes"):
        other.write(three, "late")
    assert sink.position() is None, "the one of the slot is another"
    assert {key: one["more"] for key, one in state(tmp_path).items()} == {1: None, 2: None, 4: "x", 5: "y", 6: "z"}


def test_what_is_read_one_by_one_is_a_file_of_each_shape(tmp_path: Path) -> None:
    """As from Kafka, where each record says its table's shape anew; and not when a table really has another one."""
    wider = Table("orders", {**TABLE.columns, "more": "text"}, TABLE.key)
    events = [insert(TABLE, row(number)) for number in range(1, 6)]
    events += [insert(wider, {**row(number), "more": "x"}) for number in range(6, 9)]
    batch = batch_of(*events, *(insert(TABLE, row(number)) for number in range(9, 11)))
    records = Batch.concat(
        [Batch.from_bytes(batch.take([number]).to_bytes()) for number in range(batch.changes_count)]
    ).with_primary_keys({})
    assert len(records.shape_runs()) == 10 and len(batch.shape_runs()) == 3
    sink = Parquet(tmp_path)
    sink.open()
    sink.write(records)
    sink.close()
    assert sorted(file.rows for file in read_manifest(LocalFolder(tmp_path)).files.values()) == [2, 3, 5]
    assert [key for _, _, key in log(tmp_path)] == list(range(1, 11))
