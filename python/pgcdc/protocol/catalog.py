"""What a database knows of the types that PostgreSQL's own catalog does not fix.

Enums, domains, arrays, ranges, composites, and the types of some extensions: the decoder needs to know them to read
their binary form. It comes from whatever connection the user has: psycopg 3, psycopg2 or another driver of DB-API 2.0,
or a replication connection of pgcdc; no driver is imported here.

Source: PostgreSQL manual, "pg_type".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pgcdc._pgoutput import TypeCatalog
from pgcdc.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CATALOG_SQL", "Catalog", "add_rows"]

CATALOG_SQL: Final = """
WITH used(oid) AS (
    SELECT atttypid FROM pg_catalog.pg_attribute WHERE attnum > 0 AND NOT attisdropped
    UNION SELECT typbasetype FROM pg_catalog.pg_type WHERE typtype = 'd'
    UNION SELECT rngsubtype FROM pg_catalog.pg_range
), composite(oid, relation) AS (
    SELECT t.oid, c.oid
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE t.typtype = 'c' AND (c.relkind = 'c' OR t.oid IN (TABLE used) OR t.typarray IN (TABLE used))
), definition(oid, kind, other) AS (
    SELECT oid, 'e', '' FROM pg_catalog.pg_type WHERE typtype = 'e'
    UNION ALL SELECT oid, 'd', typbasetype::text || ' ' || typtypmod::text FROM pg_catalog.pg_type WHERE typtype = 'd'
    UNION ALL SELECT rngtypid, 'r', rngsubtype::text FROM pg_catalog.pg_range
    UNION ALL SELECT rngmultitypid, 'm', rngtypid::text FROM pg_catalog.pg_range
    UNION ALL
    SELECT oid, 'c', (
        SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(attname, atttypid::int8) ORDER BY attnum), '[]')
        FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
    )::text
    FROM composite
    UNION ALL
    SELECT t.oid, 'x', t.typname::text
    FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_depend d
      ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
    JOIN pg_catalog.pg_type t ON d.classid = 'pg_catalog.pg_type'::regclass AND d.objid = t.oid
    WHERE (e.extname, t.typname) IN (
        ('hstore', 'hstore'), ('citext', 'citext'), ('cube', 'cube'),
        ('ltree', 'ltree'), ('ltree', 'lquery'), ('ltree', 'ltxtquery'),
        ('vector', 'vector'), ('vector', 'halfvec'), ('vector', 'sparsevec'),
        ('postgis', 'geometry'), ('postgis', 'geography')
    )
), known(oid, kind, other) AS (
    TABLE definition
    UNION ALL
    SELECT a.oid, 'a', t.oid::text || t.typdelim::text
    FROM definition
    JOIN pg_catalog.pg_type t ON t.oid = definition.oid
    JOIN pg_catalog.pg_type a ON a.oid = t.typarray AND a.typelem = t.oid
)
SELECT known.oid::text AS oid, n.nspname || '.' || t.typname AS name, known.kind AS kind, known.other AS other
FROM known
JOIN pg_catalog.pg_type t ON t.oid = known.oid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.oid >= 10000 OR known.kind = 'c' OR t.typelem IN (SELECT oid FROM composite)
ORDER BY t.oid"""
"""The query, for all versions from 14 on: four columns of text.

The type's OID; its name; its kind: `e` enum, `d` domain, `a` array, `r` range, `m` multirange, `c` composite, `x` a
type of an extension that is known here; and what it is made of: an OID, of an array followed by the delimiter, of a
domain by a space and the type modifier; of a composite JSON, `[["name", OID], …]`; of an extension's type its name
there. Composites are those of CREATE TYPE, and of the tables' row types those that are used.

For drivers whose `execute` is a coroutine: `Catalog.of(await connection.fetch(CATALOG_SQL))`.
"""


class Catalog(TypeCatalog):
    """A `TypeCatalog` that can be filled from a database."""

    @classmethod
    def load(cls, connection: Any) -> Self:
        """Ask a database for its types.

        Args:
            connection: Anything with `execute(sql)` that returns rows or has `fetchall()`, or with a DB-API `cursor()`.
                A driver that opens transactions by itself opens one here too; it is left to the caller.

        Returns:
            A catalog that knows all enums, domains, ranges and composites, the types of the extensions hstore, citext,
            ltree, cube, vector (pgvector) and postgis, and the arrays of all of these.

        Raises:
            ConfigError: When the connection is none of these.

        Source:
            PostgreSQL manual, "pg_type".
        """
        return cls.of(_rows(connection))

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """Make a catalog from the rows of `CATALOG_SQL`.

        Args:
            rows: Its four columns; numbers as int or as text.

        Returns:
            The catalog.
        """
        catalog = cls()
        add_rows(catalog, rows)
        return catalog


def add_rows(catalog: TypeCatalog, rows: Iterable[Sequence[Any]]) -> None:
    """Add types to a catalog that exists.

    Args:
        catalog: The catalog; what it knows of other types stays.
        rows: The rows of `CATALOG_SQL`; numbers as int or as text.

    Raises:
        ConfigError: When they are not those.
    """
    for row in rows:
        oid, raw, kind, other = map(_text, row)
        name = raw.encode(errors="replace").decode()  # for messages only; in SQL_ASCII it need not be UTF-8
        match kind:
            case "e":
                catalog.add(int(oid), name, enum=True)
            case "d":
                base, modifier = map(int, other.split())
                catalog.add(int(oid), name, base=base, modifier=modifier)
            case "r":
                catalog.add(int(oid), name, subtype=int(other))
            case "m":
                catalog.add(int(oid), name, range=int(other))
            case "c":
                catalog.add(int(oid), name, fields=[(field, int(type_oid)) for field, type_oid in json.loads(other)])
            case "x":
                catalog.add(int(oid), name, like=other)  # type: ignore[arg-type]
            case "a":
                catalog.add(int(oid), name, element=int(other[:-1]), delimiter=other[-1])
            case _:
                raise ConfigError(
                    f"type {name} ({oid}) is of the unknown kind {kind}", hint="pass the rows of CATALOG_SQL"
                )


def _text(value: Any) -> str:
    """A column of text: of a database in SQL_ASCII some drivers give it as bytes."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _rows(connection: Any) -> Iterable[Sequence[Any]]:
    """The query's rows, whatever form the connection gives them."""
    # Drivers can be told to give dicts; their order is the columns'.
    return [list(row.values()) if isinstance(row, Mapping) else row for row in _asked(connection)]


def _asked(connection: Any) -> list[Any]:
    """Run the query on whatever it is."""
    if hasattr(connection, "execute"):
        result = connection.execute(CATALOG_SQL)
        if hasattr(result, "fetchall"):
            result = result.fetchall()
        if isinstance(result, list):
            return result
        if hasattr(result, "close"):
            result.close()  # a coroutine that nobody will await
    elif hasattr(connection, "cursor"):
        cursor = connection.cursor()
        try:
            cursor.execute(CATALOG_SQL)
            return list(cursor.fetchall())
        finally:
            cursor.close()
    raise ConfigError(
        f"a {type(connection).__name__} cannot be asked for types",
        hint="give a connection with execute() or cursor(), or pass the rows of CATALOG_SQL to Catalog.of",
    )
