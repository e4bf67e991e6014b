# Made from publications_async.py by ./dev lint --fix: change that file, not this one.
"""Publications: what they publish, asked of the server, and that they exist and publish what is wanted.

Source: PostgreSQL manual, "Publication", "pg_publication_tables"; server files `pg_publication.c`, `relcache.c`.
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pgcdc.errors import ConfigError, Error, PublicationNotFound
from pgcdc.replication.publication import (
    PublishedTable,
    TableName,
    named,
    parse_table,
    storage_sql,
    tables_from,
    tables_sql,
)
from pgcdc.replication.publication_state import PublicationState, rows_sql
from pgcdc.replication.quoting import identifier, literal, literals, qualified
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgcdc.replication.session import Session

__all__ = ["check_publications", "ensure", "lacking", "state_of", "storage", "tables_of"]


def tables_of(session: Session, publications: Sequence[str]) -> list[PublishedTable]:
    """Read what publications publish; the contract is `published_tables`'."""
    check_publications(session, publications)
    doing = Doing(f"looking at {named(publications)}", publications=tuple(publications))
    version = session.server_version
    return tables_from(session.execute(tables_sql(version, publications), doing=doing), version)


def state_of(session: Session, publications: Sequence[str]) -> PublicationState:
    """Read what publications publish, so that it can be compared with later.

    Args:
        session: A connection to the database.
        publications: Their names.

    Returns:
        The state; a change while it is read makes it another one than before and than after.

    Raises:
        ConfigError: When none is named.
        PublicationNotFound: When one does not exist.
    """
    tables = tables_of(session, publications)
    doing = Doing(f"looking at {named(publications)}", publications=tuple(publications))
    return PublicationState(tables, session.execute(rows_sql(session.server_version, publications), doing=doing))


def storage(session: Session, table: PublishedTable) -> tuple[tuple[int, int], ...]:
    """Where a table's rows are now.

    Args:
        session: The connection; inside a transaction it tells the present all the same, not the snapshot's past.
        table: The table.

    Returns:
        As `PublishedTable.storage`.
    """
    sql = storage_sql(table.relation.oid)
    rows = session.execute(sql, doing=Doing(f"looking at table {table.schema}.{table.name}"))
    return tuple(msgspec.json.decode(rows[0][0] or "[]", type=list[tuple[int, int]]))


def check_publications(session: Session, publications: Sequence[str]) -> None:
    """Refuse publications that do not exist: 14 to 17 find out at the first change only, 18 leaves the changes out.

    Args:
        session: A connection to the database.
        publications: Their names.

    Raises:
        ConfigError: When none is named.
        PublicationNotFound: When one does not exist.
    """
    if not publications or isinstance(publications, str):
        raise ConfigError("no publication is named", hint='give a list of names: ["shop"]')
    sql = f"SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ({literals(publications)})"
    there = {row[0] for row in session.execute(sql, doing=Doing("looking for publications"))}
    for name in publications:
        if name not in there:
            raise PublicationNotFound(
                f'publication "{name}" does not exist',
                hint=f"CREATE PUBLICATION {identifier(name)} FOR TABLE …; before the slot is created",
                publication=name,
            )


def ensure(session: Session, name: str, tables: Iterable[TableName]) -> list[tuple[str, str]]:
    """Make a publication publish tables; the contract is `ensure_publication`'."""
    statement, missing = lacking(session, name, tables)
    if statement is None:
        return []
    try:
        session.execute(statement, doing=Doing(f'making publication "{name}"', publications=(name,)))
    except Error as error:
        if error.sqlstate == "42501":
            error.hint = (
                f"let the tables' owner or a superuser run: {statement}; and give that publication's name to pgcdc"
            )
        raise
    return missing


def lacking(session: Session, name: str, tables: Iterable[TableName]) -> tuple[str | None, list[tuple[str, str]]]:
    """Say what it takes for a publication to publish tables.

    Args:
        session: A connection to the database.
        name: The publication's name.
        tables: The tables.

    Returns:
        The statement, None when nothing is lacking; and the tables that are not published.

    Raises:
        ConfigError: When a table does not exist or cannot be published.
    """
    wanted = [parse_table(table) for table in tables]
    if not wanted:
        raise ConfigError(f'publication "{name}" would publish no table', hint="name at least one", publication=name)
    kinds = _kinds(session, wanted)
    existing = session.execute(f"SELECT puballtables FROM pg_catalog.pg_publication WHERE pubname = {literal(name)}")
    if existing and existing[0][0] == "t":
        return None, []
    present = _published_names(session, name) if existing else set()
    missing = [table for table in dict.fromkeys(wanted) if table not in present]
    if not missing:
        return None, []
    listed = ", ".join(qualified(*table) for table in missing)
    if existing:
        return f"ALTER PUBLICATION {identifier(name)} ADD TABLE {listed}", missing
    # Whoever names a partitioned table wants its rows under its name, not under those of its leaves.
    root = " WITH (publish_via_partition_root = true)" if "p" in kinds else ""
    return f"CREATE PUBLICATION {identifier(name)} FOR TABLE {listed}{root}", missing


def _kinds(session: Session, tables: Sequence[tuple[str, str]]) -> set[str]:
    """The kinds of relations that tables are; refuses what is not there and what cannot be published."""
    pairs = ", ".join(f"({literal(schema)}, {literal(name)})" for schema, name in tables)
    sql = (
        "SELECT n.nspname, c.relname, c.relkind, c.relpersistence FROM pg_catalog.pg_class c"
        f" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) IN ({pairs})"
    )
    found = {(schema, name): (kind, lasting) for schema, name, kind, lasting in session.execute(sql)}
    for schema, name in tables:
        kind, lasting = found.get((schema, name), (None, None))
        if kind is None:
            raise ConfigError(
                f"table {schema}.{name} does not exist",
                hint="correct the name (letters are not folded, the schema is public when none is given)",
                table=f"{schema}.{name}",
                sqlstate="42P01",
            )
        if kind not in ("r", "p") or lasting != "p":
            raise ConfigError(
                f"{schema}.{name} cannot be published: it is not a permanent table",
                hint="publish the tables behind a view; make an unlogged table LOGGED",
                table=f"{schema}.{name}",
            )
    return {str(kind) for kind, _ in found.values()}


def _published_names(session: Session, name: str) -> set[tuple[Any, Any]]:
    """Every table that a publication names, and every one that it publishes because of that."""
    parts = [
        f"SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = {literal(name)}",
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_publication_rel r"
        " JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid JOIN pg_catalog.pg_class c ON c.oid = r.prrelid"
        f" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = {literal(name)}",
    ]
    return {(schema, table) for schema, table in session.execute(" UNION ".join(parts))}
