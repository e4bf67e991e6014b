"""What publications publish: the query for it and what its rows mean (columns, row filters, leaves or roots).

Source: PostgreSQL manual, "Publication", "pg_publication_tables"; server files `pg_publication.c`, `relcache.c`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.events import Column, Relation
from pgcdc.replication.quoting import literal, literals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "PublishedTable",
    "TableName",
    "named",
    "named_tables_sql",
    "parse_table",
    "storage_sql",
    "tables_from",
    "tables_sql",
]

TableName: TypeAlias = "str | tuple[str, str]"


class PublishedTable(msgspec.Struct, frozen=True):
    """A table as publications publish it: a plain table, a leaf, or a root with `publish_via_partition_root`.

    Attributes:
        relation: Its shape as the stream's Relation message will tell it: only published columns, in their order.
        row_filter: The publications' row filter as an SQL expression, None when every row is published.
        filenode: `pg_relation_filenode` of the table, 0 for a partitioned one. A rewrite (TRUNCATE, ALTER … TYPE)
            changes it.
        storage: `(oid, filenode)` of the table, or of every leaf of a partitioned one.
        binary_columns: For each column whether its type, and what that is made of, has a binary send function.
        column_types: For each column its type's name, `schema.name`, for messages.
        described_types: For each column the type's OID and modifier by which the server describes it in a query's
            result: those of the base type for a domain.
        generated: Whether a published column is generated.
        primary_key: The primary key's columns, in its order; empty without one.
        partitioned: Whether it is the root of partitions.
    """

    relation: Relation
    row_filter: str | None
    filenode: int
    storage: tuple[tuple[int, int], ...]
    binary_columns: list[bool]
    column_types: list[str]
    described_types: list[tuple[int, int]]
    generated: bool
    primary_key: list[str]
    partitioned: bool

    @property
    def schema(self) -> str:
        """The name of the table's schema."""
        return self.relation.schema

    @property
    def name(self) -> str:
        """The table's name, without its schema."""
        return self.relation.name


class _ColumnRow(msgspec.Struct):
    name: str
    type_oid: int
    type_modifier: int
    type_name: str
    described: tuple[int, int]
    is_key: bool
    generated: bool
    sends: bool


class _TableRow(msgspec.Struct):
    oid: int
    schema: str
    name: str
    replica_identity: str
    partitioned: bool
    ancestors: list[int]
    filters: list[str | None]
    published: list[list[str] | None] | None
    columns: list[_ColumnRow]
    storage: list[tuple[int, int]]
    primary_key: list[str]


