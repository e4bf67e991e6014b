"""The watch on what is published while a pipeline runs: changes of a time without publication are in no stream.

A table that is taken out of its publication and put back, or dropped and made again under its name, looks as it did.
Its row in the catalog does not: another one has another OID, one that was changed another xmin. What was seen of these
is stored with the positions, so that a start finds what was changed since the last run (seen.py). What a partition had
before it was one is in partitions.py.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from pgcdc.errors import ConfigError, Error, PositionError, PublicationNotFound
from pgcdc.pipeline.partitions import TREE, Partition, bringing_rows, oids_literal, partitions
from pgcdc.pipeline.publishing import BEGIN_ANEW
from pgcdc.pipeline.seen import Seen, full_xid
from pgcdc.pipeline.settings import Settings
from pgcdc.replication import Connection, PublishedTable
from pgcdc.replication.quoting import literal, qualified

__all__ = ["Difference", "Guard"]

logger = logging.getLogger("pgcdc.pipeline")

PATIENCE = 5.0
"""Seconds that the server may take to answer."""
LOCK_PATIENCE = 0.05
"""Seconds that somebody's lock on a partition is waited for while a pipeline runs: nothing is read meanwhile."""

_AGAIN = (
    "nothing was confirmed since; start again: its rows are copied anew, for consumers that take part in copies;"
    " for others, see what they lack"
)
_STALE = (
    "PostgreSQL 14 may not send what is written to it from now on, either: call Pipeline.destroy() once, and the next"
    " start takes a new initial copy"
)


class Difference(NamedTuple):
    """What is not as it was.

    Attributes:
        tables: The tables, by OID, of which changes may be missing.
        error: What to raise.
    """

    tables: Collection[int]
    error: Error


class _Mark(NamedTuple):
    """Something in the catalog by which a table is published.

    Attributes:
        kind: What it is: see `_QUERY`.
        table: The table that it publishes; None for the publication itself.
        value: What it says.
        xid: The transaction that wrote it; 0 where that is not told.
    """

    kind: str
    table: int | None
    value: str
    xid: int


class _Look(NamedTuple):
    """What one query has given.

    Attributes:
        marks: Everything but partitions.
        trees: For each partitioned table something that is another when its partitions are others.
        horizon: Below it no transaction was open.
    """

    marks: frozenset[_Mark]
    trees: Mapping[int, str]
    horizon: int


