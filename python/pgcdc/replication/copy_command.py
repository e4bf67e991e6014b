"""The COPY of one table as its publications publish it.

Source: PostgreSQL manual, "COPY".
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgcdc.errors import ReplicationError
from pgcdc.replication.publication import named
from pgcdc.replication.quoting import identifier, qualified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.replication.publication import PublishedTable
    from pgcdc.replication.snapshot_plan import Piece

__all__ = ["ATTEMPTS", "SnapshotStale", "copy_command", "never_still"]

ATTEMPTS: Final = 5
"""How often a slot is made again because what is published changed meanwhile."""


class SnapshotStale(ReplicationError):
    """The snapshot cannot be copied as it was: begin again with a new slot and its snapshot."""


def never_still(slot: str, publications: Sequence[str], changes: str | None) -> SnapshotStale:
    """The error when what is published changed in each of several attempts; the slot does not exist then.

    Args:
        slot: The slot's name.
        publications: The publications' names.
        changes: What was different in the last one.

    Returns:
        The exception, to be raised.
    """
    return SnapshotStale(
        f'what {named(publications)} publishes changed each of the {ATTEMPTS} times that slot "{slot}" was made'
        f" ({changes})",
        hint="begin again when nobody alters the publication or its tables; while transactions that write are open, a"
        " slot takes long to make",
        slot=slot,
    )


def copy_command(table: PublishedTable, text_columns: Sequence[bool], piece: Piece | None = None) -> str:
    """Write the COPY of one table, or of a piece of it, as its publications publish it.

    Args:
        table: The table.
        text_columns: For each column whether it is wanted as text, because its binary form cannot be had or read.
        piece: What of it; None for all.

    Returns:
        The statement.

    Source:
        PostgreSQL manual, "COPY"; server function `copy_table` in `replication/logical/tablesync.c`.
    """
    leaf = None if piece is None else piece.source
    source = qualified(*(leaf or (table.schema, table.name)))
    names = [identifier(column.name) for column in table.relation.columns]
    conditions = [f"({table.row_filter})"] if table.row_filter is not None else []
    if piece is not None and piece.first_block is not None:
        # Items of a block count from 1. The server reads the blocks of such a range and no others.
        conditions.append(f"ctid >= '({piece.first_block},0)'::pg_catalog.tid")
        if piece.end_block is not None:
            conditions.append(f"ctid < '({piece.end_block},0)'::pg_catalog.tid")
    # The plain form takes neither partitioned tables nor generated columns, and no condition.
    plain = not (table.partitioned or table.generated or conditions or any(text_columns))
    if plain and names:
        return f"COPY {source} ({', '.join(names)}) TO STDOUT (FORMAT binary)"
    # concat() gives what the type's output function gives; a cast to text differs for bool, bpchar and inet. It makes
    # an empty string of NULL, and `IS NULL` is true for a row of NULLs, hence IS DISTINCT FROM.
    wanted = ", ".join(
        f"CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.concat({name}) END" if as_text else name
        for name, as_text in zip(names, text_columns, strict=True)
    )
    only = "" if table.partitioned and leaf is None else "ONLY "
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"COPY (SELECT {wanted} FROM {only}{source}{where}) TO STDOUT (FORMAT binary)"
