"""What publications publish at one moment, to be compared with another moment; no I/O.

A snapshot needs it: tables are looked at before the slot is made, because the copy is compared with them, and a slot
can take a minute to make. What is published only since then would be neither in the copy nor missed by it.

Source: PostgreSQL manual, "pg_publication", "pg_publication_rel", "pg_publication_namespace".
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pgcdc.replication.plan import named_some
from pgcdc.replication.quoting import literals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.replication.publication import PublishedTable

__all__ = ["PublicationState", "rows_sql"]


class PublicationState(msgspec.Struct, frozen=True):
    """What publications publish.

    Attributes:
        tables: The tables, with their columns, row filters and files.
        catalog_rows: What the query of `rows_sql` gave.
    """

    tables: Sequence[PublishedTable]
    catalog_rows: Sequence[Sequence[str | None]]

    def changes(self, later: PublicationState) -> str | None:
        """Say what is different later; not that tables were rewritten, which is found out for each of them.

        Args:
            later: The same publications, later.

        Returns:
            The end of a sentence; None when they publish the same.
        """
        before, after = ({_shape(table) for table in state.tables} for state in (self, later))
        if before != after:
            names = {f"{schema}.{name}" for _, (schema, name), *_ in before ^ after}
            return f"other tables, rows or columns: {named_some(sorted(names))}"
        return None if list(self.catalog_rows) == list(later.catalog_rows) else "it was altered"


def rows_sql(server_version: int, publications: Sequence[str]) -> str:
    """Write the query for the rows of the catalog that define publications.

    What was changed and changed back has other rows.

    Args:
        server_version: The server's version as a number.
        publications: Their names.

    Returns:
        The query.
    """
    wanted = f"pg_catalog.pg_publication p WHERE p.pubname IN ({literals(publications)})"
    parts = [f"SELECT oid, xmin::text FROM {wanted}"]
    parents = [("pg_publication_rel", "prpubid")]
    if server_version >= 150000:
        parents.append(("pg_publication_namespace", "pnpubid"))
    for name, parent in parents:
        parts.append(f"SELECT oid, xmin::text FROM pg_catalog.{name} WHERE {parent} IN (SELECT p.oid FROM {wanted})")
    return f"{' UNION ALL '.join(parts)} ORDER BY 1, 2"


def _shape(table: PublishedTable) -> tuple[Any, ...]:
    """All that decides which rows and columns come under which name, without where the rows are."""
    relation = table.relation
    columns = tuple((c.name, c.type_oid, c.type_modifier, c.is_key) for c in relation.columns)
    return (
        relation.oid,
        (relation.schema, relation.name),
        relation.replica_identity,
        columns,
        table.row_filter,
        tuple(oid for oid, _ in table.storage),
        tuple(table.described_types),
        tuple(table.primary_key),
    )
