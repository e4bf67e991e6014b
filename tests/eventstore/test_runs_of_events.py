"""Events of a batch in one list: where it is cut, what of it is new, what is noted of it. No server."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from pgcdc.eventstore.commits import EventRow, Place
from pgcdc.eventstore.projecting import _behind, _commits_of, _halves, _Run


def _run(*lsns: int, place: Place | None = None, index: int | None = None) -> _Run:
    """Events whose transactions commit there; those of one LSN are of one transaction."""
    rows = []
    for number, lsn in enumerate(lsns):
        row = EventRow(number + 1, "a-1", "a", "A", 1, "{}", "{}", datetime.now(UTC), number + 1, UUID(int=number), lsn)
        rows.append(((lsn, lsns[:number].count(lsn) if index is None else index), row))
    return _Run(rows, place or Place(lsns[-1] if lsns else 0))


@pytest.mark.parametrize(
    ("lsns", "cut"),
    [
        ((1, 2), 1),
        ((1, 2, 3, 4, 5), 2),
        ((1, 1, 1, 2), 3),
        ((1, 2, 2, 2, 2), 1),
        ((1, 1, 1, 1, 2), 4),
        ((1, 1, 2, 2, 2, 3), 2),
    ],
)
def test_it_is_cut_where_a_transaction_begins(lsns: tuple[int, ...], cut: int) -> None:
    run = _run(*lsns, place=Place(9))
    halves = _halves(run)
    assert halves is not None
    first, second = halves
    assert (len(first.rows), [*first.rows, *second.rows]) == (cut, list(run.rows))
    assert (first.place, second.place) == (Place(lsns[cut - 1]), Place(9))
    assert first.rows[-1][0][0] != second.rows[0][0][0]


@pytest.mark.parametrize(
    "run", [_run(), _run(1), _run(1, 1, 1), _run(1, 2, place=Place(0, 2)), _run(5, 5, place=Place(5), index=-1)]
)
def test_one_transaction_and_what_has_no_order_of_commits_are_not_cut(run: _Run) -> None:
    assert _halves(run) is None


def test_only_transactions_behind_a_place_are_applied() -> None:
    run = _run(3, 3, 5, 8)
    assert [list(_behind(Place(lsn), run)) for lsn in (2, 3, 4, 5, 8)] == [
        list(run.rows[first:]) for first in (0, 2, 2, 3, 4)
    ]
    base = _run(9, 9, place=Place(7, 20), index=-1)
    assert list(_behind(Place(7, 19), base)) == list(base.rows)
    assert list(_behind(Place(7, 20), base)) == []


@pytest.mark.parametrize("lsns", [(3,), (3, 5, 8), (3, 3, 5), (3, 5, 5), (3, 3, 3)])
def test_each_transaction_is_noted_once_with_all_its_events(lsns: tuple[int, ...]) -> None:
    run = _run(*lsns)
    rows = [row for _, row in run.rows]
    columns = _commits_of(lsns, rows)
    expected = []
    for lsn in sorted(set(lsns)):
        ids = [row.id for row in rows if row.xid == lsn]
        expected.append((lsn, lsn, len(ids), min(ids), max(ids)))
    assert list(zip(*columns, strict=True)) == expected
