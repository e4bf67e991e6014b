"""What is asked of a database before a stream or a snapshot: is it fit for one, what is published, is that all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcdc.replication import server_async as server
from pgcdc.replication.publications_async import ensure, tables_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgcdc.replication.connection_async import AsyncConnection
    from pgcdc.replication.publication import PublishedTable, TableName

__all__ = ["acheck_server", "aensure_publication", "apublished_tables"]


async def apublished_tables(connection: AsyncConnection, publications: Sequence[str]) -> list[PublishedTable]:
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
    return await tables_of(await connection.session(), publications)


async def aensure_publication(
    connection: AsyncConnection, name: str, tables: Iterable[TableName]
) -> list[tuple[str, str]]:
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
    return await ensure(await connection.session(), name, tables)


async def acheck_server(connection: AsyncConnection, *, slot: str | None = None, need_new_slot: bool = False) -> None:
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
    await server.check(await connection.session(), connection.database, slot=slot, need_new_slot=need_new_slot)
