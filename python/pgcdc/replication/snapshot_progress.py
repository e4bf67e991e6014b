"""How far a snapshot is: counted by whoever takes it, read by anybody from any thread as frozen numbers.

Source: PostgreSQL manual, "pg_class" (`reltuples`, `relpages`), "Database Object Size Functions".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from pgcdc.replication.plan import size

if TYPE_CHECKING:
    from pgcdc.replication.snapshot_plan import TablePlan

__all__ = ["Meter", "SnapshotProgress", "TableProgress", "TableState"]

TableState: TypeAlias = Literal["waiting", "copying", "finished", "stale"]
"""`stale`: it was changed or rewritten since the snapshot, so that it has to be taken again in another one."""


class TableProgress(msgspec.Struct, frozen=True):
    """One table of a snapshot.

    Attributes:
        schema: Its schema.
        name: Its name.
        state: How far it is.
        rows: Rows handed over.
        rows_expected: How many it has by the server's estimate, which a row filter does not change; None when the
            server has none.
        nbytes: Bytes received.
        stored_bytes: Bytes of its files.
        done: Which part of it is finished or handed over, from 0 to 1; an estimate until it is 1.
    """

    schema: str
    name: str
    state: TableState
    rows: int
    rows_expected: int | None
    nbytes: int
    stored_bytes: int
    done: float


class SnapshotProgress(msgspec.Struct, frozen=True):
    """A snapshot.

    Attributes:
        rows: Rows handed over.
        rows_expected: How many there are by the server's estimate; None when it has none of some table.
        nbytes: Bytes received.
        seconds: Since it began.
        rows_per_second: Over all of that time.
        seconds_left: How much longer it takes if it goes on like that; None while that is not known.
        done: Which part is finished, from 0 to 1, tables weighed by their size; an estimate until it is 1.
        tables: The tables, as they were given.
    """

    rows: int
    rows_expected: int | None
    nbytes: int
    seconds: float
    rows_per_second: float
    seconds_left: float | None
    done: float
    tables: tuple[TableProgress, ...]

    @property
    def finished(self) -> int:
        """How many tables are finished."""
        return sum(table.state == "finished" for table in self.tables)

    def __str__(self) -> str:
        of = "" if self.rows_expected is None else f" of about {max(self.rows, self.rows_expected):,}"
        parts = [
            f"{self.finished} of {len(self.tables)} tables",
            f"{self.rows:,}{of} rows",
            size(self.nbytes),
            f"{self.rows_per_second:,.0f} rows/s",
        ]
        if self.done == 1:
            parts.append(f"in {_span(self.seconds)}")
        elif self.seconds_left is not None:
            parts.append(f"about {_span(self.seconds_left)} left")
        return f"{int(self.done * 100)} %: {', '.join(parts)}"


def _span(seconds: float) -> str:
    """A length of time, for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


class _Count:
    """What is counted of one table."""

    def __init__(self, plan: TablePlan) -> None:
        self.plan = plan
        self.state: TableState = "waiting"
        self.rows = 0
        self.nbytes = 0
        self.pieces = 0


class Meter:
    """Counts; written by one thread, read by any.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._counts: list[_Count] = []

    def begin(self, plans: Sequence[TablePlan]) -> None:
        """Set what there is to do.

        Args:
            plans: What is copied of each table.
        """
        self._began = self._clock()
        self._counts = [_Count(plan) for plan in plans]

    def received(self, place: int, rows: int, nbytes: int) -> None:
        """Count what was handed over.

        Args:
            place: Which of the plans.
            rows: So many rows more.
            nbytes: So many bytes more.
        """
        count = self._counts[place]
        count.rows += rows
        count.nbytes += nbytes

    def piece_done(self, place: int) -> None:
        """Count a piece.

        Args:
            place: Which of the plans.
        """
        self._counts[place].pieces += 1

    def turn(self, place: int, state: TableState) -> None:
        """Note that a table is further.

        Args:
            place: Which of the plans.
            state: How far.
        """
        self._counts[place].state = state
        if all(count.state in ("finished", "stale") for count in self._counts):
            self._ended = self._clock()

    def read(self) -> SnapshotProgress:
        """What can be said now.

        Returns:
            Frozen numbers.
        """
        tables = tuple(_table(count) for count in self._counts)
        seconds = max(0.0, (self._clock() if self._ended is None else self._ended) - self._began)
        rows = sum(table.rows for table in tables)
        # A table without any file weighs something too, or one that is empty would never be done.
        weights = [table.stored_bytes + 1 for table in tables]
        done = sum(table.done * weight for table, weight in zip(tables, weights, strict=True)) / (sum(weights) or 1)
        expected = [table.rows_expected for table in tables]
        return SnapshotProgress(
            rows=rows,
            rows_expected=None if None in expected else sum(count for count in expected if count is not None),
            nbytes=sum(table.nbytes for table in tables),
            seconds=seconds,
            rows_per_second=rows / seconds if seconds else 0.0,
            seconds_left=seconds / done * (1 - done) if done and seconds else None,
            done=1.0 if tables and all(table.done == 1 for table in tables) else min(done, 0.999),
            tables=tables,
        )


def _table(count: _Count) -> TableProgress:
    plan = count.plan
    if count.state in ("finished", "stale"):
        done = 1.0
    elif plan.rows and plan.table.row_filter is None:
        # Never 1 before it is: the estimate may be too low.
        done = min(count.rows / plan.rows, 0.999)
    else:
        done = min(count.pieces / len(plan.pieces), 0.999)
    return TableProgress(
        schema=plan.table.schema,
        name=plan.table.name,
        state=count.state,
        rows=count.rows,
        rows_expected=plan.rows,
        nbytes=count.nbytes,
        stored_bytes=plan.nbytes,
        done=done,
    )
