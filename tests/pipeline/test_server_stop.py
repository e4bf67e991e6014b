"""A server that is stopped while a pipeline is idle: it need not wait, and the pipeline goes on when it is back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import pgcdc
from pgcdc.pipeline import SqlitePositions
from tests.conftest import Database
from tests.pipeline.running import Running, confirmed, until
from tests.pipeline.targets import Recorder


@pytest.mark.parametrize("store", ["in the source", "elsewhere"])
def test_a_fast_stop_does_not_wait_for_an_idle_pipeline(orders: Database, tmp_path: Path, store: str) -> None:
    """The server ends a stream only when all that it has sent is confirmed, and asks for it: fact of `WalSndDone`."""

    def pipeline(target: Recorder) -> pgcdc.Pipeline:
        positions = None if store == "in the source" else SqlitePositions(tmp_path / "positions.db")
        made = pgcdc.Pipeline("shop", orders.dsn, tables=["orders"], positions=positions)
        made.add(target, name="target")
        return made

    first = Recorder()
    run = Running(pipeline(first))
    run.streaming()
    orders.execute("INSERT INTO orders VALUES (101, 'a')")
    until(lambda: 101 in [change.new.id for change in first.changes], "the row has come")
    until(lambda: confirmed(orders) > first.changes[-1].commit_lsn, "its position is stored and confirmed")
    orders.execute("CREATE TABLE unpublished (x int)")  # WAL that is nothing to the pipeline
    before = time.monotonic()
    orders.server.restart("fast")
    assert time.monotonic() - before < 15
    orders.execute("INSERT INTO orders VALUES (102, 'b')")
    until(lambda: 102 in [change.new.id for change in first.changes], "the next row has come")
    run.stop()
    assert run.error is None
    assert [change.new.id for change in first.changes if change.new.id > 100] == [101, 102]
