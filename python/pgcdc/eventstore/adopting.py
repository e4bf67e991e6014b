"""A store that was restored from a dump on another server, where its transaction ids and LSNs mean nothing; or copied.

What is stored of the order of commits is another server's, and its ids may be in the future of this one. So the events
are written with an id of this server, all of them with one: they are what was committed before the first slot, in the
order in which they were written. The rest is forgotten, and projections wait for their rebuild with the rows they have.

Source: PostgreSQL manual, "Transaction ID and Snapshot Information Functions"; "SQL Dump".
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import ConfigError, EventStoreError
from pgcdc.eventstore.commits import Commits
from pgcdc.eventstore.generations import Generations
from pgcdc.eventstore.projecting import connect
from pgcdc.eventstore.refusals import refused

if TYPE_CHECKING:
    from pgcdc.eventstore.statements import Statements
    from pgcdc.eventstore.store import EventStore
    from pgcdc.eventstore.store_async import AsyncEventStore

__all__ = ["AdoptPlan", "adopt", "plan_adopt"]

_LOCK_WITHIN: Final = 5.0


class AdoptPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `adopt` does.

    Attributes:
        schema: The store's schema.
        pipeline: The pipeline whose positions are forgotten.
        is_foreign: Whether the order of commits is another server's; if not, there is nothing to do.
        events: How many events are written again.
        commits: How many transactions are forgotten.
        segments: How many files of the archive are read in the order of writing from then on.
        waiting: Projections that wait for their rebuild.
        dropped: Schemas of generations that are dropped: those that are being built, and that were replaced.
        copied_from: The database that this one is a copy of, in the same server: only its slot is forgotten then.
    """

    schema: str
    pipeline: str
    is_foreign: bool
    events: int
    commits: int
    segments: int
    waiting: list[str]
    dropped: list[str]
    copied_from: str | None = None

    def __str__(self) -> str:
        """Some lines."""
        if self.copied_from is not None and not self.is_foreign:
            return (
                f"the event store in the schema {self.schema} is a copy of that of the database {self.copied_from}\n"
                f"  the positions of the pipeline {self.pipeline} and the slots of the original are forgotten\n"
                "  the order of commits is that of this server, and stays; so do projections\n"
                "  the pipeline needs a slot of another name than the original's: store.pipeline(slot=…)"
            )
        if not self.is_foreign:
            return f"the order of commits in the schema {self.schema} is that of this server: there is nothing to do"
        lines = [
            f"the order of commits in the schema {self.schema} is that of another server",
            f"  {self.events:,} events are written again, with a transaction id of this one",
            f"  {self.commits:,} transactions and the positions of the pipeline {self.pipeline} are forgotten",
        ]
        if self.segments:
            lines.append(f"  {self.segments:,} segments of the archive are read in the order of writing")
        if self.dropped:
            lines.append(f"  generations that are not live are dropped: {', '.join(self.dropped)}")
        if self.waiting:
            lines.append(f"  these projections stay as they are until they are rebuilt: {', '.join(self.waiting)}")
        return "\n".join(lines)


def plan_adopt(store: EventStore | AsyncEventStore, *, pipeline: str | None = None) -> AdoptPlan:
    """Say what `adopt` would do.

    Args:
        store: The store.
        pipeline: The name of its pipeline; the schema's without it.

    Returns:
        The plan, for `print`.
    """
    with _connected(store) as connection, connection.transaction():
        return _plan(connection, store, pipeline)


def adopt(store: EventStore | AsyncEventStore, *, pipeline: str | None = None) -> AdoptPlan:
    """Make a store that was restored from a dump one of this server; then run its pipeline, and rebuild projections.

    A copy in the same server (`CREATE DATABASE … TEMPLATE`, or a dump restored beside the original) has the right order
    of commits, and the name of a slot that is the original's: that is forgotten, and its pipeline is run with a slot of
    another name. Reactors begin with what is appended from then on: what they had not done yet the original does.

    Otherwise it is one transaction; appends wait for it. Every event is written again, so the table is twice as large
    until it is vacuumed. Restored from a copy of the server's files, or after pg_upgrade, there is nothing to do.

    Args:
        store: The store.
        pipeline: The name of its pipeline; the schema's without it.

    Returns:
        What was done.

    Raises:
        ConfigError: When the order of commits is that of this server.
        EventStoreError: When the table is in use.
    """
    statements: Statements = store._statements
    es = statements.quoted
    try:
        with _connected(store) as connection, connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{int(_LOCK_WITHIN * 1000)}ms'".encode())
            connection.execute(f"LOCK TABLE {es}.events IN SHARE ROW EXCLUSIVE MODE".encode())
            plan = _plan(connection, store, pipeline)
            if not plan.is_foreign and plan.copied_from is None:
                raise ConfigError(
                    f"the order of commits in the schema {plan.schema} is that of this server",
                    hint="nothing has to be done",
                )
            positions = store.pipeline(plan.pipeline)._store
            with contextlib.closing(positions):
                positions.open()
                positions.forget(plan.pipeline)  # first: without the slot they are of no use in any case
            connection.execute(f"DELETE FROM {es}.reactors".encode())
            if not plan.is_foreign:
                connection.execute(f"UPDATE {es}.epochs SET slot = NULL".encode())
                return plan
            connection.execute("SET LOCAL pgcdc.maintenance = on")  # the trigger that refuses UPDATE gives way
            connection.execute(f"UPDATE {es}.events SET xid = pg_current_xact_id()".encode())
            connection.execute(f"DELETE FROM {es}.commits".encode())
            connection.execute(f"DELETE FROM {es}.epochs".encode())
            connection.execute(f"UPDATE {es}.archive_segments SET is_ordered = false".encode())
            generations = Generations(statements)
            for one in generations.all(connection):
                if one.status != "live":
                    generations.drop_tables(connection, one)
            connection.execute(f"DELETE FROM {es}.projections WHERE status <> 'live'".encode())
            # No class has this version: it takes nothing until another generation is in its place.
            connection.execute(
                f"UPDATE {es}.projections SET version = 0, commit_lsn = '0/0', passed_lsn = '0/0', base_id = 0,"
                " error = NULL".encode()
            )
            return plan
    except EventStoreError as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise EventStoreError(
                "the table of events is in use: it cannot be adopted", hint="end the transactions that append"
            ) from None
        raise


def _plan(connection: psycopg.Connection[Any], store: EventStore | AsyncEventStore, pipeline: str | None) -> AdoptPlan:
    statements: Statements = store._statements
    es = statements.quoted
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(statements.is_foreign_deep)
    [(is_foreign,)] = cursor.fetchall()
    cursor.execute(
        f"SELECT (SELECT count(*) FROM {es}.events), (SELECT count(*) FROM {es}.commits),"
        f" (SELECT count(*) FROM {es}.archive_segments)".encode()
    )
    [(events, commits, segments)] = cursor.fetchall()
    generations = Generations(statements).all(connection)
    elsewhere = Commits(statements).slot_elsewhere(connection)
    return AdoptPlan(
        schema=statements.schema,
        pipeline=pipeline or statements.schema,
        is_foreign=is_foreign,
        events=events,
        commits=commits,
        segments=segments,
        waiting=[one.name for one in generations if one.status == "live"],
        dropped=[one.schema for one in generations if one.status != "live"],
        copied_from=None if elsewhere is None else elsewhere[1],
    )


@contextmanager
def _connected(store: EventStore | AsyncEventStore) -> Iterator[psycopg.Connection[Any]]:
    try:
        with connect(store._dsn) as connection:
            yield connection
    except psycopg.Error as error:
        raise refused(error, store._statements) from error
