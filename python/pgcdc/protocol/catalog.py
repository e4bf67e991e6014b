"""What is known of user-defined types, read from a server's catalog through whatever connection the caller has."""

from __future__ import annotations

from typing import Any

from pgcdc._pgoutput import TypeCatalog

__all__ = ["Catalog"]

_TYPES = """
SELECT t.oid::text, pg_catalog.format_type(t.oid, NULL), t.typtype::text, t.typbasetype::text,
       CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END::text
FROM pg_catalog.pg_type AS t
WHERE t.oid >= 16384 AND (t.typtype IN ('d', 'e') OR (t.typcategory = 'A' AND t.typelem <> 0))
"""


class Catalog(TypeCatalog):
    """What is known of the types that PostgreSQL's own catalog does not fix (OID 16384 and up).

    Domains become their base type, enums their label, arrays lists of either.
    """

    @classmethod
    def load(cls, connection: Any) -> Catalog:
        """Read the types of a database.

        Args:
            connection: Anything with `execute(sql)`, which gives rows or something with `fetchall()` (psycopg 3,
                `pgcdc.connect`), or else with `cursor()` (psycopg2 and other DB-API drivers).

        Returns:
            A new catalog.

        Source:
            PostgreSQL manual, "pg_type".
        """
        catalog = cls()
        for oid, name, kind, base, element in _rows(connection):
            if kind == "e":
                catalog.add(int(oid), name, enum=True)
            elif kind == "d":
                catalog.add(int(oid), name, base=int(base))
            else:
                catalog.add(int(oid), name, element=int(element))
        return catalog


def _rows(connection: Any) -> list[tuple[Any, ...]]:
    if hasattr(connection, "execute"):
        result = connection.execute(_TYPES)
        return list(result.fetchall() if hasattr(result, "fetchall") else result)
    cursor = connection.cursor()
    try:
        cursor.execute(_TYPES)
        return list(cursor.fetchall())
    finally:
        cursor.close()