class Guard:
    """Knows what was published when it was made.

    Args:
        connection: A replication connection.
        settings: The pipeline's.
        tables: The pipeline's tables.

    Attributes:
        seen: What was seen of the catalog, and found to be well; to be stored.
        news: Whether the last look has found other partitions than the one before.
    """

    def __init__(self, connection: Connection, settings: Settings, tables: Sequence[PublishedTable]) -> None:
        self._settings = settings
        self._names = {table.relation.oid: f"{table.schema}.{table.name}" for table in tables}
        self._query = _query(connection, settings, self._names)
        self._was = self._look(connection)
        self._partitions = self._look_at_partitions(connection, self._was)
        self._warned: set[int] = set()
        self._warn(self._partitions)
        self.seen = self._seen()
        self.news = False

    def check(self, connection: Connection) -> Difference | None:
        """Compare.

        Args:
            connection: A replication connection, also while it streams.

        Returns:
            The difference; None when everything is published that was, and always has been.

        Raises:
            StatementTimeout: When the server does not answer soon, or what is to be looked at is locked.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "System Catalogs", pg_publication, pg_publication_rel, pg_publication_namespace,
            pg_depend, pg_inherits; "System Columns", xmin.
        """
        look = self._look(connection)
        gone = self._was.marks - look.marks
        came = {mark for mark in look.marks - self._was.marks if mark.kind == "chain"}
        if gone or came:
            return self._of_publication(gone, look.marks) or self._of_tables(gone | came, look.marks)
        self.news = look.trees != self._was.trees
        if self.news:
            found = self._look_at_partitions(connection, look)
            if (difference := self.unlogged(found)) is not None:
                return difference
            known = {(one.table, one.link) for one in self._partitions}
            new = [one for one in found if (one.table, one.link) not in known]
            brought = bringing_rows(connection.session(), new, found, PATIENCE, LOCK_PATIENCE)
            if brought:
                return self._of_partition(connection, brought, "while pipeline {!r} ran")
            self._partitions = found
            self._warn(found)
        self._was = look
        self.seen = self._seen()
        return None

    def unlogged(self, found: Sequence[Partition] | None = None) -> Difference | None:
        """Find a partition whose changes are in no stream as long as it is as it is.

        Args:
            found: All partitions; None: those that were seen last.

        Returns:
            The difference to what can be; None when there is none.
        """
        one = next((one for one in (self._partitions if found is None else found) if not one.lasting), None)
        if one is None:
            return None
        table = self._names[one.table]
        error = ConfigError(
            f"partition {one.schema}.{one.name} of table {table} is unlogged: what is written to it is in no stream",
            hint=f"ALTER TABLE {qualified(one.schema, one.name)} SET LOGGED; and start again: the table's rows are"
            " copied anew, for consumers that take part in copies",
            table=table,
            publication=self._settings.publication,
            slot=self._settings.slot,
        )
        return Difference([one.table], error)

    def missed(self, connection: Connection, seen: Seen) -> set[int]:
        """Find what was published otherwise since something was stored.

        Args:
            connection: A replication connection.
            seen: What had been seen then.

        Returns:
            The tables, by OID, of which changes may be in no stream.

        Raises:
            PositionError: When it is so that the stream would lack more: PostgreSQL 14 and attached partitions.
        """
        missed = {mark.table for mark in self._was.marks if mark.table is not None and not seen.has(mark.xid)}
        new = [one for one in self._partitions if not seen.has(one.link.xid)]
        brought = bringing_rows(connection.session(), new, self._partitions, PATIENCE)
        if brought and connection.server_version < 150000:
            raise self._of_partition(connection, brought, "while pipeline {!r} did not run").error
        return missed | {one.table for one in brought}

    def _look(self, connection: Connection) -> _Look:
        rows = connection.session().execute(self._query, timeout=PATIENCE)
        [(horizon, next_xid)] = [(int(a or 0), int(b or 0)) for kind, _, a, b in rows if kind == "snapshot"]
        marks, trees = set(), {}
        for kind, table, value, xid in rows:
            oid = None if table is None else int(table)
            if kind == "tree" and oid is not None:
                trees[oid] = value or ""
            elif kind != "snapshot":
                marks.add(_Mark(kind or "", oid, value or "", 0 if xid is None else full_xid(xid, next_xid)))
        return _Look(frozenset(marks), trees, horizon)

    def _look_at_partitions(self, connection: Connection, look: _Look) -> list[Partition]:
        return partitions(connection.session(), look.trees, PATIENCE) if look.trees else []

    def _seen(self) -> Seen:
        xids = {mark.xid for mark in self._was.marks} | {one.link.xid for one in self._partitions}
        return Seen.of(self._was.horizon, xids)

    def _warn(self, found: Sequence[Partition]) -> None:
        for one in found:
            if one.kind == "f" and one.link.oid not in self._warned:
                self._warned.add(one.link.oid)
                table = self._names[one.table]
                logger.warning(
                    "partition %s.%s of table %s is a foreign table: its changes are in no stream",
                    one.schema,
                    one.name,
                    table,
                )

    def _of_publication(self, gone: Collection[_Mark], found: Collection[_Mark]) -> Difference | None:
        was = next((mark for mark in gone if mark.kind == "publication"), None)
        if was is None:
            return None
        name = self._settings.publication
        now = next((mark for mark in found if mark.kind == "publication"), None)
        error: Error
        if now is None:
            error = PublicationNotFound(
                f"publication {name!r} of pipeline {self._settings.name!r} was dropped or renamed while it ran",
                hint=BEGIN_ANEW,
            )
        elif now.value != was.value:
            error = PositionError(
                f"publication {name!r} was dropped and made again while pipeline {self._settings.name!r} ran:"
                " changes of the time without it are in no stream",
                hint="nothing was confirmed since; start again: the rows of its tables are copied anew, for consumers"
                " that take part in copies; for others, see what they lack",
            )
        else:
            error = PositionError(
                f"publication {name!r} was altered while pipeline {self._settings.name!r} ran: what it left out for a"
                " while is in no stream",
                hint="nothing was confirmed since; if only its owner is another, start again; if it published less for"
                f" a while, {BEGIN_ANEW.partition(': ')[2]}",
            )
        error.publication, error.slot = name, self._settings.slot
        return Difference(self._names if now is not None and now.value != was.value else (), error)

    def _of_tables(self, changed: Collection[_Mark], found: Collection[_Mark]) -> Difference:
        tables = sorted({mark.table for mark in changed if mark.table is not None}, key=lambda oid: self._names[oid])
        one = tables[0]
        kinds = {mark.kind for mark in changed if mark.table == one}
        publication = f"publication {self._settings.publication!r}"
        if kinds & {"table", "schema"}:
            back = any(mark.table == one and mark.kind in ("table", "schema") for mark in found)
            how = f"taken out of{', and put back into,' if back else ''} {publication}, or dropped and made again,"
        elif "chain" in kinds:
            how = f"attached to, or detached from, a partitioned table of {publication}"
        elif "place" in kinds:
            how = f"moved to another schema than {publication} publishes"
        elif any(mark.table == one and mark.kind == "kept" for mark in found):
            how = "made unlogged"
        else:
            how = "dropped"
        error = PositionError(
            f"table {self._names[one]} was {how} while pipeline {self._settings.name!r} ran: its changes of the time"
            " without are in no stream",
            hint=_AGAIN,
            table=self._names[one],
            publication=self._settings.publication,
            slot=self._settings.slot,
        )
        return Difference(tables, error)

    def _of_partition(self, connection: Connection, brought: Sequence[Partition], when: str) -> Difference:
        one, table = brought[0], self._names[brought[0].table]
        stale = connection.server_version < 150000
        error = PositionError(
            f"partition {one.schema}.{one.name} was attached to table {table} {when.format(self._settings.name)}, and"
            " is not empty: rows that it had before are in no stream",
            hint=_STALE if stale else _AGAIN,
            table=table,
            publication=self._settings.publication,
            slot=self._settings.slot,
        )
        return Difference(() if stale else sorted({one.table for one in brought}), error)


