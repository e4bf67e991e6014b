"""Copies of existing rows: how a snapshot's rows get to consumers, and the first copy of all, which makes the slot.

What is stored around it: `begun` before the slot exists; the slot's consistent point as `through_lsn` when it does;
each table when all its rows are durable in a consumer; `done` when a consumer has all its tables. A process that dies
before any table was finished leaves a slot that the next start recognises as of no use. After that, finished tables
stay, and the others are taken again in a snapshot of their own while the stream runs (joining.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

import msgspec

from pgcdc.errors import Error, ReplicationError
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.items import Begin, CopyBegin, CopyEnd, TableEnd
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.publishing import Published
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.start import Server, check_slot
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import Catalog
from pgcdc.replication import Connection, PublishedTable, Slot, Snapshot, connect
from pgcdc.replication.copy_command import ATTEMPTS as MADE_AGAIN
from pgcdc.replication.copy_command import never_still

__all__ = ["ATTEMPTS", "InitialCopy", "hand_over"]

logger = logging.getLogger("pgcdc.pipeline")

ATTEMPTS = 3
"""How often a table is taken again because it was rewritten while it was copied."""
DUPLICATE_OBJECT = "42710"
"""What a server says of a slot's name that is taken."""


def hand_over(
    snapshot: Snapshot,
    missing: Mapping[str, Collection[int]],
    lanes: Mapping[str, Lane],
    fanout: Fanout,
    wait: Callable[[Callable[[], bool]], None],
    *,
    again: Collection[str],
) -> ReplicationError | None:
    """Hand the rows of a snapshot over to those that lack them, and wait until they are durable.

    Args:
        snapshot: The snapshot; it has been entered.
        missing: The tables, by OID, that each consumer lacks.
        lanes: The lanes by consumer.
        fanout: Hands over to these lanes.
        wait: Waits for the shared condition until a predicate holds, or raises when the run is being stopped.
        again: Consumers that may have some of the rows from before.

    Returns:
        Why a table could not be copied, when one could not; it is as it was before.
    """
    takers = {name: lanes[name] for name in missing}
    for name, lane in takers.items():
        relations = [table.relation for table in snapshot.tables if table.relation.oid in missing[name]]
        lane.offer(CopyBegin(relations, snapshot.lsn, name in again))
    stale: ReplicationError | None = None
    with closing(snapshot.parts(idle=lambda: wait(lambda: True))) as parts:
        for part in parts:
            oid = part.table.relation.oid
            to = [lane for name, lane in takers.items() if oid in missing[name]]
            if part.batch is not None:
                fanout.send(part.batch, 0, only=to)
            elif part.error is not None:
                logger.warning("it is copied again: %s", part.error)
                stale = part.error
            else:
                for lane in to:
                    lane.offer(TableEnd(oid, snapshot.lsn))
    for lane in takers.values():
        lane.offer(CopyEnd())
    wait(lambda: all(lane.copied for lane in takers.values()))
    return stale


