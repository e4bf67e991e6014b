# Made from snapshot_session_async.py by ./dev lint --fix: change that file, not this one.
"""One of the connections that share a snapshot: imports it, and copies one piece of a table after the other.

A table is locked (ACCESS SHARE, which keeps nobody from writing) from its first piece to its last and no longer: the
lock is taken behind a savepoint, and going back to that gives it away. Nobody waits for a lock for long. Who waits for
an exclusive one would be before us in the queue, and wait for another of our connections, which waits for us: the
server does not see that circle.

Source: PostgreSQL manual, "Explicit Locking", "SET TRANSACTION", "Client Connection Defaults" (`lock_timeout`).
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgcdc.errors import DecodeError, Error
from pgcdc.lsn import format_lsn
from pgcdc.protocol import CopyReader, Frames
from pgcdc.replication import generators, publications
from pgcdc.replication.copy_command import SnapshotStale, copy_command
from pgcdc.replication.libpq import pq, psycopg
from pgcdc.replication.quoting import identifier, literal, qualified
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from typing import Self

    from pgcdc.protocol import Batch, RowFormat
    from pgcdc.replication.publication import PublishedTable
    from pgcdc.replication.session import Session
    from pgcdc.replication.slot import Slot
    from pgcdc.replication.snapshot_plan import Piece

__all__ = ["SnapshotSession"]

# The table is not there any more, or not the column, or not as it was: the copy does not belong to the slot.
_CHANGED_UNDER_US: Final = frozenset({"42P01", "42703", "3F000", "42704"})
_GONE: Final = frozenset({"22023", "42704", "55000"})
_NO_LOCK: Final = "55P03"

# A scan of its own for each connection: more processes would only wait for our reading.
_IMPORT: Final = """BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET TRANSACTION SNAPSHOT {snapshot};
SET LOCAL lock_timeout = '{lock_timeout}ms';
SET LOCAL max_parallel_workers_per_gather = 0;
SAVEPOINT unlocked"""


class SnapshotSession:
    """One connection inside the snapshot.

    Args:
        session: The connection; it is closed with this.
        slot: The slot that exported the snapshot.
        format: How rows are given; it knows the database's types.
        lock_timeout: How many milliseconds one attempt to lock a table may last.
    """

    def __init__(self, session: Session, slot: Slot, format: RowFormat, lock_timeout: int) -> None:
        self.session = session
        self.table: PublishedTable | None = None
        self.received = 0
        self._slot = slot
        self._format = format
        self._lock_timeout = lock_timeout
        self._frames = Frames()
        self._ended = False
        self._reader: CopyReader | None = None
        self._doing = Doing("copying", slot=slot.name)

    def enter(self) -> Self:
        """Import the snapshot.

        Returns:
            Itself.

        Raises:
            SnapshotStale: When the snapshot is gone.
            ConnectionLost: When the connection broke.
        """
        doing = Doing(f'importing the snapshot of slot "{self._slot.name}"', slot=self._slot.name)
        name = literal(self._slot.snapshot_name or "")
        try:
            self.session.execute(_IMPORT.format(snapshot=name, lock_timeout=self._lock_timeout), doing=doing)
        except Error as error:
            if error.sqlstate in _GONE:
                raise SnapshotStale(
                    f'the snapshot exported by slot "{self._slot.name}" is gone: it lasts only until the next'
                    " replication command on the connection that created the slot",
                    hint="drop the slot and begin again",
                    slot=self._slot.name,
                    sqlstate=error.sqlstate,
                ) from None
            raise
        return self

    def close(self) -> None:
        """End the transaction and the connection. Closing twice is no error."""
        self.session.close()

    @property
    def copying(self) -> bool:
        """Whether a COPY runs."""
        return self._reader is not None

    @property
    def socket(self) -> int:
        """What is waited for.

        Raises:
            ConnectionLost: When the connection broke.
        """
        try:
            return self.session.pgconn.socket
        except psycopg.Error as error:
            raise self.session.lost(self._doing, error) from None

    def begin(self, table: PublishedTable, piece: Piece) -> bool:
        """Begin to copy a piece, and make sure that its table is the one that was published.

        Args:
            table: The table.
            piece: What of it.

        Returns:
            Whether it has begun; not while somebody has the table locked, or waits for that.

        Raises:
            SnapshotStale: When the table was rewritten, dropped or changed since `published_tables`.
            ConfigError: When the role may not read the table, or row security would hide rows of it.
            ConnectionLost: When the connection broke.
        """
        name = f"{table.schema}.{table.name}"
        self._doing = Doing(f"copying table {name}", slot=self._slot.name, table=name, schema=table.schema)
        catalog = self._format.catalog
        text_columns = [
            not (sends and catalog.knows(column.type_oid))
            for column, sends in zip(table.relation.columns, table.binary_columns, strict=True)
        ]
        if self.table is not table:
            self.unlock()
        try:
            # Takes the lock that COPY takes too: nobody can rewrite the table from here on.
            self.compare(table)
            self.table = table
            self.session.results(copy_command(table, text_columns, piece), doing=self._doing)
        except Error as error:
            if error.sqlstate == _NO_LOCK:
                self.unlock()
                return False
            raise self._explained(error, table) from error
        self._reader = CopyReader(
            table.relation, self._slot.consistent_point, text_columns if any(text_columns) else None, self._format
        )
        self._ended = False
        return True

    def unlock(self) -> None:
        """Give the lock of the table away; also after a statement that failed."""
        self.table = None
        self.session.execute("ROLLBACK TO SAVEPOINT unlocked", doing=self._doing)

    def take(self, max_bytes: int, max_rows: int) -> bool:
        """Take what has come, without waiting.

        Args:
            max_bytes: How many bytes may be kept until `batch`.
            max_rows: How many payloads may be kept until `batch`.

        Returns:
            Whether there is a batch to be had: the limits are reached, or the COPY has ended.

        Raises:
            ConnectionLost: When the connection broke.
        """
        frames = self._frames
        if not self._ended and frames.nbytes < max_bytes and len(frames) < max_rows:
            try:
                drained = generators.at_once(generators.receive(self.session.pgconn, frames, max_bytes, max_rows))
            except psycopg.Error as error:
                raise self.session.lost(self._doing, error) from None
            self._ended = drained is generators.Drained.ENDED
        return self._ended or frames.nbytes >= max_bytes or len(frames) >= max_rows

    def batch(self) -> tuple[Batch, bool]:
        """Make a batch of what was taken; after the last one the piece is over.

        Returns:
            The batch, which may be empty, and whether it is the last one of the piece.

        Raises:
            SnapshotStale: When the table was changed meanwhile.
            DecodeError: When the copy is not whole.
            Error: When the server ended it with an error.
        """
        assert self._reader is not None and self.table is not None
        reader = self._reader
        frames, self._frames = self._frames, Frames()
        self.received = frames.nbytes
        batch = reader.read(frames)
        if self._ended:
            self._reader = None
            table = self.table
            try:
                self.session.finish_copy(self._doing)
            except Error as error:
                raise self._explained(error, table) from error
            if not reader.finished:
                name = f"{table.schema}.{table.name}"
                raise DecodeError(f"the copy of table {name} has no end", reason="no trailer", table=name)
        return batch, self._ended

    def compare(self, table: PublishedTable) -> None:
        """Refuse a table whose files or columns are not those of before the slot.

        The catalog is seen as it is now, not as it was at the snapshot: the description of a query's columns and
        `pg_relation_filenode` look into the server's caches, not into the tables of the catalog.

        Args:
            table: The table.

        Raises:
            SnapshotStale: When it is another one now.
        """
        columns = table.relation.columns
        only = "" if table.partitioned else "ONLY "
        source = f"{only}{qualified(table.schema, table.name)}"
        probe = f"SELECT {', '.join(identifier(column.name) for column in columns)} FROM {source} LIMIT 0"
        results = self.session.results(probe, doing=self._doing)
        (described,) = (result for result in results if result.status == pq.ExecStatus.TUPLES_OK)
        now = [(described.ftype(n), described.fmod(n)) for n in range(described.nfields)]
        if now != table.described_types:
            raise self._stale(table, "changed")
        if publications.storage(self.session, table) != table.storage:
            raise self._stale(table, "rewritten")

    def end(self, table: PublishedTable) -> bool:
        """Compare once more when a table is copied, and unlock it: leaves can be attached and detached beside our lock.

        Args:
            table: The table.

        Returns:
            Whether it could be compared; not while somebody has one of its leaves locked, or waits for that.

        Raises:
            SnapshotStale: When it is another one now.
        """
        name = f"{table.schema}.{table.name}"
        self._doing = Doing(f"copying table {name}", slot=self._slot.name, table=name, schema=table.schema)
        compared = True
        try:
            self.compare(table)
        except Error as error:
            if error.sqlstate != _NO_LOCK:
                raise self._explained(error, table) from error
            compared = False
        self.unlock()
        return compared

    def _explained(self, error: Error, table: PublishedTable) -> Error:
        stale = error.sqlstate in _CHANGED_UNDER_US and not isinstance(error, SnapshotStale)
        return self._stale(table, "dropped or changed") if stale else error

    def _stale(self, table: PublishedTable, what: str) -> SnapshotStale:
        name = f"{table.schema}.{table.name}"
        return SnapshotStale(
            f'table {name} was {what} after slot "{self._slot.name}" had exported its snapshot at'
            f" {format_lsn(self._slot.consistent_point)}",
            hint="drop the slot, and begin again with a new one",
            slot=self._slot.name,
            table=name,
            lsn=self._slot.consistent_point,
        )