# What makes that a table comes by the stream:
#   publication  the publication itself
#   table        that the table, or one that it is a partition of, is in it
#   schema       that the schema of one of them is in it; and place: that it is in that schema
#   chain        that it is a partition of what is published
#   kept         that it exists, and is in the WAL
_QUERY: Final = """WITH RECURSIVE p AS (
        SELECT oid, xmin, puballtables AND pubviaroot AS roots FROM pg_catalog.pg_publication WHERE pubname = {name}),
    t AS (SELECT pg_catalog.unnest({oids}::pg_catalog.oid[]) AS oid),
    ours AS (SELECT oid, oid AS via, 1::bigint AS depth FROM t
        UNION SELECT t.oid, a.relid::pg_catalog.oid, a.depth
        FROM t, pg_catalog.pg_partition_ancestors(t.oid::pg_catalog.regclass) WITH ORDINALITY a(relid, depth)),
    mark(kind, oid, value, xid, depth) AS (
        SELECT 'table', ours.oid, r.oid, r.xmin, ours.depth FROM ours
        JOIN pg_catalog.pg_publication_rel r ON r.prrelid = ours.via JOIN p ON p.oid = r.prpubid{schemas}),
    top AS (SELECT oid, pg_catalog.max(depth) AS depth FROM (
        SELECT oid, depth FROM mark UNION ALL SELECT ours.oid, ours.depth FROM ours, p WHERE p.roots) m GROUP BY oid),
    {tree}
SELECT 'snapshot', NULL::pg_catalog.oid, pg_catalog.pg_snapshot_xmin(s)::text, pg_catalog.pg_snapshot_xmax(s)::text
    FROM pg_catalog.pg_current_snapshot() s
UNION ALL SELECT 'publication', NULL, oid::text, xmin::text FROM p
UNION ALL SELECT kind, oid, value::text, xid::text FROM mark
UNION ALL SELECT 'chain', top.oid, i.inhparent::text, i.xmin::text FROM top
    JOIN ours ON ours.oid = top.oid AND ours.depth < top.depth
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = ours.via
UNION ALL SELECT 'kept', t.oid, c.relpersistence::text, NULL FROM t JOIN pg_catalog.pg_class c ON c.oid = t.oid
UNION ALL SELECT 'tree', tree.root, pg_catalog.encode(pg_catalog.sha256(pg_catalog.string_agg(
        pg_catalog.concat_ws(' ', tree.oid, tree.parent, tree.xid, c.relpersistence), ',' ORDER BY tree.oid)::bytea),
        'hex'), NULL FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid GROUP BY tree.root"""

# ALTER TABLE … SET SCHEMA writes the row of pg_depend anew, and little else does.
_SCHEMAS: Final = """
        UNION ALL SELECT k.kind, ours.oid, k.value, k.xid, ours.depth FROM ours
        JOIN pg_catalog.pg_class c ON c.oid = ours.via
        JOIN pg_catalog.pg_publication_namespace n ON n.pnnspid = c.relnamespace JOIN p ON p.oid = n.pnpubid
        LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
            AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
        CROSS JOIN LATERAL (VALUES ('schema', n.oid, n.xmin), ('place', c.relnamespace, d.xmin)) k(kind, value, xid)"""


def _query(connection: Connection, settings: Settings, tables: Collection[int]) -> str:
    return _QUERY.format(
        name=literal(settings.publication),
        oids=oids_literal(tables),
        schemas=_SCHEMAS if connection.server_version >= 150000 else "",
        tree=TREE,
    )
