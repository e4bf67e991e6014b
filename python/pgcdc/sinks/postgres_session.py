"""A session with a PostgreSQL that keeps how far it is together with its rows, and whose writer is the only one.

Over 400 lines because whose the target is and what of a transaction took effect are one question.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from struct import Struct
from types import TracebackType
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from pgcdc.connection_string import parameters_of
from pgcdc.errors import ConfigError, Error, PositionError, SinkUnavailable
from pgcdc.lsn import Position, format_lsn, parse_lsn
from pgcdc.protocol import Batch
from pgcdc.sinks.postgres_rows import MERGE, SESSION
from pgcdc.sinks.postgres_tables import Connection
from pgcdc.sinks.postgres_wire import Refusal, Sent, Step, run

__all__ = ["CREATE_LOCK", "Kept", "Move", "Session"]

CREATE_LOCK: Final = 0x7067636463000002
"""Held while tables are made: two CREATE … IF NOT EXISTS at once can collide in the catalog."""

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

_AWAY: Final = frozenset({"08", "53", "55", "57", "58", "40", "25"})
"""Classes of SQLSTATE that mean "not now": connections, resources, locks, an operator, I/O, conflicts, a standby."""
_VALUES: Final = frozenset({"21", "22", "23"})
"""Classes that are about the rows."""
_DIVISION_BY_ZERO: Final = "22012"
"""What moving the position raises when it is not where this session left it."""
_BIGINT: Final = Struct(">q").pack
_LSN: Final = Struct(">Q").pack
_MOVE: Final = b"pgcdc_position"
"""The prepared statement that moves it."""
_PREPARE: Final = "PREPARE pgcdc_position (text, bigint, bigint, pg_lsn, bigint, text) AS "
_MOVING: Final = (
    "MERGE INTO {} t USING (SELECT $1 AS name) s ON t.name = s.name"
    " WHEN MATCHED AND t.epoch = $2 AND t.written = $3 THEN UPDATE SET written = t.written + 1, commit_lsn = $4,"
    " change_index = $5, note = $6, updated_at = now()"
    " WHEN MATCHED THEN UPDATE SET written = 1 / (t.written - t.written)"
    " WHEN NOT MATCHED THEN INSERT (name, epoch, written) VALUES (s.name, 1, 1 / length(left(s.name, 0)))"
)
"""One that is somebody else's by now divides by zero, and so does one that is gone: by what is not known before."""
_MOVING_BEFORE: Final = (
    "WITH moved AS (UPDATE {} SET written = written + 1, commit_lsn = $4, change_index = $5, note = $6,"
    " updated_at = now() WHERE name = $1 AND epoch = $2 AND written = $3 RETURNING 1) SELECT 1 / count(*) FROM moved"
)
"""The same without MERGE, which takes less time."""
_LOCK_WITHIN: Final = "10s"
"""How long who opens waits for the row of its position: another process may have been stopped with it locked."""
_EXECUTE_MOVE: Final = b"EXECUTE " + _MOVE
_COMMIT: Final = Step(b"COMMIT")


