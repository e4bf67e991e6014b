"""Tables in an SQLite file, their current state or a log of changes, with the position in the same transaction.

Over 400 lines, because state and log share the file, its tables and what is told of errors.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError, SinkUnavailable
from pgcdc.events import Delete, Insert, Relation, Truncate, Update
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, RowFormat, TypeCatalog
from pgcdc.schema import SchemaChange
from pgcdc.sinks.cases import refuse_columns, refuse_table, same
from pgcdc.sinks.dropped_tables import dropped
from pgcdc.sinks.former_shapes import refuse_former
from pgcdc.sinks.sqlite_values import declared, plain, stored
from pgcdc.sinks.stretches import Keyed, stretches
from pgcdc.sinks.table_file import Kept, TableFile, quoted

__all__ = ["SQLite"]

_GONE: Final = re.compile(r"no such table: (.+)")
_LOG: Final = {
    "_position": "TEXT",
    "_action": "TEXT",
    "_commit_time": "TEXT",
    "_unset": "TEXT",
    "_old": "TEXT",
}
"""The columns of a log in front of the table's own."""

Row = Sequence[Any]


class SQLite(TableFile):
    """Keeps tables in an SQLite file: exactly once.

    The rows of a batch and the position become visible in one transaction, which is durable when `write` returns (WAL
    mode, `synchronous = FULL`). Another process that opens the file under the same `name` takes it over: the former
    one can write nothing any more, and stops with PositionError. The file can be read meanwhile. On Kafka each
    partition has a position of its own, and processes of one machine write one after another.

    With `mode="state"` each table is as at the source:

    - Tables are made where they are missing, STRICT, with the primary key as the pipeline knows it. A table of the
      schema public has its own name, one of another schema is called `sales.orders`. A table that is there is taken as
      it is; it needs a unique index on the key.
    - Inserts and updates write the row (an upsert), deletes remove it, a change of key moves it. A value that was not
      sent (unchanged TOAST) stays as it is here, also where the key was changed; where there is no row, it is NULL.
    - Tables without a key get what is inserted appended, and lose one equal row for each that was updated or deleted.
    - TRUNCATE empties the table.

    With `mode="log"` each change is a row, in order: `_position`, `_action` (`insert`, `update`, `delete`,
    `truncate`), `_commit_time`, `_unset` (a JSON array of the columns that were not sent; NULL for none), `_old` (a
    JSON object of what was sent of the old row; NULL for nothing), and the columns: of the new row, in a delete the
    old.

    In both, a column that was added is added here, a renamed one is renamed, a dropped one stays, NULL in new rows.
    One that gets another type is made anew where that is another one here, too, with its values cast; in a key it keeps
    the one that it has. What each value becomes is in the documentation, "SQLite".

    Args:
        path: The file; made when it does not exist.
        name: What the position is stored under; one for each pipeline that writes to this file.
        mode: `"state"` or `"log"`.
        timeout: How long to wait for another process that writes, in seconds.

    Raises:
        ConfigError: When the mode is neither; from `write`, when a table lacks what it needs, or two tables or columns
            have one name but for its case, which makes no difference here.
        PositionError: When somebody else writes under this name, from `write`.
    """

    refusals: ClassVar = (sqlite3.IntegrityError, OverflowError, UnicodeEncodeError)

    def __init__(
        self,
        path: str | Path,
        *,
        name: str = "pgcdc",
        mode: Literal["state", "log"] = "state",
        timeout: float = 5.0,
    ) -> None:
        super().__init__(path, name, mode)
        self._timeout = timeout
        self._opened: sqlite3.Connection | None = None
        self._followed: dict[int, Keyed] = {}
        self._rows = _Rows()

    # The file, and the position.

    def open(self) -> None:
        """Open or make the file, and take it over.

        Raises:
            SinkUnavailable: When it cannot be opened, or another process writes.
        """
        self.close()
        with self._told():
            # The pipeline calls from one thread at a time.
            file = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
            try:
                file.execute("PRAGMA journal_mode = WAL")
                file.execute("PRAGMA synchronous = FULL")
                file.execute("BEGIN IMMEDIATE")
                file.execute(
                    "CREATE TABLE IF NOT EXISTS pgcdc_positions"
                    " (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, position TEXT, note TEXT) STRICT"
                )
                if not file.execute(
                    "SELECT 1 FROM pragma_table_info('pgcdc_positions') WHERE name = 'note'"
                ).fetchall():
                    file.execute("ALTER TABLE pgcdc_positions ADD COLUMN note TEXT")
                file.execute("COMMIT")
                self._opened = file
                self._kept = self._take_over(self._name)
            except BaseException:
                self._opened = None
                file.close()
                raise

    @property
    def _file(self) -> sqlite3.Connection:
        if self._opened is None:
            raise ConfigError("the sink is not open", hint="call open() first; a pipeline does")
        return self._opened

    def close(self) -> None:
        """Close the file."""
        file, self._opened = self._opened, None
        self._followed.clear()
        if file is not None:
            file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorname
            if code == "SQLITE_ERROR":  # of a statement: a table or a column is not as it was
                if gone := _GONE.fullmatch(str(error)):
                    raise dropped(gone[1], "the file") from error
                raise ConfigError(f"the file's tables are not as they should be: {error}") from error
            raise SinkUnavailable(f"the file cannot be used now ({code})") from error
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"the file cannot be used: {error}") from error

    @contextmanager
    def _transaction(self, kept: Kept | None) -> Iterator[None]:
        """One that only the owner can make."""
        file = self._file
        with self._told():
            file.execute("BEGIN IMMEDIATE")
            try:
                if kept is not None:
                    self._check(kept)
                yield
                file.execute("COMMIT")
            except BaseException:
                self._followed.clear()
                if file.in_transaction:
                    file.execute("ROLLBACK")
                raise

    # Batches.

    def _run(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._file.execute(statement, parameters).fetchall()

    def _take_over(self, name: str) -> Kept:
        file = self._file
        file.execute("BEGIN IMMEDIATE")
        try:
            [(epoch, position, note)] = file.execute(
                "INSERT INTO pgcdc_positions (name, epoch) VALUES (?, 1) ON CONFLICT (name)"
                " DO UPDATE SET epoch = epoch + 1 RETURNING epoch, position, note",
                (name,),
            ).fetchall()
            file.execute("COMMIT")
        except BaseException:
            if file.in_transaction:
                file.execute("ROLLBACK")
            raise
        return Kept(name, epoch, None if position is None else Position.parse(position), note)

    def _why(self, error: Exception) -> str:
        # SQLite's sentence names a constraint or a column, and no value; others' can.
        return f": {error if isinstance(error, sqlite3.IntegrityError) else type(error).__name__}"

    def _apply(self, batch: Batch) -> None:
        for stretch in stretches(batch):
            if isinstance(stretch, Truncate):
                for relation in stretch.relations:
                    self._follow(Keyed(relation, batch.key_columns(relation)))
                    if self._mode == "log":
                        self._log_row(relation, stretch, None, None)
                    else:
                        self._file.execute(f"DELETE FROM {quoted(table_name(relation))}")  # noqa: S608 (quoted)
                continue
            keys = {relation.oid: stretch.key_columns(relation) for relation in stretch.relations}
            for relation in stretch.relations:
                self._follow(Keyed(relation, keys[relation.oid]))
            if self._mode == "log":
                self._log(stretch)
                continue
            for relation in stretch.relations:
                of_one = stretch.select(tables=[(relation.schema, relation.name)])
                keyed = Keyed(relation, keys[relation.oid])
                if keyed.key:
                    _Upsert(self._file, self._rows, keyed).apply(of_one.folded({relation.oid: keyed.key}))
                else:
                    self._append(of_one, relation)

    # The state of tables without a key, and logs.

    def _append(self, batch: Batch, relation: Relation) -> None:
        table, columns = table_name(relation), relation.columns
        storing = [stored(column) for column in columns]
        insert = _insert(table, [column.name for column in columns])
        same = " AND ".join(f"{quoted(column.name)} IS ?" for column in columns)
        delete = f"DELETE FROM {quoted(table)} WHERE rowid = (SELECT rowid FROM {quoted(table)} WHERE {same} LIMIT 1)"  # noqa: S608 (quoted names)
        for change in self._rows.of(batch):
            if isinstance(change, Update | Delete) and change.old is not UNSET:
                self._file.execute(delete, _values(storing, change.old))
            if isinstance(change, Insert | Update):
                self._file.execute(insert, _values(storing, change.new))

    def _log(self, batch: Batch) -> None:
        for change in self._rows.of(batch):
            if isinstance(change, Insert | Update | Delete):
                self._log_row(
                    change.relation,
                    change,
                    change.old if isinstance(change, Delete) else change.new,
                    change.old if isinstance(change, Update) and change.old is not UNSET else None,
                )

    def _log_row(self, relation: Relation, change: Any, row: Row | None, old: Row | None) -> None:
        columns = relation.columns
        unset = [column.name for column, value in zip(columns, row or (), strict=False) if value is UNSET]
        pairs = zip(columns, old or (), strict=False)
        before = {column.name: plain(value) for column, value in pairs if value is not UNSET}
        front = [
            None if change.position is UNSET else str(change.position),
            change.action,
            None if change.commit_time in (None, UNSET) else plain(change.commit_time),
            msgspec.json.encode(unset).decode() if unset else None,
            msgspec.json.encode(before).decode() if before else None,
        ]
        names = [*_LOG, *(column.name for column in columns)]
        storing = [stored(column) for column in columns]
        values = [None if value is UNSET else value for value in _values(storing, row or [None] * len(columns))]
        self._file.execute(_insert(table_name(relation), names), [*front, *values])

    # Tables.

    def schema_changed(self, change: SchemaChange) -> None:
        """Rename the table and its columns as they were renamed at the source; new columns come with their first rows.

        Raises:
            SinkUnavailable: When the file cannot be written to now.
        """
        with self._transaction(None if self._has_parts else self._kept):
            former, now = table_name(change.old), table_name(change.new)
            if former != now and same(former, now):
                if self._spelled(former) == former:  # SQLite renames no table to its own name
                    between = quoted(f"{former} of former name")
                    self._file.execute(f"ALTER TABLE {quoted(former)} RENAME TO {between}")
                    self._file.execute(f"ALTER TABLE {between} RENAME TO {quoted(now)}")
            elif former != now and self._names(former) and not self._names(now):
                self._file.execute(f"ALTER TABLE {quoted(former)} RENAME TO {quoted(now)}")
            names = self._names(now)
            for old, new in change.renamed:
                if old in names and new not in names:
                    self._file.execute(f"ALTER TABLE {quoted(now)} RENAME COLUMN {quoted(old)} TO {quoted(new)}")
            for name in change.retyped:
                self._retype(change, name)
        self._followed.clear()

    def _retype(self, change: SchemaChange, name: str) -> None:
        """Give a column another type, which SQLite does not do: a new column takes its place, and its values, cast."""
        table, new = table_name(change.new), next(one for one in change.new.columns if one.name == name)
        found = self._file.execute(
            "SELECT type, pk FROM pragma_table_xinfo(?) WHERE name = ?", (table, name)
        ).fetchone()
        kind = declared(new)
        if found is None or found[0] == kind or found[1]:
            return
        value = quoted(name) if kind == "ANY" else f"CAST({quoted(name)} AS {kind})"
        former = quoted(f"{name} of former type")
        for statement in (
            f"ALTER TABLE {quoted(table)} RENAME COLUMN {quoted(name)} TO {former}",
            f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {kind}",
            f"UPDATE {quoted(table)} SET {quoted(name)} = {value.replace(quoted(name), former)}",  # noqa: S608 (quoted names)
            f"ALTER TABLE {quoted(table)} DROP COLUMN {former}",
        ):
            self._file.execute(statement)

    def _names(self, table: str) -> list[str]:
        found = self._file.execute("SELECT name FROM pragma_table_xinfo(?) ORDER BY cid", (table,))
        return [name for (name,) in found]

    def _spelled(self, table: str) -> str | None:
        """How a table is spelled in the file, None where there is none."""
        found = self._file.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE", (table,)
        ).fetchone()
        return None if found is None else str(found[0])

    def _follow(self, keyed: Keyed) -> None:
        """Make the table, or add the columns that it lacks."""
        if self._followed.get(keyed.relation.oid) == keyed:
            return
        relation, key = keyed
        table, names = table_name(relation), self._names(table_name(relation))
        refuse_table(relation, table, self._spelled(table) or table)
        front = _LOG if self._mode == "log" else ()
        refuse_columns(relation, [*front, *(column.name for column in relation.columns)], names)
        definitions = {column.name: f"{quoted(column.name)} {declared(column)}" for column in relation.columns}
        missing = definitions.keys() - set(names)
        if names:
            refuse_former(self._letter, relation, missing)
        else:
            parts = list(definitions.values())
            if self._mode == "log":
                parts = [f"{quoted(name)} {kind}" for name, kind in _LOG.items()] + parts
            elif key:
                parts.append(f"PRIMARY KEY ({', '.join(map(quoted, key))})")
            self._file.execute(f"CREATE TABLE {quoted(table)} ({', '.join(parts)}) STRICT")
        for name in missing if names else ():
            self._file.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {definitions[name]}")
        self._followed[relation.oid] = keyed


