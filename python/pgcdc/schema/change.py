"""What became of a table's shape: the event, and how it is found from two shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import msgspec

from pgcdc.event_text import relation_text
from pgcdc.events import Column, Relation
from pgcdc.lsn import Position

__all__ = ["ChangeKind", "SchemaChange", "change_of", "named_as_now"]

ChangeKind: TypeAlias = Literal["add", "drop", "rename", "retype", "key", "rename_table"]
"""Columns were added, dropped, renamed, given another type; the replica identity has other columns; the table, or its
schema, has another name."""

_NOWHERE: Final = Position(0, 0)


class SchemaChange(msgspec.Struct, frozen=True, tag_field="action", tag="schema"):
    """A table has another shape from here on.

    It comes before the first change of the new shape that the consumer gets. The server tells a shape only together
    with the next row of the table, so it comes not when the table was altered, but when it is written to.

    Attributes:
        schema: The name of the table's schema, now.
        table: The table's name, now.
        old: The shape that this consumer's changes had so far.
        new: The shape of those that follow.
        old_version: The number of the old one.
        version: The number of the new one. Where none of the changes between two were for this consumer, not the next.
        position: Of the first change of the new shape that it gets.
        added: The names of columns that are new.
        dropped: Those of columns that are gone. A column that was dropped and made again is in both.
        renamed: The old and the new name of columns that stand in the same place and have the same type. The server
            does not say that a column was renamed: when the last one was dropped, and another of the same type added,
            that looks the same.
        retyped: The names of columns that have another type, or another length or precision.
        rekeyed: The names of columns that became part of the replica identity, or are no part of it any more.
    """

    schema: str
    table: str
    old: Relation
    new: Relation
    old_version: int
    version: int
    position: Position
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    retyped: tuple[str, ...] = ()
    rekeyed: tuple[str, ...] = ()

    @property
    def action(self) -> Literal["schema"]:
        """What happened, as a word."""
        return "schema"

    @property
    def table_renamed(self) -> bool:
        """Whether the table, or its schema, has another name."""
        return (self.old.schema, self.old.name) != (self.new.schema, self.new.name)

    @property
    def kinds(self) -> frozenset[ChangeKind]:
        """What happened, in the words of `on_schema_change`."""
        found: list[tuple[ChangeKind, object]] = [
            ("add", self.added),
            ("drop", self.dropped),
            ("rename", self.renamed),
            ("retype", self.retyped),
            ("key", self.rekeyed),
            ("rename_table", self.table_renamed),
        ]
        return frozenset(kind for kind, what in found if what)

    @property
    def summary(self) -> str:
        """What happened, in a line: `"added discount; retyped total"`."""
        parts = []
        if self.table_renamed:
            parts.append(f"was {self.old.schema}.{self.old.name}")
        for what, names in (
            ("added", self.added),
            ("dropped", self.dropped),
            ("renamed", tuple(f"{old} to {new}" for old, new in self.renamed)),
            ("retyped", self.retyped),
            ("key changed at", self.rekeyed),
        ):
            if names:
                parts.append(f"{what} {', '.join(names)}")
        return "; ".join(parts) or "nothing that counts"

    def __repr__(self) -> str:
        return (
            f"<SchemaChange {self.schema}.{self.table} version {self.old_version} to {self.version}: {self.summary};"
            f" now {relation_text(self.new)}>"
        )


def change_of(
    old: Relation, new: Relation, *, old_version: int = 0, version: int = 0, position: Position = _NOWHERE
) -> SchemaChange:
    """Find what differs between two shapes.

    Args:
        old: The one.
        new: The other.
        old_version: The number of the old one.
        version: The number of the new one.
        position: Of the first change of the new one.

    Returns:
        The event.
    """
    pairs = list(_aligned(old.columns, new.columns))
    both = [(before, after) for before, after in pairs if before is not None and after is not None]
    return SchemaChange(
        schema=new.schema,
        table=new.name,
        old=old,
        new=new,
        old_version=old_version,
        version=version,
        position=position,
        added=tuple(after.name for before, after in pairs if before is None and after is not None),
        dropped=tuple(before.name for before, after in pairs if after is None and before is not None),
        renamed=tuple((before.name, after.name) for before, after in both if before.name != after.name),
        retyped=tuple(after.name for before, after in both if _type(before) != _type(after)),
        rekeyed=tuple(after.name for before, after in both if before.is_key != after.is_key),
    )


def named_as_now(relation: Relation, shapes: Sequence[Relation]) -> Relation | None:
    """Give a row's shape the names that its table and columns have got since.

    Args:
        relation: The shape that the row has.
        shapes: Those that its table had, from that one to the last.

    Returns:
        The shape under the names of the last; a column that was dropped keeps its own. None where nothing has another
        name, or two columns would have one.
    """
    names = {column.name: column.name for column in relation.columns}
    for old, new in pairwise(shapes):
        change = change_of(old, new)
        renamed = dict(change.renamed)
        gone = {one for one, name in names.items() if name in change.dropped}
        names.update({one: renamed.get(name, name) for one, name in names.items() if one not in gone})
    columns = [msgspec.structs.replace(column, name=names[column.name]) for column in relation.columns]
    last = shapes[-1]
    named = msgspec.structs.replace(relation, schema=last.schema, name=last.name, columns=columns)
    return None if named == relation or len(set(names.values())) < len(columns) else named


Pair: TypeAlias = tuple[Column | None, Column | None]


def _aligned(old: Sequence[Column], new: Sequence[Column]) -> Iterator[Pair]:
    """Which column became which, by what costs least; None for one that is gone, or new.

    PostgreSQL keeps columns in the order in which they were made, and a new one comes last.
    """
    names = {column.name for column in old} & {column.name for column in new}
    start = 0
    while start < min(len(old), len(new)) and _same(old[start], new[start]):
        yield old[start], new[start]
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and _same(old[-1 - end], new[-1 - end]):
        end += 1
    before, after = old[start : len(old) - end], new[start : len(new) - end]
    # For each pair of places: what the rest costs, and the step to be made there.
    least = {(len(before), len(after)): (0.0, (0, 0))}
    for row in range(len(before), -1, -1):
        for column in range(len(after), -1, -1):
            steps: list[tuple[float, tuple[int, int]]] = []
            if row < len(before) and column < len(after):
                cost = _cost(before[row], after[column], names)
                steps.append((least[row + 1, column + 1][0] + cost, (1, 1)))
            if row < len(before):
                steps.append((least[row + 1, column][0] + 1, (1, 0)))
            if column < len(after):
                last = row == len(before) and not end
                steps.append((least[row, column + 1][0] + (1 if last else 2.2), (0, 1)))
            if steps:
                least[row, column] = min(steps)
    row = column = 0
    while (row, column) != (len(before), len(after)):
        _, (down, right) = least[row, column]
        yield before[row] if down else None, after[column] if right else None
        row, column = row + down, column + right
    yield from zip(old[len(old) - end :], new[len(new) - end :], strict=True)


def _same(one: Column, other: Column) -> bool:
    return (one.name, *_type(one)) == (other.name, *_type(other))


def _cost(old: Column, new: Column, names: Set[str]) -> float:
    """What it costs to take one column for another."""
    if old.name == new.name:
        return 0 if _type(old) == _type(new) else 0.9
    if _type(old) != _type(new):
        return 2.5
    return 1.5 if old.name in names or new.name in names else 0.9


def _type(column: Column) -> tuple[int, int]:
    return column.type_oid, column.type_modifier
