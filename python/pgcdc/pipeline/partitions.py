"""The partitions of the pipeline's tables: what one had before it was attached is in no stream.

A partition that was made as one (`CREATE TABLE … PARTITION OF`) has nothing that the stream lacks, and one that was
detached owes nothing more: both are routine. One that was made apart and attached may bring rows. The catalog tells
them apart: ATTACH rewrites the descriptions of all columns but dropped ones in the command that writes the row of
`pg_inherits`, while a partition that was made as one has columns that are as the same transaction made them, some
commands before that row. (A command's number is lost where a row was written again from WAL, after a crash or on a
standby: then it counts as attached.)

What was attached is well when it is empty now: then nothing of what it had exists any more.

Source: PostgreSQL manual, "pg_inherits", "pg_attribute", "System Columns" (`cmin`); server files `tablecmds.c`
(DefineRelation, ATExecAttachPartition, RemoveInheritance), `pgoutput.c` (rel_sync_cache_relation_cb).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from pgcdc.errors import ReplicationError
from pgcdc.pipeline.seen import full_xid
from pgcdc.replication.quoting import literal
from pgcdc.replication.results import StatementTimeout
from pgcdc.replication.session import Session

__all__ = ["TREE", "Link", "Partition", "bringing_rows", "oids_literal", "partitions"]

# Below the tables `t`. A partition whose DETACH … CONCURRENTLY has begun is none any more.
TREE: Final = """tree(root, oid, parent, xid) AS (
        SELECT t.oid, i.inhrelid, i.inhparent, i.xmin FROM t
        JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind = 'p'
        JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid WHERE NOT i.inhdetachpending
        UNION ALL
        SELECT tree.root, i.inhrelid, i.inhparent, i.xmin FROM tree
        JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid WHERE NOT i.inhdetachpending)"""
"""A part of a WITH RECURSIVE that has the tables of a pipeline as `t(oid)`: the partitions of each."""

_PARTITIONS: Final = """WITH RECURSIVE t AS (SELECT pg_catalog.unnest({oids}::pg_catalog.oid[]) AS oid), {tree}
SELECT tree.root, tree.oid, tree.parent, tree.xid, pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()),
    n.nspname, c.relname, c.relkind, c.relpersistence,
    EXISTS (
        SELECT FROM pg_catalog.pg_inherits i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.inhrelid AND a.xmin = i.xmin
        WHERE i.inhrelid = tree.oid AND i.inhparent = tree.parent AND a.attnum > 0 AND NOT a.attisdropped
          AND a.cmin::text::bigint < i.cmin::text::bigint AND a.xmax::text = '0' AND i.xmax::text = '0')
FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY tree.root, n.nspname, c.relname"""

# A new table's file has the table's OID as its name, and nobody has counted its rows yet. What was dropped has no size.
_USED: Final = """SELECT c.oid FROM pg_catalog.pg_class c
WHERE c.oid = ANY ({oids}::pg_catalog.oid[]) AND (pg_catalog.pg_relation_size(c.oid) > 0{ever})"""
_EVER: Final = " OR c.relfilenode <> c.oid OR c.reltuples >= 0"

# In one query message with what comes after it, it is for that only.
_NO_LONG_LOCK: Final = "SELECT pg_catalog.set_config('lock_timeout', '{milliseconds}ms', true); "
_LOCK_NOT_AVAILABLE: Final = "55P03"


class Link(NamedTuple):
    """That a partition belongs to what it is a partition of, since a certain time.

    Attributes:
        oid: The partition.
        parent: What it is a partition of.
        xid: The transaction that made it one.
    """

    oid: int
    parent: int
    xid: int


class Partition(NamedTuple):
    """A partition of one of the pipeline's tables, or of a partition of it.

    Attributes:
        table: The pipeline's table, by OID.
        link: What it belongs to.
        schema: Its schema.
        name: Its name.
        kind: `relkind`: `"p"` when it has partitions itself, and no rows of its own.
        lasting: Whether what is written to it is in the WAL.
        made: Whether it is known that it was made as a partition of its parent and has been one since.
    """

    table: int
    link: Link
    schema: str
    name: str
    kind: str
    lasting: bool
    made: bool


def oids_literal(oids: Collection[int]) -> str:
    """Write OIDs as an SQL array.

    Args:
        oids: The OIDs.
    """
    return literal("{" + ",".join(map(str, sorted(oids))) + "}")


def partitions(session: Session, tables: Collection[int], timeout: float) -> list[Partition]:
    """Look up all partitions of some tables.

    Args:
        session: A session that runs SQL.
        tables: The tables, by OID.
        timeout: Seconds that the server may take to answer.

    Returns:
        All partitions, at any depth.
    """
    query = _PARTITIONS.format(oids=oids_literal(tables), tree=TREE)
    found = []
    for table, oid, parent, xid, next_xid, schema, name, kind, persistence, made in session.execute(
        query, timeout=timeout
    ):
        link = Link(int(oid or 0), int(parent or 0), full_xid(xid or "0", int(next_xid or 0)))
        found.append(
            Partition(int(table or 0), link, schema or "", name or "", kind or "", persistence == "p", made == "t")
        )
    return found


def bringing_rows(
    session: Session,
    new: Sequence[Partition],
    all_of_them: Sequence[Partition],
    timeout: float,
    lock_timeout: float | None = None,
) -> list[Partition]:
    """Find partitions that may have had rows before they were attached.

    Args:
        session: A session that runs SQL.
        new: Those that were not partitions before, or were not all the time.
        all_of_them: All partitions.
        timeout: Seconds that the server may take to answer.
        lock_timeout: Seconds that one that somebody has locked exclusively is waited for; None: as `timeout`.

    Returns:
        Those of the new ones that were attached and are not empty. On PostgreSQL 14 also those that ever had a row: a
        table of which it has decoded a row that was not published, is not published for it ever after.

    Raises:
        StatementTimeout: When the server does not answer soon, or one of them is locked for longer.

    Source:
        PostgreSQL manual, "Database Object Size Functions", "Explicit Locking", "Client Connection Defaults"
        (`lock_timeout`), "Message Flow: Multiple Statements in a Simple Query".
    """
    attached = [one for one in new if not one.made]
    if not attached:
        return []
    below: dict[int, list[Partition]] = {}
    for one in all_of_them:
        below.setdefault(one.link.parent, []).append(one)
    leaves: dict[int, set[int]] = {}
    for top in attached:
        todo = [top]
        while todo:
            one = todo.pop()
            if one.kind == "r":
                leaves.setdefault(top.link.oid, set()).add(one.link.oid)
            todo += below.get(one.link.oid, ())
    oids = oids_literal({oid for some in leaves.values() for oid in some})
    query = _USED.format(oids=oids, ever=_EVER if session.server_version < 150000 else "")
    if lock_timeout is not None:
        query = _NO_LONG_LOCK.format(milliseconds=round(1000 * lock_timeout)) + query
    try:
        used = {int(oid or 0) for (oid,) in session.execute(query, timeout=timeout)}
    except ReplicationError as error:
        if error.sqlstate != _LOCK_NOT_AVAILABLE:
            raise
        raise StatementTimeout("a partition that was attached is locked, so it cannot be seen to be empty") from error
    return [one for one in attached if used.intersection(leaves.get(one.link.oid, ()))]
