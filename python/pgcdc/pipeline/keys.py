"""What consumers ask for by column, against the tables as they are published: their keys, and the columns they get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from pgcdc.errors import ConfigError
from pgcdc.pipeline.subscription import Subscription
from pgcdc.replication import PublishedTable
from pgcdc.replication.quoting import qualified

__all__ = ["check_columns", "key_columns", "primary_keys"]


def key_columns(tables: Iterable[PublishedTable]) -> dict[int, list[str]]:
    """Choose the columns by which changes of each table are kept in order.

    Args:
        tables: The published tables.

    Returns:
        By the table's OID: the primary key, where the replica identity has it, so that every change says it; else the
        columns of the replica identity; all columns where there is none, since only inserts are published then.
    """
    chosen = {}
    for table in tables:
        columns = table.relation.columns
        identity = [column.name for column in columns if column.is_key]
        if table.primary_key and set(table.primary_key) <= set(identity):
            identity = list(table.primary_key)
        chosen[table.relation.oid] = identity or [column.name for column in columns]
    return chosen


def primary_keys(tables: Iterable[PublishedTable]) -> dict[int, list[str]]:
    """The primary keys, for sinks: under REPLICA IDENTITY FULL the stream does not say them.

    Args:
        tables: The published tables.

    Returns:
        By the table's OID; tables without one are left out.
    """
    return {table.relation.oid: list(table.primary_key) for table in tables if table.primary_key}


def check_columns(subscriptions: Mapping[str, Subscription], tables: Sequence[PublishedTable]) -> None:
    """Make sure that the columns that consumers name are published, and that every change will say a chosen key.

    Args:
        subscriptions: The consumers by name.
        tables: The published tables.

    Raises:
        ConfigError: When one is not.
    """
    for consumer, subscription in subscriptions.items():
        for table in tables:
            name = (table.schema, table.name)
            if name not in subscription.tables:
                continue
            for column in subscription.options.columns.get(name, ()):
                _check_published(consumer, table, column)
            for column in subscription.options.key or ():
                _check_published(consumer, table, column)
                _check_identity(consumer, table, column)


def _check_published(consumer: str, table: PublishedTable, column: str) -> None:
    names = [one.name for one in table.relation.columns]
    if column in names:
        return
    similar = get_close_matches(column, names, n=1)
    raise ConfigError(
        f"consumer {consumer!r} names column {column!r} of table {table.schema}.{table.name}, which is not published",
        hint=f"did you mean {similar[0]!r}?" if similar else f"it has {', '.join(names)}",
        table=f"{table.schema}.{table.name}",
    )


def _check_identity(consumer: str, table: PublishedTable, column: str) -> None:
    if any(one.name == column and one.is_key for one in table.relation.columns):
        return
    name = qualified(table.schema, table.name)
    raise ConfigError(
        f"consumer {consumer!r} keeps order by column {column!r}, which is not in the replica identity of table"
        f" {table.schema}.{table.name}: of an update or delete the server does not send what it was",
        hint=f"ALTER TABLE {name} REPLICA IDENTITY FULL; or, with a unique index on columns that are NOT NULL and"
        f" {column!r} among them, ALTER TABLE {name} REPLICA IDENTITY USING INDEX …; or leave key= out",
        table=f"{table.schema}.{table.name}",
    )
