"""The contract of a sink's parts: held by one that keeps notes in a file, and noticed when it breaks any part of it."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

import pgcdc
from pgcdc.testing.contracts import PartitionedSinkContract

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Notes:
    """Rows in an SQLite file, and a note for each part; from Kafka only."""

    mistake: ClassVar[str] = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        self.file = sqlite3.connect(self._path, check_same_thread=False)
        self.file.execute("CREATE TABLE IF NOT EXISTS rows (id integer PRIMARY KEY, data text)")
        self.file.execute("CREATE TABLE IF NOT EXISTS parts (name text PRIMARY KEY, owner int, note text, last text)")
        if self.mistake == "one process at a time":
            self.file.execute("UPDATE parts SET owner = owner + 1")
            self.file.commit()

    def position(self) -> pgcdc.Position | None:
        if self.mistake == "takes parts' positions for its own":
            [(last,)] = self.file.execute("SELECT max(last) FROM parts").fetchall()
            return None if last is None else pgcdc.Position.parse(last)
        return None

    def write(self, batch: pgcdc.Batch) -> None:
        raise NotImplementedError("from Kafka only")

    def close(self) -> None:
        self.file.close()

    def part(self, name: str) -> Part:
        return Part(self, "all" if self.mistake == "has one note for all parts" else name)


class Part:
    """One of them."""

    def __init__(self, sink: Notes, name: str) -> None:
        self._sink, self._name = sink, name

    def open(self) -> str | None:
        step = 0 if self._sink.mistake == "does not take over" else 1
        with self._sink.file as file:
            [(self._owner, note)] = file.execute(
                "INSERT INTO parts VALUES (?, 1, NULL, NULL) ON CONFLICT (name) DO UPDATE SET owner = owner + ?"
                " RETURNING owner, note",
                (self._name, step),
            ).fetchall()
        return None if self._sink.mistake == "forgets its note" else note

    def write(self, batch: pgcdc.Batch, note: str) -> None:
        self._keep(batch, note[:200] if self._sink.mistake == "cuts its note off" else note)

    def rewrite(self, batch: pgcdc.Batch) -> None:
        if self._sink.mistake == "loses dead letters":
            return
        self._keep(batch, "a letter" if self._sink.mistake == "moves its note for a dead letter" else None)

    def _keep(self, batch: pgcdc.Batch, note: str | None) -> None:
        mistake = self._sink.mistake
        file = self._sink.file
        if mistake == "keeps its note first" and note is not None:
            self._move(note, batch)
            file.commit()
        with file:
            rows = batch.json_rows()
            for row in rows:
                self._apply(row)
            if mistake == "writes before it looks":
                file.commit()
            free = note is None and mistake == "lets anybody write dead letters"
            mine = file.execute("SELECT 1 FROM parts WHERE (name, owner) = (?, ?)", (self._name, self._owner))
            if mine.fetchone() is None and not free:
                raise pgcdc.PositionError("another process has the partition")
            if note is not None:
                self._move(note, batch)

    def _move(self, note: str, batch: pgcdc.Batch) -> None:
        self._sink.file.execute(
            "UPDATE parts SET note = ?, last = ? WHERE name = ?", (note, str(batch.last_position), self._name)
        )

    def _apply(self, row: Any) -> None:
        file, mistake = self._sink.file, self._sink.mistake
        if row.key == ("4040",):
            if mistake == "keeps half of a batch":
                file.commit()
            raise pgcdc.SinkRejected("no such row", positions=[row.position])
        if row.new is None:
            file.execute("DELETE FROM rows WHERE id = ?", row.key)
        else:
            new = msgspec.json.decode(row.new)
            if mistake == "knows the first columns only":
                new.pop("discount", None)
            file.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (*row.key, msgspec.json.encode(new).decode()))

    def close(self) -> None:
        """The file stays open for the others."""


class Told(Notes):
    """Whose parts are told of shapes."""

    def part(self, name: str) -> Part:
        return ToldPart(self, name)


class ToldPart(Part):
    """One of them."""

    def schema_changed(self, change: pgcdc.SchemaChange, note: str) -> None:
        with self._sink.file as file:
            if self._sink.mistake != "is told by anybody":
                mine = file.execute("SELECT 1 FROM parts WHERE (name, owner) = (?, ?)", (self._name, self._owner))
                if mine.fetchone() is None:
                    raise pgcdc.PositionError("another process has the partition")
            if self._sink.mistake != "is told without its note":
                file.execute("UPDATE parts SET note = ? WHERE name = ?", (note, self._name))


def _said(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in row.items() if value is not None}


class TestNotes(PartitionedSinkContract):
    refused: ClassVar[Mapping[str, Any] | None] = {"id": 4040, "name": "x", "amount": None, "note": None}

    def make_sink(self, place: Path) -> Any:
        return Notes(place / "rows.db")

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        with contextlib.closing(sqlite3.connect(place / "rows.db")) as file:
            found = file.execute("SELECT id, data FROM rows").fetchall()
        return {key: _said(msgspec.json.decode(data)) for key, data in found}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, str]]:
        return {key: _said(row) for key, row in rows.items()}


class TestTold(TestNotes):
    def make_sink(self, place: Path) -> Any:
        return Told(place / "rows.db")


class TestInOneProcess(TestNotes):
    several = False


@pytest.mark.parametrize(
    ("contract", "mistake", "noticed"),
    [
        (TestNotes, "forgets its note", "test_a_part_says_what_came_with_its_last_write"),
        (TestNotes, "cuts its note off", "test_a_part_says_what_came_with_its_last_write"),
        (TestNotes, "has one note for all parts", "test_parts_are_written_side_by_side"),
        (TestNotes, "one process at a time", "test_another_process_has_other_parts"),
        (TestNotes, "does not take over", "test_who_had_a_part_before_writes_nothing"),
        (TestInOneProcess, "does not take over", "test_who_had_a_part_before_writes_nothing"),
        (TestNotes, "writes before it looks", "test_who_had_a_part_before_writes_nothing"),
        (TestNotes, "keeps its note first", "test_who_had_a_part_before_writes_nothing"),
        (TestNotes, "lets anybody write dead letters", "test_who_had_a_part_before_writes_nothing"),
        (TestTold, "is told by anybody", "test_who_had_a_part_before_writes_nothing"),
        (TestNotes, "moves its note for a dead letter", "test_a_dead_letter_of_a_part_leaves_its_note"),
        (TestNotes, "loses dead letters", "test_a_dead_letter_of_a_part_leaves_its_note"),
        (TestNotes, "takes parts' positions for its own", "test_the_position_of_the_slot_is_another"),
        (TestNotes, "knows the first columns only", "test_parts_follow_a_column_that_is_added"),
        (TestTold, "is told without its note", "test_parts_follow_a_column_that_is_added"),
        (TestNotes, "keeps its note first", "test_a_part_keeps_its_note_when_a_row_is_refused"),
        (TestNotes, "keeps half of a batch", "test_a_part_keeps_its_note_when_a_row_is_refused"),
    ],
)
def test_a_mistake_is_noticed(
    contract: type[TestNotes], mistake: str, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notes, "mistake", mistake)
    with tempfile.TemporaryDirectory() as folder, pytest.raises((AssertionError, pgcdc.Error)):
        getattr(contract(), noticed)(Path(folder))


def test_what_is_not_there_is_left_out() -> None:
    class Few(TestInOneProcess):
        refused = None
        added = None
        without: ClassVar = {"several": "one has the file"}

    assert Few.left_out() == {"added": "", "refused": "", "several": "one has the file"}
    assert TestNotes.left_out() == {}
