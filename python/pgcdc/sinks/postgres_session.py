"""A session with a PostgreSQL that keeps the position of what was applied to it, and whose writer is the only one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from pgcdc.errors import ConfigError, PositionError, SinkUnavailable
from pgcdc.lsn import Position, format_lsn, parse_lsn
from pgcdc.protocol import Batch
from pgcdc.sinks.postgres_rows import SESSION
from pgcdc.sinks.postgres_tables import Connection
from pgcdc.sinks.postgres_wire import Refusal, Step, run

__all__ = ["CREATE_LOCK", "Session"]

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
_MOVE: Final = 1
"""The number of the step that moves it."""


class Session:
    """Connects when it is needed, and runs transactions that begin by moving the position.

    Moving it waits for any transaction of another writer that has moved it, and fails when that was committed. Each
    process that opens has a higher epoch than all before, so that one that wakes up late writes nothing.

    Args:
        dsn: The target.
        name: What the position is stored under.
        schema: The schema of the table of positions.

    Attributes:
        position: The last position applied.
        replica: Whether triggers and foreign keys are off.
    """

    def __init__(self, dsn: str, name: str, schema: str) -> None:
        self.position: Position | None = None
        self.replica = False
        self._dsn = dsn
        self._name = name
        self._schema = schema
        self._table = sql.Identifier(schema, "sink_positions")
        self._opened: Connection | None = None
        self._epoch: int | None = None
        # How many batches were applied under this name; the one in hand; and the one whose answer was lost.
        self._written = 0
        self._given: Batch | None = None
        self._unsure: Batch | None = None

    def open(self) -> None:
        """Connect, and take the target over."""
        self.close()
        self._epoch = None
        self.connection()

    def close(self) -> None:
        """Close the connection."""
        connection, self._opened = self._opened, None
        if connection is not None:
            connection.close()

    def connection(self) -> Connection:
        """The connection; a new one where the former was lost.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            PositionError: When somebody else writes under this name.
            ConfigError: When the table of positions cannot be made.
        """
        if self._opened is not None:
            return self._opened
        with self.told("it cannot be used"):
            connection = psycopg.connect(
                autocommit=True,
                fallback_application_name="pgcdc sink",
                **{**_PATIENCE, **psycopg.conninfo.conninfo_to_dict(self._dsn)},
            )
            try:
                connection.execute(_PINNED)
                self.replica = False
                with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                    connection.execute("SET session_replication_role = replica")
                    self.replica = True
                self._take_over(connection)
            except BaseException:
                connection.close()
                raise
        self._opened = connection
        return connection

    def _take_over(self, connection: Connection) -> None:
        found = connection.execute("SELECT to_regclass(%s)", (self._table.as_string(connection),)).fetchone()
        if found is None or found[0] is None:
            self._create(connection)
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
        if written == self._written:
            self._unsure = None  # it was not applied
        self._epoch, self._written = epoch, written
        self.position = None if lsn is None else Position(parse_lsn(lsn), index)
        connection.execute(
            sql.SQL(
                "PREPARE pgcdc_position (bigint, bigint, pg_lsn, bigint) AS WITH moved AS (UPDATE {} SET"
                " written = written + 1, commit_lsn = $3, change_index = $4, updated_at = now()"
                " WHERE name = {} AND epoch = $1 AND written = $2 RETURNING 1) SELECT 1 / count(*) FROM moved"
            ).format(self._table, sql.Literal(self._name)),
            prepare=False,
        )

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
                    updated_at timestamptz NOT NULL DEFAULT now()
                ) WITH (fillfactor = 50)
                """).format(self._table)
            )

    def was_applied(self, batch: Batch) -> bool:
        """Whether a batch is the one whose answer was lost, and took effect: a copied row has no position of its own.

        Args:
            batch: What is to be written now.
        """
        self.connection()
        unsure, self._unsure, self._given = self._unsure, None, batch
        return unsure is not None and unsure.to_bytes() == batch.to_bytes()

    # Transactions.

    def begin(self, position: Position | None) -> list[Step]:
        """The first steps of one: the position comes first, so that who is late waits here, and finds out.

        Args:
            position: What it moves to.
        """
        at = "NULL, NULL" if position is None else f"'{format_lsn(position.commit_lsn)}', {position.index}"
        move = Step(f"EXECUTE pgcdc_position ({self._epoch}, {self._written}, {at})".encode())
        return [Step(b"BEGIN"), move, *([] if self.replica else [Step(b"SET CONSTRAINTS ALL DEFERRED")])]

    def run(self, steps: Sequence[Step], *, commits: bool = False) -> None:
        """Run steps of a transaction.

        Args:
            steps: What to run.
            commits: Whether the last one commits what `was_applied` was asked about.

        Raises:
            Refusal: When the server refused something for its rows; the transaction was rolled back.
            SinkUnavailable: When it does not take anything now.
            PositionError: When somebody else writes under this name.
            ConfigError: When it refuses for another reason.
        """
        connection = self.connection()
        if commits:
            self._unsure = self._given
        try:
            run(connection, steps)
        except Refusal as refusal:
            self.roll_back()
            self._judge(refusal, steps)
            raise

    def committed(self, position: Position | None) -> None:
        """Take note that a transaction was committed.

        Args:
            position: What `begin` was given.
        """
        self._unsure = None
        self._written += 1
        self.position = position

    def roll_back(self) -> None:
        """End the transaction."""
        self._unsure = None
        self.connection().execute("ROLLBACK")

    def _judge(self, refusal: Refusal, steps: Sequence[Step]) -> None:
        """Raise what is the matter when it is not a row."""
        if refusal.sqlstate == _DIVISION_BY_ZERO and refusal.step == _MOVE and steps[0].sql == b"BEGIN":
            self.close()
            self.connection()  # PositionError, if it was somebody else
            raise SinkUnavailable("the target has moved on while its answer was lost")
        if refusal.sqlstate[:2] in _AWAY:
            raise SinkUnavailable(
                f"the target does not take anything now: {refusal.primary}", sqlstate=refusal.sqlstate
            )
        if refusal.sqlstate[:2] not in _VALUES:
            raise ConfigError(f"the target refuses: {refusal.primary}", sqlstate=refusal.sqlstate)

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Say what an error of psycopg's means; the connection is closed then.

        Args:
            what: What could not be done.

        Raises:
            SinkUnavailable: When the server is away.
            ConfigError: When it refuses.
        """
        try:
            yield
        except psycopg.Error as error:
            self.close()
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
            raise ConfigError(f"of the target, {what}: {said}", sqlstate=sqlstate, hint=hint) from cause


def _first_line(error: psycopg.Error) -> str:
    """libpq's own words; not where it quotes a part of the DSN, which can be of a password."""
    text = str(error).partition("\n")[0]
    return text if isinstance(error, psycopg.OperationalError) and "invalid" not in text else type(error).__name__
