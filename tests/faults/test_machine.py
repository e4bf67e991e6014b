"""A state machine of faults: crash, reconnect, ALTER TABLE, slow sink, poison event, full disk, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def on(found: Database, path: Path) -> type[Machine]:
    class OnThisDatabase(Machine):
        database = found
        folder = path

    return OnThisDatabase


def test_each_fault_once(newest_database: Database, tmp_path: Path) -> None:
    machine = on(newest_database, tmp_path)()
    try:
        machine.begin()
        machine.write(changes=[("put", 1), ("put", 3), ("remove", 2), ("move", 3)], undone=False)
        machine.write(changes=[("put", 4), ("remove", 1)], undone=True)
        machine.cut()
        machine.write(changes=[("put", 5), ("put", 5)], undone=False)
        machine.slow()
        for what in ("add", "rename", "retype"):
            machine.alter(what=what)
            machine.write(changes=[("put", 6)], undone=False)
        machine.crash(written=False)
        machine.full_disk()
        machine.write(changes=[("put", 1), ("move", 1)], undone=False)  # a long value that is not sent again
        machine.crash(written=True)
        machine.poison()
        machine.slow()
        machine.write(changes=[("put", 7), ("remove", 5)], undone=False)
        machine.alter(what="drop")
        machine.quick()
        machine.restart()
    finally:
        machine.teardown()


def test_targets_are_equal_whatever_happens(newest_database: Database, tmp_path: Path, long: bool) -> None:
    run_state_machine_as_test(
        on(newest_database, tmp_path),
        settings=settings(
            max_examples=100 if long else 5,
            stateful_step_count=30 if long else 12,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
