"""How a run begins, by its first connection: it owns the pipeline, copies or resumes; who lacks tables joins."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import msgspec

from pgcdc.errors import Error, SpoolInUse
from pgcdc.lsn import Position
from pgcdc.pipeline import publishing
from pgcdc.pipeline.copying import InitialCopy, wanted
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.guarding import Guard
from pgcdc.pipeline.items import Begin
from pgcdc.pipeline.joining import Joining
from pgcdc.pipeline.keys import check_columns, key_columns, primary_keys
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.ownership import TAKE_OVER_WITHIN, disown, own
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.seen import Seen
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.spooling import source_of
from pgcdc.pipeline.start import Server, check_own_slots, decide, look_at, rows_to_resume, tables_missing, written_lsn
from pgcdc.pipeline.subscription import Subscription, Table
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import Catalog, RowFormat
from pgcdc.replication import Connection, SlotState, Snapshot, SnapshotProgress, check_server, connect
from pgcdc.replication.snapshot_view import SnapshotView

__all__ = ["Beginning", "Begun"]

logger = logging.getLogger("pgcdc.pipeline")

LET_GO_FOR = 2.0
"""Seconds after which a standby that has left the lock to whoever has the spools looks whether it still has them."""


class Begun(NamedTuple):
    """What the stream goes on from.

    Attributes:
        lsn: Where it begins.
        guard: Knows what is published.
        format: How rows are given: types that are created from here on become known to all who decode with its catalog.
        joining: Those that lack tables; None when nobody does.
    """

    lsn: int
    guard: Guard
    format: RowFormat
    joining: Joining | None


class Beginning:
    """The beginning of one run; used in the source's thread.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers by name.
        lanes: Their lanes.
        ledger: What is stored.
        formats: Told the types of the database.
        versioning: Knows the versions of tables' shapes.
        fanout: Hands over to the lanes.
        condition: Shared by all lanes.
        wait: Waits for the condition until a predicate holds, or raises when the run is being stopped.
        pause: Waits so many seconds, or raises likewise.
        stopping: Whether the run is being stopped.
        joined: Called when nobody joins any more, with the error that is the reason, if one is.

    Attributes:
        copying: Whether the initial copy goes on.
        unfinished_copy: Whether it has begun and has not been finished.
        waiting: Whether it may still have to wait for another process: it connects again then.
        standing_by: Whether another process has the pipeline, and is waited for.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        ledger: Ledger,
        formats: RowFormats,
        versioning: Versioning,
        fanout: Fanout,
        condition: threading.Condition,
        wait: Callable[[Callable[[], bool]], None],
        pause: Callable[[float], None],
        stopping: Callable[[], bool],
        joined: Callable[[BaseException | None], None],
    ) -> None:
        self.copying = False
        self.unfinished_copy = False
        self.waiting = False
        self.standing_by = False
        self._settings = settings
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._ledger = ledger
        self._formats = formats
        self._versioning = versioning
        self._fanout = fanout
        self._condition = condition
        self._wait = wait
        self._pause = pause
        self._stopping = stopping
        self._joined = joined
        self._guard: Guard | None = None
        self._snapshot: Snapshot | None = None
        self._view = ExitStack()
        self._spooled: dict[str, Position] = {}

    @property
    def snapshot(self) -> SnapshotProgress | None:
        """How far the copy of existing rows is; None while there is none."""
        snapshot = self._snapshot
        return None if snapshot is None else snapshot.progress()

    def begin(self, connection: Connection) -> Begun | None:
        """Do everything that comes before the stream.

        Args:
            connection: A new connection.

        Returns:
            Where to go on; None when nothing but a copy was wanted.

        Raises:
            Error: When the run cannot begin.
        """
        settings = self._settings
        slot, catalog = self._own(connection)
        # Not before it is known that the server can: a start that is refused makes no tables.
        check_server(connection, slot=None, need_new_slot=False)
        stored = self._ledger.open()  # not before everything is ours: the predecessor wrote until then
        check_own_slots(settings, self._ledger.own_slots)
        self._versioning.open()
        self._pause(0.0)  # the store may have kept us waiting until nobody waits for us any more
        server = look_at(connection, stored)
        found = {name: lane.spool.look_into(stored.get(name)) for name, lane in self._lanes.items()}
        spools = {name: state for name, state in found.items() if state is not None}
        decision = decide(settings, list(self._subscriptions.values()), stored, slot, server, spools)
        copying = decision in ("fresh", "again")
        self._formats.use(catalog)
        # A slot of no use is dropped first, so there is room for the new one.
        check_server(connection, slot=None if copying else settings.slot, need_new_slot=copying and slot is None)
        # Not before it is known that it may begin: a start that is refused changes nothing.
        for name, state in spools.items():
            if copying or not state.through_lsn:
                self._lanes[name].spool.clear()
        if copying:
            self._copy(connection, server, catalog, again=decision == "again")
            if settings.snapshot == "only":
                return None
        else:
            publishing.extend(connection, settings)
            published = publishing.published(connection, settings)
            self._fanout.know(published.all_tables, written_lsn(connection))
            self._versioning.learn_types(published.tables)
            joined_at = 0 if slot is None else slot.confirmed_flush_lsn or 0
            self._ledger.complete = wanted(self._subscriptions, published.tables)
            self._know_columns(published)
            self._guard = Guard(connection, settings, published.tables)
            missed = self._missed(connection, self._guard, stored)
            self._ledger.judge_by(str(self._guard.seen))
            self._resume(stored, server, published.fingerprint, joined_at, missed)
        joining = self._join(stored, catalog, copied=copying)
        assert self._guard is not None
        return Begun(self._ledger.covered_lsn, self._guard, RowFormat(catalog=catalog), joining)

    def _stand_by(self, error: Error) -> None:
        level = logging.INFO if self.standing_by else logging.WARNING
        logger.log(level, "pipeline %r waits as a standby: %s", self._settings.name, error)
        self.standing_by = True

    def _own(self, connection: Connection) -> tuple[SlotState | None, Catalog]:
        """Own the pipeline: its lock, its slot, and the spools of its consumers; look up the types."""
        settings = self._settings
        self.waiting = settings.standby
        while True:
            slot = own(connection, settings.slot, self._pause, self._stand_by if settings.standby else None)
            catalog = Catalog.load(connection)
            try:
                self._open_spools(RowFormat(catalog=catalog), source_of(connection))
                break
            except SpoolInUse as error:
                if not settings.standby:
                    raise
                # Whoever has the spools has lost the lock with its connection, and waits for it: that one goes first,
                # and no standby keeps it from the lock as long as it has them.
                self._close_spools()
                disown(connection, settings.slot)
                self._stand_by(error)
                self._wait_for_spools(RowFormat(catalog=catalog), source_of(connection))
        self.waiting = False
        if self.standing_by:
            self.standing_by = False
            logger.warning("pipeline %r: it takes over", settings.name)
        return slot, catalog

    def _open_spools(self, format: RowFormat, source: str) -> None:
        """Open the spools; a predecessor that was killed may hold them for a moment longer than the pipeline."""
        deadline = time.monotonic() + TAKE_OVER_WITHIN
        for lane in self._lanes.values():
            while True:
                try:
                    lane.spool.open(format, source)
                    break
                except SpoolInUse:
                    if time.monotonic() > deadline:
                        raise
                self._pause(0.1)

    def _wait_for_spools(self, format: RowFormat, source: str) -> None:
        while True:
            self._pause(LET_GO_FOR)
            try:
                for lane in self._lanes.values():
                    lane.spool.open(format, source)
                return
            except SpoolInUse:
                continue
            finally:
                self._close_spools()

    def _close_spools(self) -> None:
        for lane in self._lanes.values():
            if lane.spool.backlog is not None:
                lane.spool.backlog.close()

    def _copy(self, connection: Connection, server: Server, catalog: Catalog, *, again: bool) -> None:
        self.unfinished_copy = self.copying = True
        made = publishing.make(connection, self._settings)
        try:
            copy = InitialCopy(
                self._settings,
                self._subscriptions,
                self._lanes,
                self._fanout,
                self._ledger,
                self._versioning,
                self._wait,
                self._watch,
            )
            copy.take(connection, server, catalog, lambda made: self._published(connection, made), again=again)
        except BaseException:
            if made and not any(lane.tables for lane in self._lanes.values()):
                self._unpublish(connection)
            raise
        finally:
            self._watch(None)
        if made and self._settings.snapshot == "only":
            self._unpublish(connection)
        self.unfinished_copy = False
        for row in self._ledger.stored.values():
            self._lanes[row.consumer].advance(row.through_lsn)

    def _published(self, connection: Connection, made: bool) -> publishing.Published:
        published = publishing.published(connection, self._settings)
        if made:
            return published  # what has changed since the slot was made is for the watch to find
        # The slot is made after this: no name from before it can come.
        self._fanout.know(published.all_tables, 0)
        self._guard = Guard(connection, self._settings, published.tables)
        if (difference := self._guard.unlogged()) is not None:
            raise difference.error
        self._ledger.judge_by(str(self._guard.seen))
        self._ledger.fingerprint = published.fingerprint
        self._know_columns(published)
        return published

    def _know_columns(self, published: publishing.Published) -> None:
        check_columns(self._subscriptions, published.tables)
        self._formats.know({one.relation.oid: (one.relation.schema, one.relation.name) for one in published.all_tables})
        self._formats.order_by(key_columns(published.all_tables), primary_keys(published.all_tables))

    def _missed(
        self, connection: Connection, guard: Guard, stored: Mapping[str, StoredPosition]
    ) -> dict[str, Collection[int]]:
        """Find the tables of which the stream may lack something that was written while it did not run."""
        if (difference := guard.unlogged()) is not None:
            self._ledger.lack(difference.tables)
            raise difference.error
        seen = {row.seen for row in stored.values() if row.seen is not None}
        missed = {text: guard.missed(connection, Seen.parse(text)) for text in seen}
        return {name: missed[row.seen] for name, row in stored.items() if row.seen is not None and missed[row.seen]}

    def _unpublish(self, connection: Connection) -> None:
        try:
            publishing.drop(connection, self._settings)
        except Error:
            try:
                with connect(self._settings.dsn) as another:
                    publishing.drop(another, self._settings)
            except Error as error:
                # The next start finds it and uses it. The error that led here is the one to raise.
                logger.warning("publication %r is left behind: %s", self._settings.publication, error)

    def _resume(
        self,
        stored: Mapping[str, StoredPosition],
        server: Server,
        fingerprint: str,
        joined_at: int,
        missed: Mapping[str, Collection[int]],
    ) -> None:
        complete = self._ledger.complete
        rows = rows_to_resume(
            self._settings,
            self._subscriptions,
            stored,
            server,
            fingerprint,
            joined_at,
            complete,
            {name: lane.spool.id for name, lane in self._lanes.items()},
        )
        rows = [_without(row, missed.get(row.consumer, ()), self._fanout.names) for row in rows]
        self._ledger.fingerprint = fingerprint
        self._ledger.put(rows)
        for name, row in self._ledger.stored.items():
            lane = self._lanes[name]
            lane.offer(Begin(row, server.end_lsn, exact=row.fingerprint == fingerprint))
            if (after := lane.begin_spool(partial(self._fanout.narrowed, name))) is not None:
                self._spooled[name] = after
                self._fanout.attach(name, after)

    def _join(self, stored: Mapping[str, StoredPosition], catalog: Catalog, *, copied: bool) -> Joining | None:
        """Whoever lacks tables gets their rows while the stream goes on."""
        missing = tables_missing(self._ledger.stored, self._ledger.complete)
        if not missing:
            return None
        joining = Joining(
            self._settings,
            {name: self._subscriptions[name] for name in missing},
            {name: self._lanes[name] for name in missing},
            missing,
            {name for name in missing if self._ledger.stored[name].tables},
            missing if copied else stored,
            self._spooled,
            self._fanout,
            catalog,
            self._formats.renamed,
            self._versioning,
            self._condition,
            self._stopping,
            self._watch,
            self._joined,
        )
        joining.start()
        return joining

    def _watch(self, snapshot: Snapshot | None) -> None:
        """Show how far a snapshot is, until it is told of None; by whoever takes it."""
        self._snapshot = snapshot
        self._view.close()
        if snapshot is not None:
            bar = None if self._settings.show_progress else False
            self._view.enter_context(SnapshotView(snapshot.progress, f"pipeline {self._settings.name!r}", bar=bar))


def _without(row: StoredPosition, missed: Collection[int], names: Mapping[int, Table]) -> StoredPosition:
    """What is stored for a consumer of which tables may lack something; those are copied anew, if it copies."""
    changed = "what is published, or the table's partitions, changed while the pipeline did not run"
    tables = row.tables
    for oid in sorted(missed):
        name = ".".join(names[oid])
        if tables is None:
            logger.warning("consumer %r takes no copies and may lack rows of table %s: %s", row.consumer, name, changed)
        elif oid in tables:
            logger.warning("consumer %r: table %s is copied anew: %s", row.consumer, name, changed)
    if tables is None or tables.keys().isdisjoint(missed):
        return row
    return msgspec.structs.replace(row, tables={oid: lsn for oid, lsn in tables.items() if oid not in missed})
