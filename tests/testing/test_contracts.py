"""The contract of sinks: held by our own targets, and noticed by it when a sink breaks any part of it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from msgspec import UNSET

import pgcdc
from pgcdc import Delete, Truncate
from pgcdc.demo import troubled
from pgcdc.demo.cache import MemoryCounts
from pgcdc.demo.search import Order, SearchIndex, words_of
from pgcdc.testing.contracts import SinkContract
from tests.testing.orders import OfCounts, OfOrders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class TestSearchIndex(OfOrders):
    dropped = None  # a document has all fields
    letters = False

    def make_sink(self, place: Path) -> SearchIndex:
        return SearchIndex(place / "index.sqlite")

    def content(self, place: Path) -> dict[int, tuple[str, dict[str, Any]]]:
        with contextlib.closing(sqlite3.connect(place / "index.sqlite")) as index:
            rows = index.execute("SELECT rowid, words, document FROM orders").fetchall()
        return {key: (words, msgspec.json.decode(document)) for key, words, document in rows}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Any) -> Any:
        found = {}
        for key, row in rows.items():
            document = msgspec.json.decode(msgspec.json.encode({"discount": None, **row}))
            found[key] = (words_of(msgspec.json.decode(msgspec.json.encode(document), type=Order)), document)
        return found

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """Another process has locked the file."""
        with contextlib.closing(sqlite3.connect(place / "index.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


class TestMemoryCounts(OfCounts):
    durable = False
    late = False  # it goes with the process: nothing comes to it that was there before

    def make_sink(self, place: Path) -> MemoryCounts:
        self.sink = MemoryCounts()
        return self.sink

    def content(self, place: Path) -> dict[int, int]:
        return self.sink.counts()


class TestSlowReports(OfCounts):
    durable = False
    late = False

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(troubled, "SLOW_SECONDS", 0)

    def make_sink(self, place: Path) -> troubled.SlowReports:
        self.sink = troubled.SlowReports()
        return self.sink

    def content(self, place: Path) -> dict[int, str]:
        return self.sink.statuses()

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Any) -> Any:
        return {key: row["status"] for key, row in rows.items()}


class Upserts:
    """Rows by key in an SQLite file, with the last position, which it tells nobody: what comes twice is skipped."""

    mistake: ClassVar[str] = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._late: list[pgcdc.Batch] = []

    def open(self) -> None:
        self._file = sqlite3.connect(self._path, check_same_thread=False, timeout=0.01, isolation_level=None)
        with self._away():
            self._file.execute("CREATE TABLE IF NOT EXISTS rows (id integer PRIMARY KEY, data text)")
            self._file.execute("CREATE TABLE IF NOT EXISTS last (one integer PRIMARY KEY, position text)")

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise pgcdc.SinkUnavailable("the file is locked") from error

    def write(self, batch: pgcdc.Batch) -> None:
        if self.mistake == "writes when it is closed":
            self._late.append(batch)
        else:
            self._write(batch)

    def _write(self, batch: pgcdc.Batch) -> None:
        with self._away():
            self._file.execute("BEGIN IMMEDIATE")
        try:
            last = self._file.execute("SELECT position FROM last").fetchone()
            if last is not None and self.mistake not in ("takes what comes twice", "knows no position"):
                batch = batch.after(pgcdc.Position.parse(last[0]))
            for change in batch.changes(pgcdc.RowFormat("dict")):
                self._apply(change)
            if batch.last_position is not None and (
                batch.last_position.index >= 0 or self.mistake == "skips what has the position of its TRUNCATE"
            ):
                self._file.execute("INSERT OR REPLACE INTO last VALUES (1, ?)", (str(batch.last_position),))
        except BaseException:
            self._file.execute("COMMIT" if self.mistake == "keeps half of a batch" else "ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def _apply(self, change: Any) -> None:
        if isinstance(change, Truncate):
            if self.mistake != "ignores truncate":
                self._file.execute("DELETE FROM rows")
            return
        if isinstance(change, Delete):
            if self.mistake != "ignores deletes":
                self._file.execute("DELETE FROM rows WHERE id = ?", (change.old["id"],))
            return
        new = change.new
        if self.mistake == "keeps rows that have fewer columns" and "note" not in new:
            return
        if new["id"] == 4040:
            raise pgcdc.SinkRejected("there is no such row", positions=[change.position])
        before: dict[str, Any] = {}
        for key in (change.old["id"] if change.old is not UNSET else None, new["id"]):
            found = self._file.execute("SELECT data FROM rows WHERE id = ?", (key,)).fetchone()
            if found is not None and not before:
                before = msgspec.json.decode(found[0])
        if change.old is not UNSET and self.mistake != "keeps the old key":
            self._file.execute("DELETE FROM rows WHERE id = ?", (change.old["id"],))
        keep = self.mistake != "forgets what was not sent"
        new = {name: (before.get(name) if keep else None) if value is UNSET else value for name, value in new.items()}
        if self.mistake == "knows the first columns only":
            new.pop("discount", None)
        verb = "INSERT" if self.mistake == "takes what comes twice" else "INSERT OR REPLACE"
        if self.mistake == "takes the first":
            verb = "INSERT OR IGNORE"
        if self.mistake == "fails of what is no text":
            str(new["name"]).encode(errors="surrogatepass").decode()
        self._file.execute(f"{verb} INTO rows VALUES (?, ?)", (new["id"], msgspec.json.encode(new)))

    def schema_changed(self, change: pgcdc.SchemaChange) -> None:
        if self.mistake == "alters what is not there" and not self._file.execute("SELECT 1 FROM last").fetchall():
            raise pgcdc.SinkError("there is no such table")

    def close(self) -> None:
        for batch in self._late:
            self._write(batch)
        self._file.close()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is NULL: rows from before a column was added have no word of it."""
    return {name: value for name, value in row.items() if value is not None}


