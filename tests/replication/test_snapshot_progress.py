"""What a snapshot's numbers say, by a clock of the test's own, and how they are shown."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from pgcdc.events import Relation
from pgcdc.replication import PublishedTable, SnapshotProgress
from pgcdc.replication.snapshot_plan import Piece, TablePlan
from pgcdc.replication.snapshot_progress import Meter
from pgcdc.replication.snapshot_view import SnapshotView, can_draw

if TYPE_CHECKING:
    import pytest


def plan(name: str, rows: int | None, nbytes: int, pieces: int = 1, row_filter: str | None = None) -> TablePlan:
    table = PublishedTable(
        relation=Relation(oid=1, schema="public", name=name, replica_identity="d", columns=[]),
        row_filter=row_filter,
        filenode=1,
        storage=((1, 1),),
        binary_columns=[],
        column_types=[],
        described_types=[],
        generated=False,
        primary_key=[],
        partitioned=False,
    )
    return TablePlan(table=table, pieces=tuple(Piece() for _ in range(pieces)), rows=rows, nbytes=nbytes)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def begun(*plans: TablePlan) -> tuple[Meter, Clock]:
    clock = Clock()
    meter = Meter(clock)
    clock.now += 5  # until it is entered nothing counts
    meter.begin(plans)
    return meter, clock


def test_tables_weigh_by_their_size() -> None:
    meter, clock = begun(plan("small", 100, 999), plan("large", 1000, 8999))
    assert meter.read().seconds_left is None
    clock.now += 2
    meter.turn(0, "copying")
    meter.received(0, 100, 4000)
    meter.turn(0, "finished")
    progress = meter.read()
    assert (progress.rows, progress.rows_expected, progress.nbytes, progress.seconds) == (100, 1100, 4000, 2)
    assert round(progress.done, 6) == 0.1
    assert progress.rows_per_second == 50
    assert progress.seconds_left is not None and round(progress.seconds_left, 6) == 18
    assert str(progress) == "10 %: 1 of 2 tables, 100 of about 1,100 rows, 3.9 kB, 50 rows/s, about 18 s left"
    meter.turn(1, "copying")
    meter.received(1, 1500, 1)
    assert meter.read().done < 1, "more came than the server thought there was: it is not done for that"
    clock.now += 3661
    meter.turn(1, "finished")
    clock.now += 60
    progress = meter.read()
    assert (progress.done, progress.seconds, progress.seconds_left) == (1, 3663, 0)
    assert str(progress).endswith(", 0 rows/s, in 1 h 1 min")


def test_what_the_server_has_no_estimate_of() -> None:
    """Then pieces count; so they do where a filter leaves an unknown part of the rows."""
    meter, _ = begun(plan("t", None, 100, pieces=4), plan("u", 10, 100, pieces=4, row_filter="a > 1"))
    for place in (0, 1):
        meter.turn(place, "copying")
        meter.received(place, 5, 5)
        meter.piece_done(place)
    progress = meter.read()
    assert progress.rows_expected is None
    assert [table.done for table in progress.tables] == [0.25, 0.25]
    assert " 10 rows, " in str(progress)


def test_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgcdc.snapshot")
    meter, _ = begun(plan("t", 10, 100))
    read = threading.Event()

    def numbers() -> SnapshotProgress:
        read.set()
        return meter.read()

    with SnapshotView(numbers, "shop", bar=False, seconds=0.001):
        assert read.wait(30), "it is looked at by itself"
        meter.received(0, 10, 10)
        meter.turn(0, "finished")
    assert caplog.messages[-1].startswith("snapshot of shop: 100 %: 1 of 1 tables, 10 of about 10 rows")
    assert len(caplog.messages) >= 2


def test_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    meter, _ = begun(plan("t", 10, 100))
    with SnapshotView(meter.read, "[shop]", bar=True):
        meter.received(0, 10, 10)
        meter.turn(0, "finished")
    shown: Any = capsys.readouterr()
    assert shown.out == ""
    assert "[shop]" in shown.err and "100 %" in " ".join(shown.err.split())
    assert not can_draw(), "stderr is no terminal here"
