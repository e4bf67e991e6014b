"""The judge of all faults: sets of what writers noted after COMMIT had returned, of what the table has, of what came.

L0 nothing lost · L1 nothing invented · L2 commit order, a transaction's rows together · L3 nothing twice, but for
transactions that were not confirmed when another stream was begun.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg

from pgcdc.events import Commit, Insert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pgcdc.replication import Stream
    from tests.conftest import Database

__all__ = ["Delivered", "Noted", "Writers", "judge", "make_tables", "read", "until"]

SECONDS = 90.0
AHEAD = 12
"""How many transactions writers are ahead of the reader: so that there is always something to write and to read."""


def make_tables(database: Database) -> None:
    """The table that writers write to, and its publication."""
    database.execute(
        "CREATE TABLE written (id bigint PRIMARY KEY, batch bigint, note text)",
        "CREATE PUBLICATION p FOR TABLE written",
    )


@dataclass
class Delivered:
    """A transaction as the reader had it."""

    commit_lsn: int
    end_lsn: int = 0
    rows: list[tuple[int, int]] = field(default_factory=list)
    """`(id, batch)` of each."""
    confirmed: bool = True


@dataclass
class Noted:
    """What writers noted who have written all of it: each batch is one transaction."""

    committed: dict[int, set[int]] = field(default_factory=dict)
    undone: set[int] = field(default_factory=set)
    unknown: dict[int, set[int]] = field(default_factory=dict)
    done = True

    def seen(self) -> None:
        """Nobody waits."""


class Writers:
    """Threads that write transactions of a few rows, a fifth of them rolled back, until each has written so many.

    They live through a server that goes away: what became of a COMMIT that was not answered is unknown.

    Args:
        database: Where to.
        count: How many transactions each commits or rolls back.
        threads: How many they are.
        size: Bytes of a row.
    """

    def __init__(self, database: Database, count: int, *, threads: int = 2, size: int = 100) -> None:
        self.committed: dict[int, set[int]] = {}
        self.undone: set[int] = set()
        self.unknown: dict[int, set[int]] = {}
        self._database = database
        self._count = count
        self._size = size
        self._room = threading.Semaphore(AHEAD)
        self._stopped = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        for _ in range(AHEAD + len(self._threads)):
            self._room.release()
        for thread in self._threads:
            thread.join()
        assert self._errors == []

    @property
    def done(self) -> bool:
        """Whether all is written."""
        return not any(thread.is_alive() for thread in self._threads)

    def seen(self) -> None:
        """The reader has one more: there is room for another."""
        self._room.release()

    def _run(self, number: int) -> None:
        try:
            self._write(number, random.Random(number))
        except BaseException as error:
            self._errors.append(error)

    def _write(self, number: int, chosen: random.Random) -> None:
        connection: psycopg.Connection[tuple[object, ...]] | None = None
        for batch in range(number * 1_000_000, number * 1_000_000 + self._count):
            undone = chosen.random() < 0.2
            if not undone:
                self._room.acquire()
            if self._stopped.is_set():
                break
            ids = set(range(batch * 10, batch * 10 + chosen.randint(1, 6)))
            while not self._stopped.is_set():
                committing = False
                try:
                    connection = connection or self._database.connect()
                    connection.execute("BEGIN")
                    connection.execute(
                        "INSERT INTO written SELECT i, %s, repeat('x', %s) FROM unnest(%s::bigint[]) i",
                        (batch, self._size, sorted(ids)),
                    )
                    committing = not undone
                    connection.execute("ROLLBACK" if undone else "COMMIT")
                except psycopg.OperationalError:
                    if connection is not None:
                        connection.close()
                    connection = None
                    if committing:
                        self.unknown[batch] = ids
                        self._room.release()
                        break
                    time.sleep(0.02)  # the server is away; that it comes back is somebody else's business
                else:
                    if undone:
                        self.undone |= ids
                    else:
                        self.committed[batch] = ids
                    break
        if connection is not None:
            connection.close()


def read(
    stream: Stream,
    writers: Writers | Noted,
    strikes: Sequence[Callable[[], None]] = (),
    *,
    confirm: Callable[[int], bool] = lambda number: True,
    outages: list[float] | None = None,
) -> list[Delivered]:
    """Read until everything that was committed has come.

    Args:
        stream: The stream.
        writers: Who writes.
        strikes: What to do meanwhile, one after the other: each when a few transactions have come since the one before,
            and the connection that it has broken was made again.
        confirm: Whether to confirm the transaction of this number.
        outages: Takes how many seconds after each strike that cost the connection the next transaction came.

    Returns:
        What was delivered.
    """
    left = list(strikes)
    due = 5
    delivered: list[Delivered] = []
    missing: set[int] = set()
    known = 0
    inside: Delivered | None = None
    struck: tuple[float, int] | None = None
    deadline = time.monotonic() + SECONDS
    while True:
        for event in stream.read(0.1).events(stream.format):
            if isinstance(event, Insert):
                if inside is None or inside.commit_lsn != event.commit_lsn:
                    assert inside is None, "a transaction ended without its Commit"
                    assert isinstance(event.commit_lsn, int)
                    inside = Delivered(event.commit_lsn)
                inside.rows.append((event.new.id, event.new.batch))
            elif isinstance(event, Commit):
                if inside is not None:
                    assert inside.commit_lsn == event.commit_lsn
                    inside.end_lsn = event.end_lsn
                    inside.confirmed = confirm(len(delivered))
                    delivered.append(inside)
                    if struck is not None and stream.reconnects > struck[1]:
                        if outages is not None:
                            outages.append(time.monotonic() - struck[0])
                        struck = None
                    writers.seen()
                    deadline = time.monotonic() + SECONDS
                    if inside.confirmed:
                        stream.confirm(event)
                    inside = None
                else:
                    stream.confirm(event)
            if left and len(delivered) >= due and stream.reconnects >= len(strikes) - len(left):
                struck = time.monotonic(), stream.reconnects
                left.pop(0)()
                due = len(delivered) + 5
        if writers.done:
            for one in delivered[known:]:
                missing.update(batch for _, batch in one.rows)
            known = len(delivered)
            if writers.committed.keys() <= missing:
                assert not left, "not everything was done that was to be done meanwhile"
                return delivered
        assert time.monotonic() < deadline, f"only {len(delivered)} transactions came; {len(left)} strikes are left"


def judge(
    database: Database, writers: Writers | Noted, delivered: Iterable[Delivered], *, restarts: Iterable[int] = ()
) -> int:
    """Set against each other what was written, what the table has, and what was delivered.

    Args:
        database: Where it was written.
        writers: Who wrote, or what they noted.
        delivered: What came, of all streams one after the other.
        restarts: At which places of `delivered` another stream was begun.

    Returns:
        How many transactions came more than once.
    """
    delivered = list(delivered)
    table = {(row[0], row[1]) for row in database.execute("SELECT id, batch FROM written")}
    came = {row for one in delivered for row in one.rows}
    kept = {(number, batch) for batch, ids in writers.committed.items() for number in ids}
    perhaps = {(number, batch) for batch, ids in writers.unknown.items() for number in ids}
    assert kept <= table <= kept | perhaps, "the server has what it said"
    assert not kept - came, "L0: lost"
    assert not table - came - perhaps, "L0: lost"
    assert not came - table, "L1: invented"
    assert not {number for number, _ in came} & writers.undone, "L1: rolled back and delivered"

    bounds = [0, *restarts, len(delivered)]
    seen: dict[int, Delivered] = {}
    twice = 0
    for first, last in pairwise(bounds):
        run = delivered[first:last]
        assert [one.commit_lsn for one in run] == sorted({one.commit_lsn for one in run}), "L2: commit order, each once"
        done = max((one.end_lsn for one in delivered[:first] if one.confirmed), default=0)
        for one in run:
            batches = {batch for _, batch in one.rows}
            assert len(batches) == 1, "L2: one transaction at a time"
            batch = batches.pop()
            whole = writers.committed.get(batch) or writers.unknown[batch]
            assert sorted(number for number, _ in one.rows) == sorted(whole), (
                "L2: a transaction's rows together, each once"
            )
            if (before := seen.get(batch)) is not None:
                twice += 1
                assert before.commit_lsn == one.commit_lsn
                assert one.end_lsn > done, "L3: what was confirmed came again"
            seen[batch] = one
    return twice


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Ask again and again, with a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            if condition():
                return
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
