"""Tables of a projection: what handlers say of rows, put together and written with few statements.

Nothing is written when a handler says it. What is said of one row in a batch becomes one row of one INSERT … ON
CONFLICT (or of an UPDATE and an INSERT, where that would refuse what is right), so that a thousand events cost a
handful of statements, and all of it is one transaction with the position.

Over 400 lines because what handlers say, what it means in memory and what it becomes in SQL are one contract.
"""
# ruff: noqa: S608  (what is put in are names that were looked at, and types as the server prints them)

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import dict_row, tuple_row

from pgcdc.errors import ConfigError, EventStoreError

__all__ = ["BoundTable", "MemoryTable", "Table"]

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
Key = tuple[Any, ...]


class Table:
    """A table of a read model, as an attribute of a projection's class.

    In a handler `self.NAME` has the methods of `BoundTable`: `add`, `put`, `delete`, `get`.

    Args:
        columns: What stands between the brackets of CREATE TABLE: columns, and constraints of their values.
        key: The columns of the primary key.
        name: The table's name; that of the attribute without it.
        indexes: Further indexes: what stands behind the table's name in CREATE INDEX, as in `"(total DESC)"`.

    Raises:
        ConfigError: When a name is none that needs no quotes, or there is no key.

    Example:
        ::

            class DailyRevenue:
                revenue = Table("day date, category text, total numeric NOT NULL DEFAULT 0", key=["day", "category"])
    """

    def __init__(
        self, columns: str, *, key: Sequence[str], name: str | None = None, indexes: Sequence[str] = ()
    ) -> None:
        if isinstance(key, str) or not key:
            raise ConfigError("key= names the columns of a table's primary key", hint='key=["day", "category"]')
        self.columns = columns
        self.key = tuple(key)
        self.name = name or ""
        self.indexes = tuple(indexes)
        for said in (*self.key, *([name] if name else ())):
            _check(said)

    def __set_name__(self, owner: type, name: str) -> None:
        if not self.name:
            _check(name)
            self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        """The declaration, of the class; of an instance that is at work, what handlers use."""
        return self if instance is None else instance.__dict__[f"table {self.name}"]

    def bind(self, instance: object, bound: BoundTable | MemoryTable) -> None:
        """Say what `self.NAME` is for one instance of the projection's class.

        Args:
            instance: The instance.
            bound: What it is.
        """
        instance.__dict__[f"table {self.name}"] = bound

    def create(self, schema: str) -> list[str]:
        """The statements that make it.

        Args:
            schema: Where, quoted.

        Returns:
            SQL.
        """
        key = ", ".join(self.key)
        made = [f"CREATE TABLE {schema}.{self.name} ({self.columns}, PRIMARY KEY ({key}))"]
        return made + [f"CREATE INDEX ON {schema}.{self.name} {columns}" for columns in self.indexes]


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a table or column of a projection",
            hint="small letters, digits and underscores, so that it needs no quotes",
        )


class _Said:
    """What was said of one row since it was written last."""

    __slots__ = ("added", "deleted", "put", "stays")

    def __init__(self) -> None:
        self.deleted = False  # what was there before
        self.stays = True
        self.put: dict[str, Any] = {}
        self.added: dict[str, Any] = {}


class BoundTable:
    """A table while handlers run: what is said is kept, and written at the end of the batch.

    Args:
        table: The declaration.
        select: Reads a row that is written, by its key; called after what was said of the table was written.
    """

    def __init__(self, table: Table, select: Callable[[Mapping[str, Any]], dict[str, Any] | None]) -> None:
        self._table = table
        self._select = select
        self._said: dict[Key, _Said] = {}
        self._columns = itemgetter(*table.key)
        self._is_one = len(table.key) == 1

    def _of(self, values: Mapping[str, Any]) -> _Said:
        try:
            key = (self._columns(values),) if self._is_one else self._columns(values)
        except KeyError as missing:
            raise ConfigError(
                f"the column {missing.args[0]} of the key of the table {self._table.name} was not given",
                hint=f"the key is {', '.join(self._table.key)}",
            ) from None
        said = self._said.get(key)
        if said is None:
            said = self._said[key] = _Said()
        return said

    def add(self, **values: Any) -> None:
        """Add to columns of a row: one that does not exist has nothing in them.

        It is right here, where an event is applied once.

        Args:
            values: The key's columns, and what is added to others: anything that PostgreSQL adds with `+`.
        """
        said = self._of(values)
        said.stays = True
        key, put, added = self._table.key, said.put, said.added
        for column, value in values.items():
            if column in added:
                added[column] += value
            elif column in key:
                continue
            elif column in put:
                before = put[column]
                put[column] = value if before is None else before + value
            else:
                added[column] = value

    def put(self, **values: Any) -> None:
        """Set columns of a row; one that does not exist is made.

        Args:
            values: The key's columns, and what others are. Those that are not named stay as they are, in a new row as
                the table's defaults say.
        """
        said = self._of(values)
        said.stays = True
        for column, value in values.items():
            if column not in self._table.key:
                said.put[column] = value
                said.added.pop(column, None)

    def delete(self, **key: Any) -> None:
        """Remove a row, if it is there.

        Args:
            key: The key's columns.
        """
        said = self._of(key)
        said.deleted = True
        said.stays = False
        said.put = {}
        said.added = {}

    def get(self, **key: Any) -> dict[str, Any] | None:
        """Read a row as it is after what was said so far. That is a round trip, unless an event says it all itself.

        Args:
            key: The key's columns.

        Returns:
            Its columns, None when there is no such row.
        """
        return self._select(key)

    def forget(self) -> None:
        """Take back what was said and not written."""
        self._said.clear()

    def take(self) -> tuple[list[Key], dict[tuple[tuple[str, ...], tuple[str, ...]], list[dict[str, Any]]]]:
        """Take what was said, to write it.

        Returns:
            The keys of rows that are deleted first; and by the columns that are set and those that are added to, rows.
        """
        gone: list[Key] = []
        rows: dict[tuple[tuple[str, ...], tuple[str, ...]], list[dict[str, Any]]] = {}
        for key, said in self._said.items():
            if said.deleted:
                gone.append(key)
            if not said.stays:
                continue
            shape = tuple(said.put), tuple(said.added)
            row = dict(zip(self._table.key, key, strict=True))
            row.update(said.put)
            row.update(said.added)
            rows.setdefault(shape, []).append(row)
        self._said.clear()
        return gone, rows