class Rewrites(Upserts):
    """That tells the position, and takes a dead letter behind what is newer."""

    def position(self) -> pgcdc.Position | None:
        last = self._file.execute("SELECT position FROM last").fetchone()
        return None if last is None else pgcdc.Position.parse(last[0])

    def rewrite(self, batch: pgcdc.Batch) -> None:
        for change in batch.changes(pgcdc.RowFormat("dict")):
            if self.mistake != "loses dead letters":
                self._apply(change)
        if self.mistake == "goes back for a dead letter":
            self._file.execute("INSERT OR REPLACE INTO last VALUES (1, ?)", (str(batch.last_position),))


class TestUpserts(SinkContract):
    letters = False
    refused: ClassVar[Mapping[str, Any] | None] = {"id": 4040, "name": "x", "amount": None, "note": None}

    def make_sink(self, place: Path) -> Any:
        return Upserts(place / "rows.db")

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(place / "rows.db")) as file:
            return {key: _plain(msgspec.json.decode(data)) for key, data in file.execute("SELECT id, data FROM rows")}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Any) -> Any:
        return {key: _plain(msgspec.json.decode(msgspec.json.encode(row))) for key, row in rows.items()}

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(place / "rows.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    down = busy


class OfRewrites(TestUpserts):
    letters = True
    late = False

    def make_sink(self, place: Path) -> Any:
        return Rewrites(place / "rows.db")


@pytest.mark.parametrize(
    ("mistake", "noticed"),
    [
        ("writes when it is closed", "test_what_a_write_has_taken_is_there"),
        ("ignores deletes", "test_a_deleted_row_is_gone"),
        ("ignores truncate", "test_a_truncated_table_is_empty"),
        ("keeps the old key", "test_follows_a_change_of_key"),
        ("forgets what was not sent", "test_keeps_what_an_update_did_not_send"),
        ("knows the first columns only", "test_follows_a_column_that_is_added"),
        ("takes what comes twice", "test_a_replay_changes_nothing"),
        ("takes what comes twice", "test_what_is_written_and_not_stored_comes_again"),
        ("takes what comes twice", "test_a_write_that_failed_on_the_way_back_is_repeated"),
        ("knows no position", "test_what_comes_again_comes_in_other_batches"),
        ("skips what has the position of its TRUNCATE", "test_a_copy_that_is_made_again_is_there"),
        ("takes the first", "test_applies_inserts_updates_and_deletes"),
        ("takes the first", "test_applies_several_changes_of_a_key_in_one_transaction"),
        ("keeps half of a batch", "test_a_row_that_is_refused_is_refused_with_its_whole_batch"),
        ("loses dead letters", "test_a_dead_letter_is_written_later"),
        ("goes back for a dead letter", "test_a_dead_letter_is_written_later"),
        ("keeps rows that have fewer columns", "test_goes_on_without_a_column_that_is_dropped"),
        ("keeps rows that have fewer columns", "test_takes_a_table_that_is_altered_before_its_first_row"),
        ("fails of what is no text", "test_text_that_is_no_text_is_taken_or_refused"),
        ("alters what is not there", "test_takes_a_table_that_is_altered_before_its_first_row"),
    ],
)
def test_a_mistake_is_noticed(mistake: str, noticed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = OfRewrites() if "letter" in noticed else TestUpserts()
    for made in (mistake, ""):
        monkeypatch.setattr(Upserts, "mistake", made)
        with tempfile.TemporaryDirectory() as folder:
            if made:
                with pytest.raises((AssertionError, pgcdc.Error)):
                    getattr(contract, noticed)(Path(folder))
            else:
                getattr(contract, noticed)(Path(folder))


def test_what_a_target_does_not_have_is_not_tested() -> None:
    def tests(contract: type) -> set[str]:
        return {name for name in dir(contract) if name.startswith("test_") and getattr(contract, name) is not None}

    everything = tests(OfRewrites)
    assert everything - tests(TestUpserts) == {letters := "test_a_dead_letter_is_written_later"}
    late = "test_what_comes_late_leaves_what_is_newer"
    assert tests(TestUpserts) - everything == {late}
    optional = {"test_keeps_what_an_update_did_not_send", "test_follows_a_column_that_is_added"}
    held = {"test_goes_on_when_the_target_is_back", "test_waits_for_a_target_that_is_slow"}
    refused = {"test_a_row_that_is_refused_is_refused_with_its_whole_batch", "test_a_refusal_names_its_row"}
    assert everything - tests(TestMemoryCounts) == optional | held | refused
    dropped = "test_goes_on_without_a_column_that_is_dropped"
    assert everything - tests(TestSearchIndex) == {"test_goes_on_when_the_target_is_back", *refused, dropped, letters}
    assert "test_follows_a_column_that_is_renamed" not in everything


def test_the_sink_of_the_page_holds_it(tmp_path: Path) -> None:
    """docs/testing.md shows a sink and its class of tests; tests/docs runs the page, here the class is run."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if "SinkContract" in block:
            exec(compile(block, "docs/testing.md", "exec", dont_inherit=True), names)
    contract = names["TestNotes"]
    tests = [name for name in dir(contract) if name.startswith("test_") and getattr(contract, name) is not None]
    assert len(tests) > 12, "the class has them"
    for test in tests:
        place = tmp_path / test
        place.mkdir()
        getattr(contract(), test)(place)
