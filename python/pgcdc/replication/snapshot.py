# Made from snapshot_async.py by ./dev lint --fix: change that file, not this one.
"""The initial copy: every published row as it was at the slot's consistent point, nothing missing and nothing twice.

The copy runs in the snapshot that the slot exported, so the stream begins exactly where it ends. One thing escapes a
snapshot: a table that was rewritten between the export and the copy is empty in it. So the tables' files, taken down
before the slot was made, are compared under the lock that the copy holds.

Source: PostgreSQL manual, "Snapshot Synchronization Functions", "COPY", Binary Format.
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConfigError, DecodeError, Error
from pgcdc.lsn import format_lsn
from pgcdc.protocol import CopyReader, RowFormat
from pgcdc.replication import publications
from pgcdc.replication.copy_command import SnapshotStale, copy_command
from pgcdc.replication.libpq import pq
from pgcdc.replication.quoting import identifier, literal, qualified
from pgcdc.replication.session import Session
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from pgcdc.protocol import Batch, TypeCatalog
    from pgcdc.replication.publication import PublishedTable
    from pgcdc.replication.slot import Slot

__all__ = ["Snapshot", "SnapshotStale"]

MAX_BYTES: Final = 1 << 20
"""About how many bytes one batch may have."""
MAX_ROWS: Final = 10_000
"""How many rows one batch may have."""

# The table is not there any more, or not the column, or not as it was: the copy does not belong to the slot.
_CHANGED_UNDER_US: Final = frozenset({"42P01", "42703", "3F000", "42704"})


class Snapshot:
    """The rows of published tables in the snapshot that a slot exported.

    Args:
        dsn: As for `connect`; a connection of its own is made, that is no walsender.
        slot: What `Connection.create_slot(…, export_snapshot=True)` returned. That connection must take no
            replication command until this one has been entered.
        tables: What `published_tables` returned *before* the slot was created.
        catalog: What is known of user-defined types: columns of other types are copied as text.

    Raises:
        ConfigError: When the slot has exported no snapshot.
    """

    def __init__(self, dsn: str, slot: Slot, tables: Sequence[PublishedTable], catalog: TypeCatalog) -> None:
        if slot.snapshot_name is None:
            raise ConfigError(
                f'slot "{slot.name}" has exported no snapshot',
                hint="create it with export_snapshot=True",
                slot=slot.name,
            )
        self._dsn = dsn
        self._slot = slot
        self._snapshot_name = slot.snapshot_name
        self._tables = list(tables)
        self._catalog = catalog
        self._session: Session | None = None

    def __enter__(self) -> Self:
        """Connect and import the snapshot; the connection that exported it may be used again afterwards.

        Raises:
            SnapshotStale: When the snapshot is gone.
            ConfigError: When the server refuses this role, database or host.
            ConnectionLost: When there is no server, or it went away.
        """
        session = Session.connect(self._dsn, replication=False)
        doing = Doing(f'importing the snapshot of slot "{self._slot.name}"', slot=self._slot.name)
        try:
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", doing=doing)
            session.execute(f"SET TRANSACTION SNAPSHOT {literal(self._snapshot_name)}", doing=doing)
        except Error as error:
            session.close()
            if error.sqlstate in ("22023", "42704", "55000"):
                raise SnapshotStale(
                    f'the snapshot exported by slot "{self._slot.name}" is gone: it lasts only until the next'
                    " replication command on the connection that created the slot",
                    hint="drop the slot and begin again",
                    slot=self._slot.name,
                    sqlstate=error.sqlstate,
                ) from None
            raise
        except BaseException:
            session.close()
            raise
        self._session = session
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the transaction and the connection. Closing twice is no error."""
        if self._session is not None:
            self._session.close()

    def batches(self, *, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> Iterator[Batch]:
        """Copy one table after the other.

        Args:
            max_bytes: About how many bytes a batch may have.
            max_rows: How many rows a batch may have.

        Yields:
            Batches of Inserts with position `(consistent_point, -1)`, each of one table.

        Raises:
            SnapshotStale: When a table was rewritten, dropped or changed since `published_tables`.
            ConfigError: When the role may not read a table, or row security would hide rows of it.
            ConnectionLost: When the connection broke.
            ReplicationError: When the server refused otherwise.

        Source:
            PostgreSQL manual, "COPY", Binary Format.
        """
        for table in self._tables:
            yield from self._copy(table, max_bytes, max_rows)

    def _copy(self, table: PublishedTable, max_bytes: int, max_rows: int) -> Iterator[Batch]:
        """Copy one table, and make sure that it is the one that was published."""
        if self._session is None:
            raise ConfigError("the snapshot is not open", hint="use it as a context manager", slot=self._slot.name)
        name = f"{table.schema}.{table.name}"
        doing = Doing(f"copying table {name}", slot=self._slot.name, table=name, schema=table.schema)
        text_columns = [
            not (sends and self._catalog.knows(column.type_oid))
            for column, sends in zip(table.relation.columns, table.binary_columns, strict=True)
        ]
        try:
            # Takes the lock (ACCESS SHARE) that COPY takes too: nobody can rewrite the table from here on.
            self._compare(self._session, table, doing)
            reader = CopyReader(
                table.relation,
                self._slot.consistent_point,
                text_columns if any(text_columns) else None,
                RowFormat(catalog=self._catalog),
            )
            command = copy_command(table, text_columns)
            copying = self._session.copy_out(command, max_bytes=max_bytes, max_frames=max_rows, doing=doing)
            with closing(copying) as lists:
                for frames in lists:
                    batch = reader.read(frames)
                    if len(batch):
                        yield batch
            if not reader.finished:
                raise DecodeError(f"the copy of table {name} has no end", reason="no trailer", table=name)
            # Leaves can be attached and detached beside that lock.
            self._compare(self._session, table, doing)
        except SnapshotStale:
            raise
        except Error as error:
            if error.sqlstate in _CHANGED_UNDER_US:
                raise self._stale(table, "dropped or changed") from error
            raise

    def _compare(self, session: Session, table: PublishedTable, doing: Doing) -> None:
        """Refuse a table whose files or columns are not those of before the slot.

        The catalog is seen as it is now, not as it was at the snapshot: the description of a query's columns and
        `pg_relation_filenode` look into the server's caches, not into the tables of the catalog.
        """
        columns = table.relation.columns
        only = "" if table.partitioned else "ONLY "
        source = f"{only}{qualified(table.schema, table.name)}"
        probe = f"SELECT {', '.join(identifier(column.name) for column in columns)} FROM {source} LIMIT 0"
        (described,) = (r for r in session.results(probe, doing=doing) if r.status == pq.ExecStatus.TUPLES_OK)
        now = [(described.ftype(n), described.fmod(n)) for n in range(described.nfields)]
        if now != table.described_types:
            raise self._stale(table, "changed")
        if publications.storage(session, table) != table.storage:
            raise self._stale(table, "rewritten")

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
