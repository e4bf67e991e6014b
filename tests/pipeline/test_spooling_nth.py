"""The n-th call of a spool fails, n = 1, 2, 3 … until none does: what follows goes on, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pgcdc import SpoolError
from pgcdc.pipeline import SqlitePositions
from pgcdc.pipeline.spooling import Backlog
from tests.pipeline.running import Running, flushed, until
from tests.pipeline.shop import ORDERS
from tests.pipeline.test_isolation import Held, ids, insert, occupy, persistent, shop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Database

ROWS = 1_500


class Failing:
    """One method of all spools, which fails the n-th time that it is called: before it does something, or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, number: int, *, done: bool) -> None:
        self.calls = 0
        whole = getattr(Backlog, method)

        def counted(backlog: Backlog, *arguments: Any) -> Any:
            self.calls += 1
            fails = self.calls == number
            result = None if fails and not done else whole(backlog, *arguments)
            if fails:
                raise SpoolError("this file cannot be used")
            return result

        monkeypatch.setattr(Backlog, method, counted)


class Shop:
    """A slow consumer with a spool that is confirmed past, and a fast one."""

    def __init__(self, database: Database, place: Path) -> None:
        self.database = database
        self.slow, self.fast = Held(), Held()
        self.fast.go_on.set()
        positions = SqlitePositions(place / "positions")
        self.pipeline = shop(database, persistent(place), confirm_spooled=True, positions=positions)
        self.pipeline.add(self.slow, name="slow")
        self.pipeline.add(self.fast, name="fast")
        self.run = Running(self.pipeline)
        self.wait(lambda: self.pipeline.statistics().source.phase == "streaming", "it streams")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Waits until something is so, or the run has ended."""
        until(lambda: not self.run.alive or condition(), what)

    def deliver(self) -> BaseException | None:
        """Lets the slow one go on when the other one has all; returns what the run ended with."""
        try:
            end = flushed(self.database)
            self.wait(lambda: self.through("fast") >= end, "the other one has all")
            self.slow.go_on.set()
            self.wait(lambda: self.through("slow") >= end, "it has all")
        finally:
            self.slow.go_on.set()
            self.run.stop()
        return self.run.error

    def through(self, consumer: str) -> int:
        return self.pipeline.statistics().consumers[consumer].through_lsn


@pytest.mark.parametrize("method", ["open", "append", "sync", "read", "release"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_the_nth_call_of_a_spool_fails(newest_database: Database, tmp_path: Path, method: str, done: bool) -> None:
    """Each run ends, or waits and goes on; the next one has what it had not, although the slot is confirmed past it."""
    newest_database.execute(ORDERS)
    ended = 0
    for number in range(1, 4):
        newest_database.execute("DELETE FROM orders")
        assert Shop(newest_database, tmp_path).deliver() is None, "the slot is there"
        with pytest.MonkeyPatch.context() as monkeypatch:
            failing = Failing(monkeypatch, method, number, done=done)
            first = Shop(newest_database, tmp_path)
            if first.run.alive:
                occupy(newest_database, first.slow)
            else:
                newest_database.execute("INSERT INTO orders VALUES (0, 'first')")
            insert(newest_database, 1, ROWS)
            error = first.deliver()
        came = ids(first.slow)
        if error is not None:
            assert isinstance(error, SpoolError)
            ended += 1
            second = Shop(newest_database, tmp_path)
            assert second.deliver() is None
            came += ids(second.slow)
        assert list(dict.fromkeys(came)) == list(range(ROWS + 1)), "all of them, in order"
        first.pipeline.destroy()
        if failing.calls < number:
            break
    assert ended or method in ("sync", "release"), "some call did fail"