class MemoryTable(BoundTable):
    """A table in memory, for tests.

    Args:
        table: The declaration.

    Attributes:
        rows: Its rows, by key.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table, self._row)
        self.rows: dict[Key, dict[str, Any]] = {}

    def write(self) -> None:
        """Do what was said."""
        gone, rows = self.take()
        for key in gone:
            self.rows.pop(key, None)
        for (put, added), several in rows.items():
            for values in several:
                key = tuple([values[column] for column in self._table.key])
                row = self.rows.setdefault(key, dict(zip(self._table.key, key, strict=True)))
                row.update({column: values[column] for column in put})
                for column in added:
                    before = row.get(column)
                    row[column] = values[column] if before is None else before + values[column]

    def _row(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        self.write()
        row = self.rows.get(tuple([key[column] for column in self._table.key]))
        return None if row is None else dict(row)


class Writer:
    """Writes to the tables of one projection, in one schema, in the transaction of one connection.

    Args:
        connection: The connection.
        schema: The schema, as it is named.
        tables: The declarations.
    """

    def __init__(self, connection: psycopg.Connection[Any], schema: str, tables: Sequence[Table]) -> None:
        self._connection = connection
        self._quoted = f'"{schema}"'
        self._tables = {table.name: table for table in tables}
        self._types: dict[str, dict[str, str]] = {}
        self._needed: dict[str, frozenset[str]] = {}
        self._checked: dict[str, bool] = {}
        self._statements: dict[tuple[str, object], str] = {}
        self.bound = {table.name: BoundTable(table, self._selecting(table)) for table in tables}

    def bind(self, instance: object) -> None:
        """Let the handlers of an instance write to these tables.

        Args:
            instance: Of the projection's class.
        """
        for table in self._tables.values():
            table.bind(instance, self.bound[table.name])

    def forget(self) -> None:
        """Take back what was said and not written."""
        for bound in self.bound.values():
            bound.forget()

    def write(self) -> None:
        """Write all that was said.

        Raises:
            psycopg.Error: When the server refuses it.
            ConfigError: When a table lacks a column.
        """
        for name, bound in self.bound.items():
            self._write(self._tables[name], bound)

    def _write(self, table: Table, bound: BoundTable) -> None:
        gone, rows = bound.take()
        if gone:
            keys = [dict(zip(table.key, key, strict=True)) for key in gone]
            self._run(table, (), (), self._deleting, keys)
        for (put, added), several in rows.items():
            if self._is_refused_before(table, put, added):
                self._update_or_insert(table, put, added, several)
            else:
                self._run(table, put, added, self._upserting, several)

    def _is_refused_before(self, table: Table, put: tuple[str, ...], added: tuple[str, ...]) -> bool:
        """Whether INSERT … ON CONFLICT may refuse what an UPDATE of a row that is there would not.

        It looks at NOT NULL and CHECK of the row that is proposed, before it sees that there is one: at columns that
        were not named, and at what is added instead of the sum.

        Source: PostgreSQL manual, "INSERT" (ON CONFLICT Clause); ExecInsert calls ExecConstraints before the arbiters.
        """
        self._typed(table, ())
        return self._checked[table.name] or bool(self._needed[table.name].difference(put, added))

    def _update_or_insert(
        self, table: Table, put: tuple[str, ...], added: tuple[str, ...], rows: list[dict[str, Any]]
    ) -> None:
        known = table.name, ("_updating", put, added)
        statement = self._statements.get(known)
        if statement is None:
            statement = self._statements[known] = self._updating(table, put, added)
        # Not prepared: a plan that was made when the table was empty would read all of it, when it has grown.
        cursor = self._connection.cursor(row_factory=tuple_row).execute(statement, (_json(rows),), prepare=False)
        if cursor.fetchone() != (len(rows),):
            raise EventStoreError(
                f"not each row of the table {table.name} could be written",
                hint="two keys that Python tells apart are the same to the server, or a trigger of the table has"
                " refused one without a word",
            )

    def _run(
        self,
        table: Table,
        put: tuple[str, ...],
        added: tuple[str, ...],
        make: Callable[[Table, tuple[str, ...], tuple[str, ...]], str],
        rows: list[dict[str, Any]],
    ) -> None:
        known = table.name, (make.__name__, put, added)
        statement = self._statements.get(known)
        if statement is None:
            statement = self._statements[known] = make(table, put, added)
        self._connection.execute(statement, (_json(rows),), prepare=True)

    def _upserting(self, table: Table, put: tuple[str, ...], added: tuple[str, ...]) -> str:
        columns = (*table.key, *put, *added)
        names = ", ".join(columns)
        key = ", ".join(table.key)
        changes = [f"{column} = EXCLUDED.{column}" for column in put]
        # What nothing was in becomes what is added: numbers, intervals and texts have no nought in common.
        changes += [f"{column} = coalesce(t.{column} + EXCLUDED.{column}, EXCLUDED.{column})" for column in added]
        then = f"DO UPDATE SET {', '.join(changes)}" if changes else "DO NOTHING"
        return (
            f"INSERT INTO {self._quoted}.{table.name} AS t ({names}) SELECT {names}"
            f" FROM json_to_recordset(%s::json) AS x ({self._typed(table, columns)}) ON CONFLICT ({key}) {then}"
        )

    def _updating(self, table: Table, put: tuple[str, ...], added: tuple[str, ...]) -> str:
        columns = (*table.key, *put, *added)
        names = ", ".join(columns)
        keys = ", ".join(f"t.{column}" for column in table.key)
        there = " AND ".join(f"t.{column} = x.{column}" for column in table.key)
        changes = [f"{column} = x.{column}" for column in put]
        changes += [f"{column} = coalesce(t.{column} + x.{column}, x.{column})" for column in added]
        target = f"{self._quoted}.{table.name}"
        updated = (
            f"UPDATE {target} AS t SET {', '.join(changes)} FROM x WHERE {there} RETURNING {keys}"
            if changes
            else f"SELECT {keys} FROM {target} AS t JOIN x ON {there}"
        )
        return (
            f"WITH x AS MATERIALIZED (SELECT * FROM json_to_recordset(%s::json) AS x ({self._typed(table, columns)})),"
            f" t AS ({updated}), i AS (INSERT INTO {target} ({names}) SELECT {names} FROM x"
            f" WHERE NOT EXISTS (SELECT FROM t WHERE {there}) RETURNING 1)"
            " SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM i)"
        )

    def _deleting(self, table: Table, _put: tuple[str, ...], _added: tuple[str, ...]) -> str:
        same = " AND ".join(f"t.{column} = x.{column}" for column in table.key)
        return (
            f"DELETE FROM {self._quoted}.{table.name} AS t USING json_to_recordset(%s::json)"
            f" AS x ({self._typed(table, table.key)}) WHERE {same}"
        )

    def _selecting(self, table: Table) -> Callable[[Mapping[str, Any]], dict[str, Any] | None]:
        def select(key: Mapping[str, Any]) -> dict[str, Any] | None:
            self._write(table, self.bound[table.name])
            same = " AND ".join(f"{column} = %({column})s" for column in table.key)
            statement = f"SELECT * FROM {self._quoted}.{table.name} WHERE {same}"
            cursor = self._connection.cursor(row_factory=dict_row)
            return cursor.execute(statement, key, prepare=True).fetchone()

        return select

    def _typed(self, table: Table, columns: Sequence[str]) -> str:
        if table.name not in self._types:
            cursor = self._connection.cursor(row_factory=tuple_row)
            cursor.execute(
                "SELECT attname, format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef AND attidentity = '',"
                " attgenerated <> '' OR (SELECT typtype = 'd' FROM pg_type AS t WHERE t.oid = atttypid)"
                " OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = attrelid AND contype = 'c')"
                " FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
                (f"{self._quoted}.{table.name}",),
            )
            found = cursor.fetchall()
            self._types[table.name] = {column: kind for column, kind, _, _ in found}
            self._needed[table.name] = frozenset(column for column, _, needed, _ in found if needed) - {*table.key}
            self._checked[table.name] = any(checked for *_, checked in found)
        types = self._types[table.name]
        if lost := [column for column in columns if column not in types]:
            raise ConfigError(
                f"the table {table.name} has no column {lost[0]}"
                if types
                else f"the table {self._quoted}.{table.name} is not there",
                hint="a projection whose tables have changed gets another version and is rebuilt: pgcdc events rebuild",
            )
        return ", ".join(f"{column} {types[column]}" for column in columns)


def _json(rows: list[dict[str, Any]]) -> str:
    return _encoder.encode([{column: _plain(value) for column, value in row.items()} for row in rows]).decode()


def _plain(value: Any) -> Any:
    """What JSON has no word for, as PostgreSQL reads it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    return value


_encoder: Final = msgspec.json.Encoder(decimal_format="string")
