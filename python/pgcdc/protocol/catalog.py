"""What a database knows of the types that PostgreSQL's own catalog does not fix: enums, domains and arrays of anything.

The decoder needs it to read their binary form. It comes from whatever connection the user has: psycopg 3, psycopg2 or
another driver of DB-API 2.0, or a replication connection of pgcdc; no driver is imported here.

Source: PostgreSQL manual, "pg_type".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pgcdc._pgoutput import TypeCatalog
from pgcdc.errors import ConfigError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CATALOG_SQL", "Catalog", "fill"]

CATALOG_SQL: Final = """
WITH RECURSIVE domain(oid, base) AS (
    SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE typtype = 'd'
    UNION
    SELECT domain.oid, t.typbasetype FROM domain JOIN pg_catalog.pg_type t ON t.oid = domain.base AND t.typtype = 'd'
), resolved AS (
    SELECT domain.oid, domain.base FROM domain JOIN pg_catalog.pg_type t ON t.oid = domain.base AND t.typtype <> 'd'
)
SELECT t.oid::text AS oid,
       n.nspname || '.' || t.typname AS name,
       CASE WHEN t.typtype IN ('e', 'd') THEN t.typtype::text ELSE 'a' END AS kind,
       CASE t.typtype WHEN 'e' THEN '0' WHEN 'd' THEN resolved.base::text ELSE t.typelem::text END AS other
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN resolved ON resolved.oid = t.oid
WHERE t.oid >= 16384
  AND (t.typtype IN ('e', 'd') OR (t.typtype = 'b' AND t.typcategory = 'A' AND t.typelem <> 0 AND t.typlen = -1))
ORDER BY t.oid"""
"""The query: four columns of text (OID, name, kind `e`, `d` or `a`, OID of the base or element type).

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
            A catalog that knows all enums, domains (resolved to what they are based on in the end) and arrays.

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
            rows: OID, name, kind, other OID; numbers as int or as text.

        Returns:
            The catalog.
        """
        catalog = cls()
        _add(catalog, rows)
        return catalog


def fill(catalog: TypeCatalog, connection: Any) -> None:
    """Add a database's types to a catalog that exists.

    Args:
        catalog: The catalog; what it knows of other types stays.
        connection: As for `Catalog.load`.

    Raises:
        ConfigError: When the connection is not one that can be asked.
    """
    _add(catalog, _rows(connection))


def _add(catalog: TypeCatalog, rows: Iterable[Sequence[Any]]) -> None:
    for oid, raw, kind, other in rows:
        name = str(raw).encode(errors="replace").decode()  # for messages only; in SQL_ASCII it need not be UTF-8
        if kind == "e":
            catalog.add(int(oid), name, enum=True)
        elif kind == "d":
            catalog.add(int(oid), name, base=int(other))
        else:
            catalog.add(int(oid), name, element=int(other))


def _rows(connection: Any) -> Iterable[Sequence[Any]]:
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
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows
        finally:
            cursor.close()
    raise ConfigError(
        f"a {type(connection).__name__} cannot be asked for types",
        hint="give a connection with execute() or cursor(), or pass the rows of CATALOG_SQL to Catalog.of",
    )
