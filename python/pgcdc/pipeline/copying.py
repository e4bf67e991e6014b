"""The initial copy: a new slot, the rows as of its consistent point to every consumer, and the stored marks around it.

`begun` is stored before the slot exists, `done` only when every consumer has everything durably. A process that dies in
between leaves a slot that the next start recognises by that mark as its own and of no use. A start that fails, or is
stopped, drops what it has made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from pgcdc.errors import Error
from pgcdc.lsn import Position
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.queue import Begin, CopyBegin, CopyEnd, Lane
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.start import Server
from pgcdc.pipeline.subscription import Subscription
from pgcdc.protocol import Catalog
from pgcdc.replication import Connection, PublishedTable, Slot, Snapshot, SnapshotStale, connect

__all__ = ["InitialCopy"]

logger = logging.getLogger("pgcdc.pipeline")

ATTEMPTS = 3
"""How often a copy begins again because a table was rewritten while it ran."""


class InitialCopy:
    """The initial copy of one run; used in the source's thread.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers by name.
        lanes: Their lanes.
        fanout: Hands batches over to the lanes.
        ledger: What is stored.
        wait: Waits for the shared condition until a predicate holds, or raises when the run is being stopped.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        fanout: Fanout,
        ledger: Ledger,
        wait: Callable[[Callable[[], bool]], None],
    ) -> None:
        self._settings = settings
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._fanout = fanout
        self._ledger = ledger
        self._wait = wait

    def take(
        self,
        connection: Connection,
        server: Server,
        catalog: Catalog,
        published: Callable[[], tuple[Sequence[PublishedTable], str]],
        *,
        again: bool,
    ) -> None:
        """Make the slot, copy, and store that it is done.

        Args:
            connection: The replication connection; it must not be used otherwise while the copy goes on.
            server: What the server said of itself.
            catalog: The types of the database.
            published: Gives the published tables as they are now, and the fingerprint of what the server will send.
            again: Whether something of an earlier copy may be in the targets.

        Raises:
            SnapshotStale: When a table was rewritten during each of three copies.
            Error: Whatever else made it impossible; the slot does not exist then.
        """
        settings = self._settings
        if connection.slot(settings.slot) is not None:
            connection.drop_slot(settings.slot)
        for attempt in range(1, ATTEMPTS + 1):
            # The shapes and files of the tables are taken before the slot is made: the copy compares with them.
            tables, fingerprint = published()
            self._store("begun", server, 0, fingerprint)
            if attempt == 1:
                self._begin(server)
            slot: Slot | None = None
            try:
                slot = connection.create_slot(
                    settings.slot, temporary=settings.snapshot == "only", export_snapshot=self._copies
                )
                if self._copies:
                    self._copy(slot, tables, catalog, again=again or attempt > 1)
                self._store("done", server, slot.consistent_point, fingerprint)
                return
            except BaseException as error:
                if slot is not None:
                    self._drop(connection)
                if isinstance(error, SnapshotStale) and attempt < ATTEMPTS:
                    logger.warning("the initial copy begins again: %s", error)
                    continue
                raise

    @property
    def _copies(self) -> bool:
        return any(subscription.copies for subscription in self._subscriptions.values())

    def _begin(self, server: Server) -> None:
        stored = self._ledger.stored
        for name, lane in self._lanes.items():
            lane.offer(Begin(stored[name], server.end_lsn, exact=True))

    def _copy(self, slot: Slot, tables: Sequence[PublishedTable], catalog: Catalog, *, again: bool) -> None:
        lanes = [self._lanes[name] for name, subscription in self._subscriptions.items() if subscription.copies]
        relations = [table.relation for table in tables]
        for lane in lanes:
            lane.offer(CopyBegin(relations, slot.consistent_point, again))
        with Snapshot(self._settings.dsn, slot, tables, catalog) as snapshot:
            for batch in snapshot.batches():
                self._fanout.send(batch, 0, only=lanes)
        for lane in lanes:
            lane.offer(CopyEnd())
        self._wait(lambda: all(lane.copied for lane in lanes))

    def _store(self, mark: str, server: Server, lsn: int, fingerprint: str) -> None:
        rows = []
        stored = self._ledger.stored
        for name, subscription in self._subscriptions.items():
            old = stored.get(name)
            state = "begun" if mark == "begun" else "done" if subscription.copies else "none"
            position: Position | None = None if mark == "begun" else self._lanes[name].position
            rows.append(
                StoredPosition(
                    consumer=name,
                    epoch=0 if old is None else old.epoch,
                    snapshot=state,  # type: ignore[arg-type]
                    position=position,
                    through_lsn=lsn,
                    slot=self._settings.slot,
                    system_identifier=server.system_identifier,
                    timeline=server.timeline,
                    fingerprint=fingerprint,
                )
            )
        self._ledger.put(rows)

    def _drop(self, connection: Connection) -> None:
        """Drop the slot that this process has made; over a new connection when the old one is gone."""
        name = self._settings.slot
        try:
            connection.drop_slot(name, if_exists=True)
        except Error:
            try:
                with connect(self._settings.dsn) as another:
                    another.drop_slot(name, if_exists=True)
            except Error as error:
                # The mark "begun" is stored: the next start drops it. The error that led here is the one to raise.
                logger.warning("slot %r of an unfinished initial copy is left behind: %s", name, error)


def forget_unused(ledger: Ledger, lanes: Mapping[str, Lane]) -> None:
    """After a failed start: remove the marks, unless a consumer has got something.

    What it got may be of rows that do not exist at the next start: the mark makes that one empty the targets first.

    Args:
        ledger: What is stored.
        lanes: The run's lanes.
    """
    rows = ledger.stored.values()
    if rows and all(row.snapshot == "begun" for row in rows) and not any(lane.delivered for lane in lanes.values()):
        ledger.forget()
