"""The source: connections, slots, publications, streams and snapshots, on psycopg's libpq.

with connect(dsn) as connection:
    tables = published_tables(connection, ["shop"])
    slot = connection.create_slot("shop", export_snapshot=True)
    with Snapshot(dsn, slot, tables, Catalog.load(connection)) as snapshot:
        for batch in snapshot.batches(): ...
    with connection.stream("shop", ["shop"]) as stream:
        for batch in stream.batches(): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgcdc.replication import publications as _publications
from pgcdc.replication import server as _server
from pgcdc.replication.connection import Connection, connect
from pgcdc.replication.publications import PublishedTable, TableName, parse_table
from pgcdc.replication.slots import Slot, SlotState
from pgcdc.replication.snapshot import Snapshot, SnapshotStale
from pgcdc.replication.stream import Stream

__all__ = [
    "Connection",
    "PublishedTable",
    "Slot",
    "SlotState",
    "Snapshot",
    "SnapshotStale",
    "Stream",
    "check_server",
    "connect",
    "ensure_publication",
    "parse_table",
    "published_tables",
]


def published_tables(connection: Connection, publications: Sequence[str]) -> list[PublishedTable]:
    """Read what publications publish: tables, columns, row filters, where the rows are stored.

    Args:
        connection: The connection.
        publications: The publications' names.

    Returns:
        The tables, by schema and name: roots of partitions where the publication says `publish_via_partition_root`,
        else their leaves.

    Raises:
        PublicationNotFound: When one does not exist.
        ConfigError: When none is named.

    Source:
        PostgreSQL manual, "pg_publication_tables".
    """
    return _publications.tables_of(connection.session(), publications)


def ensure_publication(connection: Connection, name: str, tables: Iterable[TableName]) -> list[tuple[str, str]]:
    """Make a publication publish at least these tables: it is created, or gets those that it lacks.

    A publication that is created with a partitioned table gets `publish_via_partition_root`.

    Args:
        connection: The connection.
        name: The publication's name.
        tables: The tables, as `parse_table` reads them.

    Returns:
        The tables that were not published before, as `(schema, name)`; a stream gives their rows only from here on.

    Raises:
        ConfigError: When a table does not exist or cannot be published, or the role may not do it.

    Source:
        PostgreSQL manual, "CREATE PUBLICATION", "ALTER PUBLICATION".
    """
    return _publications.ensure(connection.session(), name, tables)


def check_server(connection: Connection, *, slot: str | None = None, need_new_slot: bool = False) -> None:
    """Refuse a server that cannot serve a stream, before anything is made on it.

    That the role may replicate and that a walsender is free was found out by connecting.

    Args:
        connection: The connection.
        slot: The slot that is going to be used, where it is known: its name, plugin, database and WAL are checked.
        need_new_slot: Whether a slot is going to be created.

    Raises:
        ConfigError: When the version is too old, wal_level is not logical, no slot is free or the slot is not ours.
        SlotLost: When the server has given up WAL that the slot needs.

    Source:
        PostgreSQL manual, "Logical Decoding", "Replication" (Server Configuration).
    """
    _server.check(connection.session(), connection.database, slot=slot, need_new_slot=need_new_slot)
