"""What is stored of projections: a row for each generation, with its place, written in the transaction of its rows."""
# ruff: noqa: S608  (what is put in are names that were looked at)

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any, Literal, LiteralString

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgcdc.errors import ConfigError
from pgcdc.eventstore.commits import Place
from pgcdc.eventstore.projection import Projection
from pgcdc.eventstore.statements import Statements
from pgcdc.lsn import format_lsn

__all__ = ["Generation", "Generations", "Status"]

logger = logging.getLogger("pgcdc.eventstore")

Status = Literal["building", "live", "retired"]


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a projection: tables that were built from the beginning.

    Attributes:
        name: The projection's name.
        generation: Its number.
        version: The version of the class that has built it.
        status: Whether it is being built, is live, or was replaced.
        schema: Where its tables are.
        tables: Their names.
        place: How far it is.
        passed_lsn: How far the stream was followed for it, applied or not.
        events: How many events were given to it.
        error: Why it is parked; None when it is not.
    """

    name: str
    generation: int
    version: int
    status: Status
    schema: str
    tables: list[str]
    place: Place
    passed_lsn: int
    events: int
    error: str | None


class Generations:
    """The rows of one store.

    Args:
        statements: Of the store.
    """

    def __init__(self, statements: Statements) -> None:
        self.store_schema = statements.schema
        es: LiteralString = statements.quoted
        columns: LiteralString = (
            "name, generation, version, status, tables_schema, tables, (commit_lsn - '0/0'::pg_lsn)::bigint, base_id,"
            " (passed_lsn - '0/0'::pg_lsn)::bigint, events, error"
        )
        self._live: LiteralString = f"SELECT {columns} FROM {es}.projections WHERE name = %s AND status = 'live'"
        self._of: LiteralString = f"SELECT {columns} FROM {es}.projections WHERE name = %s ORDER BY generation"
        self._all: LiteralString = f"SELECT {columns} FROM {es}.projections ORDER BY 1, 2"
        self._begin: LiteralString = (
            f"INSERT INTO {es}.projections (name, generation, version, status, tables_schema, tables, passed_lsn)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s::pg_lsn)"
        )
        self._advance: LiteralString = (
            f"UPDATE {es}.projections SET commit_lsn = %s::pg_lsn, base_id = %s,"
            " passed_lsn = greatest(passed_lsn, %s::pg_lsn), events = events + %s, error = NULL, updated_at = now()"
            " WHERE name = %s AND generation = %s AND commit_lsn = %s::pg_lsn AND base_id = %s"
        )
        self._pass: LiteralString = (
            f"UPDATE {es}.projections SET passed_lsn = greatest(passed_lsn, %s::pg_lsn), updated_at = now()"
            " WHERE name = %s AND status = 'live'"
        )
        self._park: LiteralString = (
            f"UPDATE {es}.projections SET error = %s, updated_at = now() WHERE name = %s AND generation = %s"
        )
        self._become: LiteralString = (
            f"UPDATE {es}.projections SET status = %s, tables_schema = %s, updated_at = now()"
            " WHERE name = %s AND generation = %s"
        )
        self._forget: LiteralString = f"DELETE FROM {es}.projections WHERE name = %s AND generation = %s"

    @staticmethod
    def _read(row: tuple[Any, ...]) -> Generation:
        name, generation, version, status, schema, tables, lsn, base_id, passed_lsn, events, error = row
        return Generation(
            name=name,
            generation=generation,
            version=version,
            status=status,
            schema=schema,
            tables=tables,
            place=Place(lsn, base_id),
            passed_lsn=passed_lsn,
            events=events,
            error=error,
        )

    def live(self, connection: psycopg.Connection[Any], name: str, *, lock: bool = False) -> Generation | None:
        """Read the generation that is live.

        Args:
            connection: On which.
            name: The projection's name.
            lock: Whether nobody else may write to it until the transaction ends.

        Returns:
            It, None when there is none.
        """
        query = self._live + " FOR UPDATE" if lock else self._live
        row = connection.cursor(row_factory=tuple_row).execute(query, (name,), prepare=True).fetchone()
        return None if row is None else self._read(row)

    @staticmethod
    def lock(connection: psycopg.Connection[Any], name: str) -> None:
        """Be the only one that makes a generation of a projection, until the transaction ends.

        Args:
            connection: On which, in a transaction.
            name: The projection's name.
        """
        connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"pgcdc {name}",))

    def of(self, connection: psycopg.Connection[Any], name: str) -> list[Generation]:
        """Read all generations of a projection, the oldest first.

        Args:
            connection: On which.
            name: Its name.

        Returns:
            The generations.
        """
        return [self._read(row) for row in connection.cursor(row_factory=tuple_row).execute(self._of, (name,))]

    def all(self, connection: psycopg.Connection[Any]) -> list[Generation]:
        """Read all generations of all projections.

        Args:
            connection: On which.

        Returns:
            By name, the oldest first.
        """
        return [self._read(row) for row in connection.cursor(row_factory=tuple_row).execute(self._all)]

    def begin(
        self, connection: psycopg.Connection[Any], projection: Projection, *, beside: bool, passed_lsn: int = 0
    ) -> Generation:
        """Make the tables of a new generation, and its row; in the caller's transaction.

        Args:
            connection: On which.
            projection: What is to be built.
            beside: Whether something is live already: then it is built in a schema of its own.
            passed_lsn: Up to where commits are noted.

        Returns:
            The generation.

        Raises:
            ConfigError: When a table of its name is there already.
        """
        known = self.of(connection, projection.name)
        number = max((one.generation for one in known), default=0) + 1
        schema = self.free_schema(connection, projection.name, number) if beside else projection.schema
        status: Status = "building" if beside else "live"
        tables = [table.name for table in projection.tables]
        row = (projection.name, number, projection.version, status, schema, tables, format_lsn(passed_lsn))
        self.make_schema(connection, projection.name, schema, if_not_exists=not beside)
        try:
            for table in projection.tables:
                for statement in table.create(f'"{schema}"'):
                    connection.execute(statement)
        except psycopg.errors.DuplicateTable as error:
            raise _no_room(projection.name, error.diag.message_primary or "", error.sqlstate) from None
        connection.execute(self._begin, row)
        return Generation(
            name=projection.name,
            generation=number,
            version=projection.version,
            status=status,
            schema=schema,
            tables=tables,
            place=Place(0),
            passed_lsn=passed_lsn,
            events=0,
            error=None,
        )

    def look_for_room(self, connection: psycopg.Connection[Any], name: str, tables: Sequence[str], home: str) -> None:
        """Look whether a generation's tables can be where they are to be.

        Args:
            connection: On which.
            name: The projection's name.
            tables: The tables' names.
            home: The schema where they are to be.

        Raises:
            ConfigError: When a relation of the name of one of them is there, and not of the projection that is live.
        """
        live = self.live(connection, name)
        own = [] if live is None or live.schema != home else live.tables
        there = connection.cursor(row_factory=tuple_row).execute(
            "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relname = ANY (%s)"
            " AND relname <> ALL (%s) ORDER BY 1 LIMIT 1",
            (f'"{home}"', list(tables), own),
        )
        if (found := there.fetchone()) is not None:
            raise _no_room(name, f'relation "{found[0]}" already exists in the schema {home}', "42P07")

    def free_schema(self, connection: psycopg.Connection[Any], name: str, number: int) -> str:
        """A schema that is not there, for a generation's tables while it is not live.

        One that is there is somebody's: a user's, or another store's whose name begins in the same way.

        Args:
            connection: On which.
            name: The projection's name.
            number: The generation's.

        Returns:
            The schema's name. It is stored with the generation, and made without IF NOT EXISTS.
        """
        first = f"{self.store_schema[:12]}_{name}_{number}"
        candidates = itertools.chain([first], (f"{first}_{another}" for another in itertools.count(2)))
        there = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)"
        return next(schema for schema in candidates if connection.execute(there, (schema,)).fetchone() == (False,))

    @staticmethod
    def make_schema(
        connection: psycopg.Connection[Any], name: str, schema: str, *, if_not_exists: bool = False
    ) -> None:
        """Make a schema for the tables of a generation.

        Args:
            connection: On which.
            name: The projection's name.
            schema: The schema's.
            if_not_exists: Whether it may be there.

        Raises:
            ConfigError: When this role may make none.
        """
        words = "CREATE SCHEMA IF NOT EXISTS {}" if if_not_exists else "CREATE SCHEMA {}"
        try:
            connection.execute(sql.SQL(words).format(sql.Identifier(schema)))
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigError(
                f"the projection {name} cannot have its schema {schema}: {error.diag.message_primary}",
                hint="GRANT CREATE ON DATABASE … TO …; tables that are not live, because they are being built or were"
                " replaced, have a schema of their own",
                sqlstate=error.sqlstate,
            ) from error

    def drop_tables(self, connection: psycopg.Connection[Any], at: Generation) -> None:
        """Drop the tables of a generation that is not live, views on them too, and its schema if nothing else is in it.

        Args:
            connection: On which, in a transaction.
            at: The generation.
        """
        for table in at.tables:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(at.schema, table)))
        self.drop_schema(connection, at.schema)

    def drop_schema(self, connection: psycopg.Connection[Any], schema: str) -> None:
        """Drop a schema that was made for a generation's tables, unless somebody else has put something into it.

        Args:
            connection: On which, in a transaction.
            schema: Its name.
        """
        try:
            with connection.transaction():
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} RESTRICT").format(sql.Identifier(schema)))
        except psycopg.errors.DependentObjectsStillExist:
            logger.warning("the schema %s stays: there is something in it that no projection has made", schema)

    def advance(
        self, connection: psycopg.Connection[Any], at: Generation, place: Place, passed_lsn: int, events: int
    ) -> psycopg.Cursor[Any]:
        """Move a generation's place, in the transaction of its rows.

        Args:
            connection: On which.
            at: The generation as it was read.
            place: How far it is now.
            passed_lsn: How far commits are noted.
            events: How many events that were.

        Returns:
            Of one row, if it was where it had been read; of none when it was not: then somebody else is at work. In a
            pipeline it says so when that is synced.
        """
        values = (
            *(format_lsn(place.lsn), place.base_id, format_lsn(passed_lsn), events),
            *(at.name, at.generation, format_lsn(at.place.lsn), at.place.base_id),
        )
        return connection.execute(self._advance, values, prepare=True)

    def passed(self, connection: psycopg.Connection[Any], name: str, lsn: int) -> None:
        """Note that the stream was followed for a projection without applying anything.

        Args:
            connection: On which.
            name: Its name.
            lsn: Up to where.
        """
        connection.execute(self._pass, (format_lsn(lsn), name), prepare=True)

    def park(self, connection: psycopg.Connection[Any], at: Generation, error: str | None) -> None:
        """Note that a generation takes nothing more for the time being.

        Args:
            connection: On which.
            at: The generation.
            error: Why, without values; None: it takes events again.
        """
        connection.execute(self._park, (error, at.name, at.generation))

    def become(self, connection: psycopg.Connection[Any], at: Generation, status: Status, schema: str) -> None:
        """Give a generation another status, and note where its tables are.

        Args:
            connection: On which.
            at: The generation.
            status: What it is now.
            schema: Where its tables are now.
        """
        connection.execute(self._become, (status, schema, at.name, at.generation))

    def forget(self, connection: psycopg.Connection[Any], at: Generation) -> None:
        """Remove a generation's row.

        Args:
            connection: On which.
            at: The generation.
        """
        connection.execute(self._forget, (at.name, at.generation))


def _no_room(name: str, said: str, sqlstate: str | None) -> ConfigError:
    return ConfigError(
        f"the projection {name} cannot make its tables: {said}",
        hint="a projection makes its tables itself: rename the table, or give the projection another schema",
        sqlstate=sqlstate,
    )
