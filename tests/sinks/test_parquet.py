"""Parquet files keep the contract of sinks, in a folder; what is special of them is tested one by one.

Over 400 lines because random workloads, faults and both readers share one model of a folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import msgspec
import polars
import pytest

from pgcdc import Batch, ConfigError, Pipeline, PositionError
from pgcdc.errors import SinkError, SinkRejected, SinkUnavailable
from pgcdc.protocol import SchemaVersions
from pgcdc.sink import Sink
from pgcdc.sinks import Parquet
from pgcdc.sinks import manifest as manifest_module
from pgcdc.sinks.manifest import read_manifest
from pgcdc.sinks.objects import LocalFolder, Objects
from pgcdc.sinks.parquet import (
    change_log_sql,
    clean,
    compact,
    current_state,
    current_state_sql,
    files,
    scan_changes,
)
from pgcdc.sinks.parquet_compaction import _clean
from pgcdc.testing import (
    Capture,
    Change,
    Table,
    Transaction,
    delete,
    insert,
    message,
    play,
    transaction,
    truncate,
    update,
)
from pgcdc.testing.contracts import PartitionedSinkContract, SinkContract


class ParquetContract(SinkContract, PartitionedSinkContract):
    """Of a place that a subclass says."""

    renamed: ClassVar[tuple[str, str] | None] = ("name", "title")
    refused: ClassVar[Mapping[str, Any] | None] = {"id": 9, "name": "x", "amount": Decimal("NaN"), "note": None}

    def _pipeline(self, sink: Sink) -> Pipeline:
        pipeline = super()._pipeline(sink)
        pipeline._subscriptions.clear()
        pipeline.add(sink, name="sink", max_wait=0)
        return pipeline


class TestFolder(ParquetContract):
    """In a folder, read by DuckDB."""

    without: ClassVar[Mapping[str, str]] = {"busy": "a folder is written to, or is not there: nobody keeps one waiting"}

    def make_sink(self, place: Path) -> Parquet:
        return Parquet(place / "lake")

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        return by_key(query(current_state_sql(place / "lake", "contract")))

    @contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """It is somewhere else, and something in its place."""
        (place / "lake").rename(place / "away")
        (place / "lake").touch()
        try:
            yield
        finally:
            (place / "lake").unlink()
            (place / "away").rename(place / "lake")


TABLE = Table("orders", {"id": "bigint", "name": "text", "amount": "numeric(12,2)", "note": "text"}, key=("id",))
UNSENT = msgspec.UNSET


def batch_of(*changes: Change | Transaction) -> Batch:
    """Changes as a pipeline hands them over."""
    messages = Capture.of(changes).messages
    return Batch.of([payload for _, payload in messages], [lsn for lsn, _ in messages]).select()


def row(key: int, name: str = "a", note: Any = "n", amount: str | None = "1.50") -> dict[str, Any]:
    """A row of TABLE."""
    return {"id": key, "name": name, "amount": None if amount is None else Decimal(amount), "note": note}


def write(place: Path, *batches: Batch, **options: Any) -> Parquet:
    """A sink that has written."""
    sink = Parquet(place, **options)
    sink.open()
    for batch in batches:
        sink.write(batch)
    sink.close()
    return sink


def query(sql: str) -> list[dict[str, Any]]:
    """What DuckDB says."""
    relation = duckdb.sql(sql)
    assert relation is not None
    found: list[dict[str, Any]] = relation.pl().to_dicts()
    return found


def by_key(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Rows by the column id."""
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def state(place: Path, table: str = "orders", **options: Any) -> dict[int, dict[str, Any]]:
    """The current state, of which both readers say the same."""
    found = by_key(query(current_state_sql(place, table, **options)))
    assert by_key(current_state(place, table, **options).to_dicts()) == found
    return found


