"""kill -9 at any moment, and SIGTERM: nothing lost, nothing invented, commit order, nothing twice (faults F1, F2).

The judge compares what writers noted after COMMIT had returned, what the table has, and what the targets have.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pgcdc
from tests import program
from tests.pipeline.running import confirmed, flushed, slots, until
from tests.pipeline.targets import logged, mirrored

if TYPE_CHECKING:
    from tests.conftest import Database

BIG = 5_000
ROW = "concat_ws('|', id, coalesce(writer::text, 'None'), coalesce(amount::text, 'None'))"


class Writers:
    """Two writers of small transactions, of which some are rolled back, and one of 5,000-row transactions."""

    def __init__(self, database: Database, seed: int, *, large: bool = True) -> None:
        self.committed: set[int] = set()
        self.undone: set[int] = set()
        self.removed: set[int] = set()
        self.early: set[int] = set()
        self.big = 0
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._small, args=(seed, writer)) for writer in (1, 2)]
        if large:
            self._threads.append(threading.Thread(target=self._large))
        for thread in self._threads:
            thread.start()

    def _small(self, seed: int, writer: int) -> None:
        chosen = random.Random(seed * 10 + writer)
        key = writer * 10_000_000
        with self._database.connect() as connection:
            while not self._stop.is_set():
                undone = chosen.random() < 0.2
                keys = range(key, key + chosen.randint(1, 8))
                removed = {key} if (moved := chosen.random() < 0.2) else set()
                with connection.transaction(force_rollback=undone):
                    for new in keys:
                        connection.execute("INSERT INTO orders VALUES (%s, %s, 1.5)", (new, writer))
                    connection.execute(
                        "UPDATE orders SET amount = amount + 1 WHERE id = %s", (2 * chosen.randint(1, 9000) + writer,)
                    )
                    if moved:
                        connection.execute("UPDATE orders SET id = id + 5000000 WHERE id = %s", (key,))
                    if chosen.random() < 0.2:
                        connection.execute("DELETE FROM orders WHERE id = %s", (keys[-1],))
                        removed.add(keys[-1])
                if undone:
                    self.undone.update(keys)
                else:
                    self.removed |= removed
                    self.committed.update(keys)
                key = keys[-1] + 1
                self._stop.wait(0.005)

    def _large(self) -> None:
        with self._database.connect() as connection:
            while not self._stop.is_set():
                first = 100_000_000 + self.big * BIG
                connection.execute(
                    "INSERT INTO orders SELECT g, 3, 2.5 FROM generate_series(%s::bigint, %s) g",
                    (first, first + BIG - 1),
                )
                self.committed.update(range(first, first + BIG))
                self.big += 1
                self._stop.wait(0.8)

    def copied(self) -> None:
        """The initial copy is over: what is committed from now on must come through the stream."""
        self.early = set(self.committed)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Program(program.Program):
    """The pipeline's process."""

    def __init__(self, database: Database, folder: Path, *arguments: str, module: str = "killed_pipeline") -> None:
        super().__init__(f"tests.pipeline.{module}", folder / "stderr.log", database.dsn, str(folder), *arguments)


def judge(database: Database, folder: Path, writers: Writers) -> None:
    """Sets against each other what was written, what the table has, and what both targets have."""
    source = [row for (row,) in database.execute(f"SELECT {ROW} FROM orders ORDER BY id")]
    assert mirrored(folder / "mirror.db", "orders") == source

    log = logged(folder / "mirror.db")
    positions = [position for position, *_ in log]
    assert positions == sorted(positions), "commit order, a transaction's rows together"
    inserted = {key for _, action, _, key in log if action == "insert"}
    assert not inserted & writers.undone, "nothing invented"
    once = [(position, key) for position, action, _, key in log if action == "insert" and key != -1]
    assert len(once) == len(inserted - {-1}), "nothing twice in a target with positions (-1 is of `catch_up`)"

    lines = [line.split() for line in (folder / "handled.log").read_text().splitlines()]
    streamed = {(position, action, int(key)) for position, action, key in lines if not position.endswith("00000000")}
    assert streamed == {(position, action, key) for position, action, _, key in log}, "both targets have the same"
    copied = {int(key) for position, _, key in lines if position.endswith("00000000")}
    assert writers.committed - writers.early <= inserted, "nothing lost"
    # What was written before the copy and removed before it was never there to be copied.
    assert writers.committed - writers.removed <= inserted | copied, "nothing lost before the copy"
    assert not copied & writers.undone, "nothing invented by the copy"


def catch_up(database: Database, folder: Path, seconds: float = 60, pause: float = 0.01) -> None:
    """Waits until the stored positions of both consumers are past everything that is committed now."""
    wanted = flushed(database)
    # What is read below must not be what moves it: positions are stored when something was delivered.
    database.execute("INSERT INTO orders VALUES (-1, 0, 0)", "DELETE FROM orders WHERE id = -1")

    def reached() -> bool:
        through_lsn, consumers = copied_positions(database)
        return consumers == 2 and through_lsn >= wanted

    until(reached, f"everything stored; {(folder / 'stderr.log').read_text()[-3000:]}", seconds, pause)