class _Upsert:
    """Applies a folded batch of one table to its state.

    Args:
        file: In a transaction.
        rows: Gives the changes.
        keyed: The table and its key.
    """

    def __init__(self, file: sqlite3.Connection, rows: _Rows, keyed: Keyed) -> None:
        relation, key = keyed
        self._file = file
        self._rows = rows
        self._table = quoted(table_name(relation))
        self._names = [column.name for column in relation.columns]
        self._storing = [stored(column, in_key=column.name in key) for column in relation.columns]
        self._key = [self._names.index(name) for name in key]
        self._on_key = " AND ".join(f"{quoted(name)} = ?" for name in key)
        self._conflict = ", ".join(map(quoted, key))

    def apply(self, batch: Batch) -> None:
        """Take what is needed of old rows, then delete, then write."""
        gone: list[Row] = []
        rows: list[list[Any]] = []
        for change in self._rows.of(batch):
            if isinstance(change, Delete):
                gone.append(self._key_of(change.old))
            elif isinstance(change, Insert | Update):
                row = _values(self._storing, change.new)
                if isinstance(change, Update) and change.old is not UNSET:
                    self._take(row, self._key_of(change.old))
                rows.append(row)
        if gone:
            self._file.executemany(f"DELETE FROM {self._table} WHERE {self._on_key}", gone)  # noqa: S608 (quoted names)
        # One statement for all rows that have the same columns; rows of several keys need no order.
        rows.sort(key=_sent)
        for sent, of_one in groupby(rows, key=_sent):
            self._write(sent, [[row[at] for at in sent] for row in of_one])

    def _key_of(self, row: Row) -> list[Any]:
        return [self._storing[at](row[at]) for at in self._key]

    def _take(self, row: list[Any], key: Row) -> None:
        """Take what was not sent from the row of the former key."""
        missing = [at for at, value in enumerate(row) if value is UNSET]
        names = ", ".join(quoted(self._names[at]) for at in missing)
        found = self._file.execute(f"SELECT {names} FROM {self._table} WHERE {self._on_key}", key).fetchone()  # noqa: S608 (quoted names)
        for at, value in zip(missing, found or (), strict=False):
            row[at] = value

    def _write(self, sent: Sequence[int], rows: list[list[Any]]) -> None:
        names = [quoted(self._names[at]) for at in sent]
        settings = ", ".join(f"{name} = excluded.{name}" for name in names)
        marks = ", ".join("?" * len(names))
        statement = (
            f"INSERT INTO {self._table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 (quoted names)
            f" ON CONFLICT ({self._conflict}) DO UPDATE SET {settings}"
        )
        self._file.executemany(statement, rows)


