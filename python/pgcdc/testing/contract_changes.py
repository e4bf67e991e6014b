"""Changes of a table that contracts make up, and what a target has after them: slow and plain, to compare with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import UNSET

from pgcdc.protocol import Batch
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Table, Transaction, delete, insert, transaction, truncate, update

__all__ = ["applied", "at_random", "changed", "copied_empty", "rows_without", "without"]


def applied(changes: Iterable[Transaction | Change]) -> tuple[dict[Any, dict[str, Any]], list[str]]:
    """What a table has after some changes of it, and which columns.

    Args:
        changes: The changes.
    """
    rows: dict[Any, dict[str, Any]] = {}
    columns: dict[str, None] = {}
    for one in changes:
        for change in one.changes if isinstance(one, Transaction) else (one,):
            table = change.tables[0]
            assert isinstance(table, Table)
            columns.update(dict.fromkeys(table.columns))
            [key] = table.keys
            if change.action == "truncate":
                rows.clear()
            elif change.action == "delete":
                assert change.old is not None
                del rows[change.old[key]]
            else:
                assert change.new is not None
                before: Mapping[str, Any] = {}
                if change.action == "update":
                    before = rows.pop((change.old or change.new)[key])
                new = {name: before[name] if value is UNSET else value for name, value in change.new.items()}
                rows[new[key]] = new
    return rows, list(columns)


def at_random(
    table: Table,
    toast: str | None,
    row_of: Callable[[int, int], dict[str, Any]],
    chance: random.Random,
    transactions: int,
) -> list[Transaction | Change]:
    """Transactions of few changes of few rows.

    Args:
        table: Their table.
        toast: A column that updates may not send.
        row_of: Makes up a row of a key and a number.
        chance: What decides.
        transactions: How many.
    """
    [key] = table.keys
    text = toast is not None and table.columns[toast] == "text"
    present: dict[int, dict[str, Any]] = {}
    made: list[Transaction | Change] = []
    number = 0

    def row(id: int) -> dict[str, Any]:
        return row_of(id, number) | ({toast: f"kept {number}"} if toast is not None and text else {})

    def change() -> Change:
        free = [id for id in range(1, 5) if id not in present]
        what = chance.choice(("insert", "insert", "update", "move", "move", "delete"))
        if not present or (what == "insert" and free):
            id = chance.choice(free)
            present[id] = row(id)
            return insert(table, present[id])
        id = chance.choice(sorted(present))
        if what == "delete":
            return truncate_all() if chance.random() < 0.3 else delete(table, present.pop(id))
        to = chance.choice(free) if what == "move" and free else id
        new, before = row(to) | {key: to}, present.pop(id)
        present[to] = new
        sent = dict(new)
        if toast is not None and chance.random() < 0.9:
            present[to], sent = new | {toast: before[toast]}, new | {toast: UNSET}
        return update(table, sent, old=before if to != id else None)

    def truncate_all() -> Change:
        present.clear()
        return truncate(table)

    for _ in range(transactions):
        several = []
        for _ in range(chance.choice((1, 2, 3, 5))):
            number += 1
            several.append(change())
        made.append(transaction(*several))
    return made


def changed(table: Table, columns: Mapping[str, str | int]) -> Table:
    """The same table with other columns.

    Args:
        table: The table.
        columns: Its columns from now on.
    """
    return Table(table.name, columns, table.key, table.replica_identity)


def copied_empty(table: Table, changes: Iterable[Transaction | Change]) -> Capture:
    """Changes behind an initial copy of a table without rows: its shape is known, and nothing was written of it.

    Args:
        table: As it was when it was copied.
        changes: What came then; of this table only.
    """
    after = Capture.of(changes)
    before = Batch.of([payload for _, payload in Capture.of([truncate(table)]).messages])
    return Capture(after.messages, keys=after.keys, empty=before.relations)


def without(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A row without a column.

    Args:
        row: The row.
        column: The column.
    """
    return {name: value for name, value in row.items() if name != column}


def rows_without(content: Any, column: str) -> Any:
    """What a target has or should have, without a column where its rows are dicts.

    Args:
        content: What it has, or should have.
        column: The column.
    """
    if not isinstance(content, dict):
        return content
    return {key: without(row, column) if isinstance(row, dict) else row for key, row in content.items()}
