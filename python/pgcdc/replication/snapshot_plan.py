"""How a snapshot is cut into pieces: partitioned tables by leaf, large tables by ranges of whole blocks.

A range is safe within one snapshot only: there each row that is visible has one place. The last range is open-ended, so
that it does not matter how large the table has become since it was measured.

Source: PostgreSQL manual, "System Columns" (`ctid`), "Database Object Size Functions", "pg_class".
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pgcdc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pgcdc.errors import ReplicationError
    from pgcdc.protocol import Batch
    from pgcdc.replication.publication import PublishedTable

__all__ = ["SPLIT_BYTES", "Piece", "SnapshotPart", "TablePlan", "Work", "check_limits", "leaves_sql", "plan_tables"]

SPLIT_BYTES: Final = 128 << 20
"""Into ranges of about how many bytes a table is cut: enough that beginning one costs nothing, few enough to share."""
_LOCK_AGAIN: Final = 0.5
"""Seconds until a table is tried again that somebody else had locked."""


class Piece(msgspec.Struct, frozen=True):
    """What one COPY gives.

    Attributes:
        source: Schema and name of the table or leaf that it reads; None: the published table as a whole.
        first_block: The first block; None for all of them.
        end_block: The first block that is not part of it any more; None for no end.
    """

    source: tuple[str, str] | None = None
    first_block: int | None = None
    end_block: int | None = None


class TablePlan(msgspec.Struct, frozen=True):
    """What is copied of one published table.

    Attributes:
        table: The table.
        pieces: All of it, each row in exactly one.
        rows: How many rows it has, by the server's estimate; None when it has none.
        nbytes: How many bytes its files have.
    """

    table: PublishedTable
    pieces: tuple[Piece, ...]
    rows: int | None
    nbytes: int


class SnapshotPart(msgspec.Struct, frozen=True):
    """What a snapshot gives, in the order in which it comes.

    Attributes:
        table: The table that it is about.
        kind: `"rows"`; `"finished"`: all rows of the table were given before this; `"stale"`: the table cannot be
            copied in this snapshot any more, and what was given of it is of no use.
        batch: The rows.
        error: Why it is stale.
    """

    table: PublishedTable
    kind: Literal["rows", "finished", "stale"]
    batch: Batch | None = None
    error: ReplicationError | None = None


class _Leaf(msgspec.Struct):
    """A table with rows of its own."""

    oid: int
    schema: str
    name: str
    has_blocks: bool
    readable: bool
    pages: int
    rows: float
    nbytes: int
    block_size: int


# Measured as it is now, by the snapshot's catalog: what was dropped since has no size. Access methods other than heap
# need not know ranges of ctid, foreign tables have no blocks.
_LEAVES: Final = """
SELECT pg_catalog.jsonb_build_object(
    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname,
    'has_blocks', c.relkind = 'r' AND am.amname = 'heap',
    'readable', COALESCE(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false),
    'pages', c.relpages, 'rows', c.reltuples, 'nbytes', COALESCE(pg_catalog.pg_relation_size(c.oid), 0),
    'block_size', pg_catalog.current_setting('block_size')::int)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
