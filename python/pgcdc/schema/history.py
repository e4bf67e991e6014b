"""The versions of tables' shapes: which a row at some position has, and when there is a new one.

A version begins at a position, that of the first row of its shape. Which one a row has is looked up by its position, so
a row that comes again has the version that it had; only a row above the highest beginning of its table can begin
another, when its shape is another than the newest. That a Relation message comes again says nothing: the server repeats
it after ANALYZE, CREATE INDEX, GRANT. A column that was added and dropped again gives an old shape, and a new version.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from pgcdc.event_text import TYPE_NAMES
from pgcdc.events import Column, Relation
from pgcdc.lsn import Position
from pgcdc.protocol import SchemaVersions

__all__ = ["History", "SchemaColumn", "SchemaVersion", "fingerprint_of"]


class SchemaColumn(msgspec.Struct, frozen=True):
    """One column of one version.

    Attributes:
        name: Its name.
        type_oid: The OID of its type.
        type_name: The type's name, as far as it was known: `"numeric"`, `"public.mood"`, `"oid:16390"`.
        type_modifier: `pg_attribute.atttypmod`; -1 when there is none.
        is_key: Whether it is part of the replica identity.
    """

    name: str
    type_oid: int
    type_name: str
    type_modifier: int
    is_key: bool


class SchemaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the shape of one table.

    Attributes:
        oid: The table: `pg_class.oid`, which it keeps under any name.
        version: Its number, from 1.
        schema: The name of the table's schema.
        table: The table's name.
        replica_identity: `pg_class.relreplident`: default, nothing, full, index.
        columns: The published columns, in their order.
        fingerprint: Of the names and the columns: equal where the shape is.
        position: Of the first row that had it; of an initial copy's where that came first.
        seen_at: When that row was read.
    """

    oid: int
    version: int
    schema: str
    table: str
    replica_identity: str
    columns: tuple[SchemaColumn, ...]
    fingerprint: str
    position: Position
    seen_at: datetime

    @property
    def relation(self) -> Relation:
        """The shape as the stream tells it."""
        return Relation(
            oid=self.oid,
            schema=self.schema,
            name=self.table,
            replica_identity=self.replica_identity,  # type: ignore[arg-type]
            columns=[Column(c.name, c.type_oid, c.type_modifier, c.is_key) for c in self.columns],
        )


def fingerprint_of(relation: Relation) -> str:
    """Digest what makes a shape: the table's names, and of each column its name, its type, and whether it is a key.

    Args:
        relation: The shape.

    Returns:
        Sixteen hexadecimal digits. How the key is called (`DEFAULT`, `USING INDEX`) makes no difference.
    """
    columns = [(c.name, c.type_oid, c.type_modifier, c.is_key) for c in relation.columns]
    return hashlib.sha256(repr((relation.schema, relation.name, columns)).encode()).hexdigest()[:16]


class History:
    """The versions that are known of the tables of one pipeline. Not safe for several threads at once.

    Args:
        versions: Those that are stored.
    """

    def __init__(self, versions: Iterable[SchemaVersion] = ()) -> None:
        self._by_oid: dict[int, list[SchemaVersion]] = {}
        self._shapes: dict[int, Relation] = {}
        self.type_names: dict[int, str] = {}
        for version in sorted(versions, key=lambda one: (one.oid, one.position)):
            self._by_oid.setdefault(version.oid, []).append(version)

    def has_newest(self, relation: Relation) -> bool:
        """Whether a shape is known to be the newest of its table, so that no row of it begins a version.

        Args:
            relation: The shape; one that is equal but not the same object may have been seen or not.
        """
        return self._shapes.get(relation.oid) is relation

    def next(self, relation: Relation, position: Position) -> SchemaVersion | None:
        """Find out whether a row begins a version.

        Args:
            relation: The row's shape.
            position: The row's position.

        Returns:
            The version, which `add` makes known; None when the row has one that is known.
        """
        known = self._by_oid.get(relation.oid)
        if known:
            newest = known[-1]
            # The same object for each batch, as long as the server does not say the shape anew.
            if position <= newest.position or self._shapes.get(relation.oid) is relation:
                return None
            fingerprint = fingerprint_of(relation)
            if fingerprint == newest.fingerprint:
                self._shapes[relation.oid] = relation
                return None
            number = max(version.version for version in known) + 1
        else:
            fingerprint, number = fingerprint_of(relation), 1
        return SchemaVersion(
            oid=relation.oid,
            version=number,
            schema=relation.schema,
            table=relation.name,
            replica_identity=relation.replica_identity,
            columns=tuple(
                SchemaColumn(c.name, c.type_oid, self._type_name(c.type_oid), c.type_modifier, c.is_key)
                for c in relation.columns
            ),
            fingerprint=fingerprint,
            position=position,
            seen_at=datetime.now(UTC),
        )

    def _type_name(self, oid: int) -> str:
        return TYPE_NAMES.get(oid) or self.type_names.get(oid) or f"oid:{oid}"

    def add(self, version: SchemaVersion) -> None:
        """Make a version known.

        Args:
            version: The newest of its table; or one that is known, with an earlier beginning.
        """
        self._shapes.pop(version.oid, None)  # one object stands for all shapes that are told with the same bytes
        known = self._by_oid.setdefault(version.oid, [])
        known[:] = sorted(
            [*(one for one in known if one.version != version.version), version], key=lambda one: one.position
        )

    def fit(self, relation: Relation, position: Position) -> SchemaVersion | None:
        """Find the version of a shape that was in force at a position, also when rows behind it were seen already.

        Args:
            relation: The shape.
            position: Where it was in force.

        Returns:
            What `add` makes known: a new version, or the one behind it with this beginning; None when the one that was
            in force there has this shape.

        Raises:
            LookupError: When it is neither of the two: there is no number for it.
        """
        version = self.next(relation, position)
        before = self.at(relation.oid, position)
        if version is not None or before is None or before.fingerprint == fingerprint_of(relation):
            return version
        known = self._by_oid[relation.oid]
        place = known.index(before) + (before.position <= position)
        if place < len(known) and known[place].fingerprint == fingerprint_of(relation):
            return msgspec.structs.replace(known[place], position=position)
        raise LookupError(relation.name)

    def at(self, oid: int, position: Position) -> SchemaVersion | None:
        """The version in force at a position; of what comes before the first, the first.

        Args:
            oid: The table.
            position: The position.

        Returns:
            The version; None of a table that nothing is known of.
        """
        known = self._by_oid.get(oid)
        if not known:
            return None
        return known[max(0, bisect_right(known, position, key=lambda version: version.position) - 1)]

    def get(self, oid: int, number: int) -> SchemaVersion | None:
        """One version by its number."""
        return next((version for version in self._by_oid.get(oid, ()) if version.version == number), None)

    @property
    def newest(self) -> Mapping[int, SchemaVersion]:
        """The newest version of each table, by OID."""
        return {oid: versions[-1] for oid, versions in self._by_oid.items()}

    def of(self, wanted: Callable[[SchemaVersion], bool] = lambda _: True) -> list[SchemaVersion]:
        """All versions of those tables of which the newest is wanted, by name and number."""
        found = [versions for versions in self._by_oid.values() if wanted(versions[-1])]
        found.sort(key=lambda versions: (versions[-1].schema, versions[-1].table, versions[-1].oid))
        return [version for versions in found for version in versions]

    def frozen(self) -> SchemaVersions:
        """What batches carry."""
        return SchemaVersions(
            {oid: [(version.position, version.version) for version in known] for oid, known in self._by_oid.items()}
        )