_TABLES: Final = """
WITH RECURSIVE published AS (
    SELECT c.oid, c.relkind, c.relreplident, n.nspname, c.relname,
           pg_catalog.jsonb_agg(DISTINCT {row_filter}) AS filters, {columns} AS names
    FROM {source}
    JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
    WHERE {condition}
    GROUP BY c.oid, n.nspname
), part(whole, oid) AS (
    SELECT DISTINCT a.atttypid, a.atttypid
    FROM pg_catalog.pg_attribute a JOIN published ON published.oid = a.attrelid WHERE a.attnum > 0
    UNION
    SELECT part.whole, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END
    FROM part JOIN pg_catalog.pg_type t ON t.oid = part.oid
    WHERE t.typtype = 'd' OR (t.typelem <> 0 AND t.typlen = -1)
), base(whole, oid, modifier) AS (
    SELECT DISTINCT part.whole, t.typbasetype, t.typtypmod
    FROM part JOIN pg_catalog.pg_type t ON t.oid = part.whole AND t.typtype = 'd'
    UNION
    SELECT base.whole, t.typbasetype, t.typtypmod
    FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid AND t.typtype = 'd'
), described AS (
    SELECT base.* FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid AND t.typtype <> 'd'
), sends AS (
    SELECT part.whole, pg_catalog.bool_and(t.typsend <> 0) AS sends
    FROM part JOIN pg_catalog.pg_type t ON t.oid = part.oid GROUP BY part.whole
), identity AS (
    SELECT i.indrelid, key.attnum
    FROM pg_catalog.pg_index i
    JOIN published p ON p.oid = i.indrelid
    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS key(attnum, place)
    WHERE key.place <= i.indnkeyatts
      AND CASE p.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate WHEN 'i' THEN i.indisreplident END
)
SELECT pg_catalog.jsonb_build_object(
    'oid', p.oid::bigint, 'schema', p.nspname, 'name', p.relname,
    'replica_identity', p.relreplident::text, 'partitioned', p.relkind = 'p',
    'ancestors', (SELECT COALESCE(pg_catalog.jsonb_agg(relid::oid::bigint), '[]')
                  FROM pg_catalog.pg_partition_ancestors(p.oid) WHERE relid <> p.oid),
    'filters', p.filters, 'published', p.names,
    'columns', (
        SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', a.attname, 'type_oid', a.atttypid::bigint, 'type_modifier', a.atttypmod,
            'type_name', tn.nspname || '.' || t.typname,
            'described', pg_catalog.jsonb_build_array(
                COALESCE(described.oid, a.atttypid)::bigint, COALESCE(described.modifier, a.atttypmod)),
            'is_key', p.relreplident = 'f' OR EXISTS (
                SELECT FROM identity WHERE identity.indrelid = p.oid AND identity.attnum = a.attnum),
            'generated', a.attgenerated <> '', 'sends', sends.sends) ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
        JOIN sends ON sends.whole = a.atttypid
        LEFT JOIN described ON described.whole = a.atttypid
        WHERE a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'storage', {storage},
    'primary_key', (
        SELECT COALESCE(pg_catalog.jsonb_agg(a.attname ORDER BY key.place), '[]')
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS key(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.attnum
        WHERE i.indrelid = p.oid AND i.indisprimary AND key.place <= i.indnkeyatts))
FROM published p
ORDER BY p.nspname, p.relname"""

_STORAGE: Final = """(
        SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
            leaf.oid::bigint, COALESCE(pg_catalog.pg_relation_filenode(leaf.oid), 0)::bigint) ORDER BY leaf.oid), '[]')
        FROM (SELECT relid::oid AS oid FROM pg_catalog.pg_partition_tree({oid}) WHERE isleaf
              UNION SELECT {oid} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_partition_tree({oid}))) leaf)"""


def tables_sql(server_version: int, publications: Sequence[str]) -> str:
    """Write the query for what publications publish.

    Args:
        server_version: The server's version as a number.
        publications: Their names.

    Returns:
        The query; `tables_from` reads its rows.
    """
    lists = server_version >= 150000
    return _TABLES.format(
        row_filter="p.rowfilter" if lists else "NULL::text",
        columns="pg_catalog.jsonb_agg(DISTINCT pg_catalog.to_jsonb(p.attnames::text[]))" if lists else "NULL::jsonb",
        source="pg_catalog.pg_publication_tables p",
        condition=f"p.pubname IN ({literals(publications)})",
        storage=_STORAGE.format(oid="p.oid"),
    )


def named_tables_sql(tables: Sequence[tuple[str, str]]) -> str:
    """Write the same query for tables, whether they are published or not: all of their columns and rows.

    Args:
        tables: Schemas and names.

    Returns:
        The query; `tables_from` reads its rows. Of what is no table, and cannot be copied, there is none.
    """
    named = ", ".join(f"({literal(schema)}, {literal(name)})" for schema, name in tables)
    return _TABLES.format(
        row_filter="NULL::text",
        columns="NULL::jsonb",
        source=f"(VALUES {named}) p(schemaname, tablename)",
        condition="c.relkind IN ('r', 'p')",
        storage=_STORAGE.format(oid="p.oid"),
    )


