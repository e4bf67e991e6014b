"""Dead letters of a shape that their table does not have any more: they do not bring back what is gone."""

from __future__ import annotations

from collections.abc import Collection

from pgcdc.errors import SinkRejected
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.protocol import Batch

__all__ = ["refuse_former"]

_NOW = Position(2**63 - 1, 0)


def refuse_former(letter: Batch | None, relation: Relation, missing: Collection[str]) -> None:
    """Refuse a dead letter that the target's table would have to be altered for.

    Rows of the table's newest shape may come as dead letters first, and bring its new columns. One that is not known to
    be of that shape may be from before a column was renamed or dropped.

    Args:
        letter: The dead letter; None: it is none, and brings what it needs.
        relation: Its shape of the table.
        missing: Its columns that the table lacks in the target.

    Raises:
        SinkRejected: When it is not known to be of the newest shape, and columns are missing.
    """
    if letter is None or not missing:
        return
    own = {version for _, one, _, version in letter.shape_runs() if one.oid == relation.oid}
    if letter.versions is not None and own == {letter.versions.version(relation.oid, _NOW)}:
        return
    table = f"{relation.schema}.{relation.name}"
    raise SinkRejected(
        f"the target's table {table} has no column {', '.join(sorted(missing))}, which a change from before has: it was"
        " renamed or dropped since, or is not there yet",
        hint="apply the change by hand, and drop its dead letter; a column that is to come comes with the next row",
        table=table,
        positions=() if letter.first_position is None else [letter.first_position],
    )
