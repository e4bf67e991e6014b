"""What the contract of sinks says of changes that come late, and of refusals: noticed when a sink does it wrongly."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

import pgcdc
from pgcdc.testing.contracts import SinkContract

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Guarded:
    """Rows in an SQLite file, each with the position of its last change, and the position of the last TRUNCATE."""

    mistake: ClassVar[str] = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        self._file = sqlite3.connect(self._path, check_same_thread=False)
        self._file.execute("CREATE TABLE IF NOT EXISTS rows (id integer PRIMARY KEY, position text, data text)")
        self._file.execute("CREATE TABLE IF NOT EXISTS kept (name text PRIMARY KEY, position text)")

    def write(self, batch: pgcdc.Batch) -> None:
        self._write(batch)

    def _write(self, batch: pgcdc.Batch, at: pgcdc.Position | None = None) -> None:
        rows = [row for row in batch.json_rows() if row.action != "message"]
        positions = [row.position for row in rows if row.key == ("4040",) and row.position is not None]
        if positions and self.mistake == "names all rows":
            positions = [row.position for row in rows if row.position is not None]
        if positions:
            raise pgcdc.SinkRejected("no such row", positions=() if self.mistake == "names no row" else positions)
        with self._file:
            for row in rows:
                self._apply(row, str(row.position))
            if at is not None:
                self._file.execute("INSERT OR REPLACE INTO kept VALUES ('all', ?)", (str(at),))

    def _apply(self, row: Any, position: str) -> None:
        if row.action == "truncate":
            if self.mistake == "remembers the rows that it had, and no floor":
                gone = "UPDATE rows SET data = NULL, position = ? WHERE position < ?"
                self._file.execute(gone, (position, position))
                return
            if self.mistake != "keeps no floor":
                self._file.execute(
                    "INSERT INTO kept VALUES ('floor', ?)"
                    " ON CONFLICT (name) DO UPDATE SET position = max(position, excluded.position)",
                    (position,),
                )
            newest = "~" if self.mistake == "removes what is newer" else position
            self._file.execute("DELETE FROM rows WHERE position < ?", (newest,))
            return
        [key] = row.key
        for gone in row.old_key or ():
            self._put(gone, position, None)
        self._put(key, position, None if row.new is None else row.new.decode())

    def _put(self, key: Any, position: str, data: str | None) -> None:
        if position < (self._kept("floor") or ""):
            return
        older = "true" if self.mistake == "takes an older row" else "excluded.position > rows.position"
        self._file.execute(
            "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT (id)"
            f" DO UPDATE SET position = excluded.position, data = excluded.data WHERE {older}",
            (int(key), position, data),
        )

    def _kept(self, name: str) -> str | None:
        row = self._file.execute("SELECT position FROM kept WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        self._file.close()


class Journal(Guarded):
    """That keeps its position, too."""

    def write(self, batch: pgcdc.Batch) -> None:
        self._write(batch, batch.last_position)

    def rewrite(self, batch: pgcdc.Batch) -> None:
        self._write(batch)

    def position(self) -> pgcdc.Position | None:
        kept = self._kept("all")
        return None if kept is None else pgcdc.Position.parse(kept)


def _said(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in row.items() if value is not None}


class TestGuarded(SinkContract):
    toast = None
    refused: ClassVar[Mapping[str, Any] | None] = {"id": 4040, "name": "x", "amount": None, "note": None}

    def make_sink(self, place: Path) -> Any:
        return Guarded(place / "rows.db")

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        with contextlib.closing(sqlite3.connect(place / "rows.db")) as file:
            found = file.execute("SELECT id, data FROM rows WHERE data IS NOT NULL").fetchall()
        return {key: _said(msgspec.json.decode(data)) for key, data in found}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, str]]:
        return {key: _said(row) for key, row in rows.items()}


class TestJournal(TestGuarded):
    def make_sink(self, place: Path) -> Any:
        return Journal(place / "rows.db")


LATE = "test_what_comes_late_leaves_what_is_newer"
NAMED = "test_a_refusal_names_its_row"


@pytest.mark.parametrize("contract", [TestGuarded, TestJournal])
@pytest.mark.parametrize(
    ("mistake", "noticed"),
    [
        ("removes what is newer", LATE),
        ("keeps no floor", LATE),
        ("remembers the rows that it had, and no floor", LATE),
        ("takes an older row", LATE),
        ("names no row", NAMED),
        ("names all rows", NAMED),
    ],
)
def test_a_mistake_is_noticed(
    contract: type[TestGuarded], mistake: str, noticed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guarded, "mistake", mistake)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(AssertionError):
        getattr(contract(), noticed)(Path(folder))


def test_a_truncate_that_comes_again_is_noticed_where_nothing_is_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stretches(TestGuarded):
        letters = False

    contract: Any = Stretches()
    getattr(contract, LATE)(tmp_path)
    for place in tmp_path.iterdir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    monkeypatch.setattr(Guarded, "mistake", "removes what is newer")
    with pytest.raises(AssertionError):
        getattr(contract, LATE)(tmp_path)


def test_what_is_not_to_be_held_to_it_says_so() -> None:
    class Plain(TestGuarded):
        late = False
        named = False
        without: ClassVar = {"late": "why", "named": "why not"}

    missing: dict[str, Any] = {name: getattr(Plain, name) for name in (LATE, NAMED)}
    assert missing == {LATE: None, NAMED: None}
    assert Plain.left_out() == {
        "late": "why",
        "named": "why not",
        **dict.fromkeys(("down", "busy", "renamed", "toast"), ""),
    }

    class Takes(Plain):
        refused = None

    assert "named" not in Takes.left_out(), "it refuses nothing"
    assert Takes.left_out()["refused"] == ""