WHERE c.oid IN ({oids})"""


def check_limits(connections: int, split_bytes: int) -> None:
    """Refuse limits that cannot be.

    Args:
        connections: How many connections share a snapshot.
        split_bytes: Into ranges of how many bytes tables are cut.

    Raises:
        ConfigError: When one is less than 1.
    """
    if connections < 1:
        raise ConfigError(f"a snapshot cannot be taken by {connections} connections", hint="connections=1 or more")
    if split_bytes < 1:
        raise ConfigError(f"split_bytes={split_bytes} is no size", hint="a number of bytes: split_bytes=128 << 20")


def leaves_sql(tables: Sequence[PublishedTable]) -> str | None:
    """Write the query for how large tables are.

    Args:
        tables: The tables.

    Returns:
        The query; None when there is nothing to ask.
    """
    oids = sorted({oid for table in tables for oid, _ in table.storage})
    return _LEAVES.format(oids=", ".join(map(str, oids))) if oids else None


def plan_tables(
    tables: Sequence[PublishedTable], rows: Sequence[Sequence[str | None]], split_bytes: int
) -> list[TablePlan]:
    """Cut tables into pieces.

    Args:
        tables: The tables.
        rows: What the query of `leaves_sql` gave.
        split_bytes: Into ranges of about how many bytes.

    Returns:
        A plan for each table.
    """
    leaves = {leaf.oid: leaf for leaf in (msgspec.json.decode(row[0] or "null", type=_Leaf) for row in rows)}
    return [_plan(table, leaves, split_bytes) for table in tables]


def _plan(table: PublishedTable, leaves: dict[int, _Leaf], split_bytes: int) -> TablePlan:
    found = [leaves[oid] for oid, _ in table.storage if oid in leaves]
    whole = (Piece(),)
    if table.partitioned:
        # Privileges of the root do not count for its leaves: where one may not be read, the root is.
        readable = found and len(found) == len(table.storage) and all(leaf.readable for leaf in found)
        pieces = tuple(piece for leaf in found for piece in _ranges(leaf, split_bytes)) if readable else whole
    else:
        pieces = tuple(_ranges(found[0], split_bytes)) if found else whole
        if len(pieces) == 1:
            pieces = whole
    known = [_row_count(leaf) for leaf in found]
    return TablePlan(
        table=table,
        pieces=pieces,
        rows=None if not found or None in known else sum(count for count in known if count is not None),
        nbytes=sum(leaf.nbytes for leaf in found),
    )


def _ranges(leaf: _Leaf, split_bytes: int) -> Iterator[Piece]:
    """Ranges of whole blocks; one without limits where it is small or has no blocks."""
    source = (leaf.schema, leaf.name)
    step = max(1, split_bytes // leaf.block_size)
    blocks = leaf.nbytes // leaf.block_size
    if not leaf.has_blocks or blocks <= step:
        yield Piece(source)
        return
    starts = range(0, blocks, step)
    for start in starts:
        yield Piece(source, start, None if start == starts[-1] else start + step)


def _row_count(leaf: _Leaf) -> int | None:
    """As the planner estimates: rows for each page at the last ANALYZE or VACUUM, times the pages of now."""
    if leaf.nbytes == 0 and leaf.has_blocks:
        return 0
    if leaf.rows < 0 or (leaf.pages == 0 and leaf.has_blocks):
        return None  # never looked at
    if not leaf.pages:
        return int(leaf.rows)
    return int(leaf.rows / leaf.pages * (leaf.nbytes / leaf.block_size))


class Work:
    """Which pieces of which tables nobody has begun yet.

    Args:
        plans: What is to be copied.

    Attributes:
        stale: The numbers of tables that are not copied any further.
    """

    def __init__(self, plans: Sequence[TablePlan]) -> None:
        self._plans = plans
        self._pieces: list[deque[Piece | None]] = [deque(plan.pieces) for plan in plans]
        self._open = [len(plan.pieces) for plan in plans]
        self._not_before = [0.0] * len(plans)
        self._locked: set[int] = set()
        self.stale: set[int] = set()

    @property
    def left(self) -> bool:
        """Whether there is something that nobody has begun."""
        return any(self._pieces)

    def place_of(self, table: PublishedTable) -> int:
        """Find the number of a table.

        Args:
            table: The table.
        """
        return next(place for place, plan in enumerate(self._plans) if plan.table is table)

    def take(self, own: PublishedTable | None) -> tuple[int, Piece | None] | None:
        """Choose what to do next: of the table that the connection has locked, else of the first that can be had.

        Args:
            own: The table that the connection has locked.

        Returns:
            The table's number and the piece, or None for it in its place: all pieces are copied, the end is to be
            compared. None when there is nothing to do now.
        """
        now = monotonic()
        places = [place for place, pieces in enumerate(self._pieces) if pieces and self._not_before[place] <= now]
        if not places:
            return None
        place = next((place for place in places if self._plans[place].table is own), places[0])
        return place, self._pieces[place].popleft()

    def refused(self, place: int, piece: Piece | None) -> bool:
        """Put something back whose table could not be locked.

        Args:
            place: The table's number.
            piece: What was tried.

        Returns:
            Whether that is news.
        """
        self._pieces[place].appendleft(piece)
        self._not_before[place] = monotonic() + _LOCK_AGAIN
        news = place not in self._locked
        self._locked.add(place)
        return news

    def done(self, place: int) -> None:
        """Count a piece that is copied; after the last one the end is to be compared.

        Args:
            place: The table's number.
        """
        self._open[place] -= 1
        if not self._open[place]:
            self._pieces[place].append(None)

    def drop(self, place: int) -> None:
        """Do no more for a table.

        Args:
            place: Its number.
        """
        self.stale.add(place)
        self._pieces[place].clear()
