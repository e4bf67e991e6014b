"""What the catalog says of publications as they are defined, and of the tables that a plan concerns: queries and rows.

Source: PostgreSQL manual, "pg_publication", "pg_publication_rel", "pg_publication_namespace", "pg_index"; server files
`relcache.c` (RelationGetIndexList), `execReplication.c` (CheckCmdReplicaIdentity).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import msgspec

from pgcdc.replication.publication_definition import ACTIONS, Publication, PublicationTable, table_name
from pgcdc.replication.quoting import literal, literals, qualified

__all__ = [
    "OWN_XID",
    "RowFilter",
    "TableFacts",
    "facts_from",
    "facts_sql",
    "filter_from",
    "filter_sql",
    "publications_from",
    "publications_sql",
]

OWN_XID: Final = "SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid::text"
"""What `xmin` is of rows that the transaction itself has written."""

_PUBLICATIONS: Final = """
SELECT pg_catalog.jsonb_build_object(
    'name', p.pubname, 'row', pg_catalog.jsonb_build_array(p.oid::bigint, p.xmin::text::bigint),
    'owner', pg_catalog.pg_get_userbyid(p.pubowner), 'all_tables', p.puballtables,
    'publish', pg_catalog.jsonb_build_array(p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate),
    'via_root', p.pubviaroot, 'generated', {generated},
    'tables', (
        SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'schema', n.nspname, 'name', c.relname,
            'row', pg_catalog.jsonb_build_array(r.oid::bigint, r.xmin::text::bigint),
            'columns', {columns}, 'where', {row_filter})), '[]')
        FROM pg_catalog.pg_publication_rel r
        JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE r.prpubid = p.oid),
    'schemas', {schemas})