def log(place: Path, table: str = "orders") -> list[tuple[str, str, Any]]:
    """Position, action and id of each change, in order, of which both readers say the same."""
    found = sorted((one["_position"], one["_action"], one["id"]) for one in query(change_log_sql(place, table)))
    frame = scan_changes(place, table).select("_position", "_action", "id").collect()
    assert sorted(frame.rows()) == found
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_state_is_what_the_changes_make(tmp_path: Path, seed: int) -> None:
    """Any changes, cut anywhere, with keys that move from row to row and values that were not sent."""
    luck = random.Random(seed)
    changes: list[Change | Transaction] = []
    rows: dict[int, dict[str, Any]] = {}
    for number in range(luck.randrange(20, 120)):
        free = [key for key in range(12) if key not in rows]
        what = luck.choices(["insert", "update", "move", "delete", "truncate"], [5, 6, 4, 2, 0.3])[0]
        fresh = {"name": f"name {number}", "amount": Decimal(number), "note": luck.choice([None, f"note {number}"])}
        if what == "truncate":
            rows.clear()
            changes.append(truncate(TABLE))
        elif what == "insert" and free:
            key = luck.choice(free)
            rows[key] = {"id": key, **fresh}
            changes.append(insert(TABLE, rows[key]))
        elif rows and (what != "move" or free):
            key = luck.choice(sorted(rows))
            before = rows.pop(key)
            if what == "delete":
                changes.append(delete(TABLE, before))
                continue
            new = luck.choice(free) if what == "move" and free else key
            unsent = {name for name in ("name", "note") if luck.random() < 0.5}
            rows[new] = {"id": new, **{name: before[name] if name in unsent else fresh[name] for name in fresh}}
            sent = rows[new] | dict.fromkeys(unsent, UNSENT)
            changes.append(update(TABLE, sent, old=before) if new != key else update(TABLE, sent))
    together = [transaction(*group) for group in split(changes, luck)]
    write(tmp_path, *batch_of(*together).pieces(luck.randrange(1, 30)))
    assert state(tmp_path) == rows
    assert len(log(tmp_path)) == len(changes)
    compact(tmp_path)
    assert len(files(tmp_path, "orders")) == 1
    assert state(tmp_path) == rows
    assert len(log(tmp_path)) == len(changes)


def split(changes: list[Any], luck: random.Random) -> Iterator[list[Any]]:
    """Changes in runs of any length."""
    while changes:
        count = luck.randrange(1, 6)
        yield changes[:count]
        changes = changes[count:]


class Failing:
    """A folder whose n-th call fails, before or after it took effect; as a crash, if nobody tries again."""

    def __init__(self, objects: Objects, fail_at: int, *, done: bool) -> None:
        self._objects = objects
        self._left = fail_at
        self._done = done

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._objects, name)
        if name == "url":
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._done:
                raise SinkUnavailable("cut")
            result = method(*arguments, **options)
            if self._left == 0:
                raise SinkUnavailable("cut")
            return result

        return call

    @property
    def failed(self) -> bool:
        """Whether it has."""
        return self._left <= 0


BATCHES = (
    lambda: batch_of(
        insert(TABLE, row(1)),
        transaction(insert(TABLE, row(2)), insert("items", {"id": 1, "order_id": 2})),
        update(TABLE, row(1, "b", UNSENT)),
        delete(TABLE, row(2)),
        insert("items", {"id": 2, "order_id": 1}),
    )
)()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_the_nth_call_fails(tmp_path: Path, crash: bool, done: bool) -> None:
    """Whatever fails, is tried again or comes again after a crash: each change is there once, and no other."""
    number, failed = 0, True
    while failed:
        number += 1
        place = tmp_path / str(number)
        sink = Parquet(place)
        sink._objects = failing = Failing(LocalFolder(place), number, done=done)
        written = 0
        pieces = BATCHES.pieces(2)
        opened = False
        while written < len(pieces):
            try:
                if not opened:
                    sink.open()
                    opened = True
                sink.write(pieces[written].with_primary_keys({}))  # another object each time, as in a pipeline
                written += 1
            except SinkUnavailable:
                if crash:
                    sink, opened, written = Parquet(place), False, 0
        failed = failing.failed
        assert [action for _, action, _ in log(place)] == ["insert", "insert", "update", "delete"]
        assert [key for _, _, key in log(place, "items")] == [1, 2]
        assert sink.position() == BATCHES.last_position
        _clean(LocalFolder(place), -1)
        named = read_manifest(LocalFolder(place)).files
        assert {found.path for found in LocalFolder(place).list("data")} == set(named)
        assert not list(place.rglob("*.part"))
        assert by_key(query(current_state_sql(place, "orders"))) == {1: row(1, "b")}
    assert number > 8, "no call failed"


