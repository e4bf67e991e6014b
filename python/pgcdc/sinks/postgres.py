"""The current state of tables in another PostgreSQL: COPY and MERGE, with the position in the same transaction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from pgcdc.errors import ConfigError, PositionError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation, Truncate
from pgcdc.lsn import SNAPSHOT_INDEX, Position, format_lsn, parse_lsn
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange
from pgcdc.sinks.postgres_rows import SESSION, RowTable, What
from pgcdc.sinks.postgres_tables import Connection, Target, add_missing, alter, create, load
from pgcdc.sinks.postgres_wire import Refusal, Step, run
from pgcdc.sinks.stretches import key_of, stretches

__all__ = ["Postgres"]

_PATIENCE: Final[dict[str, Any]] = {
    "connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", "10"),
    "keepalives_idle": 10,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 40_000,
}
"""So that a dead network is noticed within a minute; what the DSN says comes first."""

_PINNED: Final = (
    "SET client_encoding = 'UTF8'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';"
    " SET standard_conforming_strings = on; SET search_path = ''; SET row_security = off; SET statement_timeout = 0;"
    " SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; SET synchronous_commit = on;"
    " SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'; " + SESSION
)
"""What text means, and that what is committed survives a crash, whatever the role or the database has set."""

_LOCK: Final = 0x7067636463000002
"""Held while tables are made: two CREATE … IF NOT EXISTS at once can collide in the catalog."""
_AWAY: Final = frozenset({"08", "53", "55", "57", "58", "40", "25"})
"""Classes of SQLSTATE that mean "not now": connections, resources, locks, an operator, I/O, conflicts, a standby."""
_ORDER: Final = frozenset({"23505", "23503", "21000", "23P01"})
"""Unique and exclusion constraints, foreign keys: what is right change by change can be wrong in another order."""
_OTHERS: Final = "22012"
"""Division by zero: what moving the position raises when it is not where this sink left it."""


class Postgres:
    """Keeps copies of tables in another PostgreSQL, 14 or later, of any version beside the source's: exactly once.

    The rows of a batch, folded to the last state of each, and the position become visible in one transaction, which is
    durable when `write` returns (`synchronous_commit = on`). Whatever comes again is recognised by the position, also
    when it is not known whether a commit took effect. Another process that opens the target under the same `name`
    takes it over: the former one can write nothing any more, and stops with PositionError.

    - Tables are made where they are missing, with the columns and types of the source and the primary key as the
      pipeline knows it; nothing else of it (defaults, other constraints, indexes) is made. A table that is there is
      taken as it is; it needs a unique index on the key, and may have other types and more columns.
    - Types of PostgreSQL's own are the same here. Those of the source's own (enums, domains, composites, types of
      extensions, arrays of them) and the names of its objects (regclass and the like) are text; a column that
      somebody has made with another type gets what the text is for that type.
    - Inserts and updates write the row, deletes remove it. A change of key moves it. A value that was not sent
      (unchanged TOAST) stays as it is here, also where the key was changed; where there is no row, it is NULL.
    - Tables without a key get what is inserted appended, and under REPLICA IDENTITY FULL lose one equal row for each
      that was updated or deleted, which reads the whole table for each batch that has such a change.
    - TRUNCATE empties the table, in order, with CASCADE and RESTART IDENTITY where the source had it so.
    - Columns that the target generates are left to it.
    - A column that was added is added here, renamed ones are renamed, another type is followed where the column still
      had the former one; likewise the table's name. A dropped column stays, with NULL in new rows, unless
      `drop_columns`.
    - Triggers and foreign keys of the target do not run (`session_replication_role = replica`) where the role may set
      that: superusers, and from PostgreSQL 15 on whom it was granted. Where it may not, they do, deferrable ones at the
      end of the transaction; a batch that they refuse as a whole is applied change by change.
    - Rows of the initial copy are copied straight into the table, where it has the same types.

    Args:
        dsn: The target, as libpq understands it; also PG* variables and service files.
        name: What the position is stored under; one for each pipeline that writes to this database.
        schema: The schema of all tables here; None: the same as at the source.
        position_schema: The schema of the table `sink_positions`.
        create: Whether missing tables are made.
        drop_columns: Whether a column that the source has dropped is dropped here.

    Raises:
        ConfigError: When a table cannot be made or written to, from `open` and `write`.
        PositionError: When somebody else writes under this name, from `write`.
    """

    def __init__(
        self,
        dsn: str = "",
        *,
        name: str = "pgcdc",
        schema: str | None = None,
        position_schema: str = "pgcdc",
        create: bool = True,
        drop_columns: bool = False,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._schema = schema
        self._table = sql.Identifier(position_schema, "sink_positions")
        self._position_schema = position_schema
        self._create = create
        self._drop_columns = drop_columns
        self._keys: Mapping[int, Sequence[str]] = {}
        self._opened: Connection | None = None
        self._position: Position | None = None
        self._epoch: int | None = None
        # How many batches were applied under this name; and the one of which it is not known whether it was.
        self._written = 0
        self._given: Batch | None = None
        self._unsure: Batch | None = None
        self._replica = False
        self._targets: dict[tuple[str, str], Target] = {}
        self._followed: dict[int, Relation] = {}
        self._rows: dict[tuple[int, tuple[bool, ...]], tuple[Relation, RowTable]] = {}
        self._unused: list[RowTable] = []
        self._made = 0

    def __repr__(self) -> str:
        return f"<Postgres {self._name!r}>"

    def use_keys(self, keys: Mapping[int, Sequence[str]]) -> None:
        """Take note of the primary keys.

        Args:
            keys: The columns by the table's OID.
        """
        self._keys = dict(keys)
        self._forget()

    # The connection, and the position.

    def open(self) -> None:
        """Connect, and take the target over.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            ConfigError: When the table of positions cannot be made.
        """
        self.close()
        self._epoch = None
        self._reconnect()

    def position(self) -> Position | None:
        """The last position applied."""
        return self._position

    def close(self) -> None:
        """Close the connection."""
        connection, self._opened = self._opened, None
        if connection is not None:
            connection.close()
        self._forget()

    def _forget(self) -> None:
        """What is known of tables is to be looked up again."""
        self._targets.clear()
        self._followed.clear()
        self._unused += [table for _, table in self._rows.values()]
        self._rows.clear()
        if self._opened is None:
            self._unused.clear()

    def _reconnect(self) -> Connection:
        if self._opened is not None:
            return self._opened
        with self._told("it cannot be used"):
            connection = psycopg.connect(
                autocommit=True,
                fallback_application_name="pgcdc sink",
                **{**_PATIENCE, **psycopg.conninfo.conninfo_to_dict(self._dsn)},
            )
            try:
                connection.execute(_PINNED)
                try:
                    connection.execute("SET session_replication_role = replica")
                    self._replica = True
                except psycopg.errors.InsufficientPrivilege:
                    self._replica = False
                self._take_over(connection)
            except BaseException:
                connection.close()
                raise
        self._opened = connection
        return connection

    def _take_over(self, connection: Connection) -> None:
        found = connection.execute("SELECT to_regclass(%s)", (self._table.as_string(connection),)).fetchone()
        if found is None or found[0] is None:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                connection.execute(
                    sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._position_schema))
                )
                # Half-empty pages: the row is updated with each batch, and stays on its page.
                connection.execute(
                    sql.SQL("""
                    CREATE TABLE IF NOT EXISTS {} (
                        name text PRIMARY KEY,
                        epoch bigint NOT NULL,
                        written bigint NOT NULL,
                        commit_lsn pg_lsn,
                        change_index bigint,
                        updated_at timestamptz NOT NULL DEFAULT now()
                    ) WITH (fillfactor = 50)
                    """).format(self._table)
                )
        if self._epoch is None:
            statement = sql.SQL(
                "INSERT INTO {0} AS p (name, epoch, written) VALUES (%s, 1, 0) ON CONFLICT (name)"
                " DO UPDATE SET epoch = p.epoch + 1 RETURNING epoch, written, commit_lsn::text, change_index"
            )
        else:
            statement = sql.SQL("SELECT epoch, written, commit_lsn::text, change_index FROM {0} WHERE name = %s")
        row = connection.execute(statement.format(self._table), (self._name,)).fetchone()
        if row is None or (self._epoch is not None and row[0] != self._epoch):
            raise PositionError(
                f"the target is written to by somebody else under the name {self._name!r}",
                hint="stop the other pipeline, or give each a name of its own: Postgres(…, name=…)",
            )
        epoch, written, lsn, index = row
        if self._unsure is not None and written == self._written:
            self._unsure = None  # it was not applied
        self._epoch, self._written = epoch, written
        self._position = None if lsn is None else Position(parse_lsn(lsn), index)
        connection.execute(
            sql.SQL(
                "PREPARE pgcdc_position (bigint, bigint, pg_lsn, bigint) AS WITH moved AS (UPDATE {} SET"
                " written = written + 1, commit_lsn = $3, change_index = $4, updated_at = now()"
                " WHERE name = {} AND epoch = $1 AND written = $2 RETURNING 1) SELECT 1 / count(*) FROM moved"
            ).format(self._table, sql.Literal(self._name)),
            prepare=False,
        )

    def _move(self, position: Position | None) -> Step:
        """The position, first of all: who is late waits here, and finds out."""
        at = "NULL, NULL" if position is None else f"'{format_lsn(position.commit_lsn)}', {position.index}"
        return Step(f"EXECUTE pgcdc_position ({self._epoch}, {self._written}, {at})".encode())

    # Batches.

    def write(self, batch: Batch) -> None:
        """Apply a batch in one transaction.

        Raises:
            SinkUnavailable: When the server cannot be reached, or not be written to now.
            SinkRejected: When it never takes a change.
            ConfigError: When a table cannot be made, or lacks what it needs.
            PositionError: When somebody else writes to the target under this name.
        """
        if self._was_applied(batch):
            return
        if self._position is not None and self._position.index != SNAPSHOT_INDEX:
            batch = batch.after(self._position)
        if batch.last_position is not None:
            self._apply(batch, batch.last_position)

    def rewrite(self, batch: Batch) -> None:
        """Apply a change that was a dead letter; the position stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
        """
        if not self._was_applied(batch):
            self._apply(batch, self._position)

    def _was_applied(self, batch: Batch) -> bool:
        """Whether it is the one whose answer was lost, and took effect: rows of a copy have no position of their own."""
        self._reconnect()
        unsure, self._unsure, self._given = self._unsure, None, batch
        return unsure is batch

    def schema_changed(self, change: SchemaChange) -> None:
        """Alter a table as it was altered at the source.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            ConfigError: When the table cannot be altered so.
        """
        connection = self._reconnect()
        schema, table = self._place(change.new)
        with self._told(f"table {schema}.{table} cannot be altered as at the source"), connection.transaction():
            former = self._place(change.old)
            target = load(connection, schema, table)
            if target is None and former != (schema, table) and load(connection, *former) is not None:
                own = sql.Identifier(*former)
                if former[0] != schema:
                    connection.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(own, sql.Identifier(schema)))
                    own = sql.Identifier(schema, former[1])
                if former[1] != table:
                    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(own, sql.Identifier(table)))
                target = load(connection, schema, table)
            if target is not None:
                alter(connection, target, change, drop=self._drop_columns)
        self._forget()

    def _place(self, relation: Relation) -> tuple[str, str]:
        return relation.schema if self._schema is None else self._schema, relation.name

    def _apply(self, batch: Batch, position: Position | None) -> None:
        first = batch.first_position
        copied = first is not None and first.index == SNAPSHOT_INDEX
        try:
            if copied:
                try:
                    self._transact(batch, position, straight=True)
                    return
                except Refusal as refusal:
                    if refusal.sqlstate not in _ORDER:
                        raise
            self._transact(batch, position)
        except Refusal as refusal:
            if copied or (batch.changes_count == 1 and refusal.sqlstate not in _ORDER):
                raise self._rejected(refusal, batch) from None
            self._one_by_one(batch, position)

    def _transact(self, batch: Batch, position: Position | None, *, straight: bool = False) -> None:
        """Apply a batch and move the position, in one transaction."""
        connection = self._reconnect()
        with self._told("it cannot be written to"):
            while self._unused:
                self._unused.pop().drop()
            steps = self._steps(batch, set(), straight=straight)
            self._unsure = self._given
            try:
                run(connection, [*self._begin(position), *steps, Step(b"COMMIT")])
            except Refusal as refusal:
                self._roll_back(connection)
                self._judge(connection, refusal)
                raise
        self._moved(position)

    def _begin(self, position: Position | None) -> list[Step]:
        deferred = [] if self._replica else [Step(b"SET CONSTRAINTS ALL DEFERRED")]
        return [Step(b"BEGIN"), self._move(position), *deferred]

    def _roll_back(self, connection: Connection) -> None:
        self._unsure = None
        connection.execute("ROLLBACK")

    def _moved(self, position: Position | None) -> None:
        self._unsure = None
        self._written += 1
        self._position = position

    def _judge(self, connection: Connection, refusal: Refusal) -> None:
        """Raise what is the matter when it is not a row."""
        if refusal.sqlstate == _OTHERS and refusal.step == 1:
            self.close()
            self._reconnect()  # PositionError, if it was somebody else
            raise SinkUnavailable("the target has moved on while its answer was lost")
        if refusal.sqlstate[:2] in _AWAY:
            raise SinkUnavailable(
                f"the target does not take anything now: {refusal.primary}", sqlstate=refusal.sqlstate
            )
        if refusal.sqlstate[:2] not in ("22", "23", "21"):
            self._forget()  # somebody may have altered a table
            raise ConfigError(f"the target refuses: {refusal.primary}", sqlstate=refusal.sqlstate)

    def _one_by_one(self, batch: Batch, position: Position | None) -> None:
        """Apply a batch change by change: what was refused may have been right in its own order."""
        connection = self._reconnect()
        with self._told("it cannot be written to"):
            suspect, used = batch, set[int]()
            try:
                run(connection, self._begin(position))
                for number in range(batch.changes_count):
                    suspect = batch.take([number])
                    if steps := self._steps(suspect, used):
                        run(connection, steps)
                self._unsure, suspect = self._given, batch  # deferred constraints say no at the end
                run(connection, [Step(b"COMMIT")])
            except Refusal as refusal:
                self._roll_back(connection)
                self._rows.clear()  # what was made in this transaction is no more
                self._judge(connection, refusal)
                raise self._rejected(refusal, suspect) from None
            except psycopg.Error:
                raise
            except BaseException:
                self._roll_back(connection)
                self._rows.clear()
                raise
        self._moved(position)

    def _rejected(self, refusal: Refusal, batch: Batch) -> SinkRejected:
        # The message of a wrong value has the value in it.
        what = refusal.primary
        if refusal.sqlstate[:2] == "22":
            what = psycopg.errors.lookup(refusal.sqlstate).__name__
        positions = [batch.first_position] if batch.changes_count == 1 and batch.first_position is not None else []
        tables = {f"{relation.schema}.{relation.name}" for relation in batch.relations}
        table = tables.pop() if len(tables) == 1 else None
        where = "a change" if table is None else f"a change of {table}"
        return SinkRejected(
            f"the target refuses {where}: {what}", positions=positions, table=table, sqlstate=refusal.sqlstate
        )

    # Steps.

    def _steps(self, batch: Batch, used: set[int], *, straight: bool = False) -> list[Step]:
        """What applies a batch; `used` are the temporary tables that have rows in this transaction."""
        steps: list[Step] = []
        for stretch in stretches(batch):
            if isinstance(stretch, Truncate):
                steps.append(self._truncate(stretch))
                continue
            keyed: list[Relation] = []
            keyless: list[Relation] = []
            for relation in stretch.relations:
                self._follow(relation)
                (keyed if key_of(relation, self._keys) else keyless).append(relation)
            if straight:
                steps += self._copied(stretch, [*keyed, *keyless], used)
                continue
            if keyless:
                steps += self._copied(_of(stretch, keyless), keyless, used)
            if keyed:
                steps += self._upserted(_of(stretch, keyed) if keyless else stretch, keyed, used)
        return steps

    def _upserted(self, batch: Batch, relations: Sequence[Relation], used: set[int]) -> Iterator[Step]:
        keys = {relation.oid: key_of(relation, self._keys) for relation in relations}
        text = {relation.oid: self._target(relation).as_text(relation) for relation in relations}
        for relation, as_text, (gone, rows, unset, moved), data in batch.folded(keys).to_copy(text=text):
            table = self._row_table(relation, as_text)
            yield from _staged(table, data, used)
            done: list[tuple[What, int]] = [("fill", moved), ("delete", gone)]
            done.append(("upsert unset" if unset else "upsert", rows))
            for what, count in done:
                if count:
                    yield Step(table.statement(what))

    def _copied(self, batch: Batch, relations: Sequence[Relation], used: set[int]) -> Iterator[Step]:
        """Append what is inserted; straight into the table where that can be."""
        for relation in relations:
            of_one = _of(batch, [relation]) if len(relations) > 1 else batch
            target = self._target(relation)
            only_inserts = not of_one.select(actions=["update", "delete"]).changes_count
            text = {relation.oid: target.as_text(relation)}
            if only_inserts:
                [(_, as_text, _, data)] = of_one.to_copy(marked=False, text=text)
                if target.takes(relation, as_text):
                    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in relation.columns)
                    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(target.identifier, names)
                    yield Step(copy.as_bytes(self._opened), data)
                    continue
            for _, as_text, (gone, rows, _, _), data in of_one.to_copy(text=text):
                table = self._row_table(relation, as_text)
                yield from _staged(table, data, used)
                # Equal rows are the same: what was removed after it was inserted is there to be removed.
                if rows:
                    yield Step(table.statement("append"))
                if gone:
                    yield Step(table.statement("remove"))

    def _truncate(self, change: Truncate) -> Step:
        for relation in change.relations:
            self._follow(relation)
        tables = sql.SQL(", ").join(self._target(relation).identifier for relation in change.relations)
        more = (" RESTART IDENTITY" if change.restart_identity else "") + (" CASCADE" if change.cascade else "")
        return Step((sql.SQL("TRUNCATE {}").format(tables) + sql.SQL(more)).as_bytes(self._opened))

    def _row_table(self, relation: Relation, text: tuple[bool, ...]) -> RowTable:
        known = self._rows.get((relation.oid, text))
        if known is not None and known[0] == relation:
            return known[1]
        connection = self._reconnect()
        self._made += 1
        table = RowTable(connection, self._made, self._target(relation), relation, text, key_of(relation, self._keys))
        self._rows[relation.oid, text] = (relation, table)
        return table

    # Tables.

    def _target(self, relation: Relation) -> Target:
        return self._targets[self._place(relation)]

    def _follow(self, relation: Relation) -> None:
        """Make sure that a table has all that its rows need."""
        if self._followed.get(relation.oid) == relation:
            return
        connection = self._reconnect()
        place, key = self._place(relation), key_of(relation, self._keys)
        name = ".".join(place)
        with self._told(f"table {name} cannot be made or altered"):
            target = load(connection, *place)
            if target is None:
                if not self._create:
                    raise ConfigError(f"the target has no table {name}", table=name, hint="make it, or create=True")
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    create(connection, place[0], relation, key)
            elif add_missing(connection, target, relation):
                target = None
            target = load(connection, *place) if target is None else target
        if target is None:
            raise ConfigError(f"the target's {name} is no table", table=name, hint="a view cannot be written to")
        if key and frozenset(key) not in target.unique:
            columns = ", ".join(f'"{column}"' for column in key)
            raise ConfigError(
                f"the target's table {name} has no unique index on its key",
                table=name,
                hint=f"ALTER TABLE {target.identifier.as_string()} ADD PRIMARY KEY ({columns})",
            )
        self._targets[place] = target
        self._followed[relation.oid] = relation

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say what an error of psycopg's means."""
        try:
            yield
        except psycopg.Error as error:
            connection, self._opened = self._opened, None
            self._forget()
            if connection is not None:
                connection.close()
            sqlstate = error.sqlstate
            if sqlstate is None or sqlstate[:2] in _AWAY:
                said = error.diag.message_primary or _first_line(error)
                raise SinkUnavailable(f"the target cannot be reached: {said}", sqlstate=sqlstate) from error
            raise ConfigError(
                f"of the target, {what}: {error.diag.message_primary}", sqlstate=sqlstate, hint=_hint(error)
            ) from error


def _of(batch: Batch, relations: Sequence[Relation]) -> Batch:
    return batch.select(tables=[(relation.schema, relation.name) for relation in relations])


def _staged(table: RowTable, data: bytes, used: set[int]) -> Iterator[Step]:
    if id(table) in used:
        yield Step(table.clear)
    used.add(id(table))
    yield Step(table.copy, data)


def _first_line(error: psycopg.Error) -> str:
    """libpq's own words; not where it quotes a part of the DSN, which can be of a password."""
    text = str(error).partition("\n")[0]
    return text if isinstance(error, psycopg.OperationalError) and "invalid" not in text else type(error).__name__


def _hint(error: psycopg.Error) -> str | None:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "the role needs CREATE on the database and its schemas, TEMPORARY, and to own or may write the tables"
    return None
