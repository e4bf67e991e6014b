"""The n-th call of a position store or a sink fails, for n = 1, 2, 3 until none does; after each, target and source.

Played, because a server adds nothing to it: what a store or sink does when it fails is what is looked at.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

import pgcdc
from pgcdc.errors import ConnectionLost
from pgcdc.pipeline import Move, PositionStore, SqlitePositions, StoredPosition
from pgcdc.testing import Capture, FaultySink, delete, insert, play, transaction, update
from tests.pipeline.targets import SqliteMirror, logged, mirrored

if TYPE_CHECKING:
    from pathlib import Path

CHANGES = Capture.of(
    [
        transaction(*(insert("orders", {"id": key, "status": "new"}) for key in range(1, 6))),
        update("orders", {"id": 2, "status": "paid"}),
        delete("orders", {"id": 3}),
        update("orders", {"id": 50, "status": "moved"}, old={"id": 5}),
        transaction(insert("orders", {"id": 3, "status": "again"}), delete("orders", {"id": 4})),
    ]
)
ROWS = ["1|new", "2|paid", "3|again", "50|moved"]


class Failing:
    """A position store whose n-th call fails, before or after it took effect.

    Args:
        store: The store inside.
        at: Which call; 0 for none.
        after: Whether it took effect.
        error: What it raises.
    """

    def __init__(self, store: PositionStore, at: int, after: bool, error: Exception) -> None:
        self.failed = False
        self._store = store
        self._at = at
        self._after = after
        self._error = error
        self._calls = 0

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._calls += 1
        if self._calls == self._at:
            self.failed = True
            if self._after:
                function(*arguments)
            raise self._error
        return function(*arguments)

    def open(self) -> None:
        self._call(self._store.open)

    def load(self, pipeline: str) -> dict[str, StoredPosition]:
        found: dict[str, StoredPosition] = self._call(self._store.load, pipeline)
        return found

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        self._call(self._store.move, pipeline, moves)

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        self._call(self._store.forget, pipeline, consumers)

    def close(self) -> None:
        self._store.close()


def shop(path: Path, handled: dict[int, str], *, fail_at: int | None = None, written: bool = False) -> pgcdc.Pipeline:
    pipeline = pgcdc.Pipeline("shop", tables=["orders"])
    sink = FaultySink(SqliteMirror(path), fail_at=fail_at, written=written)
    pipeline.add(sink, name="mirror", max_rows=1)  # so that there are ten writes, however many changes wait

    @pipeline.on("orders", name="handler")
    def handle(change: Any) -> None:
        if change.old is not UNSET:
            handled.pop(change.old.id, None)
        if change.new is not UNSET:
            handled[change.new.id] = change.new.status

    return pipeline


def check(path: Path, handled: dict[int, str]) -> None:
    assert mirrored(path, "orders") == ROWS
    assert len(logged(path)) == 10, "each change once"
    assert sorted(f"{key}|{status}" for key, status in handled.items()) == ROWS


@pytest.mark.parametrize("after", [False, True], ids=["before it took effect", "after it took effect"])
@pytest.mark.parametrize(
    "error", [ConnectionLost("the store is away"), sqlite3.OperationalError("disk I/O error")], ids=["away", "error"]
)
def test_each_call_of_the_position_store(tmp_path: Path, after: bool, error: Exception) -> None:
    number, failed = 0, True
    while failed:
        number += 1
        path, handled = tmp_path / f"{number}.db", dict[int, str]()
        inside = SqlitePositions(tmp_path / f"{number}.positions")
        store = Failing(inside, number, after, error)
        with contextlib.suppress(pgcdc.Error, sqlite3.Error):
            play(shop(path, handled), CHANGES, positions=store, messages_at_once=4)
        failed = store.failed
        play(shop(path, handled), CHANGES, positions=inside)
        check(path, handled)
    assert number > 3


@pytest.mark.parametrize("written", [False, True], ids=["before it took effect", "after it took effect"])
def test_each_write_of_a_sink(tmp_path: Path, written: bool) -> None:
    number, failed = 0, True
    while failed:
        number += 1
        path, handled = tmp_path / f"{number}.db", dict[int, str]()
        positions = SqlitePositions(tmp_path / f"{number}.positions")
        failed = False
        try:
            pipeline = shop(path, handled, fail_at=number, written=written)
            play(pipeline, CHANGES, positions=positions, messages_at_once=4)
        except pgcdc.SinkError:
            failed = True
        play(shop(path, handled), CHANGES, positions=positions)
        check(path, handled)
    assert number == 11
