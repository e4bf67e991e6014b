"""Projections killed with SIGKILL at the worst moments: still each event once."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.eventstore.revenue import RIGHT, faults, revenue, right_revenue, store_of
from tests.eventstore.test_projections import caught_up, write
from tests.pipeline.running import running
from tests.program import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def test_killed_before_the_commit_while_others_write(database: Database, tmp_path: Path) -> None:
    killed_three_times(database, tmp_path, "before")


def test_killed_after_the_commit_while_others_write(newest_database: Database, tmp_path: Path) -> None:
    killed_three_times(newest_database, tmp_path, "after")


def killed_three_times(database: Database, tmp_path: Path, place: str) -> None:
    """From the table at its first start, from the stream at the next ones."""
    with store_of(database) as store:
        write(store, 1, 40)
        for number, seed in ((2, 2), (1, 3), (4, 4)):
            program = Program("tests.eventstore.killed_projection", tmp_path / "log", database.dsn, place, str(number))

            def go_on(seed: int, program: Program = program) -> None:
                while program.process.poll() is None:
                    write(store, seed, 5)

            with ThreadPoolExecutor(2) as threads:
                writing = [threads.submit(go_on, seed * 10 + one) for one in range(2)]
                assert program.end() == -signal.SIGKILL
                for one in writing:
                    one.result()
        with running(store.pipeline()):
            caught_up(store)
        assert faults(database) == RIGHT
        assert revenue(database) == right_revenue(database)