def test_whoever_opens_it_is_the_only_writer(tmp_path: Path) -> None:
    """A process that was stopped and wakes up writes nothing."""
    first, second = Parquet(tmp_path), Parquet(tmp_path)
    [one, two, three] = BATCHES.pieces(2)
    first.open()
    first.write(one)
    second.open()
    assert second.position() == one.last_position
    with pytest.raises(PositionError, match="another process writes"):
        first.write(two)
    second.write(two)
    second.write(three)
    with pytest.raises(PositionError, match="another process writes"):
        first.write(two)
    assert len(log(tmp_path)) == 4
    assert state(tmp_path) == {1: row(1, "b")}


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    """Also where a batch has both."""
    [one, two, _] = BATCHES.pieces(2)
    sink = write(tmp_path, one, Batch.concat([one, two]), one)
    assert sink.position() == two.last_position
    assert len(log(tmp_path)) == 3
    assert len(log(tmp_path, "items")) == 1


def test_compaction_beside_a_sink(tmp_path: Path) -> None:
    """The sink goes on, readers of the old files too, until they are removed."""
    changes = [insert(TABLE, row(key)) for key in range(30)]
    pieces = batch_of(*changes, delete(TABLE, row(0))).pieces(1)
    sink = Parquet(tmp_path)
    sink.open()
    for piece in pieces[:20]:
        sink.write(piece)
    old = change_log_sql(tmp_path, "orders")
    assert compact(tmp_path, "public.orders")[:2] == (20, 1)
    for piece in pieces[20:]:
        sink.write(piece)
    assert len(files(tmp_path, "orders")) == 12
    assert len(query(old)) == 20
    assert compact(tmp_path)[:2] == (12, 1)
    assert compact(tmp_path)[:2] == (0, 0)
    assert set(state(tmp_path)) == set(range(1, 30))
    assert [key for _, _, key in log(tmp_path)] == [*range(30), 0]
    assert clean(tmp_path) == (0, 0)
    assert _clean(LocalFolder(tmp_path), -1)[0] == 32
    assert set(state(tmp_path)) == set(range(1, 30))
    with pytest.raises(ConfigError, match="3600 seconds at least"):
        clean(tmp_path, older_than=0)


def test_files_that_are_large_stay(tmp_path: Path) -> None:
    write(tmp_path, *batch_of(*(insert(TABLE, row(key)) for key in range(7))).pieces(1))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) // 7
    assert compact(tmp_path, target_bytes=size)[:2] == (0, 0)
    done = compact(tmp_path, target_bytes=3 * size, row_group_rows=2)
    assert done.before >= 6
    assert 2 <= done.after <= 3
    assert [key for _, _, key in log(tmp_path)] == list(range(7))


def test_two_compactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them counts."""
    write(tmp_path, *batch_of(*(insert(TABLE, row(key)) for key in range(4))).pieces(1))
    put = LocalFolder.put
    again = iter([True])

    def also(self: LocalFolder, path: str, data: bytes, *, create: bool = False) -> bool:
        if path.startswith("data") and next(again, False):
            compact(tmp_path)
        return put(self, path, data, create=create)

    monkeypatch.setattr(LocalFolder, "put", also)
    with pytest.raises(SinkError, match="somebody else has put files together"):
        compact(tmp_path)
    assert len(log(tmp_path)) == 4
    assert len(files(tmp_path, "orders")) == 1


def test_a_long_manifest_is_read_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what that has in it can be removed."""
    monkeypatch.setattr(manifest_module, "_EVERY", 10)
    pieces = batch_of(*(insert(TABLE, row(key)) for key in range(25))).pieces(1)
    write(tmp_path, *pieces[:13])
    write(tmp_path, *pieces[13:])
    manifest = tmp_path / "_manifest"
    assert len(list((manifest / "checkpoint").iterdir())) == 2
    before = read_manifest(LocalFolder(tmp_path))
    assert _clean(LocalFolder(tmp_path), -1).entries == 21
    assert read_manifest(LocalFolder(tmp_path)) == before
    assert len(list(manifest.glob("*.json"))) == before.number - before.checkpoint
    assert len(state(tmp_path)) == 25
    write(tmp_path, batch_of(*(insert(TABLE, row(key)) for key in range(26))))
    assert [key for _, _, key in log(tmp_path)] == list(range(26))