def tables_from(rows: Sequence[Sequence[str | None]], server_version: int) -> list[PublishedTable]:
    """Read the rows of `tables_sql`.

    Args:
        rows: The rows: one column, JSON.
        server_version: The server's version as a number.

    Returns:
        The tables.

    Raises:
        ConfigError: When a table is published with different lists of columns.
    """
    # Not msgspec's own JSON decoder: names of a database in SQL_ASCII need not be UTF-8.
    documents = [json.loads(row[0] or "null") for row in rows]
    tables = [msgspec.convert(document, type=_TableRow) for document in documents]
    oids = {table.oid for table in tables}
    # One publication may publish a root, another its leaves: the server then sends the root's rows only.
    return [_table(table, server_version) for table in tables if not oids.intersection(table.ancestors)]


def storage_sql(oid: int) -> str:
    """Write the query for where a table's rows are now.

    Args:
        oid: The table's.

    Returns:
        The query: one row, one column, JSON as of `PublishedTable.storage`.
    """
    return f"SELECT {_STORAGE.format(oid=f'{oid}::oid')}"


def parse_table(table: TableName) -> tuple[str, str]:
    """Read a table's name.

    Args:
        table: `"orders"` (in schema public), `"sales.orders"`, `'"we.ird"."t""able"'` as in SQL, or a pair of schema
            and name. Letters are taken as they are, not folded.

    Returns:
        Schema and name, as in the catalog.

    Raises:
        ConfigError: When it is none of these.
    """
    parts = list(table) if isinstance(table, tuple) else _split(table)
    if len(parts) == 1 and isinstance(table, str):
        parts = ["public", *parts]
    if len(parts) != 2 or not all(parts):
        raise ConfigError(f"{table!r} is not a table's name", hint='write "table", "schema.table" or a pair of both')
    return parts[0], parts[1]


def named(publications: Sequence[str]) -> str:
    """Publications as part of a sentence.

    Args:
        publications: Their names.

    Returns:
        `publication "a"` or `publications "a", "b"`.
    """
    plural = "s" if len(publications) > 1 else ""
    return f"publication{plural} " + ", ".join(f'"{name}"' for name in publications)


def _split(text: str) -> list[str]:
    """Split at full stops outside double quotes."""
    parts = [""]
    quoted = False
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == '"' and quoted and text[place + 1 : place + 2] == '"':
            parts[-1] += letter
            place += 1
        elif letter == '"':
            quoted = not quoted
        elif letter == "." and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
        place += 1
    return [] if quoted else parts


def _table(row: _TableRow, server_version: int) -> PublishedTable:
    """From the query's row to what the stream will say."""
    lists = None if row.published is None else {frozenset(names or ()) for names in row.published}
    if lists is not None and len(lists) > 1:
        raise ConfigError(
            f"table {row.schema}.{row.name} is published with different lists of columns, which no stream can be given",
            hint="give it the same list of columns (and publish_generated_columns) everywhere, or use one publication",
            table=f"{row.schema}.{row.name}",
            sqlstate="0A000",
        )
    columns = [
        column
        for column in row.columns
        if (lists is None or column.name in next(iter(lists)))
        # Before 18 generated columns are never published, though some versions list them.
        and not (column.generated and server_version < 180000)
    ]
    filters = [text for text in row.filters if text is not None]
    return PublishedTable(
        relation=Relation(
            oid=row.oid,
            schema=row.schema,
            name=row.name,
            replica_identity=row.replica_identity,  # type: ignore[arg-type]
            columns=[Column(c.name, c.type_oid, c.type_modifier, c.is_key) for c in columns],
        ),
        # A publication without a filter publishes every row, whatever another one filters.
        row_filter=" OR ".join(f"({text})" for text in filters) if len(filters) == len(row.filters) else None,
        filenode=0 if row.partitioned else row.storage[0][1],
        storage=tuple(row.storage),
        binary_columns=[column.sends for column in columns],
        column_types=[column.type_name for column in columns],
        described_types=[column.described for column in columns],
        generated=any(column.generated for column in columns),
        primary_key=row.primary_key,
        partitioned=row.partitioned,
    )
