"""The pipeline of an event store: projections, reactors and any sinks, as consumers of the stream of its table."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg

from pgcdc.errors import ConfigError
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.commits import Commits
from pgcdc.eventstore.generations import Generations
from pgcdc.eventstore.projecting import Noting, Projecting, rows_of
from pgcdc.eventstore.projecting import connect as connect_store
from pgcdc.eventstore.projection import Projection
from pgcdc.eventstore.reacting import Reactor, ReactorRow
from pgcdc.eventstore.refusals import refused
from pgcdc.eventstore.statements import WAITING, Statements
from pgcdc.lsn import format_lsn
from pgcdc.pipeline import Pipeline
from pgcdc.pipeline.ownership import own
from pgcdc.replication import connect

__all__ = ["COMMITS", "LARGEST_TRANSACTION", "EventPipeline"]

COMMITS = "commits"
"""The name of the consumer that notes commits."""
NOTED_WITHIN = 60.0
"""Seconds that a second pipeline waits for the first."""
LARGEST_TRANSACTION = 100_000
"""So many events may be appended in one transaction, where no other number is said."""
LARGEST_BYTES = 64 * 1024 * 1024
"""So many bytes of the stream these may take, likewise."""


class EventPipeline(Pipeline):
    """A pipeline that follows the table of events; made by `EventStore.pipeline`.

    It is a `pgcdc.Pipeline` in every respect: it is run, stopped, observed and given further sinks and handlers as any
    other, for the table `SCHEMA.events`. Before it begins it sees to it that the slot is there, and notes what was
    committed before.

    Args:
        name: The pipeline's name.
        dsn: Where the store is.
        statements: Of the store.
        projections: Its projections.
        reactors: Its reactors.
        rows: How many events a projection applies in one transaction, as far as those of the source are not larger.
        wait: How long it waits for more of them, in seconds.
        archive: Where events are that have left the table.
        transactions: So many events a transaction of the source has at most.
        max_transaction_bytes: So many bytes of the stream it has at most.
        options: As for `pgcdc.Pipeline`.
    """

    def __init__(
        self,
        name: str,
        dsn: str,
        statements: Statements,
        projections: Iterable[Projection],
        reactors: Iterable[Reactor],
        *,
        rows: int = 1000,
        wait: float = 0.0,
        archive: Archive | None = None,
        transactions: int = LARGEST_TRANSACTION,
        max_transaction_bytes: int = LARGEST_BYTES,
        **options: Any,
    ) -> None:
        for given in ("positions", "snapshot", "publication"):
            if given in options:
                raise ConfigError(
                    f"{given}= cannot be given to the pipeline of an event store",
                    hint="positions are beside the events, existing events are read from the table",
                )
        table = (statements.schema, "events")
        super().__init__(name, dsn, [table], publication=f"{statements.schema}_events", snapshot="never", **options)
        self._dsn = dsn
        self._statements = statements
        self._commits = Commits(statements, archive)
        whole: dict[str, Any] = {
            "transactions": transactions,
            "max_transaction_bytes": max_transaction_bytes,
            "actions": ["insert"],
            "messages": [WAITING],
        }
        self.add(Noting(dsn, statements.schema, self._commits), name=COMMITS, max_rows=rows, **whole)
        generations = Generations(statements)
        format = rows_of(statements.schema)
        for projection in projections:
            sink = Projecting(projection, dsn, self._commits, generations, format)
            self.add(sink, name=projection.name, max_rows=rows, max_wait=wait, **whole)
        for reactor in reactors:
            self.on(table, "insert", row=ReactorRow, **reactor.options)(reactor.handler())

    async def arun(self, *, source: str | None = None) -> None:
        """As `run`, on the running event loop; signals are the caller's. Cancelling it drains in the same way.

        Args:
            source: As for `pgcdc.Pipeline.run`; projections follow the database itself.

        Raises:
            ConfigError: When another source is given.
            Error: When it cannot start or cannot go on.
            CancelledError: After the drain, when it was cancelled.
        """
        if source is not None:
            raise ConfigError("the pipeline of an event store follows its database", hint="leave source= out")
        await asyncio.to_thread(self._prepare)
        await super().arun()

    def _prepare(self) -> None:
        try:
            self._make_slot()
            with connect_store(self._dsn) as connection:
                self._commits.start_lsn = self._commits.through(connection)
        except psycopg.Error as error:
            raise refused(error, self._statements) from error

    def _make_slot(self) -> None:
        """Make the slot, and note what was committed before it: the stream begins exactly behind that."""
        slot = self._settings.slot
        with connect(self._dsn) as replication, connect_store(self._dsn) as connection:
            self._refuse_foreign(connection, self._statements.is_foreign)
            if self._has_positions():
                return  # the pipeline knows what to do, also when the slot is gone
            # One after the other: the second one has to know of the first.
            connection.execute(
                "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"pgcdc slots of {self._statements.schema}",)
            )
            found = own(replication, slot, time.sleep)
            if found is not None and self._commits.has_epoch(connection, slot):
                return
            if found is not None:
                replication.drop_slot(slot)  # made by somebody who was killed before it was known where it begins
            self._refuse_foreign(connection, self._statements.is_foreign_deep)
            self._commits.unmake_epoch(connection, slot)
            made = replication.create_slot(slot, export_snapshot=True)
            if self._commits.other_slots(connection, slot):
                self._await_noted(connection, made.consistent_point)
                self._commits.make_epoch(connection, slot, made.consistent_point, None)
                return
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                # It has the form 00000003-0000001B-1: the server's own, and no text of ours.
                connection.execute(f"SET TRANSACTION SNAPSHOT '{made.snapshot_name}'".encode())
                row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
            assert row is not None, "the function returns a row"
            self._commits.make_epoch(connection, slot, made.consistent_point, row[0])

    def _refuse_foreign(self, connection: psycopg.Connection[Any], query: LiteralString) -> None:
        if connection.execute(query).fetchone() == (True,):
            raise ConfigError(
                f"the order of commits in the schema {self._statements.schema} is that of another server: it was"
                " restored from a dump",
                hint="pgcdc events adopt --store MODULE:STORE; then run the pipeline, and rebuild --all",
            )

    def _await_noted(self, connection: psycopg.Connection[Any], lsn: int) -> None:
        """Wait until a pipeline that follows the same events has noted all that is not in the stream of a new slot."""
        deadline = time.monotonic() + NOTED_WITHIN
        connection.execute("SELECT pg_logical_emit_message(true, %s, '')", (WAITING,))
        while self._commits.through(connection) < lsn:
            if time.monotonic() > deadline:
                others = ", ".join(self._commits.other_slots(connection, self._settings.slot))
                raise ConfigError(
                    f"pipeline {self.name!r} is the second one of its store, and the first (slot {others}) does not"
                    f" come to {format_lsn(lsn)}",
                    hint="run that one until it has caught up, and then this one; or drop its slot, if unwanted",
                )
            time.sleep(0.02)

    def _has_positions(self) -> bool:
        store = self._store
        with contextlib.closing(store):
            store.open()
            return bool(store.load(self.name))
