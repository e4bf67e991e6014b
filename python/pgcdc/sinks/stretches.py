"""A batch in stretches that can be applied as a whole: in none of them does a table change its shape or get emptied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from pgcdc.events import Relation, Truncate
from pgcdc.protocol import Batch, RowFormat

__all__ = ["RowKeys", "Stretch", "key_of", "stretches"]

Stretch: TypeAlias = Batch | Truncate
"""Changes of rows, or a TRUNCATE by itself."""

RowKeys: TypeAlias = Mapping[int, Sequence[str]]
"""The columns that the rows of each table are known by, by the table's OID; empty for none."""

_FORMAT = RowFormat("tuple", json="text")


def key_of(relation: Relation, keys: RowKeys) -> tuple[str, ...]:
    """Choose the columns that a table's rows are known by.

    Args:
        relation: The table.
        keys: What was said of tables (`KeyedSink`).

    Returns:
        The columns; none where rows have no key and two may be the same.
    """
    columns = [column.name for column in relation.columns]
    key = tuple(keys.get(relation.oid, ()))
    identity = tuple(column.name for column in relation.columns if column.is_key)
    if not key or not set(key) <= set(columns):
        key = identity
    # All columns under FULL: that is the row and no key. All where there is no identity: so is that.
    whole = len(key) == len(columns) and (relation.replica_identity == "f" or not identity)
    return () if whole else key


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
