"""The thread that owns the replication connection: it prepares, copies, streams, confirms, and runs no user's code.

Nothing that a handler does can keep it from answering the server in time: when a consumer's lane is full it stops
reading, and goes on sending status updates. To a target of ours it writes what is small itself, and never waits for it
for long (`Lane.send_by`). When it loses the server it stops handing out what is queued, too, until it
owns the pipeline again: another process may have it by then.

Over 400 lines because one thread has all of it, and what it waits for is seen only together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from pgcdc.errors import ConnectionLost, Error, PublicationNotFound, SlotInUse
from pgcdc.lsn import format_lsn
from pgcdc.pipeline import publishing
from pgcdc.pipeline.beginning import Beginning, Begun
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.lateness import Lateness
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.ownership import own
from pgcdc.pipeline.progress import Waiters
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.reading import Reading
from pgcdc.pipeline.retry import Away
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.start import check_again, look_at
from pgcdc.pipeline.statistics import Phase
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.tenure import Reached, Tenure
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import Batch
from pgcdc.replication import Connection, SnapshotProgress, connect
from pgcdc.replication.results import StatementTimeout
from pgcdc.replication.session import Session

__all__ = ["Source"]

logger = logging.getLogger("pgcdc.pipeline")

READ_TIMEOUT = 0.2
"""Seconds that one read waits for data at most: how soon a stop or something to confirm is noticed when it is quiet."""
STATUS_EVERY = 0.5
"""Seconds between two status updates while nothing is read: well within any usable wal_sender_timeout."""
LOOK_EVERY = 1.0
"""Seconds between two looks at what is published, also when there is nothing to confirm: a partition that was just
attached is still empty, as a rule, and what is unlogged for a while is noticed."""
LONGEST_BLIND = 8.0
"""Seconds between two looks at most while they fail: each may keep the stream waiting, and nothing is confirmed."""


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
        versioning: Knows the versions of tables' shapes.
        condition: Shared by all lanes.
        waiters: Who waits for keepalives.
        ended: Called in this thread when no more will be handed over, with the error that is the reason, if one is.

    Attributes:
        asked: How often the server has asked for an answer.
        confirmed_lsn: How far the WAL was confirmed to the server.
        received_lsn: How far the WAL was received.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        ledger: Ledger,
        formats: RowFormats,
        versioning: Versioning,
        condition: threading.Condition,
        waiters: Waiters,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self.asked = 0
        self.confirmed_lsn = 0
        self.received_lsn = 0
        self._settings = settings
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._ledger = ledger
        self._condition = condition
        self._waiters = waiters
        self._ended = ended
        self._fanout = Fanout(subscriptions, lanes, self._wait, formats.renamed, versioning)
        self._reading = Reading(lambda: any(lane.idle for lane in lanes.values()))
        self._lateness = Lateness(lambda: min(lane.through_lsn for lane in lanes.values()))
        self._unnoted: Batch | None = None
        self._moved_at = time.monotonic()
        self._beginning = Beginning(
            settings,
            subscriptions,
            lanes,
            ledger,
            formats,
            versioning,
            self._fanout,
            condition,
            self._wait,
            self._pause,
            lambda: self._stopping,
            self._joined,
        )
        self._begun: Begun | None = None
        self._reached = Reached(0)
        self._connection: Connection | None = None
        self._tenure: Tenure | None = None
        self._broken: ConnectionLost | None = None
        self._away = Away(settings.reconnect)
        self._streamed = False
        self._binary: bool | None = None
        self._over = False
        self._stopping = False
        self._interrupted = False
        self._finishing = False
        self._confirmable = 0
        self._look_at = 0.0
        self._blind = 0.0  # seconds until the next look, when the last one has failed
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
        if self._away.known and self._tenure is None:
            self._ended(None)  # an attempt to connect may take its time, and hands nothing over any more

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
        begun = self._begun
        if begun is not None and begun.joining is not None:
            begun.joining.end(timeout / 2)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def interrupt(self) -> None:
        """Cancel the command that the walsender runs: it fails, and what it began is cleaned up; blocks.

        It is a slot that waits for open transactions. Asked through a connection of its own, because the other thread
        has the walsender's.
        """
        connection = self._connection
        if connection is None or self._tenure is not None:
            return
        self._interrupted = True
        try:
            with Session.connect(self._settings.dsn, replication=False) as session:
                session.execute(f"SELECT pg_catalog.pg_cancel_backend({connection.backend_pid})")
        except Error as error:
            logger.warning("pipeline %r: what it waits for cannot be cancelled: %s", self._settings.name, error)

    @property
    def phase(self) -> Phase:
        """What it does at present."""
        if self._over:
            return "stopped"
        if self._tenure is not None:
            return "streaming"
        if self._streamed:
            return "reconnecting"
        if self._beginning.standing_by:
            return "standby"
        return "snapshot" if self._beginning.copying else "starting"

    @property
    def unfinished_copy(self) -> bool:
        """Whether the initial copy has begun and has not been finished."""
        return self._beginning.unfinished_copy

    @property
    def binary(self) -> bool | None:
        """Whether values come in binary; None before the stream."""
        return self._binary

    @property
    def moved_ago(self) -> float | None:
        """Seconds since the thread was last seen to do something; None while it does not stream."""
        return None if self._tenure is None or self._over else max(0.0, time.monotonic() - self._moved_at)

    def lag_seconds(self, through_lsn: int) -> float | None:
        """How late a consumer is; None before the stream.

        Args:
            through_lsn: How far the WAL is done for it.
        """
        return self._lateness.seconds(through_lsn, connected=self._tenure is not None)

    @property
    def snapshot(self) -> SnapshotProgress | None:
        """How far the copy of existing rows is; None while there is none."""
        return self._beginning.snapshot

    # In the thread.

    def _work(self) -> None:
        reason: BaseException | None = None
        try:
            with suppress(Stopped):
                self._run()
        except BaseException as error:
            if self._interrupted and isinstance(error, Error):
                logger.info("pipeline %r: it was stopped while it started: %s", self._settings.name, error)
            else:
                if isinstance(error, PublicationNotFound):
                    # What the stream advises is for those who have no pipeline.
                    error.hint = publishing.BEGIN_ANEW
                reason = error
        finally:
            self._over = True
            self._ended(reason)

    def _run(self) -> None:
        """Stream until it is stopped, by as many connections as that takes."""
        while True:
            try:
                with connect(self._settings.dsn) as connection:
                    self._pause(0.0)
                    self._connection = connection
                    self._stream(connection)
                    return
            except (ConnectionLost, SlotInUse) as error:
                if not (self._streamed or self._beginning.waiting):
                    raise  # it has never gone well: a person looks
                pause = self._lost(error)
            finally:
                self._connection = self._tenure = self._broken = None
            self._pause(pause)

    def _stream(self, connection: Connection) -> None:
        begun = self._begun
        if begun is None:
            begun = self._beginning.begin(connection)
            if begun is None:
                return
            self._reached.lsn = begun.lsn
            self._begun = begun
        else:
            self._go_on(connection, begun)

        def published() -> bool:
            return self._published(connection, begun)

        with Tenure(connection, self._settings, begun.format, self._reached, published) as tenure:
            self._moved_at = time.monotonic()
            self._tenure = tenure
            self._binary = tenure.binary
            self._streamed = True
            if self._away.known:
                at = format_lsn(self._reached.lsn)
                logger.warning("pipeline %r: the server is back; it goes on from %s", self._settings.name, at)
            for lane in self._lanes.values():
                lane.release()
            self._pump(tenure, begun)

    def _lost(self, error: Error) -> float:
        """The connection is gone, or could not be had; raises when there is to be no other, else how long to wait."""
        if self._stopping:
            # What is stored is not confirmed then, and the server has it still.
            logger.warning("pipeline %r: while it ended: %s", self._settings.name, error)
            raise Stopped
        known = self._away.known
        pause = self._away.pause(error)
        if self._begun is not None:  # else nothing is queued, and a copy would wait for lanes that nobody releases
            for lane in self._lanes.values():
                lane.hold()
        if known:
            logger.info("pipeline %r: %s", self._settings.name, error)
        else:
            logger.warning("pipeline %r: the server is away, connecting again: %s", self._settings.name, error)
        return pause

    def _go_on(self, connection: Connection, begun: Begun) -> None:
        """Own the pipeline again; refuse when it is another one's by now, or another server's."""
        settings, ledger = self._settings, self._ledger
        try:
            slot = own(connection, settings.slot, self._pause)
        except SlotInUse:
            ledger.check()  # whoever has it has said so there, unless it is only a session of ours that nobody misses
            raise
        stored = ledger.check()
        self._pause(0.0)
        server = look_at(connection, stored)
        spools = {name: state for name, lane in self._lanes.items() if (state := lane.spool.state) is not None}
        check_again(settings, stored, slot, server, self._reached.furthest_lsn, spools)
        if any(row.timeline != server.timeline for row in stored.values()):
            ledger.put([msgspec.structs.replace(row, timeline=server.timeline) for row in stored.values()])
        self._blind = 0.0
        self._published(connection, begun)

    def _published(self, connection: Connection, begun: Begun) -> bool:
        """Whether it is known that all tables have been published since the run began; raises when they were not."""
        if self._blind and time.monotonic() < self._look_at and not self._finishing:
            return False
        self._look_at = time.monotonic() + LOOK_EVERY
        try:
            difference = begun.guard.check(connection)
        except StatementTimeout as error:
            level = logging.INFO if self._blind else logging.WARNING
            logger.log(level, "pipeline %r: nothing is confirmed: %s", self._settings.name, error)
            self._blind = min(max(2 * self._blind, LOOK_EVERY), LONGEST_BLIND)
            self._look_at = time.monotonic() + self._blind
            return False
        self._blind = 0.0
        if difference is not None:
            self._ledger.lack(difference.tables)
            raise difference.error
        self._ledger.see(str(begun.guard.seen), news=begun.guard.news)
        return True

    def _watch(self) -> None:
        """Look now and then."""
        if self._connection is not None and self._begun is not None and time.monotonic() >= self._look_at:
            self._published(self._connection, self._begun)

    def _joined(self, reason: BaseException | None) -> None:
        if isinstance(reason, ConnectionLost):
            reason.hint = "a consumer or table was joining: start again, and what it has stays"
        if reason is not None:
            self._ended(reason)

    def _pump(self, tenure: Tenure, begun: Begun) -> None:
        try:
            with suppress(Stopped):
                self._pass_on(tenure, begun)
        finally:
            self._fanout.leave()
        self._ended(None)
        while not self._finishing:
            with self._condition:
                self._condition.wait_for(lambda: self._finishing, STATUS_EVERY)
            self._confirm(tenure)
            tenure.send_status()
        self._confirm(tenure)

    def _pass_on(self, tenure: Tenure, begun: Begun) -> None:
        """Hand over what is read, until it is stopped."""
        asked, fanout = self.asked, self._fanout
        early = fanout.see if begun.joining is None else None

        def unfinished() -> bool:
            return tenure.in_transaction

        def has_begun() -> bool:
            return fanout.has_begun

        while not self._stopping:
            batch = self._reading.read(tenure.read, READ_TIMEOUT, unfinished, early, has_begun)
            self._away.over()
            # Taken after the read: up to here everything that was received whole is in this batch or before it.
            idle_lsn = tenure.idle_lsn
            self.received_lsn = max(self.received_lsn, tenure.received_lsn)
            self._moved_at = time.monotonic()
            self._unnoted = batch
            fanout.send(batch, idle_lsn)
            self._note_late()
            self._reached.note(batch, idle_lsn)
            if begun.joining is not None:
                begun.joining.sent(batch, idle_lsn, self._wait)
            if self._broken is not None:
                raise self._broken
            self._confirm(tenure)
            self._watch()
            self.asked = asked + tenure.questions
            if self._waiters.waiting and not len(batch):
                tenure.send_status(reply_requested=True)

    def _confirm(self, tenure: Tenure) -> None:
        lsn = self._confirmable
        if self.confirmed_lsn < lsn and tenure.confirm(lsn):
            self.confirmed_lsn = lsn

    def _note_late(self) -> None:
        """Take down how late what was read is: when it is handed over, or has to wait for that."""
        if self._unnoted is not None:
            batch, self._unnoted = self._unnoted, None
            self._lateness.note(batch)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait for room or for an acknowledgement, answering the server meanwhile."""
        self._note_late()
        while True:
            self._moved_at = time.monotonic()
            deadline = self._moved_at + STATUS_EVERY
            with self._condition:
                while True:
                    if self._stopping:
                        raise Stopped
                    if ready():
                        return
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._condition.wait(left):
                        break
            if self._tenure is not None:
                try:
                    self._confirm(self._tenure)
                    self._watch()
                    self._tenure.send_status()
                except ConnectionLost as error:
                    # A batch is handed over to all or to none, so this is raised when it was. It may be the session
                    # beside the walsender that is lost: no read would say so. Until there is another connection
                    # nothing is delivered, so there would be no room either.
                    self._broken = error
                    for lane in self._lanes.values():
                        lane.hold()

    def _pause(self, seconds: float) -> None:
        with self._condition:
            if self._condition.wait_for(lambda: self._stopping, seconds):
                raise Stopped