class InitialCopy:
    """The first copy of one run; used in the source's thread.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers by name.
        lanes: Their lanes.
        fanout: Hands batches over to the lanes.
        ledger: What is stored.
        versioning: Knows the versions of tables' shapes.
        wait: Waits for the shared condition until a predicate holds, or raises when the run is being stopped.
        watch: Told each snapshot that is taken, and None when it is over.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        fanout: Fanout,
        ledger: Ledger,
        versioning: Versioning,
        wait: Callable[[Callable[[], bool]], None],
        watch: Callable[[Snapshot | None], None],
    ) -> None:
        self._settings = settings
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._fanout = fanout
        self._ledger = ledger
        self._versioning = versioning
        self._wait = wait
        self._watch = watch

    def take(
        self,
        connection: Connection,
        server: Server,
        catalog: Catalog,
        published: Callable[[bool], Published],
        *,
        again: bool,
    ) -> None:
        """Make the slot, copy, and store what is done; a table that was rewritten meanwhile is left out.

        Args:
            connection: The replication connection; it must not be used otherwise while the copy goes on.
            server: What the server said of itself.
            catalog: The types of the database.
            published: Gives what is published now; told whether it is only to compare, when the slot is made already.
            again: Whether something of an earlier copy may be in the targets.

        Raises:
            SnapshotStale: When nothing but the copy was wanted, and a table was rewritten during each of three; or what
                is published changed each time that the slot was made.
            Error: Whatever else made it impossible; the slot does not exist then, unless a table was finished.
        """
        settings = self._settings
        names = [name for name, subscription in self._subscriptions.items() if subscription.copies]
        for attempt in range(1, ATTEMPTS + 1):
            slot: Slot | None = None
            try:
                slot, tables = self._make_slot(connection, server, published, first=attempt == 1)
                complete = self._ledger.complete
                self._versioning.learn_types(tables)
                self._versioning.begin([table.relation for table in tables], slot.consistent_point, self._wait)
                if attempt == 1:
                    self._store_slot(slot.consistent_point)
                missing = {name: set(complete[name]) - set(self._lanes[name].tables) for name in names}
                stale = None
                if names:
                    # Of a second attempt, all that there is may be there already.
                    stale = self._copy(slot, tables, catalog, missing, again=names if again or attempt > 1 else ())
                self._ledger.save(final=True)
                for name in names:
                    if not missing[name] - self._lanes[name].tables.keys():
                        self._lanes[name].complete()
            except BaseException:
                if slot is not None and not any(lane.tables for lane in self._lanes.values()):
                    # From here on nothing of it is stored, though consumers go on with what they have.
                    self._ledger.given_up = True
                    self._drop(connection)
                raise
            if stale is None or settings.snapshot != "only":
                return
            if attempt == ATTEMPTS:
                raise stale

    def _make_slot(
        self, connection: Connection, server: Server, published: Callable[[bool], Published], *, first: bool
    ) -> tuple[Slot, Sequence[PublishedTable]]:
        """Make the slot, and again as long as what is published changes meanwhile: the copy would lack it."""
        settings = self._settings
        exports = any(subscription.copies for subscription in self._subscriptions.values())
        for number in range(MADE_AGAIN):
            # The shapes and files of the tables are taken before the slot is made: the copy compares with them.
            before = published(False)
            self._ledger.complete = wanted(self._subscriptions, before.tables)
            if first:
                # Before the slot of an earlier copy is dropped: with this mark the next start does without it.
                self._store(server, before.fingerprint)
                if not number:
                    self._begin(server)
            if (found := connection.slot(settings.slot)) is not None:
                # It may have been made since the first look: the lock of a pipeline holds in one database.
                check_slot(found, server)
                connection.drop_slot(settings.slot)
            try:
                slot = connection.create_slot(
                    settings.slot, temporary=settings.snapshot == "only", export_snapshot=exports
                )
                changes = before.state.changes(published(True).state)
            except BaseException as error:
                if isinstance(error, Error) and error.sqlstate == DUPLICATE_OBJECT:
                    self._ledger.slot_is_gone = True  # the one that there is, is not ours
                else:
                    self._drop(connection)
                raise
            if changes is None:
                return slot, before.tables
            again = "pipeline %r: what is published changed while slot %s was made (%s): it is made again"
            logger.warning(again, settings.name, settings.slot, changes)
        self._drop(connection)
        raise never_still(settings.slot, [settings.publication], changes)

    def _begin(self, server: Server) -> None:
        stored = self._ledger.stored
        for name, lane in self._lanes.items():
            lane.incomplete = self._subscriptions[name].copies
            lane.offer(Begin(stored[name], server.end_lsn, exact=True))

    def _copy(
        self,
        slot: Slot,
        tables: Sequence[PublishedTable],
        catalog: Catalog,
        missing: Mapping[str, Collection[int]],
        *,
        again: Collection[str],
    ) -> ReplicationError | None:
        lacking = {oid for oids in missing.values() for oid in oids}
        taken = [table for table in tables if table.relation.oid in lacking]
        settings = self._settings
        with Snapshot(settings.dsn, slot, taken, catalog, connections=settings.snapshot_connections) as snapshot:
            self._watch(snapshot)
            return hand_over(snapshot, missing, self._lanes, self._fanout, self._wait, again=again)

    def _store(self, server: Server, fingerprint: str) -> None:
        """Before there is a slot."""
        rows = []
        stored = self._ledger.stored
        for name, subscription in self._subscriptions.items():
            old = stored.get(name)
            rows.append(
                StoredPosition(
                    consumer=name,
                    epoch=0 if old is None else old.epoch,
                    snapshot="begun",
                    position=None,
                    through_lsn=0,
                    slot=self._settings.slot,
                    system_identifier=server.system_identifier,
                    timeline=server.timeline,
                    fingerprint=fingerprint,
                    tables={} if subscription.copies else None,
                    spool=self._lanes[name].spool.id,
                )
            )
        self._ledger.put(rows)

    def _store_slot(self, lsn: int) -> None:
        """There is one: everything from its consistent point on can be had."""
        rows = []
        for row in self._ledger.stored.values():
            state = row.snapshot if self._subscriptions[row.consumer].copies else "none"
            rows.append(msgspec.structs.replace(row, through_lsn=lsn, snapshot=state))
        self._ledger.put(rows)

    def _drop(self, connection: Connection) -> None:
        """Drop the slot that this process has made; over a new connection when the old one is gone."""
        name = self._settings.slot
        try:
            _drop_own(connection, name)
        except Error:
            try:
                with connect(self._settings.dsn) as another:
                    _drop_own(another, name)
            except Error as error:
                # The mark "begun" is stored: the next start drops it. The error that led here is the one to raise.
                logger.warning("slot %r of an unfinished initial copy is left behind: %s", name, error)
                return
        self._ledger.slot_is_gone = True


def _drop_own(connection: Connection, slot: str) -> None:
    found = connection.slot(slot)
    if found is not None and found.database == connection.database:
        connection.drop_slot(slot, if_exists=True)


def wanted(subscriptions: Mapping[str, Subscription], tables: Sequence[PublishedTable]) -> dict[str, frozenset[int]]:
    """Find which tables each consumer that copies is to have.

    Args:
        subscriptions: The consumers by name.
        tables: The published tables.

    Returns:
        OIDs by consumer.
    """
    return {
        name: frozenset(table.relation.oid for table in tables if (table.schema, table.name) in subscription.tables)
        for name, subscription in subscriptions.items()
        if subscription.copies
    }


def forget_unused(ledger: Ledger, lanes: Mapping[str, Lane]) -> None:
    """After a failed start: remove the marks, unless a consumer has got something, or there is a slot.

    What it got may be of rows that do not exist at the next start: the mark makes that one empty the targets first. A
    slot without a mark would be a stranger's.

    Args:
        ledger: What is stored.
        lanes: The run's lanes.
    """
    rows = ledger.stored.values()
    if not ledger.slot_is_gone:
        return
    if rows and all(row.snapshot == "begun" for row in rows) and not any(lane.delivered for lane in lanes.values()):
        ledger.forget()
