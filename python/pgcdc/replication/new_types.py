# Made from new_types_async.py by ./dev lint --fix: change that file, not this one.
"""Types that a binary stream meets for the first time after it began: learned where that is possible, else named.

Source: PostgreSQL manual, "Logical Replication Message Formats", Relation; "pg_type".
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from pgcdc.errors import Error
from pgcdc.protocol.catalog import CATALOG_SQL, add_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgcdc.events import Column, Relation
    from pgcdc.protocol import Batch, TypeCatalog
    from pgcdc.replication.session import Session

__all__ = ["TypeWatch"]

logger = logging.getLogger("pgcdc.replication")


class TypeWatch:
    """Looks at the tables of each batch of a binary stream, before anybody decodes its rows.

    Args:
        catalog: What the rows are decoded with; learns types that were created after the stream began.
        ask: Makes a session for the questions. Not one that somebody uses: it may be in a transaction that began before
            the type was created, or in another thread's hands.
        chosen: Whether binary was chosen because every type allowed it, and would not be again.
    """

    def __init__(self, catalog: TypeCatalog, ask: Callable[[], Session], *, chosen: bool) -> None:
        self._catalog = catalog
        self._ask = ask
        self._then = "; then all values come as text" if chosen else " with binary=False"
        self._looked_at: dict[int, Relation] = {}
        self._named: set[tuple[int, str, int]] = set()

    def look(self, batch: Batch) -> None:
        """Look at the tables of a batch.

        Args:
            batch: What came; nothing of it is decoded.
        """
        try:
            relations = batch.relations
        except Error:
            return  # whoever decodes the rows is told, in the place of each
        for relation in relations:
            # Both name the same object until the table changes its shape.
            if self._looked_at.get(relation.oid) is relation:
                continue
            if unknown := self._unknown(relation):
                self._learn(relation, unknown)
            self._looked_at[relation.oid] = relation  # not before: whoever is cancelled looks again

    def _unknown(self, relation: Relation) -> list[Column]:
        """The columns that cannot be decoded and were not named yet."""
        return [
            column
            for column in relation.columns
            if not self._catalog.knows(column.type_oid)
            and (relation.oid, column.name, column.type_oid) not in self._named
        ]

    def _learn(self, relation: Relation, unknown: list[Column]) -> None:
        """Ask the database; name what is still unknown then. A stream is not to fail because of it."""
        names: dict[int, str] = {}
        with suppress(Error):
            names = self._ask_about(relation)
            unknown = self._unknown(relation)
        for column in unknown:
            self._named.add((relation.oid, column.name, column.type_oid))
            logger.warning(
                "type %s of column %s.%s.%s is not decoded from binary: its values come as the bytes that the server"
                " sent until the stream is started again%s",
                names.get(column.type_oid) or f"with OID {column.type_oid}",
                relation.schema,
                relation.name,
                column.name,
                self._then,
            )

    def _ask_about(self, relation: Relation) -> dict[int, str]:
        """Learn what there is to learn; the names of types that are still unknown then."""
        names: dict[int, str] = {}
        with self._ask() as session:
            add_rows(self._catalog, session.execute(CATALOG_SQL))
            for oid in {column.type_oid for column in self._unknown(relation)}:
                # Without a modifier: that is the column's, and the search path is empty, so the schema is in it.
                # Of a type that is gone already it says "???", so the row is asked for.
                asked = f"SELECT pg_catalog.format_type(oid, NULL) FROM pg_catalog.pg_type WHERE oid = {oid}"  # noqa: S608
                names[oid] = next((name or "" for (name,) in session.execute(asked)), "")
        return names