FROM pg_catalog.pg_publication p
WHERE {condition}
ORDER BY p.pubname"""
_COLUMNS: Final = """(
                SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[]))"""
_SCHEMAS: Final = """(
        SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'name', n.nspname, 'row', pg_catalog.jsonb_build_array(s.oid::bigint, s.xmin::text::bigint))), '[]')
        FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
        WHERE s.pnpubid = p.oid)"""

_FACTS: Final = """
WITH RECURSIVE tree(oid) AS (
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE {condition}
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent
)
SELECT pg_catalog.jsonb_build_object(
    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind::text,
    'lasting', c.relpersistence = 'p', 'partition', c.relispartition,
    'parents', (SELECT COALESCE(pg_catalog.jsonb_agg(i.inhparent::bigint ORDER BY i.inhseqno), '[]')
                FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
    'full', c.relreplident = 'f',
    'identity', (
        SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum)
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS key(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.attnum
        WHERE i.indrelid = c.oid AND key.place <= i.indnkeyatts AND i.indisvalid
          AND CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate WHEN 'i' THEN i.indisreplident END),
    'columns', (
        SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.attname, a.attgenerated <> '')
                        ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname"""
_ALL: Final = """c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
      AND n.nspname NOT IN ('pg_catalog', 'information_schema')"""

_FILTER: Final = """BEGIN;
CREATE TEMPORARY TABLE pgcdc_row_filter (LIKE {table}, CONSTRAINT row_filter CHECK ({row_filter})) ON COMMIT DROP;
SELECT pg_catalog.jsonb_build_object(
    'where', pg_catalog.pg_get_expr(k.conbin, k.conrelid),
    'columns', (SELECT COALESCE(pg_catalog.jsonb_agg(a.attname), '[]') FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)))
FROM pg_catalog.pg_constraint k
WHERE k.conrelid = 'pg_temp.pgcdc_row_filter'::pg_catalog.regclass AND k.conname = 'row_filter' AND k.contype = 'c';
ROLLBACK"""


class TableFacts(msgspec.Struct, frozen=True):
    """A table as far as it matters for what publishing it means.

    Attributes:
        oid: Its OID.
        schema: Its schema.
        name: Its name.
        kind: `relkind`: `"r"` is a table, `"p"` a partitioned one.
        lasting: Whether it is a permanent table: neither temporary nor unlogged.
        partition: Whether it is a partition.
        parents: What it is a partition of, or inherits from.
        full: Whether its replica identity is FULL.
        identity: The columns of its replica identity; None when it has none, or it is FULL.
        columns: Its columns in their order, each with whether it is generated.
    """

    oid: int
    schema: str
    name: str
    kind: str
    lasting: bool
    partition: bool
    parents: list[int]
    full: bool
    identity: list[str] | None
    columns: list[tuple[str, bool]]

    @property
    def table(self) -> str:
        """Its name as `PublicationTable.table` has it."""
        return table_name(self.schema, self.name)


class RowFilter(msgspec.Struct, frozen=True):
    """A row filter as the server reads it.

    Attributes:
        where: The expression as the server writes it.
        columns: The columns in it.
    """

    where: str
    columns: list[str]


class _TableRow(msgspec.Struct):
    schema: str
    name: str
    row: tuple[int, int]
    columns: list[str] | None
    where: str | None


class _SchemaRow(msgspec.Struct):
    name: str
    row: tuple[int, int]


class _PublicationRow(msgspec.Struct):
    name: str
    row: tuple[int, int]
    owner: str
    all_tables: bool
    publish: tuple[bool, bool, bool, bool]
    via_root: bool
    generated: str
    tables: list[_TableRow]
    schemas: list[_SchemaRow]


def publications_sql(server_version: int, name: str | None = None) -> str:
    """Write the query for publications as they are defined.

    Args:
        server_version: The server's version as a number.
        name: The one that is wanted; None for all.

    Returns:
        The query; `publications_from` reads its rows.
    """
    lists = server_version >= 150000
    return _PUBLICATIONS.format(
        generated="p.pubgencols::text" if server_version >= 180000 else "'n'",
        columns=_COLUMNS if lists else "NULL::jsonb",
        row_filter="pg_catalog.pg_get_expr(r.prqual, r.prrelid)" if lists else "NULL::text",
        schemas=_SCHEMAS if lists else "'[]'::jsonb",
        condition="true" if name is None else f"p.pubname = {literal(name)}",
    )


def publications_from(rows: Sequence[Sequence[str | None]]) -> list[Publication]:
    """Read the rows of `publications_sql`.

    Args:
        rows: The rows: one column, JSON.

    Returns:
        The publications.
    """
    # Not msgspec's own JSON decoder: names of a database in SQL_ASCII need not be UTF-8.
    return [_publication(msgspec.convert(json.loads(row[0] or "null"), type=_PublicationRow)) for row in rows]


def _publication(row: _PublicationRow) -> Publication:
    return Publication(
        name=row.name,
        tables=[PublicationTable(table_name(t.schema, t.name), t.columns, t.where) for t in row.tables],
        schemas=[schema.name for schema in row.schemas],
        all_tables=row.all_tables,
        publish=[action for action, is_published in zip(ACTIONS, row.publish, strict=True) if is_published],
        publish_via_partition_root=row.via_root,
        publish_generated_columns="stored" if row.generated == "s" else "none",
        owner=row.owner,
        catalog_rows=[row.row, *(table.row for table in row.tables), *(schema.row for schema in row.schemas)],
    )


def facts_sql(publications: Sequence[Publication]) -> str:
    """Write the query for the tables that publications concern, with all partitions and all that inherits from them.

    Args:
        publications: The publications.

    Returns:
        The query; `facts_from` reads its rows.
    """
    if any(publication.all_tables for publication in publications):
        return _FACTS.format(condition=_ALL)
    conditions = ["false"]
    names = [table.name for publication in publications for table in publication.tables]
    if names:
        pairs = ", ".join(f"({literal(schema)}, {literal(name)})" for schema, name in names)
        conditions.append(f"(n.nspname, c.relname) IN ({pairs})")
    schemas = [schema for publication in publications for schema in publication.schemas]
    if schemas:
        conditions.append(f"n.nspname IN ({literals(schemas)}) AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'")
    return _FACTS.format(condition=" OR ".join(f"({condition})" for condition in conditions))


def facts_from(rows: Sequence[Sequence[str | None]]) -> list[TableFacts]:
    """Read the rows of `facts_sql`.

    Args:
        rows: The rows: one column, JSON.

    Returns:
        The tables.
    """
    return [msgspec.convert(json.loads(row[0] or "null"), type=TableFacts) for row in rows]


def filter_sql(table: PublicationTable) -> str:
    """Write statements that have the server read a row filter; they leave nothing behind.

    Only the server knows which columns are in an expression, and whether two expressions are the same. It reads one as
    the check of a temporary table, in a transaction that is rolled back.

    Args:
        table: The table, with its row filter.

    Returns:
        The statements; `filter_from` reads the row.
    """
    # The newline ends what is a comment to the end of the line, in the filter.
    return _FILTER.format(table=qualified(*table.name), row_filter=f"{table.where}\n")


def filter_from(rows: Sequence[Sequence[str | None]]) -> RowFilter:
    """Read the row of `filter_sql`.

    Args:
        rows: The one row: one column, JSON.

    Returns:
        The filter.
    """
    return msgspec.convert(json.loads(rows[0][0] or "null"), type=RowFilter)
