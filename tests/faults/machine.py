"""Everything that can befall a pipeline, in any order: the rules of a state machine, and the judge at its end.

A real server, a real pipeline, targets in files. A crash of the process is played: from one moment on targets take
nothing and positions are not stored, as after kill -9 (`tests/pipeline/test_kill.py` has the real one).

Over 400 lines because every rule of the machine acts on the same model.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec import UNSET

import pgcdc
from pgcdc import DecodeError, Delete, Truncate
from pgcdc.errors import ConnectionLost
from pgcdc.pipeline import SqlitePositions
from pgcdc.pipeline import run as running
from pgcdc.replication import Reconnect
from tests.pipeline.running import DEADLINE, Running, counted_saves, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pgcdc.pipeline import Move
    from tests.conftest import Database

POISON, POISONED = -666, 13
LONG = "generate_series(1, 1000)"
KEYS = st.integers(1, 12)
CHANGES = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "remove", "move"]), KEYS), min_size=1, max_size=6)


Handled: TypeAlias = dict[int, tuple[pgcdc.Position, dict[str, str] | None]]
"""By key: the last row and its position; None when it is gone."""


class Moment:
    """What the parts of one run have in common: whether the process is dead, and who is slow."""

    def __init__(self) -> None:
        self.dead = False
        self.dies_before = True
        self.free = threading.Event()
        self.free.set()
        self.full = False


class Dead(BaseException):
    """A process that is dead parks nothing, either."""


class Positions(SqlitePositions):
    """A file of positions whose process may be dead."""

    def __init__(self, path: Path, moment: Moment) -> None:
        super().__init__(path)
        self._moment = moment

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        if self._moment.dead:
            raise ConnectionLost("this process is dead")
        super().move(pipeline, moves)


class Mirror:
    """A table's rows in an SQLite file with the position in the same transaction; it follows its columns.

    It takes whatever it is given, so what comes twice is seen: positions are unique.

    Args:
        path: The file.
        moment: What may befall it.
        slow: Whether it is the one that is slow.
    """

    def __init__(self, path: Path, moment: Moment, *, slow: bool) -> None:
        self._path = path
        self._moment = moment
        self._slow = slow
        self._columns: list[str] = []

    def open(self) -> None:
        self._file = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._file.executescript("""
            PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS rows (id integer PRIMARY KEY, data text);
            CREATE TABLE IF NOT EXISTS log (position text UNIQUE, place integer PRIMARY KEY, id integer);
            CREATE TABLE IF NOT EXISTS state (one integer PRIMARY KEY, position text, columns text);
        """)
        found = self._file.execute("SELECT columns FROM state").fetchone()
        self._columns = [] if found is None else json.loads(found[0])

    def position(self) -> pgcdc.Position | None:
        found = self._file.execute("SELECT position FROM state").fetchone()
        return None if found is None else pgcdc.Position.parse(found[0])

    def write(self, batch: pgcdc.Batch) -> None:
        while self._slow and not self._moment.free.wait(0.02):
            if self._moment.dead:
                break
        if self._moment.dead and self._moment.dies_before:
            raise RuntimeError("dead")
        pages = 1 << 30
        if self._moment.full and not self._slow:
            self._file.execute("VACUUM")  # what is free in the file is no room on the disk
            [pages] = self._file.execute("PRAGMA page_count").fetchone()
        self._file.execute(f"PRAGMA max_page_count = {pages}")
        before = list(self._columns)
        try:
            self._file.execute("BEGIN IMMEDIATE")
            for change in batch.changes(pgcdc.RowFormat("dict")):
                self._apply(change)
            state = (str(batch.last_position), json.dumps(self._columns))
            self._file.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", state)
            self._file.execute("COMMIT")
        except BaseException as error:
            self._columns = before
            with contextlib.suppress(sqlite3.OperationalError):  # SQLite has rolled back by itself
                self._file.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise pgcdc.SinkUnavailable("the disk of the mirror is full") from error
            raise
        if self._moment.dead:
            raise RuntimeError("dead")

    def _apply(self, change: Any) -> None:
        assert not isinstance(change, DecodeError), change
        if isinstance(change, Truncate):
            self._file.execute("DELETE FROM rows")
            return
        self._follow([column.name for column in change.relation.columns])
        if change.index >= 0:
            row = change.old if isinstance(change, Delete) else change.new
            self._file.execute("INSERT INTO log (position, id) VALUES (?, ?)", (str(change.position), row["id"]))
        if isinstance(change, Delete):
            self._file.execute("DELETE FROM rows WHERE id = ?", (change.old["id"],))
            return
        new = change.new
        key = new["id"] if change.old is UNSET else change.old["id"]
        if UNSET in new.values():  # an unchanged value that is kept apart
            [(data,)] = self._file.execute("SELECT data FROM rows WHERE id = ?", (key,))
            before = json.loads(data)
            new = {name: before.get(name) if value is UNSET else value for name, value in new.items()}
        self._file.execute("DELETE FROM rows WHERE id = ?", (key,))
        self._file.execute("INSERT OR REPLACE INTO rows VALUES (?, ?)", (new["id"], json.dumps(plain(new))))

    def _follow(self, columns: list[str]) -> None:
        """One column at a time is added, dropped or renamed; another name in the same place is a rename."""
        if len(columns) == len(self._columns):
            for old, new in zip(self._columns, columns, strict=True):
                if old != new:
                    statement = "UPDATE rows SET data = replace(data, ?, ?)"
                    self._file.execute(statement, (json.dumps(old) + ":", json.dumps(new) + ":"))
        self._columns = columns

    def close(self) -> None:
        self._file.close()


def plain(row: dict[str, Any]) -> dict[str, str]:
    """A row without its NULLs, values as text."""
    return {name: str(value) for name, value in row.items() if value is not None}


class Machine(RuleBasedStateMachine):
    """One table, four consumers: a mirror whose disk may be full, a slow one, and two handlers that a row may poison.

    One of the handlers stops the pipeline then, the other one parks what it does not take.
    """

    database: Database
    folder: Path
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Machine.number += 1
        self.name = f"machine{Machine.number}"
        self.folder = self.folder / self.name
        self.folder.mkdir()
        self.moment = Moment()
        self.serial = 0
        self.filled = 0
        self.poisonous = True
        self.handled: Handled = {}
        self.parking: Handled = {}
        self.run: Running | None = None
        self.extra = 0
        self.column = "amount"
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch.object(running, "SAVE_EVERY", 0.05))
        self.saves = self.patches.enter_context(counted_saves())

    # What happens.

    @initialize()
    def begin(self) -> None:
        self.database.execute(
            f"CREATE TABLE {self.name} (id bigint PRIMARY KEY, amount bigint, note text)",
            f"INSERT INTO {self.name} VALUES (1, 1, 'old'), (2, 2, 'old')",
        )
        self.start()

    @rule(changes=CHANGES, undone=st.booleans())
    def write(self, changes: list[tuple[str, int]], undone: bool) -> None:
        with self.database.connect() as connection, connection.transaction(force_rollback=undone):
            for what, key in changes:
                self.serial += 1
                if what == "remove":
                    connection.execute(f"DELETE FROM {self.name} WHERE id = {key}")
                elif what == "move":
                    taken = f"EXISTS (SELECT FROM {self.name} WHERE id = {key + 100})"
                    connection.execute(f"UPDATE {self.name} SET id = {key + 100} WHERE id = {key} AND NOT {taken}")
                else:
                    connection.execute(self.put(key, self.serial))

    @rule(what=st.sampled_from(["add", "drop", "rename", "retype"]))
    def alter(self, what: str) -> None:
        if what == "drop" and not self.extra:
            what = "add"
        if what == "add":
            self.extra += 1
            change = f"ADD COLUMN extra{self.extra} text"
        elif what == "drop":
            change = f"DROP COLUMN extra{self.extra}"
            self.extra -= 1
        elif what == "rename":
            new = "amount" if self.column == "total" else "total"
            change, self.column = f"RENAME COLUMN {self.column} TO {new}", new
        else:
            change = f"ALTER COLUMN {self.column} TYPE numeric USING {self.column}::numeric"
        self.database.execute(f"ALTER TABLE {self.name} {change}")
        self.touch()  # what a table looks like now comes with its next row

    @rule(written=st.booleans())
    def crash(self, written: bool) -> None:
        assert self.run is not None
        self.saves(2)  # whatever may be stored is: what is queued must not be among it
        self.moment.dies_before = not written
        self.moment.dead = True
        self.touch()
        self.run.pipeline.stop()
        error = self.run.ended()
        assert error is None or isinstance(error, (pgcdc.SinkError, ConnectionLost, Dead)), error
        self.moment.dead = False
        self.start()

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()

    @rule()
    def cut(self) -> None:
        """The walsender ends; the pipeline connects again by itself."""
        self.database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")

    @rule()
    def slow(self) -> None:
        self.moment.free.clear()

    @rule()
    def quick(self) -> None:
        self.moment.free.set()

    @rule()
    def poison(self) -> None:
        """A row that the handler raises on ends the run; when it was mended it gets the row first."""
        assert self.run is not None
        self.moment.free.set()
        self.poisonous = True
        self.database.execute(self.put(POISONED, POISON))
        error = self.run.ended()
        assert isinstance(error, pgcdc.SinkRejected), error
        assert f"an insert of public.{self.name}" in str(error) or f"an update of public.{self.name}" in str(error)
        self.poisonous = False
        self.start()

    @rule()
    def full_disk(self) -> None:
        assert self.run is not None
        self.moment.free.set()
        self.moment.full = True
        self.database.execute(f"UPDATE {self.name} SET note = (SELECT string_agg(md5(g::text), '') FROM {LONG} g)")
        self.filled += 1  # one of the same size would have its own place again
        self.touch("x" * 500_000 * self.filled)
        pipeline = self.run.pipeline
        self.until(lambda: pipeline.statistics().consumers["mirror"].last_error is not None, "the disk is full")
        self.moment.full = False

    # What it is made of.

    def put(self, key: int, amount: int, note: str = "n") -> str:
        return (
            f"INSERT INTO {self.name} (id, {self.column}, note) VALUES ({key}, {amount}, '{note}')"
            f" ON CONFLICT (id) DO UPDATE SET {self.column} = excluded.{self.column}, note = excluded.note"
        )

    def touch(self, note: str = "touched") -> None:
        self.serial += 1
        self.database.execute(self.put(14, self.serial, note))

    def start(self) -> None:
        positions = Positions(self.folder / "positions.db", self.moment)
        pipeline = pgcdc.Pipeline(
            self.name,
            self.database.dsn,
            tables=[self.name],
            positions=positions,
            reconnect=Reconnect(first=0.02, longest=0.2),
            max_rows_in_flight=50,
        )
        pipeline.add(Mirror(self.folder / "mirror.db", self.moment, slow=False), name="mirror")
        pipeline.add(Mirror(self.folder / "slow.db", self.moment, slow=True), name="slow")
        pipeline.on(self.name, name="handler")(self.handle)
        pipeline.on(self.name, name="parking", on_failure="park")(self.park)
        self.run = Running(pipeline)
        self.run.streaming()

    def stop(self) -> None:
        assert self.run is not None
        self.moment.free.set()
        self.run.stop()
        assert self.run.error is None, self.run.error

    def handle(self, change: Any) -> None:
        """Keeps the last row of each key with its position: what comes again has no effect."""
        if self.moment.dead and self.moment.dies_before:
            raise RuntimeError("dead")
        self._keep(self.handled, change, poisonous=self.poisonous)
        if self.moment.dead:
            raise RuntimeError("dead")

    def park(self, change: Any) -> None:
        """Likewise, and it never takes the poison."""
        if self.moment.dead:
            raise Dead
        self._keep(self.parking, change, poisonous=True)

    def _keep(self, kept: Handled, change: Any, *, poisonous: bool) -> None:
        row = change.old if isinstance(change, Delete) else change.new
        values: dict[str, str] | None = None
        moved = not isinstance(change, Delete) and change.old is not UNSET
        if not isinstance(change, Delete):
            before: dict[str, str] = {}
            for key in (change.old.id,) if moved else (), (row.id,):
                before = before or (kept[key[0]][1] if key and key[0] in kept else None) or {}
            new = {column.name: getattr(row, column.name) for column in change.relation.columns}
            values = plain({name: before.get(name) if value is UNSET else value for name, value in new.items()})
            # By either name: what is handled now may have been written before the column was renamed.
            if poisonous and str(POISON) in (values.get("amount"), values.get("total")):
                raise ValueError("poison")
        for key, now in ((change.old.id, None), (row.id, values)) if moved else ((row.id, values),):
            last = kept.get(key)
            if last is None or last[0] <= change.position:
                kept[key] = (change.position, now)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        assert self.run is not None
        run = self.run
        until(lambda: condition() or not run.alive, what)
        assert run.alive, run.error

    # The judge.

    def teardown(self) -> None:
        if self.run is None:
            self.patches.close()
            return
        try:
            self.moment.free.set()
            self.touch()
            assert self.run.alive, self.run.error
            self.run.catch_up(self.database)
            self.stop()
            self.judge()
        finally:
            self.moment.dead = True
            self.moment.free.set()
            self.run.pipeline.stop()
            self.run.ended(DEADLINE)
            self.moment.dead = False
            self.patches.close()
            self.run.pipeline.destroy()
            self.database.execute(f"DROP TABLE {self.name}")

    def judge(self) -> None:
        rows = self.database.execute(f"SELECT id, to_jsonb(t) FROM {self.name} t")
        source = {key: plain(row) for key, row in rows}
        live = set(next(iter(rows))[1])
        for file in ("mirror.db", "slow.db"):
            with contextlib.closing(sqlite3.connect(self.folder / file)) as mirror:
                found = {key: json.loads(data) for key, data in mirror.execute("SELECT id, data FROM rows")}
                entries = mirror.execute("SELECT position, id FROM log ORDER BY place").fetchall()
            log = [position for position, _ in entries]
            poisoned = [position for position, key in entries if key == POISONED]
            found = {key: {name: value for name, value in row.items() if name in live} for key, row in found.items()}
            assert found == source, file
            assert log == sorted(log), f"{file}: commit order"
        assert self.run is not None
        letters = self.run.pipeline.dead_letters.list()
        assert {letter.consumer for letter in letters} <= {"parking"}
        # All that ever was written under this key has the poison in it.
        assert sorted(str(letter.position) for letter in letters) == sorted(poisoned), "each dead letter once"
        self._compare(self.handled, source)
        self._compare(self.parking, {key: row for key, row in source.items() if key != POISONED})

    def _compare(self, kept: Handled, source: dict[int, dict[str, str]]) -> None:
        handled = {key: values for key, (_, values) in kept.items() if values is not None}
        assert handled.keys() == source.keys()
        for key, values in handled.items():
            # The handler renames nothing: what it has of a row is what the row was when it came.
            same = {"amount": values.get("amount", values.get("total")), "note": values.get("note")}
            now = {"amount": source[key].get("amount", source[key].get("total")), "note": source[key].get("note")}
            assert same == now, key
