"""A pipeline loses its server and its network under load, with its positions behind both (faults F3, F4, F9)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pgcdc
from pgcdc.replication import Reconnect
from tests.faults.judge import Delivered, Writers, judge, make_tables, until
from tests.pipeline.running import running
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

    from tests.conftest import Database

SOON = Reconnect(first=0.02, longest=0.2)


class Judged:
    """Takes down what comes, transaction by transaction, and keeps no position; strikes now and then.

    Args:
        writers: Who writes.
        strikes: What to do, one after the other, each when the one before was got over.
        over: How many were.
    """

    def __init__(self, writers: Writers, strikes: Sequence[Callable[[], None]], over: Callable[[], int]) -> None:
        self.delivered: list[Delivered] = []
        self.left = list(strikes)
        self._writers = writers
        self._over = over
        self._count = len(strikes)
        self._due = 5

    def open(self) -> None:
        """Nothing to do."""

    def write(self, batch: pgcdc.Batch) -> None:
        for change in batch.changes():
            assert isinstance(change, pgcdc.Insert) and isinstance(change.commit_lsn, int)
            if not self.delivered or self.delivered[-1].commit_lsn != change.commit_lsn:
                self.delivered.append(Delivered(change.commit_lsn))
                self._writers.seen()
            self.delivered[-1].rows.append((change.new.id, change.new.batch))
        if self.left and len(self.delivered) >= self._due and self._over() >= self._count - len(self.left):
            self.left.pop(0)()
            self._due = len(self.delivered) + 5

    def close(self) -> None:
        """Nothing to do."""


def test_a_pipeline_survives_its_server(
    newest_database: Database, long: bool, caplog: pytest.LogCaptureFixture
) -> None:
    database = newest_database
    make_tables(database)
    restarts: list[threading.Thread] = []
    writers = Writers(database, 800 if long else 100)

    def terminate() -> None:
        database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")

    def crash() -> None:
        database.server.crash()
        database.server.start()

    def restart() -> None:  # in a thread: a server that is stopped waits for what we have not confirmed yet
        restarts.append(threading.Thread(target=database.server.restart, args=("fast",)))
        restarts[-1].start()

    with Proxy(database.server.port) as proxy:

        def cut() -> None:
            proxy.cut_after = 777

        strikes: list[Callable[[], None]] = [terminate, crash, proxy.close, proxy.reset, proxy.half_close, cut, restart]
        strikes *= 6 if long else 1
        sink = Judged(writers, strikes, lambda: caplog.text.count("the server is back"))
        pipeline = pgcdc.Pipeline(
            "judged", proxy.dsn(database.dsn), tables=["written"], publication="p", reconnect=SOON
        )
        pipeline.add(sink, name="sink")
        proxy.bite = 999  # so that it is in the middle of something
        with running(pipeline) as run:
            run.streaming()
            with writers:
                until(lambda: writers.done, 300 if long else 90)
            until(lambda: writers.committed.keys() <= {batch for one in sink.delivered for _, batch in one.rows}, 60)
            for thread in restarts:
                thread.join()
            run.catch_up(database)
    assert not sink.left, "not everything was done that was to be done meanwhile"
    assert judge(database, writers, sink.delivered) == 0
