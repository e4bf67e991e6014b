"""The thread that owns the replication connection: it prepares, copies, streams, confirms, and runs no user's code.

Nothing that a handler does can keep it from answering the server in time: when a consumer's lane is full it stops
reading, and goes on sending status updates.

Over 400 lines, because starting, copying, resuming and stopping are one life.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

from pgcdc.errors import ConfigError, DecodeError, Error, PublicationNotFound
from pgcdc.events import (
    BeginPrepare,
    CommitPrepared,
    Prepare,
    RollbackPrepared,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
)
from pgcdc.pipeline import publishing
from pgcdc.pipeline.copying import InitialCopy, wanted
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.joining import Joining
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.ownership import own
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.progress import Waiters
from pgcdc.pipeline.queue import Begin, Lane
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.start import Server, decide, look_at, rows_to_resume, tables_missing, written_lsn
from pgcdc.pipeline.statistics import Phase
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.target import RowFormats
from pgcdc.protocol import Batch, Catalog, RowFormat
from pgcdc.replication import (
    Connection,
    PublishedTable,
    Snapshot,
    SnapshotProgress,
    Stream,
    check_server,
    connect,
)
from pgcdc.replication.session import Session
from pgcdc.replication.snapshot_view import SnapshotView

__all__ = ["Source"]

logger = logging.getLogger("pgcdc.pipeline")

READ_TIMEOUT = 0.2
"""Seconds that one read waits for data at most: how soon a stop or something to confirm is noticed when it is quiet."""
STATUS_EVERY = 0.5
"""Seconds between two status updates while nothing is read: well within any usable wal_sender_timeout."""


NOT_COMMITTED = (
    StreamStart,
    StreamStop,
    StreamCommit,
    StreamPrepare,
    BeginPrepare,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
)
"""Events of transactions in progress. Not StreamAbort: see `has_uncommitted`."""


def has_uncommitted(batch: Batch) -> bool:
    """Whether a batch has something of a transaction that is prepared or in progress.

    A StreamAbort alone is nothing: PostgreSQL 18 sends one to a client that streams nothing, when a large transaction
    with a savepoint was rolled back, and of that transaction nothing else.

    Source:
        Server functions `ReorderBufferCheckAndTruncateAbortedTXN`, `ReorderBufferAbort`.
    """
    if not batch.in_progress:
        return False
    kinds = b"SEcpbPKr"
    return any(
        isinstance(event, NOT_COMMITTED) or (isinstance(event, DecodeError) and event.raw[:1] and event.raw[0] in kinds)
        for event in batch.events(RowFormat("tuple"))
    )


class Stopped(Exception):
    """The run is being stopped."""


class Source:
    """The source of one run.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers by name.
        lanes: Their lanes.
        ledger: What is stored.
        formats: Told the types of the database.
        condition: Shared by all lanes.
        waiters: Who waits for keepalives.
        ended: Called in this thread when no more will be handed over, with the error that is the reason, if one is.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        ledger: Ledger,
        formats: RowFormats,
        condition: threading.Condition,
        waiters: Waiters,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self.phase: Phase = "starting"
        self.confirmed_lsn = 0
        self.asked = 0
        self.unfinished_copy = False
        self._settings = settings
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._ledger = ledger
        self._formats = formats
        self._condition = condition
        self._waiters = waiters
        self._ended = ended
        self._fanout = Fanout(subscriptions, lanes, self._wait, formats.renamed)
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._joining: Joining | None = None
        self._snapshot: Snapshot | None = None
        self._view = ExitStack()
        self._stopping = False
        self._interrupted = False
        self._finishing = False
        self._confirmable = 0
        self._thread = threading.Thread(target=self._work, name=f"pgcdc-{settings.name}-source", daemon=True)

    # From the event loop.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more; what was confirmed until `finish` is still sent."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def confirm(self, lsn: int) -> None:
        """Everything up to here is durable and stored: let the server know."""
        self._confirmable = max(self._confirmable, lsn)

    def finish(self, timeout: float) -> bool:
        """Send the last confirmation and end the thread; blocks.

        Args:
            timeout: How long to wait for it, in seconds.

        Returns:
            Whether it has ended.
        """
        with self._condition:
            self._stopping = self._finishing = True
            self._condition.notify_all()
        if self._joining is not None:
            self._joining.end(timeout / 2)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def interrupt(self) -> None:
        """Cancel the command that the walsender runs: it fails, and what it began is cleaned up; blocks.

        It is a slot that waits for open transactions. Asked through a connection of its own, because the other thread
        has the walsender's.
        """
        connection = self._connection
        if connection is None or self._stream is not None:
            return
        self._interrupted = True
        try:
            with Session.connect(self._settings.dsn, replication=False) as session:
                session.execute(f"SELECT pg_catalog.pg_cancel_backend({connection.backend_pid})")
        except Error as error:
            logger.warning("pipeline %r: what it waits for cannot be cancelled: %s", self._settings.name, error)

    @property
    def received_lsn(self) -> int:
        """How far the WAL was received."""
        stream = self._stream
        return 0 if stream is None else stream.received_lsn

    @property
    def binary(self) -> bool | None:
        """Whether values come in binary; None before the stream."""
        stream = self._stream
        return None if stream is None else stream.binary

    @property
    def snapshot(self) -> SnapshotProgress | None:
        """How far the copy of existing rows is; None while there is none."""
        snapshot = self._snapshot
        return None if snapshot is None else snapshot.progress()

    # In the thread.

    def _work(self) -> None:
        reason: BaseException | None = None
        try:
            with connect(self._settings.dsn) as connection:
                self._connection = connection
                with suppress(Stopped):
                    self._run(connection)
        except BaseException as error:
            if self._interrupted and isinstance(error, Error):
                logger.info("pipeline %r: it was stopped while it started: %s", self._settings.name, error)
            else:
                if isinstance(error, PublicationNotFound):
                    # What the stream advises is for those who have no pipeline.
                    error.hint = publishing.BEGIN_ANEW
                reason = error
        finally:
            self.phase = "stopped"
            self._ended(reason)

    def _run(self, connection: Connection) -> None:
        settings = self._settings
        slot = own(connection, settings.slot, self._pause)
        stored = self._ledger.open()
        if self._stopping:
            raise Stopped  # the store may have kept us waiting until nobody waits for us any more
        server = look_at(connection, stored)
        subscriptions = list(self._subscriptions.values())
        decision = decide(settings, subscriptions, stored, slot, server)
        copying = decision in ("fresh", "again")
        catalog = Catalog.load(connection)
        self._formats.use(catalog)
        # A slot of no use is dropped first, so there is room for the new one.
        check_server(connection, slot=None if copying else settings.slot, need_new_slot=copying and slot is None)
        if copying:
            self._copy(connection, server, catalog, again=decision == "again")
            if settings.snapshot == "only":
                return
        else:
            publishing.extend(connection, settings)
            published = publishing.published(connection, settings)
            self._fanout.know(published.all_tables, written_lsn(connection))
            joined_at = 0 if slot is None else slot.confirmed_flush_lsn or 0
            self._ledger.complete = wanted(self._subscriptions, published.tables)
            self._resume(stored, server, published.fingerprint, joined_at)
        self._join(stored, catalog, copied=copying)
        through_lsn = min(row.through_lsn for row in self._ledger.stored.values())
        # Types that are created from here on become known to all who decode with this catalog.
        format = RowFormat(catalog=catalog)
        # What is idle is confirmed only after it is stored for every consumer; status updates are sent by this thread.
        streaming = connection.stream(
            settings.slot,
            [settings.publication],
            start_lsn=through_lsn,
            format=format,
            confirm_idle=False,
            feedback=False,
        )
        with streaming as stream:
            self._stream = stream
            self.phase = "streaming"
            self._pump(stream)

    def _copy(self, connection: Connection, server: Server, catalog: Catalog, *, again: bool) -> None:
        self.unfinished_copy = True
        self.phase = "snapshot"
        made = publishing.make(connection, self._settings)
        try:
            copy = InitialCopy(
                self._settings, self._subscriptions, self._lanes, self._fanout, self._ledger, self._wait, self._watch
            )
            copy.take(connection, server, catalog, lambda: self._published(connection), again=again)
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

    def _published(self, connection: Connection) -> tuple[Sequence[PublishedTable], str]:
        published = publishing.published(connection, self._settings)
        # The slot is made after this: no name from before it can come.
        self._fanout.know(published.all_tables, 0)
        self._ledger.fingerprint = published.fingerprint
        return published.tables, published.fingerprint

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

    def _resume(self, stored: Mapping[str, StoredPosition], server: Server, fingerprint: str, joined_at: int) -> None:
        complete = self._ledger.complete
        rows = rows_to_resume(self._settings, self._subscriptions, stored, server, fingerprint, joined_at, complete)
        self._ledger.fingerprint = fingerprint
        self._ledger.put(rows)
        for name, row in self._ledger.stored.items():
            self._lanes[name].offer(Begin(row, server.end_lsn, exact=row.fingerprint == fingerprint))

    def _join(self, stored: Mapping[str, StoredPosition], catalog: Catalog, *, copied: bool) -> None:
        """Whoever lacks tables gets their rows while the stream goes on."""
        missing = tables_missing(self._ledger.stored, self._ledger.complete)
        if not missing:
            return
        self._joining = Joining(
            self._settings,
            {name: self._subscriptions[name] for name in missing},
            {name: self._lanes[name] for name in missing},
            missing,
            {name for name in missing if self._ledger.stored[name].tables},
            missing if copied else stored,
            self._fanout,
            catalog,
            self._formats.renamed,
            self._condition,
            lambda: self._stopping,
            self._watch,
            self._joined,
        )
        self._joining.start()

    def _joined(self, reason: BaseException | None) -> None:
        if reason is not None:
            self._ended(reason)

    def _watch(self, snapshot: Snapshot | None) -> None:
        """Show how far a snapshot is, until it is told of None; by whoever takes it."""
        self._snapshot = snapshot
        self._view.close()
        if snapshot is not None:
            bar = None if self._settings.show_progress else False
            self._view.enter_context(SnapshotView(snapshot.progress, f"pipeline {self._settings.name!r}", bar=bar))

    def _pump(self, stream: Stream) -> None:
        with suppress(Stopped):
            while not self._stopping:
                batch = stream.read(READ_TIMEOUT)
                if has_uncommitted(batch):
                    raise self._not_committed()
                # Taken after the read: up to here everything that was received whole is in this batch or before it.
                self._fanout.send(batch, stream.idle_lsn)
                if self._joining is not None:
                    self._joining.sent(batch, stream.idle_lsn, self._wait)
                self._confirm(stream)
                self.asked = stream.questions
                if self._waiters.waiting and not len(batch):
                    stream.send_status(reply_requested=True)
        self._ended(None)
        while not self._finishing:
            with self._condition:
                self._condition.wait_for(lambda: self._finishing, STATUS_EVERY)
            self._confirm(stream)
            stream.send_status()
        self._confirm(stream)

    def _not_committed(self) -> ConfigError:
        """Two_phase of a slot may be switched on while nobody streams from it, also by another consumer of it."""
        slot = self._settings.slot
        return ConfigError(
            f"slot {slot!r} sent a transaction that is prepared or in progress: a pipeline takes only what was"
            " committed",
            hint="give the pipeline a slot without two_phase that nothing else uses; nothing of the transaction was"
            " handed over or confirmed",
            slot=slot,
        )

    def _confirm(self, stream: Stream) -> None:
        # After a restart what is stored can be ahead of what this connection has received so far.
        lsn = self._confirmable
        if self.confirmed_lsn < lsn <= stream.received_lsn:
            stream.confirm(lsn)
            stream.send_status()
            self.confirmed_lsn = lsn

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait for room or for an acknowledgement, answering the server meanwhile."""
        while True:
            deadline = time.monotonic() + STATUS_EVERY
            with self._condition:
                while True:
                    if self._stopping:
                        raise Stopped
                    if ready():
                        return
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._condition.wait(left):
                        break
            if self._stream is not None:
                self._confirm(self._stream)
                self._stream.send_status()

    def _pause(self, seconds: float) -> None:
        with self._condition:
            if self._condition.wait_for(lambda: self._stopping, seconds):
                raise Stopped
