"""Consumers that lack tables get their rows while the stream goes on for everybody else.

A consumer that was added, a table that was added, and a copy that was interrupted are one case: a consumer that has
some of its tables, or none. It stays away from the pipeline's stream, and has one of its own, from a temporary copy of
the pipeline's slot: that gives it the changes of the tables that it has, up to the LSN of a snapshot; then it gets the
rows of the others; and then all changes, until it is as far as the pipeline's stream, which waits a moment and takes it
back. So its positions only ever go up, and nobody else waits for the copy.

    pipeline's slot   ── all changes, for the others ────────────────────────────────┬ for all ──►
    a copy of it      ── of the tables it has ──┤ LSN                  ├ all changes ┘
    a temporary slot                            └ rows of those missing ┘

What the pipeline's slot is confirmed to does not move past a consumer that is away, so a crash at any moment loses
nothing: the next start goes on with the tables that are finished then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from secrets import token_hex

from pgcdc.errors import Error, ReplicationError
from pgcdc.lsn import SNAPSHOT_INDEX, Position, format_lsn
from pgcdc.pipeline import publishing
from pgcdc.pipeline.copying import ATTEMPTS, hand_over
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.start import written_lsn
from pgcdc.pipeline.subscription import Subscription, Table
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import Batch, Catalog, RowFormat
from pgcdc.replication import Connection, PublishedTable, Slot, Snapshot, Stream, connect
from pgcdc.replication.copy_command import ATTEMPTS as MADE_AGAIN
from pgcdc.replication.copy_command import SnapshotStale, never_still
from pgcdc.replication.session import Session

__all__ = ["Joining"]

logger = logging.getLogger("pgcdc.pipeline")

READ_TIMEOUT = 0.1
"""Seconds that one read waits for data at most."""
NEAR = 4 * 1024 * 1024
"""Bytes of WAL that the source waits for at most: while there is more between the two, it goes on."""
_PATIENCE = 86_400.0
"""Seconds that a slot is waited for: as long as a transaction is open, and nothing else waits for it."""
LOOK_EVERY = 0.5
"""Seconds between two looks at whether the run is being stopped."""


class Stopped(Exception):
    """The run is being stopped."""


class Joining:
    """The joining of some consumers, in a thread of its own.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers that join, by name.
        lanes: Their lanes.
        missing: The tables, by OID, that each of them lacks.
        partly: Those of them that have other tables.
        again: Those of them that may have some of the rows from before.
        spooled: Up to where those of them whose spools are not empty have everything.
        source: Hands over to all that are not away; used in the source's thread only.
        catalog: The types of the database.
        renamed: As for `Fanout`.
        versioning: Knows the versions of tables' shapes.
        condition: Shared by all lanes.
        stopping: Whether the run is being stopped.
        watch: Told each snapshot that is taken, and None when it is over.
        ended: Called in this thread at the end, with the error that is the reason, if one is.
    """

    def __init__(
        self,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        missing: Mapping[str, Collection[int]],
        partly: Collection[str],
        again: Collection[str],
        spooled: Mapping[str, Position],
        source: Fanout,
        catalog: Catalog,
        renamed: Callable[[Table, Table], None],
        versioning: Versioning,
        condition: threading.Condition,
        stopping: Callable[[], bool],
        watch: Callable[[Snapshot | None], None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._settings = settings
        self._lanes = lanes
        self._missing = {name: set(oids) for name, oids in missing.items()}
        self._partly = bool(partly)
        self._again = set(again)
        self._source = source
        self._catalog = catalog
        self._names = dict(source.names)
        self._versioning = versioning
        self._fanout = Fanout(subscriptions, lanes, self._wait, renamed, versioning)
        for name in spooled.keys() & lanes.keys():
            self._fanout.attach(name, spooled[name])
        self._condition = condition
        self._stopping = stopping
        self._watch = watch
        self._ended = ended
        self._waiting: Connection | None = None
        self._reached = Position(0, SNAPSHOT_INDEX)
        # Between the two threads, under the condition.
        self._source_at = Position(0, SNAPSHOT_INDEX)
        self._meeting = False
        self._met: Position | None = None
        self._returning: Position | None = None
        self._thread = threading.Thread(target=self._work, name=f"pgcdc-{settings.name}-joining", daemon=True)

    # In the source's thread, or at the end.

    def start(self) -> None:
        """Start the thread; before anything is handed over by the source."""
        for name in self._missing:
            self._lanes[name].incomplete = True
            self._source.detach(name)
        self._thread.start()

    def end(self, timeout: float) -> None:
        """Wait for the end of the thread when the run is being stopped; blocks.

        Args:
            timeout: How long, in seconds.
        """
        connection = self._waiting
        if connection is not None:
            # It waits for a slot, which waits for open transactions.
            with suppress(Error), Session.connect(self._settings.dsn, replication=False) as session:
                session.execute(f"SELECT pg_catalog.pg_cancel_backend({connection.backend_pid})")
        self._thread.join(timeout)

    def sent(self, batch: Batch, done_lsn: int, wait: Callable[[Callable[[], bool]], None]) -> None:
        """Note how far the source is; when it is asked for, wait for those that are away and take them back.

        Args:
            batch: What the source has handed over.
            done_lsn: How far everything was received.
            wait: Waits for the condition until a predicate holds, or raises when the run is being stopped.
        """
        with self._condition:
            # Within a transaction it is the last change, between two of them the end of the first.
            self._source_at = _further(self._source_at, batch, done_lsn)
            if not self._meeting:
                return
            self._meeting = False
            self._met = self._source_at
            self._condition.notify_all()
        wait(lambda: self._returning is not None)
        for name in self._missing:
            self._source.attach(name, self._returning)
        with self._condition:
            self._returning = None
            self._condition.notify_all()

    # In this thread.

    def _work(self) -> None:
        reason: BaseException | None = None
        try:
            with ExitStack() as stack:
                self._join(stack)
        except Stopped:
            pass
        except BaseException as error:
            if not (self._stopping() and isinstance(error, Error)):
                reason = error
        finally:
            self._watch(None)
            self._ended(reason)

    def _join(self, stack: ExitStack) -> None:
        # What is in a spool committed before the rows that are missing will be read.
        self._wait(lambda: not any(lane.unread for lane in self._lanes.values()))
        connection = stack.enter_context(connect(self._settings.dsn))
        self._fanout.know(publishing.published(connection, self._settings).all_tables, written_lsn(connection))
        self._restrict()
        stream: Stream | None = None
        if self._partly:
            stream = self._stream(stack, connection, self._copied_slot(connection))
            # A snapshot holds up the server's cleaning: none before what there is has been caught up with.
            now = written_lsn(connection)
            while self._reached.commit_lsn < now:
                self._pass_on(stream)
            connection = stack.enter_context(connect(self._settings.dsn))
        for attempt in range(1, ATTEMPTS + 1):
            slot, stale = self._copy(connection, stream)
            if stream is None:
                stream = self._stream(stack, connection, slot)
                connection = stack.enter_context(connect(self._settings.dsn))
            if stale is None:
                break
            if attempt == ATTEMPTS:
                raise stale
        connection.close()
        if stream is not None:
            self._catch_up(stream)

    def _copied_slot(self, connection: Connection) -> str:
        """A temporary slot that is where the pipeline's is."""
        name = self._name()
        # By the walsender, whose slot it becomes; it looks at no table and no publication (decision 0008).
        connection.copy_slot(self._settings.slot, name, temporary=True)
        return name

    def _name(self) -> str:
        return f"{self._settings.slot[:46]}_{token_hex(8)}"

    def _stream(self, stack: ExitStack, connection: Connection, slot: Slot | str) -> Stream:
        format = RowFormat(catalog=self._catalog)
        name = slot if isinstance(slot, str) else slot.name
        stream = connection.stream(name, [self._settings.publication], format=format, confirm_idle=False)
        return stack.enter_context(stream)

    def _copy(self, connection: Connection, stream: Stream | None) -> tuple[Slot, ReplicationError | None]:
        """Take a snapshot, be where it is, and hand over the rows that are missing."""
        settings = self._settings
        slot, tables = self._make_slot(connection)
        lacking = {oid for oids in self._missing.values() for oid in oids}
        taken = [table for table in tables if table.relation.oid in lacking]
        number = settings.snapshot_connections
        with Snapshot(settings.dsn, slot, taken, self._catalog, connections=number) as snapshot:
            if not self._begin_shapes(taken, slot.consistent_point):
                if stream is None:  # there will be one, from here on
                    self._reached = max(self._reached, Position(slot.consistent_point, SNAPSHOT_INDEX))
                return slot, SnapshotStale(
                    "a table was altered before and after a snapshot, with nothing written in between",
                    hint="start again: the rows are copied in another snapshot",
                    slot=slot.name,
                    lsn=slot.consistent_point,
                )
            rest = None if stream is None else self._follow(stream, slot.consistent_point)
            who = ", ".join(sorted(self._missing))
            at = format_lsn(slot.consistent_point)
            logger.info("pipeline %r: %s: rows of %d tables as of %s", settings.name, who, len(taken), at)
            self._watch(snapshot)
            for name in self._missing:
                self._fanout.attach(name)
            stale = hand_over(snapshot, self._missing, self._lanes, self._fanout, self._wait, again=self._again)
            self._watch(None)
        for name, oids in self._missing.items():
            oids.difference_update(self._lanes[name].tables)
            if not oids:
                self._lanes[name].complete()
        self._again = set(self._missing)
        self._restrict()
        self._reached = max(self._reached, Position(slot.consistent_point, SNAPSHOT_INDEX))
        if rest is not None and stream is not None:
            self._fanout.send(rest, stream.idle_lsn)
            self._reached = _further(self._reached, rest, stream.idle_lsn)
        return slot, stale

    def _begin_shapes(self, tables: Sequence[PublishedTable], lsn: int) -> bool:
        """Take down the shapes that the snapshot has; those between them and the last known are the source's."""
        relations = [table.relation for table in tables]
        border = Position(lsn, SNAPSHOT_INDEX)
        self._versioning.learn_types(tables)
        # A shape that nobody has seen may not be the next: the source may have rows of another before it.
        self._wait(lambda: self._source_at >= border or self._versioning.fits(relations, lsn))
        return self._versioning.begin(relations, lsn, self._wait)

    def _make_slot(self, connection: Connection) -> tuple[Slot, Sequence[PublishedTable]]:
        """Make a slot, and another as long as what is published changes meanwhile: the copy would lack it."""
        settings = self._settings
        for _ in range(MADE_AGAIN):
            before = publishing.published(connection, settings)
            self._waiting = connection
            slot = connection.create_slot(self._name(), temporary=True, export_snapshot=True, timeout=_PATIENCE)
            self._waiting = None
            changes = before.state.changes(publishing.published(connection, settings).state)
            if changes is None:
                return slot, before.tables
            connection.drop_slot(slot.name)
            again = "pipeline %r: what is published changed while slot %s was made (%s): another one is made"
            logger.warning(again, settings.name, slot.name, changes)
        raise never_still(slot.name, [settings.publication], changes)

    def _restrict(self) -> None:
        """Leave out changes of tables whose rows are missing."""
        for name, oids in self._missing.items():
            self._fanout.attach(name, without=[self._names[oid] for oid in oids])

    def _pass_on(self, stream: Stream) -> None:
        """Hand over what comes next."""
        batch = self._read(stream)
        self._fanout.send(batch, stream.idle_lsn)
        self._reached = _further(self._reached, batch, stream.idle_lsn)

    def _follow(self, stream: Stream, lsn: int) -> Batch | None:
        """Hand over what committed below an LSN.

        Args:
            stream: Where from.
            lsn: The LSN.

        Returns:
            What was read besides, which committed there or above: it comes next. None when nothing was.
        """
        border = Position(lsn, SNAPSHOT_INDEX)
        while stream.idle_lsn < lsn:
            batch = self._read(stream)
            self._fanout.send(batch.up_to(border), min(stream.idle_lsn, lsn))
            rest = batch.after(border)
            if rest.changes_count:
                return rest
        return None

    def _catch_up(self, stream: Stream) -> None:
        """Hand over what came since the snapshot, until the source can take over."""
        asked = False
        while True:
            with self._condition:
                met, source_at = self._met, self._source_at
                if not asked and self._reached.commit_lsn + NEAR >= source_at.commit_lsn:
                    # From now on the source waits, at the end of what it does now.
                    self._meeting = asked = True
                if met is not None and self._reached >= met:
                    self._returning = self._reached
                    self._condition.notify_all()
                    break
            self._pass_on(stream)
        self._wait(lambda: self._returning is None)

    def _read(self, stream: Stream) -> Batch:
        if self._stopping():
            raise Stopped
        batch = stream.read(READ_TIMEOUT)
        if not len(batch):
            # A quiet server does not say how far it is without being asked.
            stream.send_status(reply_requested=True)
        return batch

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait for room, for an acknowledgement or for the source."""
        with self._condition:
            while True:
                if self._stopping():
                    raise Stopped
                if ready():
                    return
                self._condition.wait(LOOK_EVERY)


def _further(reached: Position, batch: Batch, done_lsn: int) -> Position:
    """How far a stream is after a batch."""
    here = max(reached, Position(done_lsn, SNAPSHOT_INDEX))
    last = batch.last_position
    return here if last is None else max(here, last)
