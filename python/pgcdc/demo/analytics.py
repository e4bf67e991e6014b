"""The analytics tables of the demo: the current rows of every table, in a DuckDB file that follows added columns.

A sink as one writes it for oneself: the position is stored in the same transaction as the rows, so each change is
applied exactly once however often it comes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError, SinkRejected, SinkUnavailable
from pgcdc.events import Column, Delete, Insert, Message, Relation, Truncate
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import Batch, RowFormat

if TYPE_CHECKING:
    import duckdb

__all__ = ["AnalyticsTables"]

# DuckDB's types by PostgreSQL's type OID; whatever is not here is kept as text. Source: server file `pg_type.dat`.
_TYPES: Final = {16: "BOOLEAN", 20: "BIGINT", 21: "SMALLINT", 23: "INTEGER", 25: "VARCHAR", 701: "DOUBLE"} | {
    114: "JSON",
    1082: "DATE",
    1114: "TIMESTAMP",
    1184: "TIMESTAMPTZ",
    2950: "UUID",
    3802: "JSON",
}
_NUMERIC: Final = 1700

Row = dict[str, Any]


class AnalyticsTables:
    """Keeps a table in a DuckDB file for each table of the source.

    Args:
        path: The DuckDB file; made when it does not exist.
        key: The primary key's column, the same in all tables.

    Attributes:
        copied: Rows of the initial copy that were applied since it was opened.
        streamed: Changes from the stream that were applied since it was opened.

    Raises:
        ConfigError: When the Python package duckdb is missing.
    """

    def __init__(self, path: Path, key: str = "id") -> None:
        try:
            import duckdb
        except ModuleNotFoundError:
            raise ConfigError(
                "the analytics tables need the package duckdb, which is not installed",
                hint="pip install 'pgcdc[duckdb]'",
            ) from None
        self.path = path
        self.copied = self.streamed = 0
        self._key = key
        self._connect = duckdb.connect
        self._io_error = duckdb.IOException
        self._no_value = (duckdb.ConversionException, duckdb.InvalidInputException)
        self._rows = RowFormat("dict", json="text")
        self._database: duckdb.DuckDBPyConnection
        self._columns: dict[str, dict[str, str]] = {}  # by table: its columns and their types
        self._position: Position | None = None

    def open(self) -> None:
        """Open or make the file."""
        # One thread: the batches of a stream are small, and sharing them out costs more than it gains.
        self._database = self._connect(str(self.path), config={"threads": 1})
        self._database.execute("CREATE TABLE IF NOT EXISTS _position (last VARCHAR)")
        self._read_columns()
        stored = self._database.execute("SELECT last FROM _position").fetchone()
        if stored is None:
            self._database.execute("INSERT INTO _position VALUES (NULL)")
        self._position = None if stored is None or stored[0] is None else Position.parse(stored[0])

    def position(self) -> Position | None:
        """The last position applied."""
        return self._position

    def write(self, batch: Batch) -> None:
        """Apply a batch in one transaction.

        Raises:
            SinkUnavailable: When the file cannot be written.
            SinkRejected: When a value is none of DuckDB's.
        """
        if self._position is not None and self._position.index >= 0:
            batch = batch.after(self._position)
        if batch.last_position is None:
            return
        self._database.begin()
        try:
            for relation in batch.relations:
                self._follow(relation)
            self._apply(batch)
            self._database.execute("UPDATE _position SET last = ?", [str(batch.last_position)])
            self._database.commit()
        except BaseException as error:
            self._database.rollback()
            self._read_columns()
            if isinstance(error, self._io_error):
                raise SinkUnavailable("the analytics file cannot be written") from error
            if isinstance(error, self._no_value):  # which quotes it
                raise SinkRejected(f"a row has a value that DuckDB does not take ({type(error).__name__})") from None
            raise
        self._position = batch.last_position
        if self._position.index == SNAPSHOT_INDEX:
            self.copied += batch.select(actions=["insert"]).changes_count
        else:
            self.streamed += batch.changes_count

    def _read_columns(self) -> None:
        self._columns = {}
        for table, column, kind in self._database.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE table_name <> '_position'"
            " ORDER BY table_name, column_index"
        ).fetchall():
            self._columns.setdefault(table, {})[column] = kind

    def _follow(self, relation: Relation) -> None:
        """Make the table, or add the columns that the source has added."""
        table = relation.name
        if table not in self._columns:
            # No PRIMARY KEY: DuckDB scans faster than it keeps an index, and `_store` keeps the key unique.
            columns = ", ".join(f"{_quote(column.name)} {_type_of(column)}" for column in relation.columns)
            self._database.execute(f"CREATE TABLE {_quote(table)} ({columns})")
            self._columns[table] = {column.name: _type_of(column) for column in relation.columns}
        for column in relation.columns:
            if column.name not in self._columns[table]:
                self._database.execute(
                    f"ALTER TABLE {_quote(table)} ADD COLUMN {_quote(column.name)} {_type_of(column)}"
                )
                self._columns[table][column.name] = _type_of(column)

    def _apply(self, batch: Batch) -> None:
        # By table and key: the row after this batch, None when it is gone; and the keys that begin with an insert.
        changed: dict[str, dict[Any, Row | None]] = {}
        new: dict[str, set[Any]] = {}
        for change in batch.changes(self._rows):
            if isinstance(change, DecodeError):
                raise change
            if isinstance(change, Message):  # belongs to no table
                continue
            if isinstance(change, Truncate):
                for relation in change.relations:
                    changed.pop(relation.name, None)
                    new.pop(relation.name, None)
                    self._database.execute(f"DELETE FROM {_quote(relation.name)}")  # noqa: S608 (a quoted name)
                continue
            rows = changed.setdefault(change.table, {})
            if isinstance(change, Delete):
                rows[change.old[self._key]] = None
                continue
            row, key = change.new, change.new[self._key]
            if isinstance(change, Insert) and key not in rows:
                new.setdefault(change.table, set()).add(key)
            if change.old is not UNSET and change.old[self._key] != key:  # the key was changed
                row = self._complete(change.table, row, change.old[self._key], rows)
                rows[change.old[self._key]] = None
            rows[key] = self._complete(change.table, row, key, rows)
        for table, rows in changed.items():
            self._store(table, rows, new.get(table, set()))

    def _complete(self, table: str, row: Row, key: Any, rows: dict[Any, Row | None]) -> Row:
        """Take what the stream did not send (unchanged TOAST) from the row that is there."""
        missing = [name for name, value in row.items() if value is UNSET]
        if not missing:
            return row
        before = rows[key] if key in rows else self._stored(table, key, missing)
        return row if before is None else {**row, **{name: before.get(name, UNSET) for name in missing}}

    def _stored(self, table: str, key: Any, names: list[str]) -> Row | None:
        selected = ", ".join(map(_quote, names))
        statement = f"SELECT {selected} FROM {_quote(table)} WHERE {_quote(self._key)} = ?"  # noqa: S608 (quoted names)
        found = self._database.execute(statement, [key]).fetchone()
        return None if found is None else dict(zip(names, found, strict=True))

    def _store(self, table: str, rows: dict[Any, Row | None], new: set[Any]) -> None:
        columns = self._columns[table]
        # What is inserted cannot be there: the position, which is of the same transaction, says that it is not.
        if there := [key for key in rows if key not in new]:
            keys = f"SELECT unnest($1::{columns[self._key]}[])"
            statement = f"DELETE FROM {_quote(table)} WHERE {_quote(self._key)} IN ({keys})"  # noqa: S608 (quoted names)
            self._database.execute(statement, [there])
        kept = [row for row in rows.values() if row is not None]
        if kept:
            # One list for each column: DuckDB takes 50 times as many rows a second that way as one row at a time.
            values = ", ".join(f"unnest(${number}::{kind}[])" for number, kind in enumerate(columns.values(), 1))
            names = ", ".join(map(_quote, columns))
            self._database.execute(
                f"INSERT INTO {_quote(table)} ({names}) SELECT {values}",
                [[row.get(name) for row in kept] for name in columns],
            )

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _type_of(column: Column) -> str:
    if column.type_oid == _NUMERIC and column.type_modifier >= 4:
        # Source: server function `numeric_typmod_precision` and its neighbours.
        return f"DECIMAL({(column.type_modifier - 4) >> 16 & 0xFFFF},{(column.type_modifier - 4) & 0x7FF})"
    return _TYPES.get(column.type_oid, "VARCHAR")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