def test_a_manifest_that_lacks_an_entry_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, *BATCHES.pieces(1))
    [_, second, *_] = sorted((tmp_path / "_manifest").glob("*.json"))
    second.unlink()
    with pytest.raises(SinkError, match="lacks entry 2"):
        files(tmp_path, "orders")
    second.write_text("{")
    with pytest.raises(SinkError, match="damaged"):
        Parquet(tmp_path).open()


def test_columns_that_come_go_and_change(tmp_path: Path) -> None:
    """The state has the columns of now; what was renamed keeps its values, what was dropped and made anew does not."""
    first = Table("orders", {"id": "int", "name": "text", "note": "text"})
    second = Table("orders", {"id": "int", "title": "text", "note": "text", "count": "int"})
    third = Table("orders", {"id": "int", "title": "text", "count": "bigint", "note": "text"})
    batch = batch_of(
        insert(first, {"id": 1, "name": "one", "note": "old"}),
        insert(first, {"id": 2, "name": "two", "note": "old"}),
        insert(first, {"id": 3, "name": "three", "note": "old"}),
        update(second, {"id": 2, "title": UNSENT, "note": "new", "count": 5}),
        insert(second, {"id": 4, "title": "four", "note": "x", "count": 7}),
        update(third, {"id": 3, "title": UNSENT, "count": 1 << 40, "note": None}),
    )
    for place, pieces in ((tmp_path / "one", [batch]), (tmp_path / "each", batch.pieces(1))):
        write(place, *pieces)
        assert {shape.number for shape in read_manifest(LocalFolder(place)).shapes["public.orders"]} == {1, 2, 3}
        assert state(place) == {
            1: {"id": 1, "title": "one", "count": None, "note": None},
            2: {"id": 2, "title": "two", "count": 5, "note": None},
            3: {"id": 3, "title": "three", "count": 1 << 40, "note": None},
            4: {"id": 4, "title": "four", "count": 7, "note": None},
        }
        changes = query(change_log_sql(place, "orders"))
        assert {name for one in changes for name in one} >= {"name", "title", "note", "count", "_old", "_unset"}
        assert [one["name"] for one in sorted(changes, key=lambda one: one["_position"])][:3] == ["one", "two", "three"]


