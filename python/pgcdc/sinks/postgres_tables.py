"""The tables of a PostgreSQL that keeps copies: how they are, and how they are made and altered.

Types below OID 10000 are the same in every PostgreSQL; what is above is the source's own (enums, domains, composites,
extensions), and is text here unless somebody made the column with another type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from pgcdc.events import Column, Relation
from pgcdc.schema import SchemaChange

__all__ = ["Connection", "Target", "TargetColumn", "add_missing", "alter", "create", "load", "types_of"]

FIRST_OWN: Final = 10_000
_NAMES_OF_OBJECTS: Final = frozenset({24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191})
"""regproc to regcollation: the OIDs of one server's objects are of no use to another. Source: `pg_type.dat`."""
_TEXTS: Final = frozenset({25, 1043})

Connection = psycopg.Connection[tuple[Any, ...]]


class TargetColumn(NamedTuple):
    """A column of a table as it is in the target.

    Attributes:
        type_oid: The OID of its type.
        type: The type as SQL has it, without a length.
        declared: With it.
        generated: Whether the target computes it.
        always: Whether it is an identity column that takes no value in an update.
    """

    type_oid: int
    type: str
    declared: str
    generated: bool
    always: bool


class Target(NamedTuple):
    """A table as it is in the target.

    Attributes:
        schema: Its schema.
        name: Its name.
        columns: Its columns.
        unique: The sets of columns that are unique there.
    """

    schema: str
    name: str
    columns: Mapping[str, TargetColumn]
    unique: frozenset[frozenset[str]]

    @property
    def identifier(self) -> sql.Identifier:
        """Its name in SQL."""
        return sql.Identifier(self.schema, self.name)

    def as_text(self, relation: Relation) -> set[int]:
        """The numbers of the columns of a relation whose values have to come as text: they are of another type here."""
        return {
            number
            for number, column in enumerate(relation.columns)
            if (own := self.columns.get(column.name)) is not None
            and (own.type_oid != column.type_oid or column.type_oid in _NAMES_OF_OBJECTS)
        }

    def takes(self, relation: Relation, text: Sequence[bool]) -> bool:
        """Whether rows can be copied straight into it, with these columns given as text."""
        for column, is_text in zip(relation.columns, text, strict=True):
            own = self.columns.get(column.name)
            if own is None or own.generated:
                return False
            if is_text and own.type_oid not in _TEXTS:
                return False
        return True


def load(connection: Connection, schema: str, name: str) -> Target | None:
    """Look at a table.

    Args:
        connection: To the target.
        schema: Its schema there.
        name: Its name.

    Returns:
        What it is; None when there is none.
    """
    rows = connection.execute(
        """
        SELECT a.attname, a.atttypid, format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod),
            a.attgenerated <> '', a.attidentity = 'a'
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
        """,
        (schema, name),
    ).fetchall()
    if not rows:
        return None
    unique = connection.execute(
        """
        SELECT ARRAY(SELECT a.attname::text FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indrelid = c.oid
        WHERE n.nspname = %s AND c.relname = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
            AND i.indexprs IS NULL
        """,
        (schema, name),
    ).fetchall()
    columns = {column: TargetColumn(*rest) for column, *rest in rows}
    return Target(schema, name, columns, frozenset(frozenset(names) for (names,) in unique))


def types_of(connection: Connection, columns: Iterable[Column], *, lengths: bool = True) -> list[str]:
    """Say what types columns of the source are here.

    Args:
        connection: To the target.
        columns: The columns.
        lengths: Whether with length and precision.

    Returns:
        The types as SQL has them.
    """
    pairs = [(column.type_oid, column.type_modifier if lengths else -1) for column in columns]
    builtin = [oid < FIRST_OWN and oid not in _NAMES_OF_OBJECTS for oid, _ in pairs]
    query = """
        SELECT format_type(oid, modifier) FROM unnest(%s::oid[], %s::int[]) WITH ORDINALITY t(oid, modifier, n)
        ORDER BY n
        """
    found = [
        name for (name,) in connection.execute(query, ([oid for oid, _ in pairs], [modifier for _, modifier in pairs]))
    ]
    return [name if own and name not in ("-", "???") else "text" for name, own in zip(found, builtin, strict=True)]


def create(connection: Connection, schema: str, relation: Relation, key: Sequence[str]) -> None:
    """Make a table for a relation of the source.

    Args:
        connection: To the target.
        schema: The table's schema there; made where it is missing.
        relation: The table.
        key: Its primary key's columns; none for a table without.
    """
    types = types_of(connection, relation.columns)
    parts = [
        sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(kind))
        for column, kind in zip(relation.columns, types, strict=True)
    ]
    if key:
        parts.append(sql.SQL("PRIMARY KEY ({})").format(_names(key)))
    if not connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall():
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    statement = sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})")
    connection.execute(statement.format(sql.Identifier(schema, relation.name), sql.SQL(", ").join(parts)))


def add_missing(connection: Connection, target: Target, relation: Relation) -> bool:
    """Add the columns that a table lacks.

    Args:
        connection: To the target.
        target: The table there.
        relation: The table of the source.

    Returns:
        Whether there were any.
    """
    missing = [column for column in relation.columns if column.name not in target.columns]
    for column, kind in zip(missing, types_of(connection, missing) if missing else (), strict=True):
        statement = sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}")
        kinds = sql.SQL(kind)
        connection.execute(statement.format(target.identifier, sql.Identifier(column.name), kinds))
    return bool(missing)


def alter(connection: Connection, target: Target, change: SchemaChange, *, drop: bool) -> None:
    """Do to a table what was done to that of the source; what was done already is not done again.

    Args:
        connection: To the target, in a transaction.
        target: The table there.
        change: What happened.
        drop: Whether columns are dropped that the source has dropped.
    """
    table = sql.SQL("ALTER TABLE {} ").format(target.identifier)
    columns = dict(target.columns)
    for old, new in change.renamed:
        if old in columns and new not in columns:
            connection.execute(
                table + sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(old), sql.Identifier(new))
            )
            columns[new] = columns.pop(old)
    former = {new: old for old, new in change.renamed}
    before = {column.name: column for column in change.old.columns}
    for name in change.retyped:
        was = before.get(former.get(name, name))
        now = next(column for column in change.new.columns if column.name == name)
        if was is None or name not in columns:
            continue
        old_type, new_type = types_of(connection, (was, now))
        # One that somebody has made otherwise stays so.
        if columns[name].declared == old_type != new_type:
            kind = sql.SQL(new_type)
            connection.execute(
                table + sql.SQL("ALTER COLUMN {0} TYPE {1} USING {0}::text::{1}").format(sql.Identifier(name), kind)
            )
    for name in change.dropped if drop else ():
        if name in columns and name not in change.added:
            connection.execute(table + sql.SQL("DROP COLUMN IF EXISTS {}").format(sql.Identifier(name)))


def _names(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
