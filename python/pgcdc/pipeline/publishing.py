"""The publication of a pipeline: made at its first start, checked at every one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

from pgcdc.errors import ConfigError, PublicationNotFound
from pgcdc.pipeline.settings import Settings
from pgcdc.replication import Connection, PublishedTable, ensure_publication
from pgcdc.replication.plan import named_some
from pgcdc.replication.publication_state import PublicationState
from pgcdc.replication.publications import lacking, state_of
from pgcdc.replication.quoting import identifier, literal, qualified
from pgcdc.tables import Table

__all__ = ["BEGIN_ANEW", "MADE_FOR", "Planned", "Published", "drop", "extend", "found", "make", "planned", "published"]

logger = logging.getLogger("pgcdc.pipeline")

BEGIN_ANEW = (
    "changes of the time without it are not sent: call Pipeline.destroy() once, and the next start makes it and takes a"
    " new initial copy"
)
"""What to do about a publication that was dropped; making it again does not help."""
MADE_FOR = "made by pgcdc for pipeline "
"""How the comment of a publication begins that a pipeline has made."""


class Published(NamedTuple):
    """What a pipeline's publication publishes.

    Attributes:
        tables: The pipeline's tables.
        all_tables: These and all others.
        fingerprint: Of everything that decides which changes the server sends.
        state: What it publishes of the pipeline's tables, to be compared with later.
    """

    tables: Sequence[PublishedTable]
    all_tables: Sequence[PublishedTable]
    fingerprint: str
    state: PublicationState


class Planned(NamedTuple):
    """A pipeline's publication before it is made or dropped.

    Attributes:
        exists: Whether it is there.
        ours: Whether a pipeline of this name has made it.
        statements: What it takes for it to publish the pipeline's tables.
        warnings: What follows from that for whoever writes to them.
    """

    exists: bool
    ours: bool
    statements: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def make(connection: Connection, settings: Settings) -> bool:
    """Make the publication where it is missing; one that a pipeline of this name has made gets the tables it lacks.

    Args:
        connection: A replication connection.
        settings: The pipeline's.

    Returns:
        Whether it was made.

    Raises:
        ConfigError: When a table does not exist or the role may not publish it.
    """
    if connection.session().on_standby:
        planned(connection, settings)  # raises when anything would have to be made
    if _exists(connection, settings):
        extend(connection, settings)
        return False
    if settings.tables:
        _warn(connection, ensure_publication(connection, settings.publication, settings.tables))
    else:
        connection.execute(_empty(settings))
    connection.execute(_comment(settings))
    return True


def planned(connection: Connection, settings: Settings) -> Planned:
    """Say what `make` would do, and `drop`.

    Args:
        connection: A replication connection.
        settings: The pipeline's.

    Returns:
        The publication as it is, and the statements of `make`.

    Raises:
        ConfigError: When a table does not exist or cannot be published; when a publication that no pipeline of this
            name has made lacks one; when something lacks and the server is a standby.
    """
    there = found(connection, settings)
    if there.exists and not there.ours:
        published(connection, settings)
        return there
    statement: str | None
    warnings: tuple[str, ...] = ()
    if settings.tables:
        statement, missing = lacking(connection.session(), settings.publication, settings.tables)
        warnings = tuple(_refused(connection, missing))
    else:
        statement = None if there.exists else _empty(settings)
    statements = () if statement is None else (statement,) if there.exists else (statement, _comment(settings))
    if statements and connection.session().on_standby:
        raise ConfigError(
            f"this server is a standby, where publication {settings.publication!r} of pipeline {settings.name!r}"
            f" cannot be {'changed' if there.exists else 'made'}",
            hint=f"on its primary, from where it comes by itself: {'; '.join(statements)};",
            publication=settings.publication,
        )
    return there._replace(statements=statements, warnings=warnings)


def found(connection: Connection, settings: Settings) -> Planned:
    """Look at the publication; what it lacks is not looked at.

    Args:
        connection: A replication connection.
        settings: The pipeline's.

    Returns:
        Whether it is there, and whose it is.
    """
    return Planned(exists=_exists(connection, settings), ours=_is_ours(connection, settings), statements=())


def extend(connection: Connection, settings: Settings) -> None:
    """Add the pipeline's tables that its publication lacks, if a pipeline of this name has made it.

    Args:
        connection: A replication connection.
        settings: The pipeline's.

    Raises:
        ConfigError: When a table does not exist or the role may not publish it.
    """
    if settings.tables and _is_ours(connection, settings):
        if connection.session().on_standby:
            planned(connection, settings)  # raises when a table lacks
        _warn(connection, ensure_publication(connection, settings.publication, settings.tables))


def drop(connection: Connection, settings: Settings) -> None:
    """Drop the publication if a pipeline of this name has made it.

    Args:
        connection: A replication connection.
        settings: The pipeline's.
    """
    if _is_ours(connection, settings):
        connection.execute(f"DROP PUBLICATION IF EXISTS {identifier(settings.publication)}")


def _warn(connection: Connection, tables: Sequence[Table]) -> None:
    for warning in _refused(connection, tables):
        logger.warning("%s", warning)


def _refused(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """What the server refuses the application from the moment on in which tables are published."""
    if not tables:
        return []
    # Of a partitioned table, and of one that others inherit from, those that have the rows.
    pairs = ", ".join(f"({literal(schema)}, {literal(name)})" for schema, name in tables)
    rows = connection.execute(
        "WITH RECURSIVE published AS (SELECT c.oid FROM pg_catalog.pg_class c"  # noqa: S608 (quoted)
        f" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) IN ({pairs})"
        " UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN published p ON p.oid = i.inhparent)"
        " SELECT n.nspname || '.' || c.relname FROM published JOIN pg_catalog.pg_class c USING (oid)"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i"
        "  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate"
        "  AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)"
        " ORDER BY 1"
    )
    if not rows:
        return []
    names = named_some([name or "" for (name,) in rows])
    return [
        f"UPDATE and DELETE on {names} fail for whoever runs them as soon as they are published: without a replica"
        " identity the server cannot say which row it was; before, add a primary key, or ALTER TABLE … REPLICA IDENTITY"
        " FULL"
    ]


def _empty(settings: Settings) -> str:
    """Logical messages are in no publication, but a stream takes one."""
    return f"CREATE PUBLICATION {identifier(settings.publication)}"


def _comment(settings: Settings) -> str:
    return f"COMMENT ON PUBLICATION {identifier(settings.publication)} IS {literal(_mark(settings))}"


def _mark(settings: Settings) -> str:
    # In the catalog, so that destroy() knows years later whose the publication is.
    return f"{MADE_FOR}{settings.name!r}"


def _is_ours(connection: Connection, settings: Settings) -> bool:
    found = connection.execute(
        "SELECT pg_catalog.obj_description(oid, 'pg_publication') FROM pg_catalog.pg_publication"  # noqa: S608 (quoted)
        f" WHERE pubname = {literal(settings.publication)}"
    )
    return found == [(_mark(settings),)]


def _exists(connection: Connection, settings: Settings) -> bool:
    query = f"SELECT FROM pg_catalog.pg_publication WHERE pubname = {literal(settings.publication)}"
    return bool(connection.execute(query))


def published(connection: Connection, settings: Settings) -> Published:
    """Look up the pipeline's tables in its publication.

    Args:
        connection: A replication connection.
        settings: The pipeline's.

    Returns:
        What is published now.

    Raises:
        PublicationNotFound: When there is no such publication.
        ConfigError: When one of the tables is not in it.
    """
    if not _exists(connection, settings):
        raise PublicationNotFound(
            f"publication {settings.publication!r} of pipeline {settings.name!r} does not exist any more",
            hint=BEGIN_ANEW,
            publication=settings.publication,
            slot=settings.slot,
        )
    state = state_of(connection.session(), [settings.publication])
    tables = state.tables
    names = {(table.relation.schema, table.relation.name) for table in tables}
    for schema, name in settings.tables:
        if (schema, name) not in names:
            raise ConfigError(
                f"table {schema}.{name} is not published by {settings.publication!r} under this name",
                hint=f"ALTER PUBLICATION {identifier(settings.publication)} ADD TABLE {qualified(schema, name)};"
                " (its rows are copied at the next start);"
                " a partitioned table also needs publish_via_partition_root = true",
                publication=settings.publication,
                table=f"{schema}.{name}",
            )
    digest = hashlib.sha256(settings.publication.encode())
    for table in sorted(tables, key=lambda table: (table.relation.schema, table.relation.name)):
        digest.update(repr((table.relation.schema, table.relation.name, table.row_filter)).encode())
    wanted = set(settings.tables)
    ours = [table for table in tables if (table.relation.schema, table.relation.name) in wanted]
    return Published(ours, tables, digest.hexdigest()[:16], PublicationState(ours, state.catalog_rows))
