"""Tables in a DuckDB file, their current state or a log of changes, with the position in the same transaction.

Over 400 lines, because it is one class, whose SQL and promises belong together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import duckdb

from pgcdc.errors import ConfigError, InvalidValue, SinkRejected, SinkUnavailable
from pgcdc.events import Relation, Truncate
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import ArrowTable, Batch, TypeCatalog
from pgcdc.schema import SchemaChange
from pgcdc.sinks.cases import refuse_columns, refuse_table, same
from pgcdc.sinks.dropped_tables import dropped
from pgcdc.sinks.former_shapes import refuse_former
from pgcdc.sinks.stretches import Keyed, stretches
from pgcdc.sinks.table_file import Kept, TableFile, quoted

__all__ = ["DuckDB"]

_REFUSED: Final = (
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidInputException,
)
_GONE: Final = re.compile(r"^Catalog Error: Table with name (.+) does not exist!", re.MULTILINE)
_AWAY: Final = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)


class DuckDB(TableFile):
    """Keeps tables in a DuckDB file: exactly once.

    The rows of a batch and the position become visible in one transaction, which is durable when `write` returns. Rows
    go from the wire to DuckDB as Arrow, with no Python object for a value. One process can have the file open at a
    time, as DuckDB has it; another one that opens it afterwards takes it over. On Kafka each partition has a position
    of its own, and one process has all of them: a second one is refused.

    With `mode="state"` each table is as at the source:

    - Tables are made where they are missing, with the types that `Batch.to_arrow` has (a table of them is in the
      documentation, "DuckDB"), without a primary key: DuckDB finds rows faster by a scan than it keeps an index, and
      the sink keeps keys unique. The schema public is `main`, others are made under their names.
    - Inserts and updates write the row, deletes remove it, a change of key moves it. A value that was not sent
      (unchanged TOAST) stays as it is here, also where the key was changed; where there is no row, it is NULL.
    - Tables without a key get what is inserted appended, and lose one equal row for each that was updated or deleted.
    - TRUNCATE empties the table.

    With `mode="log"` each change is a row, with the columns that `Batch.to_arrow` has: `_action`, `_position`,
    `_commit_lsn`, `_commit_time`, `_unset`, `_old`, and those of the table.

    In both, a column that was added is added here, a renamed one is renamed, a dropped one stays, NULL in new rows.
    Another type is followed where the column still had the former one, and its values go into it.

    A value that DuckDB's type cannot hold (NaN in a numeric with a precision, an infinite date, an array of arrays) is
    refused with its position; name such a column in `text`, and all of it is VARCHAR.

    Each transaction costs DuckDB some milliseconds and a scan of the key's column, so by default a pipeline gathers
    changes for a second.

    Args:
        path: The file; made when it does not exist.
        name: What the position is stored under; one for each pipeline that writes to this file.
        mode: `"state"` or `"log"`.
        text: Columns (`"schema.table.column"`) that are kept as text, whatever their type is.

    Raises:
        ConfigError: When the mode is neither; from `write`, when a table lacks what it needs, or two tables or columns
            have one name but for its case, which makes no difference here.
    """

    refusals: ClassVar = _REFUSED
    defaults: ClassVar[Mapping[str, Any]] = {"max_rows": 100_000, "max_wait": 1.0}

    def __init__(
        self,
        path: str | Path,
        *,
        name: str = "pgcdc",
        mode: Literal["state", "log"] = "state",
        text: Collection[str] = (),
    ) -> None:
        super().__init__(path, name, mode)
        if isinstance(text, str):
            raise ConfigError("text= takes a list of columns", hint=f"write text=[{text!r}]")
        self._text = tuple(text)
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._catalog: TypeCatalog | None = None
        self._followed: dict[int, Keyed] = {}
        # Tables that had no row when an initial copy of them began: none of its rows can be there.
        self._empty: dict[int, bool] = {}

    # The file, and the position.

    def open(self) -> None:
        """Open or make the file, and take it over.

        Raises:
            SinkUnavailable: When it cannot be opened, because another process has it, for example.
        """
        self.close()
        with self._told():
            try:
                file = duckdb.connect(str(self.path))
            except duckdb.IOException as error:
                if self._has_parts and "lock" in str(error):
                    raise ConfigError(
                        f"another process has the file {self.path} open, and DuckDB lets only one have it",
                        hint="run one process of a pipeline that writes to DuckDB: it gets all partitions",
                    ) from error
                raise
            try:
                _run(
                    file,
                    "CREATE TABLE IF NOT EXISTS pgcdc_positions"
                    " (name VARCHAR, epoch BIGINT, position VARCHAR, note VARCHAR)",
                )
                _run(file, "ALTER TABLE pgcdc_positions ADD COLUMN IF NOT EXISTS note VARCHAR")
                self._opened = file
                self._kept = self._take_over(self._name)
            except BaseException:
                self._opened = None
                file.close()
                raise

    @property
    def _file(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None:
            raise ConfigError("the sink is not open", hint="call open() first; a pipeline does")
        return self._opened

    def _run(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return _run(self._file, statement, parameters)

    def close(self) -> None:
        """Close the file."""
        file, self._opened = self._opened, None
        self._followed.clear()
        self._empty.clear()
        if file is not None:
            file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except _REFUSED:
            raise
        except _AWAY as error:
            raise SinkUnavailable(f"the file cannot be used now ({type(error).__name__})") from error
        except duckdb.Error as error:
            if gone := _GONE.search(str(error)):
                raise dropped(gone[1], "the file") from error
            raise ConfigError(f"the file cannot be used ({type(error).__name__})") from error

    @contextmanager
    def _transaction(self, kept: Kept) -> Iterator[None]:
        """One that only the owner can make."""
        file = self._file
        with self._told():
            file.begin()
            try:
                self._check(kept)
                yield
                file.commit()
            except BaseException:
                self._followed.clear()
                self._empty.clear()
                file.rollback()
                raise

    # Batches.

    def _take_over(self, name: str) -> Kept:
        self._file.begin()
        try:
            found = self._run("SELECT epoch, position, note FROM pgcdc_positions WHERE name = ?", [name])
            if not found:
                self._run("INSERT INTO pgcdc_positions (name, epoch) VALUES (?, 1)", [name])
            epoch, position, note = found[0] if found else (0, None, None)
            self._run("UPDATE pgcdc_positions SET epoch = ? WHERE name = ?", [epoch + 1, name])
            self._file.commit()
        except BaseException:
            self._file.rollback()
            raise
        return Kept(name, epoch + 1, None if position is None else Position.parse(position), note)

    def _write(self, batch: Batch, kept: Kept, position: Position | None, note: str | None = None) -> None:
        self._catalog = batch.catalog
        try:
            super()._write(batch, kept, position, note)
        except InvalidValue as error:
            raise _unheld(error) from error

    def _why(self, error: Exception) -> str:
        return f" ({type(error).__name__})"

    def _apply(self, batch: Batch) -> None:
        if self._mode == "log":
            # A table is there several times when batches that were kept apart are one now: each says its shape anew.
            for relation in {(one.schema, one.name): one for one in batch.relations}.values():
                for part in self._arrow(batch, relation).parts:
                    with self._incoming(part):
                        self._follow(Keyed(relation, ()))
                        self._run(f"INSERT INTO {_table(relation)} BY NAME SELECT * FROM pgcdc_incoming")  # noqa: S608 (quoted names)
            return
        first = batch.first_position
        copied = first is not None and first == batch.last_position and first.index == SNAPSHOT_INDEX
        for stretch in stretches(batch):
            if isinstance(stretch, Truncate):
                for relation in stretch.relations:
                    self._empty.pop(relation.oid, None)
                    with self._incoming(self._shape(relation)):
                        # As its rows are: one that is known is not made again, where somebody has dropped it.
                        self._follow(Keyed(relation, batch.key_columns(relation)))
                    self._run(f"DELETE FROM {_table(relation)}")  # noqa: S608 (quoted names)
                continue
            for relation in stretch.relations:
                of_one = stretch.select(tables=[(relation.schema, relation.name)])
                key = stretch.key_columns(relation)
                if key and not copied:
                    of_one = of_one.folded({relation.oid: key})
                with self._incoming(self._arrow(of_one, relation)):
                    self._follow(Keyed(relation, key))
                    if not key:
                        self._append(relation)
                    elif copied and self._was_empty(relation):
                        self._insert(relation)
                    else:
                        self._upsert(relation, key)

    def _arrow(self, batch: Batch, relation: Relation) -> ArrowTable:
        [table] = batch.select(tables=[(relation.schema, relation.name)]).to_arrow(text=self._text).values()
        return table

    def _shape(self, relation: Relation) -> ArrowTable:
        """The columns of a table, with a row of nothing."""
        [table] = Batch.truncation([relation], 0).to_arrow(text=self._text, catalog=self._catalog).values()
        return table

    @contextmanager
    def _incoming(self, table: ArrowTable) -> Iterator[None]:
        self._file.register("pgcdc_incoming", table)
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # in a transaction that has failed nothing else can be done
                self._file.unregister("pgcdc_incoming")
            raise
        self._file.unregister("pgcdc_incoming")

    def _was_empty(self, relation: Relation) -> bool:
        if relation.oid not in self._empty:
            found = self._run(f"SELECT count(*) FROM (SELECT 1 FROM {_table(relation)} LIMIT 1)")  # noqa: S608 (quoted names)
            self._empty[relation.oid] = found == [(0,)]
        return self._empty[relation.oid]

    # SQL; i is what is incoming, t the table.

    def _front(self, relation: Relation) -> list[str]:
        """What the columns in front of the table's own are called: action, …, unset, old."""
        described = self._run("DESCRIBE pgcdc_incoming")
        return [name for name, *_ in described[: len(described) - len(relation.columns)]]

    def _insert(self, relation: Relation, condition: str = "") -> None:
        names = _names(relation)
        self._run(f"INSERT INTO {_table(relation)} ({names}) SELECT {names} FROM pgcdc_incoming i {condition}")  # noqa: S608 (quoted names)

    def _upsert(self, relation: Relation, key: Sequence[str]) -> None:
        front, table = self._front(relation), _table(relation)
        action, unset = quoted(front[0]), quoted(front[4])
        rows = f"WHERE i.{action} <> 'delete'"
        found = self._run(
            f"SELECT count(*) FROM pgcdc_incoming i {rows} AND len(i.{unset}) > 0"  # noqa: S608 (quoted names)
        )
        if found != [(0,)]:
            self._complete(relation, key, front, rows)
        on_key = " AND ".join(f"t.{quoted(name)} = i.{quoted(name)}" for name in key)
        self._run(f"DELETE FROM {table} t USING pgcdc_incoming i WHERE {on_key}")  # noqa: S608 (quoted names)
        if found == [(0,)]:
            self._insert(relation, rows)
            return
        names = _names(relation)
        self._run(f"INSERT INTO {table} ({names}) SELECT {names} FROM pgcdc_rows")  # noqa: S608 (quoted names)
        self._run("DROP TABLE pgcdc_rows")

    def _complete(self, relation: Relation, key: Sequence[str], front: Sequence[str], rows: str) -> None:
        """The rows, with what was not sent as it is in the table: in the row of the former key where there is one."""
        unset, old = (f"i.{quoted(name)}" for name in front[4:6])
        columns = ", ".join(
            f"CASE WHEN list_contains({unset}, {_literal(column.name)}) THEN t.{name} ELSE i.{name} END AS {name}"
            for column in relation.columns
            for name in (quoted(column.name),)
        )
        on_key = " AND ".join(f"t.{name} = coalesce({old}.{name}, i.{name})" for name in map(quoted, key))
        self._run(
            f"CREATE OR REPLACE TEMP TABLE pgcdc_rows AS SELECT {columns} FROM pgcdc_incoming i"  # noqa: S608 (quoted names)
            f" LEFT JOIN {_table(relation)} t ON {on_key} {rows}"
        )

    def _append(self, relation: Relation) -> None:
        """Rows without a key: as many of equal ones go as are to be gone."""
        front, table = self._front(relation), _table(relation)
        action = f"i.{quoted(front[0])}"
        self._insert(relation, f"WHERE {action} <> 'delete'")
        if len(front) < 6:  # without a replica identity there are inserts only
            return
        names = [quoted(column.name) for column in relation.columns]
        old = ", ".join(f"i.{quoted(front[5])}.{name} AS {name}" for name in names)
        same = " AND ".join(f"t.{name} IS NOT DISTINCT FROM g.{name}" for name in names)
        listed = ", ".join(names)
        self._run(
            f"""
            DELETE FROM {table} WHERE rowid IN (
                SELECT t.id_of_row
                FROM (SELECT {listed}, rowid AS id_of_row, row_number() OVER (PARTITION BY {listed}) AS number_of_row
                    FROM {table}) t
                JOIN (SELECT {listed}, count(*) AS gone_of_rows FROM (
                        SELECT {listed} FROM pgcdc_incoming i WHERE {action} = 'delete'
                        UNION ALL SELECT {old} FROM pgcdc_incoming i WHERE {action} = 'update'
                    ) GROUP BY ALL) g ON {same}
                WHERE t.number_of_row <= g.gone_of_rows)
            """  # noqa: S608 (quoted names)
        )

    # Tables.

    def schema_changed(self, change: SchemaChange) -> None:
        """Alter a table as it was altered at the source; new columns come with their first rows.

        Raises:
            SinkUnavailable: When the file cannot be written to now.
        """
        with self._transaction(self._kept):
            old, new = change.old, change.new
            if change.table_renamed and self._columns(old) and not self._columns(new):
                if _schema(old) == _schema(new):
                    self._run(f"ALTER TABLE {_table(old)} RENAME TO {quoted(new.name)}")
                else:  # DuckDB moves no table into another schema
                    self._run(f"CREATE SCHEMA IF NOT EXISTS {quoted(_schema(new))}")
                    self._run(f"CREATE TABLE {_table(new)} AS FROM {_table(old)}")
                    self._run(f"DROP TABLE {_table(old)}")
            columns = self._columns(new)
            for former, now in change.renamed:
                if former in columns and now not in columns:
                    alter = f"ALTER TABLE {_table(new)} RENAME COLUMN {quoted(former)} TO {quoted(now)}"
                    self._run(alter)
                    columns[now] = columns.pop(former)
            if change.retyped:
                self._retype(change, columns)
        self._followed.clear()

    def _retype(self, change: SchemaChange, columns: Mapping[str, str]) -> None:
        with self._incoming(self._shape(change.old)):
            before = self._described()
        with self._incoming(self._shape(change.new)):
            after = self._described()
        names = {now: former for former, now in change.renamed}
        for name in change.retyped:
            # One that somebody has made otherwise stays so.
            if name in columns and columns[name] == before.get(names.get(name, name)) != after[name]:
                self._run(f"ALTER TABLE {_table(change.new)} ALTER COLUMN {quoted(name)} SET DATA TYPE {after[name]}")

    def _columns(self, relation: Relation) -> dict[str, str]:
        """The columns of a table and their types; none when it does not exist."""
        rows = self._run(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database()"
            " AND schema_name = ? AND table_name = ? ORDER BY column_index",
            [_schema(relation), relation.name],
        )
        return dict(rows)

    def _described(self) -> dict[str, str]:
        return {name: kind for name, kind, *_ in self._run("DESCRIBE pgcdc_incoming")}

    def _refuse_other_cases(self, relation: Relation) -> None:
        """See that no schema or table is there whose name differs in case only."""
        schema, table = _schema(relation), relation.name
        for (there,) in self._run(
            "SELECT schema_name FROM duckdb_schemas() WHERE database_name = current_database()"
            " AND lower(schema_name) = lower(?)",
            [schema],
        ):
            if same(schema, there):
                refuse_table(relation, f"{schema}.{table}", f"{there}.{table}")
        for (there,) in self._run(
            "SELECT DISTINCT table_name FROM duckdb_columns() WHERE database_name = current_database()"
            " AND schema_name = ? AND lower(table_name) = lower(?)",
            [schema, table],
        ):
            if same(table, there):
                refuse_table(relation, f"{schema}.{table}", f"{schema}.{there}")

    def _follow(self, keyed: Keyed) -> None:
        """Make the table, or add the columns that it lacks."""
        relation, _ = keyed
        if self._followed.get(relation.oid) == keyed:
            return
        for column in relation.columns:
            column.name.encode()  # Arrow and DuckDB have UTF-8 only; UnicodeEncodeError is a refusal
        self._refuse_other_cases(relation)
        columns, described = self._columns(relation), self._described()
        front = list(described)[: len(described) - len(relation.columns)]
        refuse_columns(relation, [*front, *(column.name for column in relation.columns)], ())
        wanted = described
        if self._mode == "state":
            wanted = {column.name: described[column.name] for column in relation.columns}
        refuse_columns(relation, wanted, columns)
        missing = [name for name in wanted if name not in columns]
        if columns:
            refuse_former(self._letter, relation, set(missing) - set(front))
        else:
            if _schema(relation) != "main":
                self._run(f"CREATE SCHEMA IF NOT EXISTS {quoted(_schema(relation))}")
            definitions = ", ".join(f"{quoted(name)} {kind}" for name, kind in wanted.items())
            self._run(f"CREATE TABLE {_table(relation)} ({definitions})")
        for name in missing if columns else ():
            self._run(f"ALTER TABLE {_table(relation)} ADD COLUMN {quoted(name)} {wanted[name]}")
        self._followed[relation.oid] = keyed


def _run(file: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """Run a statement, and take all that it gives: a result that is not finished stands in the way of the next."""
    return list(file.execute(statement, list(parameters)).fetchall())


def _schema(relation: Relation) -> str:
    if relation.schema == "public":
        return "main"
    # A schema that is called main is another one, and quoted as in SQL.
    return quoted(relation.schema) if relation.schema == "main" or '"' in relation.schema else relation.schema


def _table(relation: Relation) -> str:
    return f"{quoted(_schema(relation))}.{quoted(relation.name)}"


def _names(relation: Relation) -> str:
    return ", ".join(quoted(column.name) for column in relation.columns)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _unheld(error: InvalidValue) -> SinkRejected:
    return SinkRejected(
        f"DuckDB has no such value: {error}",
        positions=() if error.position is None else [error.position],
        table=error.table,
        hint='name the column in DuckDB(…, text=["schema.table.column"]), and all of it is text',
    )
