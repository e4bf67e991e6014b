"""A batch in stretches that can be applied as a whole: in none of them does a table change its shape or get emptied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from pgcdc.events import Relation, Truncate
from pgcdc.protocol import Batch, RowFormat

__all__ = ["Keyed", "Stretch", "stretches"]

Stretch: TypeAlias = Batch | Truncate
"""Changes of rows, or a TRUNCATE by itself."""

_FORMAT = RowFormat("tuple", json="text")


class Keyed(NamedTuple):
    """A table, and the columns that its rows are known by.

    Attributes:
        relation: The table.
        key: The columns; none where rows have no key and two may be the same.
    """

    relation: Relation
    key: tuple[str, ...]


def stretches(batch: Batch) -> Iterator[Stretch]:
    """Take a batch apart.

    Args:
        batch: The batch; logical messages are left out.

    Yields:
        The stretches in their order.
    """
    seen: set[int] = set()
    cuts: list[int] = []
    for at, relation, _, _ in batch.shape_runs():
        if relation.oid in seen:
            cuts.append(at)
            seen.clear()
        seen.add(relation.oid)
    done = 0
    for cut in cuts:
        before, batch = batch.split_at(cut - done)
        done = cut
        yield from _between_truncates(before)
    yield from _between_truncates(batch)


def _between_truncates(batch: Batch) -> Iterator[Stretch]:
    if not batch.select(actions=["truncate"]).changes_count:
        if batch.changes_count:
            yield batch
        return
    start = 0
    changes = batch.changes(_FORMAT)
    for number, change in enumerate(changes):
        if isinstance(change, Truncate):
            if number > start:
                yield batch.take(range(start, number))
            yield change
            start = number + 1
    if len(changes) > start:
        yield batch.take(range(start, len(changes)))
