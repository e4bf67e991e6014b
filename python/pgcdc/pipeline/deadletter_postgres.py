"""Dead letters in a PostgreSQL table, `pgcdc.dead_letters`: by default in the source database itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from pgcdc.connection_string import Dsn, dsn_of, parameters_of
from pgcdc.errors import ConfigError, ConnectionLost
from pgcdc.lsn import Position, format_lsn, parse_lsn
from pgcdc.pipeline.deadletter import DeadLetter, Marks, Which, outdated
from pgcdc.pipeline.postgres_definitions import OwnTables, create, dead_letter_tables
from pgcdc.pipeline.postgres_tables import DURABLE, PATIENCE, of_standby, primary
from pgcdc.pipeline.settings import BESIDE
from pgcdc.replication.settings import pin

__all__ = ["PostgresDeadLetters"]

_COLUMNS = (
    "pipeline, consumer, commit_lsn, change_index, digest, state, table_name, action, key, change, holds, error_type,"
    " error_text, attempts, first_at, last_at"
)
_TRANSIENT = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE that a later call may not meet: connection, deadlock, resources, locks, shutdown, disk."""


class PostgresDeadLetters:
    """Dead letters in a table of a PostgreSQL database.

    The schema and the tables are made at the first use. For that the role needs CREATE on the database, or, where the
    schema is there, on that.

    Args:
        dsn: Where to connect to, as libpq understands it; also PG* variables and service files.
        schema: The schema of the tables `dead_letters` and `dead_letter_owners`.
    """

    def __init__(self, dsn: Dsn = "", *, schema: str = "pgcdc") -> None:
        self._dsn = dsn_of(dsn)
        self._schema = schema
        self._names = {
            "letters": sql.Identifier(schema, "dead_letters"),
            "owners": sql.Identifier(schema, "dead_letter_owners"),
            "columns": sql.SQL(_COLUMNS),
        }
        self._opened: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock = threading.Lock()
        self._utf8 = True

    def _sql(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **more)

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._opened is not None and not self._opened.broken:
            return self._opened
        connection = self._connect()
        try:
            if not self._is_made(connection):
                with connection.transaction():
                    create(connection, self.own_tables())
        except BaseException:
            connection.close()
            raise
        self._opened = connection
        return connection

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        self._close()
        connection = psycopg.connect(
            autocommit=True,
            fallback_application_name="pgcdc dead letters",
            **{**PATIENCE, **parameters_of(self._dsn)},
        )
        try:
            connection.execute(pin(connection.info.server_version))
            connection.execute(DURABLE)
            self._utf8 = connection.info.parameter_status("server_encoding") == "UTF8"
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_made(self, connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
        name = self._names["letters"].as_string(connection)
        found = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
        return found is not None and found[0] is not None

    def _is_there(self) -> bool:
        """Whether there is anything to read; nothing is made for that."""
        with self._lock:
            if self._opened is not None:
                return True
            try:
                with contextlib.closing(self._connect()) as connection:
                    return self._is_made(connection)
            except psycopg.Error as error:
                raise self._unusable(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with self._lock:
            try:
                connection = self._open()
                with connection.transaction():
                    yield connection
            except psycopg.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: psycopg.Error) -> ConfigError | ConnectionLost:
        table = f"{self._schema}.dead_letters"
        lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
        if lost or (error.sqlstate or "XX")[:2] in _TRANSIENT:
            return ConnectionLost(
                f"the dead-letter table {table} cannot be used now: {primary(error)}",
                hint="nothing is confirmed past a change that is not in it",
                table=table,
                sqlstate=error.sqlstate,
            )
        if (refused := of_standby(error, table)) is not None:
            return refused
        schema = sql.Identifier(self._schema).as_string()
        return ConfigError(
            f"the dead-letter table {table} cannot be made or used: {primary(error)}",
            hint="GRANT CREATE ON DATABASE … TO the pipeline's role; or, when another role has made it:"
            f" GRANT USAGE ON SCHEMA {schema} TO …; GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.dead_letters,"
            f" {schema}.dead_letter_owners TO …; or keep them elsewhere: Pipeline(…, dead_letters=…)",
            table=table,
            sqlstate=error.sqlstate,
        )

    def _text(self, text: str | None) -> str | None:
        """What the database can hold of it: no NUL, and outside UTF-8 only ASCII, which JSON and Python read back."""
        if text is None:
            return None
        text = text.replace("\0", "\\u0000").encode("utf-8", "backslashreplace").decode()
        if self._utf8 or text.isascii():
            return text
        return "".join(one if one.isascii() else _escaped(one) for one in text)

    def claim(self, pipeline: str, consumer: str, epoch: int) -> None:
        """Become the owner, durably.

        Raises:
            PositionError: When there is an owner of a higher epoch.
            ConnectionLost: When the server cannot be used now.
        """
        with self._transaction() as connection:
            row = connection.execute(
                self._sql(
                    "INSERT INTO {owners} AS mine VALUES (%s, %s, %s) ON CONFLICT (pipeline, consumer)"
                    " DO UPDATE SET epoch = greatest(mine.epoch, excluded.epoch) RETURNING epoch"
                ),
                (pipeline, consumer, epoch),
            ).fetchone()
            if row is not None and row[0] > epoch:
                raise outdated(pipeline, consumer, row[0])

    def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
        """Store letters, all or none, durably.

        Raises:
            PositionError: When there is an owner of a higher epoch.
            ConnectionLost: When the server cannot be used now; whether they are stored is not known then.
        """
        if not letters:
            return
        first = letters[0]
        insert = self._sql(
            "INSERT INTO {letters} AS old ({columns}, message) VALUES"
            " (%s, %s, %s::pg_lsn, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (pipeline, consumer, commit_lsn, change_index, digest) DO UPDATE SET"
            " state = excluded.state, requested = false, holds = excluded.holds, error_type = excluded.error_type,"
            " error_text = excluded.error_text, attempts = old.attempts + excluded.attempts, last_at = excluded.last_at"
            " WHERE excluded.state = 'failed'"
        )
        with self._transaction() as connection:
            # The lock keeps a later owner from beginning before this is written.
            row = connection.execute(
                self._sql("SELECT epoch FROM {owners} WHERE pipeline = %s AND consumer = %s FOR SHARE"),
                (first.pipeline, first.consumer),
            ).fetchone()
            if row is not None and row[0] > epoch:
                raise outdated(first.pipeline, first.consumer, row[0])
            with connection.cursor() as cursor:
                cursor.executemany(insert, [self._row(letter) for letter in letters])

    def _row(self, letter: DeadLetter) -> tuple[object, ...]:
        return (
            letter.pipeline,
            letter.consumer,
            format_lsn(letter.position.commit_lsn),
            letter.position.index,
            letter.digest,
            letter.state,
            letter.table,
            letter.action,
            self._text(letter.key),
            self._text(letter.values),
            letter.holds,
            letter.error_type,
            self._text(letter.error_text),
            letter.attempts,
            letter.first_at,
            letter.last_at,
            letter.message,
        )

    def find(self, which: Which, limit: int | None = None) -> list[DeadLetter]:
        """Read letters without their messages.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        if not self._is_there():
            return []
        query = self._sql(
            "SELECT id, requested, {columns}, ''::bytea FROM {letters} WHERE"
            " (%(pipelines)s::text[] IS NULL OR pipeline = ANY (%(pipelines)s)"
            "  OR (%(beside)s AND split_part(pipeline, %(separator)s, 1) = ANY (%(pipelines)s)))"
            " AND (%(consumer)s::text IS NULL OR consumer = %(consumer)s)"
            " AND (%(table)s::text IS NULL OR %(table)s = ANY (string_to_array(table_name, ',')))"
            " AND (%(lsn)s::pg_lsn IS NULL OR (commit_lsn, change_index) = (%(lsn)s::pg_lsn, %(index)s::bigint))"
            " AND (%(since)s::timestamptz IS NULL OR last_at >= %(since)s)"
            " AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s))"
            " AND (%(state)s::text IS NULL OR state = %(state)s)"
            " ORDER BY pipeline, consumer, commit_lsn, change_index, id LIMIT %(limit)s"
        )
        given = {
            **msgspec.structs.asdict(which),
            "separator": BESIDE,
            "lsn": None if which.position is None else format_lsn(which.position.commit_lsn),
            "index": None if which.position is None else which.position.index,
            "pipelines": None if which.pipelines is None else sorted(which.pipelines),
            "ids": None if which.ids is None else list(which.ids),
            "limit": limit,
        }
        del given["position"]
        with self._transaction() as connection:
            return [_letter(row) for row in connection.execute(query, given)]

    def read(self, id: int) -> DeadLetter | None:
        """Read one letter whole.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        query = self._sql("SELECT id, requested, {columns}, message FROM {letters} WHERE id = %s")
        with self._transaction() as connection:
            row = connection.execute(query, (id,)).fetchone()
        return None if row is None else _letter(row)

    def marks(self, pipeline: str) -> Mapping[str, Marks]:
        """Look at the letters of a pipeline.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        query = self._sql(
            "SELECT consumer, count(*), sum(id), coalesce(sum(id) FILTER (WHERE requested), 0)"
            " FROM {letters} WHERE pipeline = %s GROUP BY consumer"
        )
        with self._transaction() as connection:
            rows = connection.execute(query, (pipeline,)).fetchall()
        return {consumer: Marks(count, int(ids), int(requested)) for consumer, count, ids, requested in rows}

    def request(self, ids: Collection[int]) -> int:
        """Ask for failed letters to be delivered again, durably.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        query = self._sql("UPDATE {letters} SET requested = true WHERE id = ANY (%s) AND state = 'failed'")
        with self._transaction() as connection:
            return connection.execute(query, (list(ids),)).rowcount

    def remove(self, ids: Collection[int]) -> int:
        """Remove letters, durably.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        with self._transaction() as connection:
            return connection.execute(self._sql("DELETE FROM {letters} WHERE id = ANY (%s)"), (list(ids),)).rowcount

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Give a consumer's letters to another name, durably.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        with self._transaction() as connection:
            connection.execute(
                self._sql("UPDATE {letters} SET consumer = %s WHERE pipeline = %s AND consumer = %s"),
                (new, pipeline, consumer),
            )
            connection.execute(
                self._sql("DELETE FROM {owners} WHERE pipeline = %s AND consumer = %s"), (pipeline, consumer)
            )

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove all letters and owners, durably.

        Raises:
            ConnectionLost: When the server cannot be used now.
        """
        given = (pipeline, *(2 * (None if consumers is None else list(consumers),)))
        with self._transaction() as connection:
            for table in ("letters", "owners"):
                connection.execute(
                    self._sql(
                        "DELETE FROM {table} WHERE pipeline = %s"
                        " AND (%s::text[] IS NULL OR consumer = ANY (%s::text[]))",
                        table=self._names[table],
                    ),
                    given,
                )

    def own_tables(self) -> OwnTables:
        """The tables that the first use makes."""
        return dead_letter_tables(self._dsn, self._schema)

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))


def _letter(row: Sequence[Any]) -> DeadLetter:
    (id, requested, pipeline, consumer, lsn, index, digest, state, table, action, key, change, holds) = row[:13]
    error_type, error_text, attempts, first_at, last_at, message = row[13:]
    return DeadLetter(
        id=id,
        pipeline=pipeline,
        consumer=consumer,
        position=Position(parse_lsn(lsn), index),
        digest=digest,
        state=state,
        requested=requested,
        table=table,
        action=action,
        key=key,
        values=change,
        message=bytes(message),
        holds=holds,
        error_type=error_type,
        error_text=error_text,
        attempts=attempts,
        first_at=first_at,
        last_at=last_at,
    )
