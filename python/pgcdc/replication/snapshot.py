# Made from snapshot_async.py by ./dev lint --fix: change that file, not this one.
"""The snapshot of published tables: every row as it was at the slot's consistent point, nothing missing, nothing twice.

Over 400 lines, because what escapes a snapshot is looked after where it is taken.

The copy runs in the snapshot that the slot exported, so the stream begins exactly where it ends. Several connections
share it: each copies one piece of a table after the other, and one loop reads from whichever has something. Two things
escape a snapshot. A table that was rewritten between the export and the copy is empty in it: so the tables' files,
taken down before the slot was made, are compared under the lock that the copy holds. And what is published only since
then is not among the tables, though the stream has its changes: so what is published is looked at again behind the
slot, and when it is not the same the slot is made again. The catalog inside of the snapshot would not do: of a
transaction that wrote before the change and commits after the snapshot, neither would have the rows.

Source: PostgreSQL manual, "Snapshot Synchronization Functions", "COPY", Binary Format.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConfigError, Error
from pgcdc.protocol import Catalog, RowFormat
from pgcdc.protocol.catalog import CATALOG_SQL
from pgcdc.replication import waits
from pgcdc.replication.copy_command import ATTEMPTS, SnapshotStale, never_still
from pgcdc.replication.publications import state_of
from pgcdc.replication.session import Session
from pgcdc.replication.snapshot_plan import (
    SPLIT_BYTES,
    SnapshotPart,
    TablePlan,
    Work,
    check_limits,
    leaves_sql,
    plan_tables,
)
from pgcdc.replication.snapshot_progress import Meter, SnapshotProgress
from pgcdc.replication.snapshot_session import SnapshotSession

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType
    from typing import Self

    from pgcdc.protocol import Batch, TypeCatalog
    from pgcdc.replication.connection import Connection
    from pgcdc.replication.publication import PublishedTable
    from pgcdc.replication.slot import Slot

__all__ = ["Snapshot", "SnapshotStale", "take_snapshot"]

logger = logging.getLogger("pgcdc.replication")

MAX_BYTES: Final = 1 << 16
"""About how many bytes one batch may have: what is made of them fits into a processor's cache (decision 0028)."""
MAX_ROWS: Final = 10_000
"""How many rows one batch may have."""
LOCK_TIMEOUT: Final = 100
"""Milliseconds that an attempt to lock a table may last; meanwhile nothing else is read."""
_READ_SECONDS: Final = 0.1
"""The longest single wait."""
_PAUSE_SECONDS: Final = 0.00025
"""How long to wait when something has come: the rest comes in a rush, and one read finds much of it."""


def take_snapshot(
    connection: Connection,
    slot: str | None,
    publications: Sequence[str],
    *,
    failover: bool,
    connections: int,
    split_bytes: int,
    timeout: float,
) -> Snapshot:
    """Make a slot and the snapshot of what publications publish; the contract is `Connection.snapshot`'s.

    Args:
        connection: Makes the slot.
        slot: As there, as all that follow.
        publications: Likewise.
        failover: Likewise.
        connections: Likewise.
        split_bytes: Likewise.
        timeout: Likewise.

    Returns:
        The snapshot, not yet entered.
    """
    check_limits(connections, split_bytes)
    session = connection.session()
    names = [publications] if isinstance(publications, str) else publications
    name = slot or f"pgcdc_snapshot_{token_hex(8)}"

    def undo() -> None:
        connection.drop_slot(name, if_exists=True)

    for _ in range(ATTEMPTS):
        # Both before the slot: the shapes and files of the tables are what the copy is compared with.
        state = state_of(session, names)
        catalog = Catalog.of(session.execute(CATALOG_SQL))
        made = _make(connection, name, temporary=slot is None, failover=failover, timeout=timeout)
        try:
            changes = state.changes(state_of(session, names))
        except BaseException:
            with suppress(Error):
                undo()
            raise
        if changes is None:
            return Snapshot(
                connection.dsn,
                made,
                state.tables,
                catalog,
                connections=connections,
                split_bytes=split_bytes,
                beside=session,
                undo=undo,
                keep_slot=slot is not None,
            )
        undo()
        logger.warning("what is published changed while slot %s was made (%s): it is made again", name, changes)
    raise never_still(name, names, changes)


