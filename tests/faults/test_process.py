"""The consumer's process is killed, stopped, or stands still under load (faults F1, F2 and F17)."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil

import pgcdc
from tests.faults.judge import Delivered, Writers, judge, make_tables, until
from tests.program import Program
from tests.replication.streams import confirmed, new_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Database


class Consumer(Program):
    """The program consumer.py as a process."""

    def __init__(self, database: Database, slot: str, log: Path, *options: str) -> None:
        super().__init__("tests.faults.consumer", log.with_suffix(".errors"), database.dsn, slot, str(log), *options)


def logged(log: Path) -> list[Delivered]:
    """What the program has kept, whole lines only."""
    text = log.read_text() if log.exists() else ""
    delivered = []
    for line in text[: text.rfind("\n") + 1].splitlines():
        end_lsn, commit_lsn, rows = line.split()
        pairs = [row.split(":") for row in rows.split(",")]
        delivered.append(
            Delivered(int(commit_lsn), int(end_lsn), [(int(number), int(batch)) for number, batch in pairs])
        )
    return delivered


def follow(writers: Writers, log: Path) -> threading.Thread:
    """Let writers go on as the program does."""

    def run() -> None:
        known = 0
        while not writers.done:
            for _ in range(count := max(0, len(logged(log)) - known)):
                writers.seen()
            known += count
            time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def has_all(writers: Writers, log: Path) -> bool:
    """Whether all that was committed is in the log."""
    return writers.committed.keys() <= {batch for one in logged(log) for _, batch in one.rows}


def until_more(writers: Writers, log: Path, count: int) -> None:
    """Wait for so many transactions in the log, or all that there will be: a reader may be faster than who looks."""
    until(lambda: len(logged(log)) >= count or (writers.done and has_all(writers, log)))


def test_killed_and_stopped(database: Database, tmp_path: Path, long: bool, outcome: Callable[..., None]) -> None:
    """With a position of its own nothing comes twice; after SIGTERM and SIGINT all that it has is confirmed."""
    make_tables(database)
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
    log = tmp_path / "log"
    free = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
    chosen = random.Random(database.server.version)
    with Writers(database, 400 if long else 150) as writers:
        following = follow(writers, log)
        numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT] * (5 if long else 1)
        agains: list[float] = []
        endings: list[float] = []
        for number in numbers:
            known, began = len(logged(log)), time.monotonic()
            consumer = Consumer(database, slot, log)
            until_more(writers, log, known + 1)
            agains.append(time.monotonic() - began)
            until_more(writers, log, len(logged(log)) + chosen.randint(1, 12))
            began = time.monotonic()
            assert consumer.end(number) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
            if number != signal.SIGKILL:
                endings.append(time.monotonic() - began)
                assert time.monotonic() - began < 15  # 5 and the end of an interpreter on a busy machine
                assert confirmed(database, slot) >= logged(log)[-1].end_lsn
            until(lambda: database.execute(free))
        consumer = Consumer(database, slot, log)
        try:
            until(lambda: writers.done and has_all(writers, log), 90)
            memory = psutil.Process(consumer.process.pid).memory_info().rss
        finally:
            assert consumer.end(signal.SIGTERM) == 0
        following.join()
    twice = judge(database, writers, logged(log))
    outcome(
        faults=len(numbers),
        again=f"{max(agains):.2f}s",
        ended=f"{max(endings):.2f}s",
        rows=sum(len(one.rows) for one in logged(log)),
        twice=twice,
        rss=f"{memory >> 20}MiB",
    )


def test_standing_still(newest_database: Database, tmp_path: Path, long: bool, outcome: Callable[..., None]) -> None:
    """SIGSTOP for longer than wal_sender_timeout: the server gives up, and the program comes back by itself."""
    database = newest_database
    make_tables(database)
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
    log = tmp_path / "log"
    free = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
    with database.server.settings(wal_sender_timeout="1s"), Writers(database, 400 if long else 150) as writers:
        agains: list[float] = []
        following = follow(writers, log)
        consumer = Consumer(database, slot, log)
        try:
            for _ in range(5 if long else 1):
                until_more(writers, log, len(logged(log)) + 5)
                consumer.process.send_signal(signal.SIGSTOP)
                until(lambda: database.execute(free))
                known, began = len(logged(log)), time.monotonic()
                consumer.process.send_signal(signal.SIGCONT)
                until_more(writers, log, known + 1)
                agains.append(time.monotonic() - began)
            until(lambda: writers.done and has_all(writers, log), 90)
        finally:
            consumer.process.send_signal(signal.SIGCONT)
            assert consumer.end(signal.SIGTERM) == 0
        following.join()
    twice = judge(database, writers, logged(log))
    rows = sum(len(one.rows) for one in logged(log))
    outcome(faults=len(agains), again=f"{max(agains):.2f}s", rows=rows, twice=twice)