def test_the_whole_old_row(tmp_path: Path) -> None:
    """Under REPLICA IDENTITY FULL the key has to be said."""
    full = Table("orders", {"id": "int", "name": "text"}, ("id",), "f")
    wide = Table("orders", {"id": "int", "name": "text", "more": "int"}, ("id",), "f")
    write(
        tmp_path,
        batch_of(
            insert(full, {"id": 1, "name": "a"}),
            insert(full, {"id": 2, "name": "b"}),
            update(full, {"id": 1, "name": "c"}, old={"id": 1, "name": "a"}),
            update(wide, {"id": 3, "name": "b", "more": 1}, old={"id": 2, "name": "b", "more": None}),
            delete(wide, {"id": 1, "name": "c", "more": None}),
        ),
    )
    with pytest.raises(ConfigError, match="replica identity is the whole row"):
        current_state_sql(tmp_path, "orders")
    assert state(tmp_path, key=["id"]) == {3: {"id": 3, "name": "b", "more": 1}}
    assert len(log(tmp_path)) == 5
    olds = {one["_position"]: one["_old"] for one in query(change_log_sql(tmp_path, "orders"))}
    assert [old for _, old in sorted(olds.items())][2:4] == [
        {"id": 1, "name": "a", "more": None},
        {"id": 2, "name": "b", "more": None},
    ]


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    plain = {"id": "int", "name": "text"}
    whole = batch_of(
        insert(Table("orders", plain), {"id": 1, "name": "a"}),
        insert(Table("orders", plain, ("name",)), {"id": 2, "name": "b"}),
    )
    write(tmp_path, whole.take([0]))
    for call in (files, change_log_sql, current_state_sql, current_state, scan_changes):
        with pytest.raises(ConfigError, match=r"public\.nothing has no files"):
            call(tmp_path, "nothing")
    with pytest.raises(ConfigError, match="has no column 'x'"):
        current_state_sql(tmp_path, "orders", key=["x"])
    assert state(tmp_path, key=[]) == {1: {"id": 1, "name": "a"}}
    write(tmp_path, whole.take([1]))
    with pytest.raises(ConfigError, match="has not had the columns name all the time"):
        current_state_sql(tmp_path, "orders")
    for arguments in ({"text": "x"}, {"partition_by": "hour"}, {"compression": "x"}, {"row_group_rows": 0}):
        with pytest.raises(ConfigError):
            Parquet(tmp_path, **arguments)
    for url, options, said in (
        ("s3://user:secret@bucket/x", {}, "neither credentials nor a query"),
        ("s3://bucket/x", {"config": {"access_key_idd": "secret"}}, "s3://bucket has no setting 'access_key_idd'"),
        ("s3://bucket/x", {"config": {"aws_allow_http": "secret"}}, "is a setting of the connection, not of s3://"),
        ("gs://bucket/x", {"config": {"timeout": "secret"}}, "'timeout' in config= is a setting of the connection"),
        ("s3://bucket/x", {"config": {"s3_express": "secret"}}, "does not take the URL or the options"),
        ("s3://bucket/x", {"client_options": {"timout": "secret"}}, "does not take the URL or the options"),
        (str(tmp_path), {"config": {"region": "secret"}}, "a local folder has no config="),
        ("nonsense://bucket", {}, "does not take the URL or the options"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            Parquet(url, **options)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)
    sink = Parquet("s3://bucket/x", config={"access_key_id": "secret", "secret_access_key": "secret"})
    assert "secret" not in repr(sink)


def test_names_that_are_hard(tmp_path: Path) -> None:
    """Names of the project's own columns, quotes, points, and some that no file may have."""
    odd = Table('sales.T/Ü "x"', {"id": "int", "_action": "text", "qu\"ote's": "text", "_unset": "int"})
    more = {"_action": "x", "qu\"ote's": "y", "_unset": 3}
    write(
        tmp_path,
        batch_of(
            insert(odd, {"id": 1, **more}),
            insert(odd, {"id": 2, **more}),
            update(odd, {"id": 3, **more, "qu\"ote's": UNSENT}, old={"id": 1}),
        ),
    )
    assert read_manifest(LocalFolder(tmp_path)).tables() == ['sales."T/Ü ""x"""']
    name = 'sales.T/Ü "x"'
    assert state(tmp_path, name) == {2: {"id": 2, **more}, 3: {"id": 3, **more}}
    assert query(change_log_sql(tmp_path, name))[0].keys() >= {"__action", "_action", "__unset", "_position"}


def test_logical_messages(tmp_path: Path) -> None:
    """They are in files of their own, and in no table."""
    write(tmp_path, batch_of(transaction(insert(TABLE, row(1)), message("shop", b"x"))), partition_by="commit_date")
    [path] = files(tmp_path, None)
    assert polars.read_parquet(path, columns=["prefix", "content"]).rows() == [("shop", b"x")]
    assert state(tmp_path) == {1: row(1)}
    assert compact(tmp_path)[:2] == (0, 0)


def test_files_by_day(tmp_path: Path) -> None:
    """A file has the changes of one day; rows of the initial copy are of none."""
    write(tmp_path, BATCHES, partition_by="commit_date")
    for path in files(tmp_path, "orders"):
        [day] = {one.date() for one in polars.read_parquet(path, hive_partitioning=False)["_commit_time"]}
        assert f"/date={day}/" in path
    assert state(tmp_path) == {1: row(1, "b")}
    copied = tmp_path / "copied"
    pipeline = Pipeline("shop", tables=["orders"])
    pipeline.add(Parquet(copied, partition_by="commit_date"), max_wait=0)
    play(pipeline, Capture.of([insert(TABLE, row(2))], [insert(TABLE, row(1))]))
    assert state(copied) == {1: row(1), 2: row(2)}
    assert "/date=snapshot/" in files(copied, "orders")[0]


def test_a_dead_letter_is_written_later_once(tmp_path: Path) -> None:
    """With the position that it had: what came after it stays, and the sink's position too."""
    whole = batch_of(
        insert(TABLE, row(1)), update(TABLE, row(1, "lost")), update(TABLE, row(1, "last")), insert(TABLE, row(2))
    )
    sink = Parquet(tmp_path)
    sink.open()
    sink.write(whole.take([0, 2, 3]))
    for _ in range(2):
        sink.rewrite(whole.take([1]))
    assert sink.position() == whole.last_position
    assert [action for _, action, _ in log(tmp_path)] == ["insert", "update", "update", "insert"]
    assert state(tmp_path) == {1: row(1, "last"), 2: row(2)}
    again = Parquet(tmp_path)
    again.open()
    again.rewrite(whole.take([1]))
    assert len(log(tmp_path)) == 4


@pytest.mark.parametrize("versions", [False, True])
def test_a_dead_letter_of_a_former_shape(tmp_path: Path, versions: bool) -> None:
    """It makes no column vanish, under whatever names its own go now; that no other change had its shape is nothing."""
    first = Table("t", {"id": "bigint", "a": "text", "old": "boolean"}, key=("id",))
    second = Table("t", {"id": "bigint", "b": "text"}, key=("id",))  # "a" was renamed, "old" dropped
    third = Table("t", {"id": "bigint", "b": "text", "extra": "int"}, key=("id",))
    last = Table("t", {"id": "bigint", "b": "text", "more": "text"}, key=("id",))
    whole = batch_of(
        insert(first, {"id": 1, "a": "1", "old": True}),
        insert(first, {"id": 2, "a": "2", "old": True}),  # letters: this
        insert(second, {"id": 3, "b": "3"}),  # and this, which alone has the second shape
        insert(second, {"id": 4, "b": "4"}),  # and this
        insert(third, {"id": 5, "b": "5", "extra": 5}),
        insert(third, {"id": 6, "b": "6", "extra": 6}),
        insert(last, {"id": 7, "b": "7", "more": "7"}),  # and this, of a shape that is to come
        insert(last, {"id": 8, "b": "8", "more": "8"}),
    )
    if versions:  # as the pipeline knows them
        runs = whole.shape_runs()
        starts = [(position, number) for number, (_, _, position, _) in enumerate(runs, 1) if position is not None]
        whole = whole.with_versions(SchemaVersions({runs[0][1].oid: starts}))
    sink = Parquet(tmp_path)
    sink.open()
    sink.write(whole.take([0]))
    sink.write(whole.take([4]))
    for letter in (2, 1, 3):
        sink.rewrite(whole.take([letter]))
    there = {1: "1", 2: "2", 3: "3", 4: "4", 5: "5"}
    assert state(tmp_path, "t") == {
        key: {"id": key, "b": b, "extra": 5 if key == 5 else None} for key, b in there.items()
    }
    sink.write(whole.take([5]))
    assert [one["extra"] for one in state(tmp_path, "t").values()].count(None) == 4
    compact(tmp_path)
    for change in (6, 7):
        (sink.rewrite if change == 6 else sink.write)(whole.take([change]))
    now = state(tmp_path, "t")
    assert {key: one["b"] for key, one in now.items()} == there | {6: "6", 7: "7", 8: "8"}
    assert {key: one["more"] for key, one in now.items() if one["more"]} == {7: "7", 8: "8"}
    assert len(read_manifest(LocalFolder(tmp_path)).shapes["public.t"]) == 4


def test_a_value_that_arrow_cannot_hold(tmp_path: Path) -> None:
    """It is refused and named, without its value; as text all are taken."""
    batch = batch_of(insert(TABLE, row(1)), insert(TABLE, row(2, amount="NaN")))
    with pytest.raises(SinkRejected, match="amount") as caught:
        write(tmp_path, batch)
    assert caught.value.positions == {batch.last_position}
    assert caught.value.hint == "text=['public.orders.amount'] has that column as strings"
    assert not list(tmp_path.rglob("*.parquet"))
    write(tmp_path, batch, text=["public.orders.amount"])
    assert {key: one["amount"] for key, one in state(tmp_path).items()} == {1: "1.50", 2: "NaN"}
