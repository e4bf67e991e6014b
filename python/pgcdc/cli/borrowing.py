"""Publications for as long as somebody looks: PostgreSQL decodes only what is published.

They are dropped at the end. What a process that was killed has left behind, the next one drops: each holds a lock for
as long as it lives.
"""

# ruff: noqa: S608 (values are written into SQL by quoting.py)

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pgcdc.errors import ConfigError, Error
from pgcdc.replication import Publication, PublicationTable, connect, parse_table
from pgcdc.replication.quoting import identifier, literal, qualified

if TYPE_CHECKING:
    from pgcdc.replication import Connection

__all__ = ["Lent", "lent", "tables_of_database"]

_MADE: Final = "made by pgcdc tail for as long as it runs"
_OURS: Final = f"""
    SELECT pubname FROM pg_catalog.pg_publication
    WHERE pg_catalog.obj_description(oid, 'pg_publication') = {literal(_MADE)}
      AND pg_catalog.pg_has_role(pubowner, 'USAGE')"""
_TABLES: Final = """
    SELECT n.nspname, c.relname, {may}
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition AND c.oid >= 16384
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgcdc') ORDER BY 1, 2"""

_MAY: Final = {
    "publish": "pg_catalog.pg_has_role(c.relowner, 'USAGE')",
    "read": "pg_catalog.has_table_privilege(c.oid, 'SELECT')",
}


class Lent(NamedTuple):
    """What is published for a while.

    Attributes:
        publications: The publications' names.
        inserts_only: The tables of which only inserts and truncates are: with updates and deletes published, the server
            would refuse these to whoever writes to a table that has no replica identity.
    """

    publications: list[str]
    inserts_only: list[str]


def tables_of_database(
    connection: Connection, to: Literal["publish", "read"]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Find the tables of the database, but for partitions, which come under the names of their roots, and pgcdc's own.

    Args:
        connection: A replication connection.
        to: What is to be done with them.

    Returns:
        Those with which the role may do it; the others.
    """
    rows = [
        (str(schema), str(name), may == "t") for schema, name, may in connection.execute(_TABLES.format(may=_MAY[to]))
    ]
    return (
        [(schema, name) for schema, name, may in rows if may],
        [(schema, name) for schema, name, may in rows if not may],
    )


@contextlib.contextmanager
def lent(connection: Connection, tables: Sequence[tuple[str, str]], warn: Callable[[str], None]) -> Iterator[Lent]:
    """Publish tables while a block lasts.

    Args:
        connection: A replication connection; the session beside it holds the lock.
        tables: The tables.
        warn: Told when a publication stays behind after all.

    Yields:
        What is published.

    Raises:
        ConfigError: When a table does not exist, cannot be published, or the role may not publish it.
    """
    if connection.session().on_standby:
        raise ConfigError(
            "this server is a standby, where no publication can be made, not even for a while",
            hint="--publication NAME takes one that was made on its primary; or connect to that",
        )
    _drop_left_behind(connection)
    name = f"pgcdc_tail_{secrets.token_hex(6)}"
    made: list[str] = []
    connection.execute(f"SELECT pg_catalog.pg_advisory_lock({_key(name)})")
    try:
        whole, inserts = _divided(connection, name, tables)
        with _hinting():
            for publication in (whole, inserts):
                if publication.tables:
                    made.append(publication.name)
                    connection.apply(connection.plan_publication(publication))
                    connection.execute(f"COMMENT ON PUBLICATION {identifier(publication.name)} IS {literal(_MADE)}")
        yield Lent(made, [table.table for table in inserts.tables])
    finally:
        _drop(connection, made, warn)


def _divided(connection: Connection, name: str, tables: Sequence[tuple[str, str]]) -> tuple[Publication, Publication]:
    """The publication of everything, and that of the inserts of tables that have no replica identity."""
    wanted = [PublicationTable(qualified(*table)) for table in tables]
    whole = Publication(name, wanted, publish_via_partition_root=True)
    refused = {
        table
        for warning in connection.plan_publication(whole).warnings
        if warning.kind == "writes_fail"
        for table in warning.tables
    }
    if refused:
        refused |= _roots_of(connection, refused)
    return (
        Publication(name, [table for table in wanted if table.table not in refused], publish_via_partition_root=True),
        Publication(
            f"{name}_inserts",
            [table for table in wanted if table.table in refused],
            publish=("insert", "truncate"),
            publish_via_partition_root=True,
        ),
    )


def _roots_of(connection: Connection, leaves: set[str]) -> set[str]:
    """The names of the partitioned tables that some leaves belong to."""
    names = [qualified(*parse_table(leaf)) for leaf in sorted(leaves)]
    listed = ", ".join(f"({literal(name)}::pg_catalog.regclass)" for name in names)
    rows = connection.execute(
        f"SELECT n.nspname, c.relname FROM (VALUES {listed}) AS leaf(oid)"
        " JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.pg_partition_root(leaf.oid)"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    )
    return {PublicationTable(qualified(str(schema), str(name))).table for schema, name in rows}


@contextlib.contextmanager
def _hinting() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        if error.sqlstate in ("42501", "25006"):
            error.hint = (
                "a table is published by its owner, on the primary; --publication NAME takes one that is there already"
            )
        raise


def _key(name: str) -> str:
    return f"pg_catalog.hashtextextended({literal(f'pgcdc tail {name}')}, 0)"


def _drop_left_behind(connection: Connection) -> None:
    for (found,) in connection.execute(_OURS):
        name = str(found)
        key = _key(name.removesuffix("_inserts"))
        if connection.execute(f"SELECT pg_catalog.pg_try_advisory_lock({key})") == [("t",)]:
            with contextlib.suppress(Error):  # another one may do it at the same moment
                connection.execute(f"DROP PUBLICATION IF EXISTS {identifier(name)}")
            connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({key})")


def _drop(connection: Connection, names: Sequence[str], warn: Callable[[str], None]) -> None:
    if not names:
        return
    drop = f"DROP PUBLICATION IF EXISTS {', '.join(map(identifier, names))}"
    try:
        connection.execute(drop)
    except Error:
        try:
            with connect(connection.dsn) as another:
                another.execute(drop)
        except Error as error:
            warn(f"{error}; what stays behind the next pgcdc tail drops, or: {drop}")