def _sent(row: Row) -> tuple[int, ...]:
    return tuple(at for at, value in enumerate(row) if value is not UNSET)


class _Rows:
    """Gives the changes of batches, rows as tuples."""

    def __init__(self) -> None:
        self._catalog: TypeCatalog | None = None
        self._format = RowFormat("tuple", json="text")

    def of(self, batch: Batch) -> Iterator[Any]:
        if batch.catalog is not self._catalog:
            self._catalog = batch.catalog
            self._format = RowFormat("tuple", json="text", catalog=self._catalog)
        for change in batch.changes(self._format):
            if isinstance(change, DecodeError):
                raise change
            yield change


def _values(storing: Sequence[Callable[[Any], Any]], row: Row) -> list[Any]:
    return [
        value if value is None or value is UNSET else store(value) for store, value in zip(storing, row, strict=True)
    ]


def table_name(relation: Relation) -> str:
    """What a table is called in a file, which has no schemas.

    Args:
        relation: The table.

    Returns:
        Its name; with its schema where that is not public; one with a full stop or a quote in it quoted as in SQL.
    """
    parts = [relation.name] if relation.schema == "public" else [relation.schema, relation.name]
    # `sales.orders` is the table orders of the schema sales, and no other's.
    quoting = [quoted(part) if "." in part or '"' in part else part for part in parts]
    return ".".join(quoting)


def _insert(table: str, names: Sequence[str]) -> str:
    return f"INSERT INTO {quoted(table)} ({', '.join(map(quoted, names))}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 (quoted names)
