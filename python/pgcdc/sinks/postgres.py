"""The current state of tables in another PostgreSQL: COPY and MERGE, with the position in the same transaction.

Over 400 lines because it is what one transaction is made of, whoever it is for: the sink, or a partition of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import psycopg
from psycopg import sql

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.errors import ConfigError, SinkRejected
from pgcdc.events import Relation, Truncate
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import Batch, RowPlan, copied_values
from pgcdc.schema import SchemaChange
from pgcdc.sinks.dropped_tables import dropped
from pgcdc.sinks.former_shapes import refuse_former
from pgcdc.sinks.postgres_rows import RowTable, What
from pgcdc.sinks.postgres_session import CREATE_LOCK, Kept, Move, Session
from pgcdc.sinks.postgres_tables import Connection, Target, add_missing, alter, create, load
from pgcdc.sinks.postgres_wire import Refusal, Sent, Step
from pgcdc.sinks.stretches import Keyed, stretches

__all__ = ["Postgres"]

FEW_ROWS: Final = 50
"""So many changes at most go to the target row by row, as parameters; more are copied first."""
FEW_BYTES: Final = 64 * 1024
"""So many bytes of raw messages at most are sent without a wait: they find room in the buffers of a socket."""
_SAYS_KEY: Final = frozenset("di")
_MOST_SHAPES: Final = 1_000
"""Of so many the key is remembered: what is read from a spool has new ones each time."""
_MOST_PLANS: Final = 100
_UNDEFINED_TABLE: Final = "42P01"
_ORDER: Final = frozenset({"23505", "23503", "21000", "23P01"})
"""Unique and exclusion constraints, foreign keys: what is right change by change can be wrong in another order."""


@dataclass
class Plan:
    """What is known of tables whose rows come together.

    Attributes:
        relations: The tables.
        keys: Their keys, by OID.
        rows: What makes their rows: the keys of those that have one, and which columns have to come as text.
        unsure: Those whose key another batch may have otherwise.
        primary_keys: What says so: a batch that was given the same has the same.
        tables: What writes their rows, by OID and which columns come as text.
        is_proven: Whether the last batch went by it.
    """

    relations: tuple[Relation, ...]
    keys: dict[int, tuple[str, ...]]
    rows: RowPlan
    unsure: list[Keyed]
    primary_keys: Mapping[int, Sequence[str]] | None
    tables: dict[tuple[int, tuple[bool, ...]], RowTable]
    is_proven: bool = False


class Postgres:
    """Keeps copies of tables in another PostgreSQL, 14 or later, of any version beside the source's: exactly once.

    The rows of a batch, folded to the last state of each, and the position become visible in one transaction, which is
    durable when `write` returns (`synchronous_commit = on`). Whatever comes again is recognised by the position, also
    when it is not known whether a commit took effect. Another process that opens the target under the same `name`
    takes it over: the former one can write nothing any more, and stops with PositionError. On Kafka, where several
    processes write at once, each partition has a position of its own, and whoever is given it takes that over.

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
      end of the transaction; a batch that they refuse as a whole is applied in smaller parts.
    - Rows of the initial copy are copied straight into the table, where it has the same types.

    Args:
        dsn: The target, as libpq understands it, or a URL of SQLAlchemy; also PG* variables and service files.
        name: What the position is stored under; one for each pipeline that writes to this database.
        schema: The schema of all tables here; None: the same as at the source.
        position_schema: The schema of the table `sink_positions`.
        create: Whether missing tables are made.
        drop_columns: Whether a column that the source has dropped is dropped here.

    Raises:
        ConfigError: When a table cannot be made or written to, from `open` and `write`.
        PositionError: When somebody else writes under this name, from `write`.
    """

    renames_columns: ClassVar = True

    def __init__(
        self,
        dsn: Dsn = "",
        *,
        name: str = "pgcdc",
        schema: str | None = None,
        position_schema: str = "pgcdc",
        create: bool = True,
        drop_columns: bool = False,
    ) -> None:
        self._name = name
        self._schema = schema
        self._create = create
        self._drop_columns = drop_columns
        self._session = Session(dsn_of(dsn), position_schema)
        self._kept = Kept(name)
        # What is known of tables, and the temporary tables, which belong to one connection.
        self._known: Connection | None = None
        self._targets: dict[tuple[str, str], Target] = {}
        self._followed: dict[int, Keyed] = {}
        self._keys: dict[int, Keyed] = {}  # by the identity of the shape, which is held
        self._rows: dict[tuple[int, tuple[bool, ...]], tuple[Keyed, RowTable]] = {}
        self._plans: dict[tuple[int, ...], Plan] = {}  # by the identities of the shapes, which are held
        self._last: Plan | None = None  # of what was sent last
        self._unused: list[RowTable] = []
        self._made = 0
        self._pipelines = psycopg.Pipeline.is_supported()
        self._letter: Batch | None = None

    def __repr__(self) -> str:
        return f"<Postgres {self._name!r}>"

    def open(self) -> None:
        """Connect, and take the target over.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            ConfigError: When the table of positions cannot be made.
        """
        self._session.close()
        self._kept = Kept(self._name)
        self._session.ready(self._kept)

    def position(self) -> Position | None:
        """The last position applied."""
        return self._kept.position

    def part(self, name: str) -> PostgresPart:
        """Give what writes the changes of one partition, by the same connection; its note is kept beside the position.

        Args:
            name: The partition's.

        Returns:
            The part.
        """
        return PostgresPart(self, f"{self._name}[{name}]")

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _connection(self) -> Connection:
        connection = self._session.connection()
        if connection is not self._known:
            self._forget()
            self._unused.clear()
            self._known = connection
        return connection

    def _forget(self) -> None:
        """What is known of tables is to be looked up again."""
        self._targets.clear()
        self._followed.clear()
        self._keys.clear()
        self._forget_rows()

    # Batches.

    def write(self, batch: Batch) -> None:
        """Apply a batch in one transaction.

        Raises:
            SinkUnavailable: When the server cannot be reached, or not be written to now.
            SinkRejected: When it never takes a change.
            ConfigError: When a table cannot be made, or lacks what it needs.
            PositionError: When somebody else writes to the target under this name.
        """
        kept = self._kept
        if self._session.was_applied(kept, batch):
            return
        known = kept.position
        if known is not None and known.index != SNAPSHOT_INDEX:
            first = batch.first_position
            if first is None or first <= known:
                batch = batch.after(known)
        if batch.last_position is not None:
            self._apply(batch, Move(kept, batch.last_position))

    def send_ahead(self, batch: Batch) -> Sending | None:
        """Send a small batch without a wait, where nothing has to be asked or made for it.

        Args:
            batch: What is to be written next, by this and not by `write`.

        Returns:
            What is told when it is durable; None when nothing was sent, and the batch is to be given to `write`.
        """
        session, kept = self._session, self._kept
        if batch.changes_count > FEW_ROWS or batch.nbytes > FEW_BYTES:
            return None
        if self._unused or kept.seen is not self._known or not session.is_ready(kept):
            return None
        plan = self._last
        if plan is None or not batch.is_of(plan.relations):
            plan = self._last = self._plans.get(tuple(map(id, batch.relations)))
        if plan is None or not plan.is_proven:
            return None
        known, span = kept.position, batch.span
        if known is None or span is None:
            return None
        first, last = span
        if first.index == SNAPSHOT_INDEX or first <= known:
            return None
        kept.given = batch
        return Sending(self, batch, plan, Move(kept, last))

    def rewrite(self, batch: Batch) -> None:
        """Apply a change that was a dead letter; the position stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
        """
        self._rewrite(self._kept, batch)

    def _rewrite(self, kept: Kept, batch: Batch) -> None:
        if self._session.was_applied(kept, batch):
            return
        self._letter = batch
        try:
            self._apply(batch, Move(kept, kept.position, kept.note))
        finally:
            self._letter = None

    def _apply(self, batch: Batch, move: Move, sending: Sending | None = None) -> None:
        first, last = batch.first_position, batch.last_position
        copied = first is not None and first == last and first.index == SNAPSHOT_INDEX
        try:
            if copied:
                try:
                    self._transact(batch, move, straight=True)
                    return
                except Refusal as refusal:
                    if refusal.sqlstate not in _ORDER:
                        raise
            self._transact(batch, move, sending)
        except Refusal as refusal:
            if copied or (batch.changes_count == 1 and refusal.sqlstate not in _ORDER):
                raise _rejected(refusal, batch) from None
            self._in_parts(batch, move)
        except ConfigError as error:
            self._forget()  # somebody may have altered a table
            for one in batch.relations if self._create and error.sqlstate == _UNDEFINED_TABLE else ():
                table = f"{self._schema or one.schema}.{one.name}"
                if f'"{table}"' in str(error):
                    raise dropped(table, "the target", sqlstate=error.sqlstate) from None
            raise

    def _transact(self, batch: Batch, move: Move, sending: Sending | None = None, *, straight: bool = False) -> None:
        """Apply a batch and move what is kept, in one transaction, which may have been sent."""
        self._connection()
        with self._session.told("it cannot be written to"):
            if sending is not None and sending.is_applied():
                self._session.committed(move)
                return
            while self._unused:
                self._unused.pop().drop()
            if not straight and self._is_few(batch) and self._transact_few(batch, move):
                self._session.committed(move)
                return
            steps = self._steps(batch, straight=straight)
            begin = self._session.begin(move, pipelined=bool(steps) and steps[0].parameters is not None)
            self._session.run([*begin, *steps, Step(b"COMMIT")], move, commits=True)
        self._session.committed(move)

    def _transact_few(self, batch: Batch, move: Move) -> bool:
        """Apply a few rows; False, and nothing done, where there is more to it: the way of all others is to be gone.

        A small transaction is written as soon as it is there, by code that nobody has run for a while, here as in the
        server. So there is to be little of it, and all of it goes out at once: a server that is through with the first
        statement before the next one comes falls asleep, and to wake it up takes as long as a statement.
        """
        plan = self._plan_of(batch)
        if plan is None:
            return False
        if plan.is_proven:
            return Sending(self, batch, plan, move).is_applied()
        try:
            steps = self._planned(batch, plan, prepare=True)
        except LookupError:  # the way of all others prepares what is missing
            steps = None
        if steps is None:
            return False
        plan.is_proven = True
        begin = self._session.begin(move, pipelined=bool(steps))
        self._session.run([*begin, *steps, Step(b"COMMIT")], move, commits=True)
        return True

    def _in_parts(self, batch: Batch, move: Move) -> None:
        """Apply a batch in ever smaller parts: what was refused may have been right in its own order; else it is found.

        All that is refused is found at once: to look for one after the other, in a large batch, takes long.
        """
        self._connection()
        guilty: list[tuple[Refusal, Batch]] = []
        with self._session.told("it cannot be written to"):
            try:
                self._session.run(self._session.begin(move), move)
                parts = [batch]
                while parts:
                    part = parts.pop()
                    refusal = None
                    # The whole was refused just now.
                    if (part is not batch or batch.changes_count == 1) and (steps := self._steps(part)):
                        refusal = self._session.attempt(steps, move)
                        if refusal is None:
                            continue
                    if part.changes_count > 1:
                        half = part.changes_count // 2
                        parts += [part.take(range(half, part.changes_count)), part.take(range(half))]
                    elif refusal is not None:
                        guilty.append((refusal, part))
                if guilty:
                    self._session.roll_back(move.kept)
                else:  # constraints that were deferred say no at the end
                    self._session.run([Step(b"COMMIT")], move, commits=True)
            except Refusal as at_the_end:
                self._forget_rows()
                raise _rejected(at_the_end, batch) from None
            except psycopg.Error:
                raise
            except BaseException:
                self._rows.clear()
                self._forget_plans()
                self._session.close()
                raise
        if guilty:
            self._forget_rows()
            raise _rejected(guilty[0][0], Batch.concat([part for _, part in guilty]), is_guilty=True)
        self._session.committed(move)

    def _forget_rows(self) -> None:
        """What was made in a transaction that was rolled back is no more."""
        self._unused += [table for _, table in self._rows.values()]
        self._rows.clear()
        self._forget_plans()

    # Steps.

    def _steps(self, batch: Batch, *, straight: bool = False) -> list[Step]:
        few = not straight and self._is_few(batch)
        steps: list[Step] = []
        for stretch in stretches(batch):
            if isinstance(stretch, Truncate):
                steps.append(self._truncate(batch, stretch))
                continue
            tables = [Keyed(relation, self._key(stretch, relation)) for relation in stretch.relations]
            for table in tables:
                self._follow(table)
            if straight:
                steps += self._appended(stretch, tables, few=False)
                continue
            keyless = [table for table in tables if not table.key]
            keyed = [table for table in tables if table.key]
            if keyless:
                steps += self._appended(_of(stretch, keyless), keyless, few=few)
            if keyed:
                steps += self._upserted(_of(stretch, keyed) if keyless else stretch, keyed, few=few)
        return steps

    def _is_few(self, batch: Batch) -> bool:
        return batch.changes_count <= FEW_ROWS and self._pipelines

    def _plan_of(self, batch: Batch) -> Plan | None:
        """What is known of the tables of a batch; None where one of them changes its shape in it."""
        relations = batch.relations
        plan = self._plans.get(tuple(map(id, relations)))
        return self._plan(batch, relations) if plan is None else plan

    def _planned(self, batch: Batch, plan: Plan, *, prepare: bool) -> list[Step] | None:
        """The steps of a few rows; None where there is more to it: a key that changes, or is another; a TRUNCATE."""
        is_as_known = batch.primary_keys is plan.primary_keys
        if not is_as_known and any(batch.key_columns(relation) != key for relation, key in plan.unsure):
            return None
        steps: list[Step] = []
        rows = 0
        left, tables = batch.planned(plan.rows)
        for oid, as_text, (gone, present, _, moved), values in tables:
            if moved or (gone and not plan.keys[oid]):
                return None
            table = plan.tables.get((oid, as_text))
            if table is None and not prepare:
                return None
            if table is None:
                relation = next(one for one in plan.relations if one.oid == oid)
                table = self._row_table(Keyed(relation, plan.keys[oid]), as_text)
                plan.tables[oid, as_text] = table
            steps += table.one_by_one(values, prepare=prepare)
            rows += gone + present
        return steps if rows == left else None  # what is no row is a TRUNCATE, or goes nowhere

    def _plan(self, batch: Batch, relations: Sequence[Relation]) -> Plan | None:
        keys = {relation.oid: self._key(batch, relation) for relation in relations}
        keyed = {oid: key for oid, key in keys.items() if key}
        if len(keys) < len(relations) or any(not keys[one.oid] and _is_identified(one) for one in relations):
            return None
        for relation in relations:
            self._follow(Keyed(relation, keys[relation.oid]))
        text = {relation.oid: self._target(relation).as_text(relation) for relation in relations}
        unsure = [Keyed(one, keys[one.oid]) for one in relations if id(one) not in self._keys]
        if len(self._plans) >= _MOST_PLANS:
            self._forget_plans()
        plan = Plan(tuple(relations), keys, RowPlan(keyed, text), unsure, batch.primary_keys, {})
        self._plans[tuple(map(id, relations))] = plan
        return plan

    def _forget_plans(self) -> None:
        self._plans.clear()
        self._last = None

    def _upserted(self, batch: Batch, tables: Sequence[Keyed], *, few: bool) -> Iterator[Step]:
        keys = {relation.oid: key for relation, key in tables}
        text = {relation.oid: self._target(relation).as_text(relation) for relation, _ in tables}
        for relation, as_text, (gone, rows, unset, moved), data in batch.folded(keys).to_copy(text=text):
            table = self._row_table(Keyed(relation, keys[relation.oid]), as_text)
            if few and not moved:
                yield from table.one_by_one(copied_values(data))
                continue
            yield Step(table.copy, data)
            todo: list[tuple[What, int]] = [("fill", moved), ("delete", gone)]
            todo.append(("upsert unset" if unset else "upsert", rows))
            yield from (Step(table.statement(what)) for what, count in todo if count)
            yield Step(table.cleared(gone + rows + moved))

    def _appended(self, batch: Batch, tables: Sequence[Keyed], *, few: bool) -> Iterator[Step]:
        """Append what is inserted; straight into the table where that can be."""
        for keyed in tables:
            relation = keyed.relation
            of_one = _of(batch, [keyed]) if len(tables) > 1 else batch
            target = self._target(relation)
            text = {relation.oid: target.as_text(relation)}
            if not few and not of_one.select(actions=["update", "delete"]).changes_count:
                [(_, as_text, _, data)] = of_one.to_copy(marked=False, text=text)
                if target.takes(relation, as_text):
                    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in relation.columns)
                    copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(target.identifier, names)
                    yield Step(copy.as_bytes(self._connection()), data)
                    continue
            for _, as_text, (gone, rows, _, _), data in of_one.to_copy(text=text):
                table = self._row_table(keyed, as_text)
                if few and not gone:
                    yield from table.one_by_one(copied_values(data))
                    continue
                yield Step(table.copy, data)
                # Equal rows are the same: what was removed after it was inserted is there to be removed.
                if rows:
                    yield Step(table.statement("append"))
                if gone:
                    yield Step(table.statement("remove"))
                yield Step(table.cleared(gone + rows))

    def _truncate(self, batch: Batch, change: Truncate) -> Step:
        for relation in change.relations:
            self._follow(Keyed(relation, batch.key_columns(relation)))
        tables = sql.SQL(", ").join(self._target(relation).identifier for relation in change.relations)
        statement = sql.SQL("TRUNCATE {}{}{}").format(
            tables,
            sql.SQL(" RESTART IDENTITY" if change.restart_identity else ""),
            sql.SQL(" CASCADE" if change.cascade else ""),
        )
        return Step(statement.as_bytes(self._connection()))

    def _row_table(self, keyed: Keyed, text: tuple[bool, ...]) -> RowTable:
        relation, key = keyed
        known = self._rows.get((relation.oid, text))
        if known is not None:
            if known[0] == keyed:
                return known[1]
            self._unused.append(known[1])
            self._forget_plans()
        self._made += 1
        table = RowTable(self._connection(), self._made, self._target(relation), relation, text, key)
        self._rows[relation.oid, text] = (keyed, table)
        return table

    # Tables.

    def _key(self, batch: Batch, relation: Relation) -> tuple[str, ...]:
        known = self._keys.get(id(relation))
        if known is not None and known.relation is relation:
            return known.key
        key = batch.key_columns(relation)
        # Under FULL and NOTHING it is not the shape that says so.
        if relation.replica_identity in _SAYS_KEY and key:
            if len(self._keys) >= _MOST_SHAPES:
                self._keys.clear()
            self._keys[id(relation)] = Keyed(relation, key)
        return key

    def _place(self, relation: Relation) -> tuple[str, str]:
        return relation.schema if self._schema is None else self._schema, relation.name

    def _target(self, relation: Relation) -> Target:
        return self._targets[self._place(relation)]

    def schema_changed(self, change: SchemaChange) -> None:
        """Alter a table as it was altered at the source.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            ConfigError: When the table cannot be altered so.
        """
        connection = self._connection()
        schema, table = self._place(change.new)
        what = f"table {schema}.{table} cannot be altered as at the source"
        with self._session.told(what), connection.transaction():
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

    def _follow(self, keyed: Keyed) -> None:
        """Make sure that a table has all that its rows need."""
        relation, key = keyed
        if self._followed.get(relation.oid) == keyed:
            return
        self._forget_plans()
        connection, place = self._connection(), self._place(relation)
        name = ".".join(place)
        with self._session.told(f"table {name} cannot be made or altered"):
            target = load(connection, *place)
            if target is None:
                if not self._create:
                    raise ConfigError(f"the target has no table {name}", table=name, hint="make it, or create=True")
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (CREATE_LOCK,))
                    create(connection, place[0], relation, key)
                target = load(connection, *place)
            else:
                refuse_former(self._letter, relation, {one.name for one in relation.columns} - target.columns.keys())
                if add_missing(connection, target, relation):
                    target = load(connection, *place)
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
        self._followed[relation.oid] = keyed


class Sending:
    """A transaction of a few rows of known tables, on its way: made and sent at once, answered later.

    Whoever makes it waits for nothing. Another thread may take it over then; one at a time has it, and until it is done
    nobody else uses the sink.

    Args:
        sink: The sink.
        batch: What is written.
        plan: What is known of its tables.
        move: What is moved.
    """

    def __init__(self, sink: Postgres, batch: Batch, plan: Plan, move: Move) -> None:
        self._sink = sink
        self._batch = batch
        self._plan = plan
        self._move = move
        self._sent: Sent | None = None
        self._failed: BaseException | None = None
        try:
            steps = sink._planned(batch, plan, prepare=False)
            if steps is not None:
                self._sent = sink._session.send(steps, move)
        except LookupError:
            pass  # the way of all others prepares what is missing
        except BaseException as error:  # who takes it over raises it
            self._failed = error

    def answered(self, seconds: float) -> bool:
        """Wait for the target's answer.

        Args:
            seconds: How long.

        Returns:
            Whether it is durable. If not, `finish` has to be called: it may be, or something was refused, or failed.
        """
        sent = self._sent
        try:
            if sent is None or not sent.answered(seconds) or not sent.is_well:
                return False
            sent.counts()
        except BaseException as error:  # who takes it over raises it
            self._failed = error
            return False
        self._sink._session.committed(self._move)
        return True

    def finish(self) -> None:
        """Wait for the answer, however long that takes, and see to all that may be the matter.

        Raises:
            SinkUnavailable: As `Postgres.write`.
            SinkRejected: As `Postgres.write`.
            ConfigError: As `Postgres.write`.
            PositionError: As `Postgres.write`.
        """
        self._sink._apply(self._batch, self._move, self)

    def is_applied(self) -> bool:
        """Wait for the answer; False when the rows could not be made: nothing was done then.

        Raises:
            Refusal: As `Session.run`, as for the others.
            psycopg.Error: When the connection is lost.
        """
        session, failed, sent = self._sink._session, self._failed, self._sent
        self._failed = None
        if sent is not None and failed is None:
            session.settle(sent, self._move)
            return True
        self._plan.is_proven = False
        if failed is not None:
            raise failed
        return False


class PostgresPart:
    """One partition of a topic: its rows are written beside those of all others, and its own note with them.

    Args:
        sink: Whose part it is.
        name: What the note is stored under.
    """

    def __init__(self, sink: Postgres, name: str) -> None:
        self._sink = sink
        self._name = name
        self._kept = Kept(name)

    def open(self) -> str | None:
        """Take the partition over.

        Returns:
            The note of the last write.
        """
        self._kept = Kept(self._name)
        self._sink._session.ready(self._kept)
        return self._kept.note

    def write(self, batch: Batch, note: str) -> None:
        """Apply a batch and keep the note, in one transaction.

        Raises:
            SinkUnavailable: As `Postgres.write`.
            SinkRejected: As `Postgres.write`.
            ConfigError: As `Postgres.write`.
            PositionError: When somebody else has taken the partition over.
        """
        if not self._sink._session.was_applied(self._kept, batch):
            self._sink._apply(batch, Move(self._kept, batch.last_position, note))

    def rewrite(self, batch: Batch) -> None:
        """Apply a change that was a dead letter; the note stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """
        self._sink._rewrite(self._kept, batch)

    def close(self) -> None:
        """The connection goes on for the others."""


def _is_identified(relation: Relation) -> bool:
    """Whether its replica identity has columns that its rows would be folded by."""
    return relation.replica_identity != "f" and any(column.is_key for column in relation.columns)


def _of(batch: Batch, tables: Sequence[Keyed]) -> Batch:
    return batch.select(tables=[(relation.schema, relation.name) for relation, _ in tables])


def _rejected(refusal: Refusal, batch: Batch, *, is_guilty: bool = False) -> SinkRejected:
    # The message of a wrong value has the value in it.
    what = psycopg.errors.lookup(refusal.sqlstate).__name__ if refusal.sqlstate[:2] == "22" else refusal.primary
    is_guilty = is_guilty or batch.changes_count == 1
    positions = [change.position for change in batch.changes()] if is_guilty else []
    tables = {f"{relation.schema}.{relation.name}" for relation in batch.relations}
    table = tables.pop() if len(tables) == 1 else None
    count = batch.changes_count if is_guilty else 1
    changes = "a change" if count == 1 else f"{count} changes"
    where = changes if table is None else f"{changes} of {table}"
    return SinkRejected(
        f"the target refuses {where}: {what}",
        positions=[position for position in positions if isinstance(position, Position)],
        table=table,
        sqlstate=refusal.sqlstate,
    )
