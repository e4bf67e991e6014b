"""Large transactions: bounded memory, whole, in order; many at once, of which half are rolled back (fault F14)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

import pgcdc
from tests.faults.judge import Delivered, Noted, judge, make_tables, read
from tests.faults.test_process import Consumer
from tests.pipeline.running import running
from tests.program import Program
from tests.replication.streams import new_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

MEBIBYTE = 1 << 20


@pytest.mark.parametrize("streaming", ["off", "on"])
def test_one_large_transaction(
    newest_database: Database, tmp_path: Path, streaming: str, long: bool, outcome: Callable[..., None]
) -> None:
    """Measured in a process of its own: what it takes from the first row on."""
    rows = 1_000_000 if long else 50_000
    database = newest_database
    make_tables(database)
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
    with database.server.settings(logical_decoding_work_mem="4MB"):
        database.execute("INSERT INTO written VALUES (0, 0, 'x')")
        database.execute(f"INSERT INTO written SELECT i, 1, repeat('x', 100) FROM generate_series(1, {rows}) i")
        consumer = Consumer(database, slot, tmp_path / "log", "--streaming", streaming, "--sums", "2")
        assert consumer.process.stdout is not None
        said = [consumer.process.stdout.readline().split() for _ in range(3)]
        assert consumer.end(seconds=120) == 0
        [(streamed,)] = database.execute(
            f"SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = '{slot}'"
        )
    assert said[0] == ["transaction", "1", "0"]
    assert said[1] == ["transaction", str(rows), str(rows * (rows + 1) // 2)]
    assert said[2][0] == "grown" and int(said[2][1]) < 64 * MEBIBYTE
    outcome(rows=rows, grown=f"{int(said[2][1]) / MEBIBYTE:.1f}MiB")
    assert (streamed > 0) == (streaming == "on"), "the server did what this is about"


def test_one_large_transaction_to_slow_sinks(
    newest_database: Database, tmp_path: Path, long: bool, outcome: Callable[..., None]
) -> None:
    """Through a pipeline whose sinks are slow, but for one: as many as they are, memory is bounded (F14, F16)."""
    rows, slow = (1_000_000, 8) if long else (30_000, 4)
    database = newest_database
    make_tables(database)
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
    database.execute(f"INSERT INTO written SELECT i, 1, repeat('x', 100) FROM generate_series(1, {rows}) i")
    arguments = (database.dsn, slot, str(rows), str(slow))
    program = Program("tests.faults.large_pipeline", tmp_path / "errors", *arguments)
    assert program.process.stdout is not None
    said = [program.process.stdout.readline().split() for _ in range(slow + 2)]
    assert program.end(seconds=240) == 0, (tmp_path / "errors").read_text()[-3000:]
    assert said[:-1] == [["sums", str(rows), str(rows * (rows + 1) // 2)]] * (slow + 1)
    assert said[-1][0] == "grown" and int(said[-1][1]) < 128 * MEBIBYTE
    outcome(rows=rows, sinks=slow + 1, grown=f"{int(said[-1][1]) / MEBIBYTE:.1f}MiB")


@pytest.mark.parametrize("streaming", ["off", "on"])
def test_many_at_once(
    newest_database: Database, streaming: Literal["off", "on"], long: bool, outcome: Callable[..., None]
) -> None:
    database, noted = newest_database, Noted()
    make_tables(database)
    with database.server.settings(logical_decoding_work_mem="64kB"), pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
        order = write_at_once(database, noted, long=long)
        with connection.stream(slot, ["p"], streaming=streaming, max_memory=MEBIBYTE) as stream:
            delivered = read(stream, noted)
    assert judge(database, noted, delivered) == 0
    outcome(transactions=len(order), rows=sum(len(one.rows) for one in delivered), twice=0)
    assert [one.rows[0][1] for one in delivered] == [number for number in order if number in noted.committed]


def test_many_at_once_through_a_pipeline(newest_database: Database, long: bool, outcome: Callable[..., None]) -> None:
    """One sink takes them as they come; a slower one, which has whole transactions, from its queue behind."""
    database, noted = newest_database, Noted()
    make_tables(database)
    pipeline = pgcdc.Pipeline(
        new_name(), database.dsn, tables=["written"], publication="p", snapshot="never", max_rows_in_flight=500
    )
    plain, whole = Takes(), Takes()
    pipeline.add(plain, name="plain")
    pipeline.add(whole, name="whole", transactions=True)
    pipeline.init()
    with database.server.settings(logical_decoding_work_mem="64kB"):
        order = write_at_once(database, noted, long=long)
        with running(pipeline) as run:
            run.catch_up(database)
    for sink in (plain, whole):
        assert judge(database, noted, sink.delivered) == 0
        assert [one.rows[0][1] for one in sink.delivered] == [number for number in order if number in noted.committed]
    assert len(whole.writes) == len(noted.committed), "each transaction in one write"
    outcome(transactions=len(order), rows=sum(len(one.rows) for one in plain.delivered), twice=0)
    pipeline.destroy()


class Takes:
    """Takes down what comes, transaction by transaction, and which of them each write was of."""

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.writes: list[int] = []

    def open(self) -> None:
        """Nothing to do."""

    def write(self, batch: pgcdc.Batch) -> None:
        commits: dict[int, None] = {}
        for change in batch.changes():
            assert isinstance(change, pgcdc.Insert) and isinstance(change.commit_lsn, int)
            commits[change.commit_lsn] = None
            if not self.delivered or self.delivered[-1].commit_lsn != change.commit_lsn:
                self.delivered.append(Delivered(change.commit_lsn))
            self.delivered[-1].rows.append((change.new.id, change.new.batch))
        self.writes += commits

    def close(self) -> None:
        """Nothing to do."""


def write_at_once(database: Database, noted: Noted, *, long: bool) -> list[int]:
    """Transactions that are all under way at the same time, written to in turn; in which order they ended.

    Every second one is rolled back, others to a savepoint.
    """
    count, rounds, size = (64, 20, 500) if long else (24, 4, 50)
    chosen = random.Random(14)
    connections = [database.connect() for _ in range(count)]
    try:
        ids: list[set[int]] = [set() for _ in connections]
        for each in connections:
            each.execute("BEGIN")
        for turn in range(rounds):
            for number, each in enumerate(connections):
                part = range((number * rounds + turn) * size, (number * rounds + turn + 1) * size)
                back = chosen.random() < 0.2
                if back:
                    each.execute("SAVEPOINT s")
                each.execute(
                    "INSERT INTO written SELECT i, %s, repeat('x', 200) FROM generate_series(%s::bigint, %s) i",
                    (number, part.start, part.stop - 1),
                )
                if back:
                    each.execute("ROLLBACK TO s")
                    noted.undone.update(part)
                else:
                    ids[number].update(part)
        order = list(range(count))
        chosen.shuffle(order)
        for number in order:
            connections[number].execute("COMMIT" if number % 2 else "ROLLBACK")
            if number % 2 and ids[number]:
                noted.committed[number] = ids[number]
            else:
                noted.undone |= ids[number]
        return order
    finally:
        for each in connections:
            each.close()
