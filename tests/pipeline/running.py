"""A pipeline that runs in a thread of its own while a test looks at it, and conditions that are waited for."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING
from unittest import mock

import pgcdc
from pgcdc.pipeline.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Database

DEADLINE = 30.0


def until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE, pause: float = 0.01) -> None:
    """Returns when a condition holds; fails when it does not in time. One that connects is asked less often."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(pause)


def flushed(database: Database) -> int:
    """How far the server's WAL is flushed now."""
    return pgcdc.parse_lsn(database.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0])


def confirmed(database: Database, slot: str = "pgcdc_shop") -> int:
    """How far a slot is confirmed."""
    rows = database.execute(f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'")
    return pgcdc.parse_lsn(rows[0][0])


def slots(database: Database) -> list[str]:
    """The slots of the test's database."""
    return [
        name
        for (name,) in database.execute(
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
        )
    ]


@contextlib.contextmanager
def counted_saves() -> Iterator[Callable[[int], None]]:
    """Gives a function that waits until a running pipeline has looked so many times more whether to store positions."""
    looked = threading.Semaphore(0)
    save = Ledger.save

    def counted(ledger: Ledger, *, final: bool = False) -> int:
        try:
            return save(ledger, final=final)
        finally:
            looked.release()

    def wait(times: int) -> None:
        while looked.acquire(blocking=False):
            pass  # what was before does not count
        for _ in range(times):
            assert looked.acquire(timeout=DEADLINE), "positions are not looked at any more"

    with mock.patch.object(Ledger, "save", counted):
        yield wait


class Running:
    """A running pipeline."""

    def __init__(self, pipeline: pgcdc.Pipeline) -> None:
        self.pipeline = pipeline
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="test-pipeline")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def streaming(self) -> None:
        """Waits until the initial copy is over."""
        until(lambda: self.pipeline.statistics().source.phase == "streaming" or not self.alive, "streaming")
        if not self.alive and self.error is not None:
            raise self.error

    def catch_up(self, database: Database) -> None:
        """Waits until every consumer has everything that is committed now."""
        self.pipeline.wait_sync(flushed(database), DEADLINE)

    def ended(self, seconds: float = DEADLINE) -> BaseException | None:
        """Waits until it ends by itself; returns its error."""
        self._thread.join(seconds)
        assert not self.alive, "the pipeline did not end"
        return self.error

    def stop(self, seconds: float = DEADLINE) -> None:
        self.pipeline.stop()
        self.ended(seconds)


@contextlib.contextmanager
def running(pipeline: pgcdc.Pipeline) -> Iterator[Running]:
    """Runs a pipeline for the length of a block, and raises what it ended with when the block did not."""
    run = Running(pipeline)
    try:
        yield run
    except BaseException:
        run.stop()
        raise
    run.stop()
    if run.error is not None:
        raise run.error
