"""Projections killed with SIGKILL at the worst moments: still each event once."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.eventstore.revenue import RIGHT, faults, revenue, right_revenue, store_of
from tests.eventstore.test_projections import caught_up, write
from tests.pipeline.running import running
from tests.program import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_three_times_while_others_write(newest_database: Database, tmp_path: Path, place: str) -> None:
    """From the table at its first start, from the stream at the next ones."""
    with store_of(newest_database) as store:
        write(store, 1, 40)
        for number, seed in ((2, 2), (1, 3), (4, 4)):
            program = Program(
                "tests.eventstore.killed_projection", tmp_path / "log", newest_database.dsn, place, str(number)
            )

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
        assert faults(newest_database) == RIGHT
        assert revenue(newest_database) == right_revenue(newest_database)