class Kept:
    """What is stored under one name: how far the target is with something, and whose business that is.

    Moving it waits for any transaction of another writer that has moved it, and fails when that was committed. Who
    takes it over has a higher epoch than all before, so that one that wakes up late writes nothing.

    Args:
        name: The name.

    Attributes:
        position: The last position applied.
        note: What came with the last write of a partition.
        epoch: That of this process; None: it is to be taken over.
        known: Its name and that epoch as they are sent.
        written: How many batches were applied.
        given: The one in hand.
        unsure: The one whose answer was lost.
        late: One that was not applied when it was looked for.
        seen: The connection that it was read by.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.position: Position | None = None
        self.note: str | None = None
        self.epoch: int | None = None
        self.known: tuple[bytes, bytes] | None = None
        self.written = 0
        self.given: Batch | None = None
        self.unsure: Batch | None = None
        self.late: Batch | None = None
        self.seen: Connection | None = None


class Move(NamedTuple):
    """What a transaction makes of it.

    Attributes:
        kept: What is moved.
        position: The last position, then.
        note: The note, then.
    """

    kept: Kept
    position: Position | None
    note: str | None = None


class Session:
    """Connects when it is needed, and runs transactions that begin by moving something that is kept.

    Args:
        dsn: The target.
        schema: The schema of the table of positions.

    Attributes:
        replica: Whether triggers and foreign keys are off.
    """

    def __init__(self, dsn: str, schema: str) -> None:
        self.replica = False
        self._dsn = dsn
        self._schema = schema
        self._table = sql.Identifier(schema, "sink_positions")
        self._opened: Connection | None = None

    def close(self) -> None:
        """Close the connection."""
        connection, self._opened = self._opened, None
        if connection is not None:
            connection.close()

    def connection(self) -> Connection:
        """The connection; a new one where the former was lost.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            ConfigError: When the table of positions cannot be made.
        """
        if self._opened is not None:
            return self._opened
        with self.told("it cannot be used"):
            connection = psycopg.connect(
                autocommit=True,
                # It would take ours away, too, when it takes its own away: after a ROLLBACK, for example.
                prepare_threshold=None,
                fallback_application_name="pgcdc sink",
                **{**_PATIENCE, **parameters_of(self._dsn)},
            )
            try:
                connection.execute(_PINNED)
                self.replica = False
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                    connection.execute("SET session_replication_role = replica")
                    self.replica = True
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._opened = connection
        return connection

    def _prepare(self, connection: Connection) -> None:
        table = self._table.as_string(connection)
        found = connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL, EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s)"
            " AND attname = 'note' AND NOT attisdropped)",
            (table, table),
        ).fetchone()
        if found is None or not found[0]:
            self._create(connection)
        elif not found[1]:
            connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS note text").format(self._table))
        moving = _MOVING if connection.info.server_version >= MERGE else _MOVING_BEFORE
        connection.execute(sql.SQL(_PREPARE + moving).format(self._table), prepare=False)

    def is_ready(self, kept: Kept) -> bool:
        """Whether something is known to be this process's by the connection that there is: nothing is asked for that.

        Args:
            kept: What.
        """
        return self._opened is not None and kept.seen is self._opened and kept.unsure is None

    def ready(self, kept: Kept) -> None:
        """See that something is still this process's, where the connection is new; take it over where it never was.

        Args:
            kept: What.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            PositionError: When somebody else has taken it over.
            ConfigError: When the table of positions cannot be made.
        """
        connection = self.connection()
        if kept.seen is connection:
            return
        with self.told("it cannot be used"):
            if kept.epoch is None:
                statement = sql.SQL(
                    "INSERT INTO {0} AS p (name, epoch, written) VALUES (%s, 1, 0) ON CONFLICT (name) DO UPDATE"
                    " SET epoch = p.epoch + 1 RETURNING epoch, written, commit_lsn::text, change_index, note"
                )
            else:
                statement = sql.SQL(
                    "SELECT epoch, written, commit_lsn::text, change_index, note FROM {0} WHERE name = %s"
                )
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_WITHIN)))
                    row = connection.execute(statement.format(self._table), (kept.name,)).fetchone()
            except psycopg.errors.LockNotAvailable:
                raise SinkUnavailable(
                    f"another session is in a transaction that writes to the target under the name {kept.name!r}",
                    hint="is its process stopped? SELECT pid, query_start, pg_terminate_backend(pid) FROM"
                    " pg_stat_activity WHERE application_name = 'pgcdc sink' AND backend_xid IS NOT NULL;",
                ) from None
        if row is None or (kept.epoch is not None and row[0] != kept.epoch):
            raise PositionError(
                f"the target is written to by somebody else under the name {kept.name!r}",
                hint="stop the other pipeline, or give each a name of its own: Postgres(…, name=…)",
            )
        epoch, written, lsn, index, kept.note = row
        if written == kept.written and kept.unsure is not None:
            kept.late, kept.unsure = kept.unsure, None  # it was not applied, unless its commit is still under way
        kept.epoch, kept.written, kept.seen = epoch, written, connection
        kept.known = kept.name.encode(), _BIGINT(epoch)
        kept.position = None if lsn is None else Position(parse_lsn(lsn), index)

    def leave(self) -> None:
        """Let go of the connection where it is in the midst of something, whose answers who asks next would take."""
        if (opened := self._opened) is not None and (
            opened.pgconn.pipeline_status or opened.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE
        ):
            self.close()

    def _create(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (CREATE_LOCK,))
            # Asked first: IF NOT EXISTS needs the right to make it even where it is there.
            if not connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (self._schema,)).fetchall():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
            # Half-empty pages: the row is updated with each batch, and stays on its page.
            connection.execute(
                sql.SQL("""
                CREATE TABLE IF NOT EXISTS {} (
                    name text PRIMARY KEY,
                    epoch bigint NOT NULL,
                    written bigint NOT NULL,
                    commit_lsn pg_lsn,
                    change_index bigint,
                    note text,
                    updated_at timestamptz NOT NULL DEFAULT now()
                ) WITH (fillfactor = 50)
                """).format(self._table)
            )

    def was_applied(self, kept: Kept, batch: Batch) -> bool:
        """Whether a batch is the one whose answer was lost, and took effect: a copied row has no position of its own.

        Args:
            kept: What moves with it.
            batch: What is to be written now.
        """
        if kept.unsure is not None:
            self.leave()  # where it was sent and not answered, it may not have taken effect yet
        self.ready(kept)
        unsure, kept.unsure, kept.given = kept.unsure, None, batch
        return unsure is not None and unsure.to_bytes() == batch.to_bytes()

    # Transactions.

    def begin(self, move: Move, *, pipelined: bool = False) -> list[Step]:
        """The first steps of one: the move comes first, so that who is late waits here, and finds out.

        Args:
            move: What is moved.
            pipelined: Whether the next steps have parameters.
        """
        deferred = [] if self.replica else [Step(b"SET CONSTRAINTS ALL DEFERRED")]
        return [Step(b"BEGIN"), self._moved(move, pipelined=pipelined), *deferred]

    def _moved(self, move: Move, *, pipelined: bool) -> Step:
        kept, position, note = move
        self.ready(kept)
        if pipelined and (known := kept.known) is not None:
            lsn, index = (None, None) if position is None else (_LSN(position.commit_lsn), _BIGINT(position.index))
            noted = None if note is None else note.encode()
            return Step(_MOVE, None, (*known, _BIGINT(kept.written), lsn, index, noted))
        text: list[object] = [None, None] if position is None else [format_lsn(position.commit_lsn), position.index]
        values = sql.SQL(", ").join(sql.Literal(one) for one in [kept.name, kept.epoch, kept.written, *text, note])
        return Step(_EXECUTE_MOVE + sql.SQL(" ({})").format(values).as_bytes(self.connection()))

    def run(self, steps: Sequence[Step], move: Move, *, commits: bool = False) -> None:
        """Run steps of a transaction.

        Args:
            steps: What to run.
            move: What it moves.
            commits: Whether the last one commits what `was_applied` was asked about.

        Raises:
            Refusal: When the server refused something for its rows; the transaction was rolled back.
            SinkUnavailable: When it does not take anything now.
            PositionError: When somebody else writes under this name.
            ConfigError: When it refuses for another reason.
        """
        connection, kept = self.connection(), move.kept
        if commits:
            kept.unsure = kept.given
        try:
            run(connection, steps)
        except Refusal as refusal:
            self._refused(refusal, steps, kept)
            raise

    def send(self, steps: Sequence[Step], move: Move) -> Sent:
        """Put a transaction with parameters on its way, without a wait.

        What a pipeline holds up to its synchronisation is one transaction without being told so, and is committed
        there: BEGIN and COMMIT would be two statements more. Only SET CONSTRAINTS asks for one that was begun.

        Args:
            steps: What it is made of, but for its beginning and its end.
            move: What it moves.

        Returns:
            What waits for the answers; `settle` is to be given it.

        Source: PostgreSQL manual, "Message Flow", "Pipelining".
        """
        if self.replica:
            whole = [self._moved(move, pipelined=True), *steps]
        else:
            whole = [*self.begin(move, pipelined=True), *steps, _COMMIT]
        move.kept.unsure = move.kept.given
        return Sent(self.connection(), whole)

    def settle(self, sent: Sent, move: Move) -> None:
        """Wait for the answers.

        Args:
            sent: What `send` gave.
            move: What it moves.

        Raises:
            Refusal: As `run`, as for the others.
        """
        try:
            sent.counts()
        except Refusal as refusal:
            self._refused(refusal, sent.steps, move.kept)
            raise

    def _refused(self, refusal: Refusal, steps: Sequence[Step], kept: Kept) -> None:
        self.roll_back(kept)
        self._judge(refusal, steps, kept)

    def attempt(self, steps: Sequence[Step], move: Move) -> Refusal | None:
        """Run steps within a transaction that goes on without them when the server refuses something for its rows.

        Args:
            steps: What to run.
            move: What the transaction moves.

        Returns:
            The refusal; None when they took effect.

        Raises:
            SinkUnavailable: As `run`; the transaction was rolled back then, as for the others.
            ConfigError: Likewise.
        """
        connection = self.connection()
        try:
            run(connection, [Step(b"SAVEPOINT pgcdc"), *steps, Step(b"RELEASE pgcdc")])
        except Refusal as refusal:
            try:
                self._judge(refusal, steps, move.kept)
            except BaseException:
                self.roll_back(move.kept)
                raise
            connection.execute("ROLLBACK TO pgcdc; RELEASE pgcdc")
            return refusal
        return None

    def committed(self, move: Move) -> None:
        """Take note that a transaction was committed.

        Args:
            move: What `begin` was given.
        """
        kept = move.kept
        kept.unsure = kept.late = None
        kept.written += 1
        kept.position, kept.note = move.position, move.note

    def roll_back(self, kept: Kept) -> None:
        """End the transaction.

        Args:
            kept: What it was to move.
        """
        kept.unsure = None
        connection = self.connection()
        if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:  # else the server has done it
            connection.execute("ROLLBACK")

    def _judge(self, refusal: Refusal, steps: Sequence[Step], kept: Kept) -> None:
        """Raise what is the matter when it is not a row."""
        refused = b"".join(step.sql for step in steps[refusal.step : refusal.step + 1])  # none where it was the commit
        if refusal.sqlstate == _DIVISION_BY_ZERO and refused.startswith((_MOVE, _EXECUTE_MOVE)):
            kept.seen = None
            self.ready(kept)  # PositionError, if it was somebody else
            kept.unsure, kept.late = kept.late, None
            raise SinkUnavailable("the target has moved on while its answer was lost")
        if refusal.sqlstate[:2] in _AWAY:
            raise SinkUnavailable(
                f"the target does not take anything now: {refusal.primary}", sqlstate=refusal.sqlstate
            )
        if refusal.sqlstate[:2] not in _VALUES:
            raise ConfigError(f"the target refuses: {refusal.primary}", sqlstate=refusal.sqlstate)

    def told(self, what: str) -> _Told:
        """Say what an error of psycopg's means; the connection is closed then.

        Args:
            what: What could not be done.

        Returns:
            What is entered around that. It raises SinkUnavailable when the server is away, ConfigError when it refuses.
        """
        return _Told(self, what)


class _Told:
    """See `Session.told`; entered for each transaction, so it is no generator."""

    __slots__ = ("_session", "_what")

    def __init__(self, session: Session, what: str) -> None:
        self._session = session
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, psycopg.Error):
            if error is not None and not isinstance(error, (Refusal, Error)):
                self._session.close()
            elif error is not None:
                self._session.leave()
            return
        self._session.close()
        sqlstate = error.sqlstate
        if sqlstate is None or sqlstate[:2] in _AWAY:
            reason = error.diag.message_primary or _first_line(error)
            raise SinkUnavailable(f"the target cannot be reached: {reason}", sqlstate=sqlstate) from error
        hint = None
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint = "the role needs CREATE on the database and its schemas, TEMPORARY, and its tables"
        # The message of a wrong value has the value in it, and so would have the error that is the cause.
        said: str | None = type(error).__name__
        cause: psycopg.Error | None = None
        if sqlstate[:2] != "22":
            said, cause = error.diag.message_primary, error
        raise ConfigError(f"of the target, {self._what}: {said}", sqlstate=sqlstate, hint=hint) from cause


def _first_line(error: psycopg.Error) -> str:
    """libpq's own words; not where it quotes a part of the DSN, which can be of a password."""
    text = str(error).partition("\n")[0]
    return text if isinstance(error, psycopg.OperationalError) and "invalid" not in text else type(error).__name__