def _make(connection: Connection, name: str, *, temporary: bool, failover: bool, timeout: float) -> Slot:
    try:
        return connection.create_slot(
            name, temporary=temporary, failover=failover, export_snapshot=True, timeout=timeout
        )
    except Error as error:
        if error.sqlstate == "42710":
            error.hint = (
                f'if a snapshot with it was read to the end: connection.stream("{name}", …) goes on behind that; else'
                f' connection.drop_slot("{name}"), and begin again'
            )
        raise


class Snapshot:
    """The rows of published tables in the snapshot that a slot exported.

    `Connection.snapshot` makes the slot and this.

    Args:
        dsn: As for `connect`; connections of its own are made, that are no walsenders.
        slot: What `Connection.create_slot(…, export_snapshot=True)` returned. That connection must take no
            replication command until this one has been entered.
        tables: What `published_tables` returned *before* the slot was created.
        catalog: What is known of user-defined types: columns of other types are copied as text.
        connections: How many connections share the snapshot, at most: as many as there is something to do for.
        split_bytes: Larger tables are cut into ranges of about so many bytes, which several connections can copy.
        beside: A session to the server that has the slot, where the DSN has several.
        undo: Drops the slot; called when the snapshot cannot be entered.
        keep_slot: Whether the slot stays when the snapshot is left; else `undo` is called then.

    Attributes:
        slot: The slot; all rows have its consistent point as their LSN.
        tables: The tables.

    Raises:
        ConfigError: When the slot has exported no snapshot, or a limit cannot be.
    """

    def __init__(
        self,
        dsn: str,
        slot: Slot,
        tables: Sequence[PublishedTable],
        catalog: TypeCatalog,
        *,
        connections: int = 1,
        split_bytes: int = SPLIT_BYTES,
        beside: Session | None = None,
        undo: Callable[[], None] | None = None,
        keep_slot: bool = True,
    ) -> None:
        check_limits(connections, split_bytes)
        if slot.snapshot_name is None:
            raise ConfigError(
                f'slot "{slot.name}" has exported no snapshot',
                hint="create it with export_snapshot=True",
                slot=slot.name,
            )
        self.slot = slot
        self.tables = list(tables)
        self._dsn = dsn
        self._format = RowFormat(catalog=catalog)
        self._connections = connections
        self._split_bytes = split_bytes
        self._beside = beside
        self._undo = undo
        self._keep_slot = keep_slot
        self._sessions: list[SnapshotSession] = []
        self._plans: list[TablePlan] = []
        self._meter = Meter()

    def __enter__(self) -> Self:
        """Connect and import the snapshot; the connection that exported it may be used again afterwards.

        Raises:
            SnapshotStale: When the snapshot is gone.
            ConfigError: When the server refuses this role, database or host.
            ConnectionLost: When there is no server, or it went away.
        """
        try:
            first = self._another(self._beside)
            sql = leaves_sql(self.tables)
            sizes = [] if sql is None else first.session.execute(sql)
            self._plans = plan_tables(self.tables, sizes, self._split_bytes)
            wanted = min(self._connections, sum(len(plan.pieces) for plan in self._plans))
            # All of them import before the first COPY: what is imported holds even if the exporter goes on or away.
            while len(self._sessions) < wanted:
                try:
                    self._another(first.session)
                except SnapshotStale:
                    raise
                except Error as error:
                    logger.warning("the snapshot is taken by %d connections only: %s", len(self._sessions), error)
                    break
        except BaseException:
            self.close()
            self._drop()
            raise
        self._meter.begin(self._plans)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if not self._keep_slot:
            self._drop()

    def _drop(self) -> None:
        """Leave no slot behind; the error that led here is the one to tell."""
        if self._undo is not None:
            with suppress(Error):
                self._undo()

    def close(self) -> None:
        """End the transactions and the connections. Closing twice is no error."""
        for one in self._sessions:
            one.close()

    @property
    def lsn(self) -> int:
        """The snapshot's LSN: what committed below it is in the rows, what committed there or above is not."""
        return self.slot.consistent_point

    def progress(self) -> SnapshotProgress:
        """How far it is; from any thread.

        Returns:
            Frozen numbers.
        """
        return self._meter.read()

    def batches(self, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> Generator[Batch, None]:
        """Copy all tables: one after the other by one connection, else several of them and several ranges at a time.

        Args:
            max_bytes: About how many bytes a batch may have. So many are kept for each connection.
            max_rows: How many rows a batch may have.

        Yields:
            Batches of Inserts with position `(consistent_point, -1)`, each of one table.

        Raises:
            SnapshotStale: When a table was rewritten, dropped or changed since `published_tables`.
            ConfigError: When the role may not read a table, or row security would hide rows of it.
            ConnectionLost: When a connection broke.
            ReplicationError: When the server refused otherwise.

        Source:
            PostgreSQL manual, "COPY", Binary Format.
        """
        for part in self.parts(max_bytes=max_bytes, max_rows=max_rows):
            if part.error is not None:
                raise part.error
            if part.batch is not None:
                yield part.batch

    def parts(
        self, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS, idle: Callable[[], None] | None = None
    ) -> Generator[SnapshotPart, None]:
        """Likewise, but say also which table is finished, and go on with the others when one is stale.

        Args:
            max_bytes: As for `batches`.
            max_rows: As for `batches`.
            idle: Called now and then while nothing comes, because a table is locked, say; it may raise.

        Yields:
            The parts.

        Raises:
            Error: As `batches`, but for `SnapshotStale`.
        """
        if not self._sessions or any(one.copying for one in self._sessions):
            raise ConfigError(
                "the snapshot is not open, or is being read already",
                hint="use it as a context manager, and read it once",
                slot=self.slot.name,
            )
        work = Work(self._plans)
        try:
            while True:
                for one in self._sessions:
                    if not one.copying:
                        for part in self._begin(one, work):
                            yield part
                copying = [one for one in self._sessions if one.copying]
                if not copying and not work.left:
                    return
                if not copying:
                    if idle is not None:
                        idle()
                    waits.sleep(_READ_SECONDS)
                    continue
                came = False
                for one in copying:
                    if one.take(max_bytes, max_rows):
                        came = True
                        for part in self._taken(one, work):
                            yield part
                if came:
                    waits.turn()
                else:
                    if idle is not None:
                        idle()
                    waits.readable([one.socket for one in copying], _READ_SECONDS)
                    waits.sleep(_PAUSE_SECONDS)
        except Error as error:
            self._say_what_stays(error)
            raise

    def _say_what_stays(self, error: Error) -> None:
        """Tell whoever made slot and snapshot in one call what is left of it."""
        if self._keep_slot and self._undo is not None:
            name = self.slot.name
            stays = (
                f'slot "{name}" stays, and holds WAL back: connection.drop_slot("{name}"), and begin again;'
                f' connection.stream("{name}", …) gives what was changed since, without the rows of before'
            )
            error.hint = stays if error.hint is None else f"{error.hint}; {stays}"

    def _another(self, beside: Session | None) -> SnapshotSession:
        session = Session.connect(self._dsn, replication=False, beside=beside)
        one = SnapshotSession(session, self.slot, self._format, LOCK_TIMEOUT)
        self._sessions.append(one)
        try:
            return one.enter()
        except BaseException:
            self._sessions.remove(one)
            one.close()
            raise

    def _begin(self, one: SnapshotSession, work: Work) -> Generator[SnapshotPart, None]:
        """Give a connection something to do; tell what became of tables over it."""
        while (task := work.take(one.table)) is not None:
            place, piece = task
            table = self._plans[place].table
            try:
                begun = one.end(table) if piece is None else one.begin(table, piece)
            except SnapshotStale as error:
                one.unlock()
                yield self._stale(place, work, error)
                continue
            if not begun:
                if work.refused(place, piece):
                    logger.warning(
                        "table %s.%s is locked by somebody, or somebody waits to lock it: it is copied when it is not",
                        table.schema,
                        table.name,
                    )
            elif piece is None:
                yield self._finished(place)
            else:
                self._meter.turn(place, "copying")
                return
        # Nothing to do: nobody has to wait for this connection.
        if one.table is not None:
            one.unlock()

    def _taken(self, one: SnapshotSession, work: Work) -> Generator[SnapshotPart, None]:
        """What a connection has taken, as parts."""
        assert one.table is not None
        table = one.table
        place = work.place_of(table)
        try:
            batch, last = one.batch()
        except SnapshotStale as error:
            one.unlock()
            if place not in work.stale:
                yield self._stale(place, work, error)
            return
        if place not in work.stale:
            self._meter.received(place, len(batch), one.received)
            if len(batch):
                yield SnapshotPart(table, "rows", batch)
            if last:
                self._meter.piece_done(place)
                work.done(place)

    def _finished(self, place: int) -> SnapshotPart:
        self._meter.turn(place, "finished")
        return SnapshotPart(self._plans[place].table, "finished")

    def _stale(self, place: int, work: Work, error: SnapshotStale) -> SnapshotPart:
        work.drop(place)
        self._meter.turn(place, "stale")
        return SnapshotPart(self._plans[place].table, "stale", error=error)
