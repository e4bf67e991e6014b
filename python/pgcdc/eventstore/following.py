"""The pipeline of an event store: projections, reactors and any sinks, as consumers of the stream of its table."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg

from pgcdc.errors import ConfigError, SlotInUse, SlotLost, SlotNotFound
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.commits import Commits
from pgcdc.eventstore.gaps import Gaps
from pgcdc.eventstore.generations import Generations
from pgcdc.eventstore.projecting import Noting, Projecting, rows_of
from pgcdc.eventstore.projecting import connect as connect_store
from pgcdc.eventstore.projection import Projection
from pgcdc.eventstore.reacting import Reactor, ReactorRow
from pgcdc.eventstore.refusals import refused
from pgcdc.eventstore.skipping import Skipped
from pgcdc.eventstore.statements import WAITING, Statements
from pgcdc.lsn import format_lsn
from pgcdc.pipeline import Pipeline
from pgcdc.pipeline.ownership import disown, own
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.settings import BESIDE
from pgcdc.pipeline.start import check_slot, look_at
from pgcdc.replication import connect

__all__ = ["COMMITS", "LARGEST_TRANSACTION", "EventPipeline"]

logger = logging.getLogger("pgcdc.eventstore")

COMMITS = "commits"
"""The name of the consumer that notes commits."""
NOTED_WITHIN = 60.0
"""Seconds that a second pipeline waits for the first."""
LARGEST_TRANSACTION = 100_000
"""So many events may be appended in one transaction, where no other number is said."""
LARGEST_BYTES = 64 * 1024 * 1024
"""So many bytes of the stream these may take, likewise."""
_ANEW = (
    "no event is lost: call pipeline.destroy() once, and run it again; what was committed meanwhile"
    " projections and reactors are given from the table of events"
)


class _Stopped(Exception):
    """The run is being stopped while it waits to own its slot."""


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
        projections = list(projections)
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
        self._projections = frozenset(one.name for one in projections)
        self._letters_go = self._projections | {COMMITS}
        self._skipped = Skipped(statements)
        format = rows_of(statements.schema)
        for projection in projections:
            sink = Projecting(
                *(projection, dsn, self._commits, generations, format, self._skipped, name), lambda: self._letters
            )
            parks: Any = {"on_failure": "park"} if projection.on_failure == "dead_letter" else {}
            self.add(sink, name=projection.name, max_rows=rows, max_wait=wait, **whole, **parks)
        bound = [reactor.bound() for reactor in reactors]
        for one in bound:
            self.on(table, "insert", row=ReactorRow, **one.options)(one.handler())
        self._prepares = False
        self._gaps = Gaps(name, statements, self._commits, bound)

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
        preparing = asyncio.create_task(asyncio.to_thread(self._prepare, asyncio.get_running_loop()))
        self._prepares = True
        try:
            await asyncio.shield(preparing)
        except asyncio.CancelledError:
            self._stop_early = True
            await asyncio.wait([preparing])
            self._stop_early = False  # there is no run that it could be for
            raise
        finally:
            self._prepares = False
        try:
            await super().arun()
        except SlotNotFound as error:
            error.hint = _ANEW
            raise
        except SlotLost as error:
            error.hint = f"{_ANEW}; raise max_slot_wal_keep_size against the next time"
            raise

    def stop(self) -> None:
        """As `Pipeline.stop`, also while reactors are given what they have missed."""
        if self._prepares:
            self._stop_early = True
        else:
            super().stop()

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._make_slot()
            with connect_store(self._dsn) as connection:
                self._commits.start_lsn = self._commits.through(connection)
                if self._gaps.are_kept(connection, self._positions()):
                    self._fill(connection, loop)
        except psycopg.Error as error:
            raise refused(error, self._statements) from error

    def _fill(self, connection: psycopg.Connection[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Give reactors what they have missed, as the owner of the pipeline: another process has given it otherwise."""
        with connect(self._dsn) as replication, contextlib.closing(self._own_letters):
            standby = self._stands_by if self._settings.standby else None
            try:
                slot = own(replication, self._settings.slot, self._pause, standby)
            except _Stopped:
                return
            if slot is None or slot.active:
                return  # the run says so
            self._commits.start_lsn = self._commits.through(connection)  # it may have taken a while
            self._gaps.fill(
                connection,
                self._positions(),
                set(self._subscriptions),
                self._commits.start_lsn,
                self._own_letters,
                loop,
                lambda: self._stop_early,
            )
            disown(replication, self._settings.slot)  # the run takes it again

    def _pause(self, seconds: float) -> None:
        if self._stop_early:
            raise _Stopped
        time.sleep(seconds)

    def _stands_by(self, error: SlotInUse) -> None:
        logger.debug("pipeline %r waits as a standby: %s", self.name, error)

    def destroy(self, *, tables: bool = False) -> None:
        """As `Pipeline.destroy`; the events, projections, the order of commits and reactors' dead letters stay.

        The next run begins with what is in the table: projections where they were, and reactors, too, so that they miss
        nothing that was committed while there was no slot. For one that is to begin with what is appended from then on,
        call `forget` in between. What a reactor, or a handler or sink that was added, could not take is still a dead
        letter then; those of projections are made again.

        Args:
            tables: As for `Pipeline.destroy`; then all dead letters go, too.

        Raises:
            SlotInUse: When it runs, here or elsewhere.
            Error: When the server cannot be reached or refuses.
        """
        try:
            with connect_store(self._dsn) as connection:
                known = {COMMITS, *self._projections}
                self._gaps.keep(connection, {k: v for k, v in self._positions().items() if k not in known})
        except psycopg.errors.UndefinedTable:
            logger.debug("there is no event store in the schema %s", self._statements.schema)
        except psycopg.Error as error:
            raise refused(error, self._statements) from error
        super().destroy(tables=tables)
        with contextlib.suppress(psycopg.Error), connect_store(self._dsn) as connection:
            self._commits.unmake_epoch(connection, self._settings.slot)

    def forget(self, consumer: str) -> None:
        """As `Pipeline.forget`; of a reactor also what it has missed while there was no slot, and its dead letters.

        Args:
            consumer: Its name.

        Raises:
            PositionError: When there is no such position.
            SlotInUse: When the pipeline runs, here or elsewhere.
        """
        with connect_store(self._dsn) as connection:
            was_kept = self._gaps.forget(connection, [consumer])
        if was_kept and consumer not in self._positions():
            with contextlib.closing(self._own_letters):
                for pipeline in (self.name, f"{self.name}{BESIDE}{consumer}"):
                    self._own_letters.forget(pipeline, [consumer])
            return
        super().forget(consumer)

    def _forget_letters(self, *, all_of_them: bool) -> None:
        # Before they go, because a crash in between is to lose none; and as the owner: nobody drops one meanwhile.
        with contextlib.suppress(psycopg.errors.UndefinedTable), connect_store(self._dsn) as connection:
            for name in self._projections:
                self._skipped.unlist(connection, name, self._own_letters)
        super()._forget_letters(all_of_them=all_of_them)

    def _make_slot(self) -> None:
        """Make the slot, and note what was committed before it: the stream begins exactly behind that."""
        slot = self._settings.slot
        with connect(self._dsn) as replication, connect_store(self._dsn) as connection:
            self._refuse_foreign(connection, self._statements.is_foreign)
            if (elsewhere := self._commits.slot_elsewhere(connection)) is not None:
                raise ConfigError(
                    f"the event store in the schema {self._statements.schema} is a copy of that of the database"
                    f" {elsewhere[1]}, whose slot {elsewhere[0]} is",
                    hint="pgcdc events adopt --store MODULE:STORE; then run its pipeline with a slot of another name:"
                    f" store.pipeline(slot={elsewhere[0] + '_2'!r})",
                    slot=elsewhere[0],
                )
            if self._has_positions():
                return  # the pipeline knows what to do, also when the slot is gone
            # One after the other: the second one has to know of the first.
            connection.execute(
                "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"pgcdc slots of {self._statements.schema}",)
            )
            found = own(replication, slot, time.sleep)
            if found is not None:
                check_slot(found, look_at(replication, {}))
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

    def _positions(self) -> dict[str, StoredPosition]:
        """What is stored, of reactors with slots of their own, too."""
        found: dict[str, StoredPosition] = {}
        for one in (self, *self._own_slots().values()):
            with contextlib.closing(one._store) as store:
                store.open()
                found |= store.load(one.name)
        return found

    def _has_positions(self) -> bool:
        with contextlib.closing(self._store) as store:
            store.open()
            return bool(store.load(self.name))
