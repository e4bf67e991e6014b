"""The COPY of one table as its publications publish it.

Source: PostgreSQL manual, "COPY".
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcdc.errors import ReplicationError
from pgcdc.replication.quoting import identifier, qualified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.replication.publication import PublishedTable

__all__ = ["SnapshotStale", "copy_command"]


class SnapshotStale(ReplicationError):
    """The snapshot cannot be copied as it was: begin again with a new slot and its snapshot."""


def copy_command(table: PublishedTable, text_columns: Sequence[bool]) -> str:
    """Write the COPY of one table as its publications publish it.

    Args:
        table: The table.
        text_columns: For each column whether it is wanted as text, because its binary form cannot be had or read.

    Returns:
        The statement.

    Source:
        PostgreSQL manual, "COPY"; server function `copy_table` in `replication/logical/tablesync.c`.
    """
    source = qualified(table.schema, table.name)
    names = [identifier(column.name) for column in table.relation.columns]
    # The plain form takes neither partitioned tables nor generated columns, and no condition.
    plain = not (table.partitioned or table.generated or table.row_filter is not None or any(text_columns))
    if plain and names:
        return f"COPY {source} ({', '.join(names)}) TO STDOUT (FORMAT binary)"
    # concat() gives what the type's output function gives; a cast to text differs for bool, bpchar and inet. It makes
    # an empty string of NULL, and `IS NULL` is true for a row of NULLs, hence IS DISTINCT FROM.
    wanted = ", ".join(
        f"CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.concat({name}) END" if as_text else name
        for name, as_text in zip(names, text_columns, strict=True)
    )
    only = "" if table.partitioned else "ONLY "
    where = f" WHERE {table.row_filter}" if table.row_filter is not None else ""
    return f"COPY (SELECT {wanted} FROM {only}{source}{where}) TO STDOUT (FORMAT binary)"