def test_stopped_for_longer_than_the_server_waits(database: Database, tmp_path: Path) -> None:
    """SIGSTOP until wal_sender_timeout has ended the walsender, SIGCONT: it reconnects by itself (fault F19)."""
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, writer int, amount numeric(12,2))",
        "INSERT INTO orders SELECT g, 0, 1 FROM generate_series(1, 20000) g",
    )
    inactive = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop' AND NOT active"

    def back() -> int:
        return (tmp_path / "stderr.log").read_text().count("the server is back; it goes on from")

    with database.server.settings(wal_sender_timeout="1s"):
        process = Program(database, tmp_path)
        writers = Writers(database, database.server.version, large=False)
        try:
            catch_up(database, tmp_path)
            writers.copied()
            for _ in range(2):
                until(lambda: database.execute(inactive) == [], "it streams")
                before = back()
                process.process.send_signal(signal.SIGSTOP)
                until(lambda: database.execute(inactive) != [], "the server has given up")
                process.process.send_signal(signal.SIGCONT)
                # What it had received before it stores without a connection.
                until(lambda before=before: back() > before, "it has reconnected")  # type: ignore[misc]
                catch_up(database, tmp_path)
            writers.stop()
            catch_up(database, tmp_path)
        finally:
            writers.stop()
            process.process.send_signal(signal.SIGCONT)
            assert process.end(signal.SIGTERM) == 0
    judge(database, tmp_path, writers)


def test_killed_at_ten_moments(database: Database, tmp_path: Path) -> None:
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, writer int, amount numeric(12,2))",
        "INSERT INTO orders SELECT g, 0, 1 FROM generate_series(1, 20000) g",
    )
    seed = database.server.version
    chosen = random.Random(seed)
    writers = Writers(database, seed)
    moments: list[tuple[str, ...]] = [
        ("--die", f"copy:{chosen.randint(1, 9000)}"),
        ("--die", f"copy:{chosen.randint(10000, 19000)}"),
        ("--die", f"inside:{chosen.randint(1, 3000)}"),
        ("--die", f"handler:{chosen.randint(100, 4900)}"),
    ]
    try:
        for arguments in moments:
            assert Program(database, tmp_path, *arguments).end(None, 60) == -signal.SIGKILL
            if "copy" not in arguments[1] and not writers.early:
                writers.copied()
        assert writers.early
        for _ in range(6):
            program = Program(database, tmp_path)
            time.sleep(chosen.uniform(0.0, 1.5))  # not a synchronisation: any moment will do
            assert program.end(signal.SIGKILL) == -signal.SIGKILL
        program = Program(database, tmp_path)
    finally:
        writers.stop()
    try:
        catch_up(database, tmp_path)
    finally:
        code = program.end(signal.SIGTERM)
    assert code == 0, (tmp_path / "stderr.log").read_text()[-3000:]
    assert writers.big >= 4
    judge(database, tmp_path, writers)
    assert slots(database) == ["pgcdc_shop"]


def test_sigterm_under_load_is_done_in_five_seconds(database: Database, tmp_path: Path) -> None:
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, writer int, amount numeric(12,2))",
        "INSERT INTO orders SELECT g, 0, 1 FROM generate_series(1, 100) g",
    )
    writers = Writers(database, 1)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            program = Program(database, tmp_path)
            until(lambda: copied_positions(database)[1] == 2, "the copy is over")
            wanted = _count(tmp_path / "handled.log") + 6000
            until(lambda wanted=wanted: _count(tmp_path / "handled.log") > wanted, "some changes")  # type: ignore[misc]
            writers.copied()
            began = time.monotonic()
            assert program.end(number, 10) == 0, (tmp_path / "stderr.log").read_text()[-3000:]
            assert time.monotonic() - began < 5.5
            assert confirmed(database) == copied_positions(database)[0], "what is durable is confirmed"
        program = Program(database, tmp_path)
    finally:
        writers.stop()
    try:
        catch_up(database, tmp_path)
    finally:
        code = program.end(signal.SIGTERM)
    assert code == 0
    judge(database, tmp_path, writers)
    handled = (tmp_path / "handled.log").read_text().splitlines()
    assert len(handled) == len(set(handled)), "nothing was delivered twice after a stop"


def copied_positions(database: Database) -> tuple[int, int]:
    """The lowest through_lsn of the consumers whose copy is over, and how many they are."""
    if database.execute("SELECT to_regclass('pgcdc.positions')") == [(None,)]:
        return 0, 0
    query = "SELECT coalesce(min(through_lsn), '0/0')::text, count(*) FROM pgcdc.positions WHERE snapshot = 'done'"
    [(through_lsn, consumers)] = database.execute(query)
    return pgcdc.parse_lsn(through_lsn), consumers


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
