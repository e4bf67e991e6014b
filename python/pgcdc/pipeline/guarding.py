"""The watch on what is published while a pipeline runs: changes of a time without publication are in no stream.

A table that is taken out of its publication and put back, or dropped and made again under its name, looks as it did.
Its row in the catalog does not: another one has another OID, one that was changed another xmin.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from pgcdc.errors import Error, PositionError, PublicationNotFound
from pgcdc.pipeline.publishing import BEGIN_ANEW
from pgcdc.pipeline.settings import Settings
from pgcdc.replication import Connection, PublishedTable
from pgcdc.replication.quoting import literal

__all__ = ["Difference", "Guard"]

PATIENCE = 5.0
"""Seconds that the server may take to answer."""

_AGAIN = (
    "nothing was confirmed since; start again: its rows are copied anew, for consumers that take part in copies;"
    " for others, see what they lack"
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
    """A row of the catalog that makes that something is published.

    Attributes:
        kind: Of which catalog it is.
        table: The table that it publishes; None for the publication itself.
        oid: Its OID.
        xmin: The transaction that wrote it.
    """

    kind: str
    table: int | None
    oid: str
    xmin: str


class Guard:
    """Knows what was published when it was made.

    Args:
        connection: A replication connection.
        settings: The pipeline's.
        tables: The pipeline's tables.
    """

    def __init__(self, connection: Connection, settings: Settings, tables: Sequence[PublishedTable]) -> None:
        self._settings = settings
        self._names = {table.relation.oid: f"{table.schema}.{table.name}" for table in tables}
        self._query = _query(connection, settings, self._names)
        self._marks = self._look(connection)

    def check(self, connection: Connection) -> Difference | None:
        """Compare.

        Args:
            connection: A replication connection, also while it streams.

        Returns:
            The difference; None when everything is published that was, and always has been.

        Raises:
            StatementTimeout: When the server does not answer soon.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "System Catalogs", pg_publication, pg_publication_rel, pg_publication_namespace; "System
            Columns", xmin.
        """
        found = self._look(connection)
        gone = self._marks - found
        if not gone:
            return None
        return self._of_publication(gone, found) or self._of_tables(gone, found)

    def _look(self, connection: Connection) -> frozenset[_Mark]:
        rows = connection.session().execute(self._query, timeout=PATIENCE)
        return frozenset(
            _Mark(kind or "", None if table is None else int(table), oid or "", xmin or "")
            for kind, table, oid, xmin in rows
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
        elif now.oid != was.oid:
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
        return Difference(self._names if now is not None and now.oid != was.oid else (), error)

    def _of_tables(self, gone: Collection[_Mark], found: Collection[_Mark]) -> Difference:
        tables = sorted({mark.table for mark in gone if mark.table is not None}, key=lambda oid: self._names[oid])
        back = {mark.table for mark in found}
        one = tables[0]
        how = "taken out of" if one not in back else "taken out of, and put back into,"
        error = PositionError(
            f"table {self._names[one]} was {how} publication {self._settings.publication!r}, or dropped and made again,"
            f" while pipeline {self._settings.name!r} ran: its changes of the time without are in no stream",
            hint=_AGAIN,
            table=self._names[one],
            publication=self._settings.publication,
            slot=self._settings.slot,
        )
        return Difference(tables, error)


def _query(connection: Connection, settings: Settings, tables: Collection[int]) -> str:
    oids = literal("{" + ",".join(map(str, sorted(tables))) + "}")
    schemas = ""
    if connection.server_version >= 150000:
        schemas = """
UNION ALL SELECT 'schema', ours.oid, n.oid, n.xmin FROM ours JOIN pg_catalog.pg_class c ON c.oid = ours.via
    JOIN pg_catalog.pg_publication_namespace n ON n.pnnspid = c.relnamespace JOIN p ON p.oid = n.pnpubid"""
    # A partition is published when one of those is that it belongs to.
    return f"""WITH p AS (
        SELECT oid, xmin FROM pg_catalog.pg_publication WHERE pubname = {literal(settings.publication)}),
    t AS (SELECT pg_catalog.unnest({oids}::pg_catalog.oid[]) AS oid),
    ours AS (SELECT oid, oid AS via FROM t
        UNION SELECT t.oid, a.relid::pg_catalog.oid
        FROM t, pg_catalog.pg_partition_ancestors(t.oid::pg_catalog.regclass) a)
SELECT 'publication', NULL::pg_catalog.oid, oid, xmin FROM p
UNION ALL SELECT 'table', ours.oid, r.oid, r.xmin FROM ours
    JOIN pg_catalog.pg_publication_rel r ON r.prrelid = ours.via JOIN p ON p.oid = r.prpubid{schemas}"""  # noqa: S608
