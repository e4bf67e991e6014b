"""The assembler on servers: the same WAL read by protocol 1 and streamed comes to the same, whatever is open at once.

The golden captures show one workload, chosen by hand; here are others, chosen by chance, and what a capture cannot
show: a consumer that starts again while something is prepared, and what a large transaction costs.
"""

from __future__ import annotations

import gc
import random
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from pgcdc.errors import DecodeError, PositionError, ReplicationError
from pgcdc.events import Commit, Insert, Message, StreamAbort, StreamCommit, StreamStart
from pgcdc.protocol import Assembler, Batch, BatchReader, Decoder, RowFormat
from tests.golden.make import END, Manner, connect, manners, sent, stream
from tests.protocol import wire
from tests.protocol.test_assembler import assembled, said

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.golden.make import Captured

SESSIONS = "abcdef"
FILL = "INSERT INTO filler SELECT i FROM generate_series(1, 700) i"
"""More than the server decodes in memory: then it streams, the largest transaction first."""


class Session:
    """One session of a workload that is chosen by chance; nothing that it does waits for another one."""

    def __init__(self, name: str, connection: psycopg.Connection[Any], luck: random.Random) -> None:
        self.name, self.connection, self.luck = name, connection, luck
        self.savepoints: list[str] = []
        self.open = self.rolled_back = False
        self.prepared: str | None = None
        self.number = 0

    def run(self, statement: str) -> None:
        """One statement, with the next number in the place of {n} and the session's table in that of {own}."""
        self.number += 1
        own = f"own_{self.name}"
        self.connection.execute(statement.format(n=self.number, own=own, session=self.name))

    def step(self) -> None:
        """Begin, change something, set or leave a savepoint, or end."""
        if not self.open:
            if self.prepared:
                self.end_prepared()
                return
            self.run("BEGIN")
            self.open, self.rolled_back, self.savepoints = True, False, []
            return
        match self.luck.randrange(20):
            case 0 | 1:
                self.savepoints.append(f"s{self.number}")
                self.run(f"SAVEPOINT {self.savepoints[-1]}")
            case 2 | 3 if self.savepoints:
                # Any of those that are open: with it go those inside.
                depth = self.luck.randrange(len(self.savepoints))
                self.run(f"ROLLBACK TO {self.savepoints[depth]}")
                del self.savepoints[depth + 1 :]
                self.rolled_back = True
            case 4 if self.savepoints:
                self.run(f"RELEASE {self.savepoints.pop()}")
            case 5 | 6 | 7:
                self.run(FILL)
            case 8 | 9:
                self.end()
            # PostgreSQL itself fails at such a table in a stream ("could not map filenumber") after a rollback in it.
            case 10 if not self.savepoints and not self.rolled_back:
                self.run(self.luck.choice(("TRUNCATE {own}", "ALTER TABLE {own} ADD COLUMN c{n} int DEFAULT {n}")))
            case 11:
                self.run("SELECT pg_logical_emit_message(false, 'p', '{session}{n}')")
                # Before and after one that belongs to the transaction a row: else nobody can say to what in it.
                self.run("INSERT INTO shared VALUES ({n}, '{session}')")
                self.run("SELECT pg_logical_emit_message(true, 'p', '{session}{n}')")
                self.run("INSERT INTO shared VALUES ({n}, '{session}')")
            case 12 | 13:
                self.run("UPDATE {own} SET v = '{n}' WHERE id % 3 = 0")
            case 14:
                self.run("DELETE FROM {own} WHERE id % 5 = 0")
            case _:
                self.run("INSERT INTO {own} (id, v) VALUES ({n}, repeat('{session}', 200))")
                self.run("INSERT INTO shared VALUES ({n}, '{session}')")

    def end(self) -> None:
        """Commit, roll back or prepare."""
        self.open = False
        match self.luck.randrange(4):
            case 0:
                self.run("ROLLBACK")
            case 1:
                self.prepared = f"{self.name}{self.number}"
                self.run(f"PREPARE TRANSACTION '{self.prepared}'")
            case _:
                self.run("COMMIT")

    def end_prepared(self) -> None:
        """It holds its locks till then, so this session does nothing else before."""
        self.run(f"{self.luck.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))} PREPARED '{self.prepared}'")
        self.prepared = None


def random_workload(database: Database, seed: int, steps: int) -> dict[str, Captured]:
    """Run a workload in all sessions by turns; what came of it in each manner that the version knows."""
    luck = random.Random(seed)
    every = manners(database.server.version)
    own = [f"CREATE TABLE own_{name} (id int PRIMARY KEY, v text)" for name in SESSIONS]
    publication = "CREATE PUBLICATION streams FOR TABLE shared, " + ", ".join(f"own_{name}" for name in SESSIONS)
    database.execute("CREATE TABLE filler (i int)", "CREATE TABLE shared (n int, v text)", *own, publication)
    with ExitStack() as stack:
        first = stack.enter_context(connect(database.dsn))
        for name, manner in every.items():
            first.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, %s)",
                (slot(database, name), manner.two_phase),
            )
        sessions = [Session(name, stack.enter_context(connect(database.dsn)), luck) for name in SESSIONS]
        for _ in range(steps):
            luck.choice(sessions).step()
        for session in sessions:
            if session.open:
                session.end()
            if session.prepared:
                session.end_prepared()
        finish(first, "the end of the capture")
    return {name: stream(database.dsn, slot(database, name), manner) for name, manner in every.items()}


def slot(database: Database, manner: str) -> str:
    """A name that no other database of the server has for its slots."""
    return f"{database.name}_{manner}".replace("-", "_").lower()


def finish(connection: psycopg.Connection[Any], end: str) -> None:
    """The message at which reading stops, and that what others committed is in the WAL's file."""
    connection.execute("SELECT pg_logical_emit_message(false, %s, '')", (end,))
    connection.execute("CREATE TABLE IF NOT EXISTS flushed ()")
    connection.execute("DROP TABLE flushed")


@pytest.mark.parametrize("seed", [1, 2])
def test_transactions_chosen_by_chance(database: Database, seed: int) -> None:
    """Six sessions by turns: savepoints at several depths, DDL, TRUNCATE, messages, PREPARE; half is rolled back."""
    captured = random_workload(database, seed, 400)
    lsns, messages = zip(*captured.pop("plain"), strict=True)
    expected = said(Decoder("dict").decode_many(messages, lsns))
    assert len(expected) > 100
    for manner, pairs in captured.items():
        assert "unasked" in manner or any(message[:1] == b"S" for _, message in pairs)
        for max_memory in (0, 20_000):
            assembler = Assembler(max_memory=max_memory, format=RowFormat("dict"))
            got = said(assembled(pairs, assembler, 50))
            assert got == expected, manner
            assert assembler.idle


TWO_PHASE = Manner({"proto_version": "3", "streaming": "on", "two_phase": "on"}, two_phase=True, since=15)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["small", "streamed"])
def test_a_consumer_that_starts_again_while_something_is_prepared(database: Database, is_streamed: bool) -> None:
    """What may be confirmed by then loses nothing; what may not does, and the assembler says so (fault F15)."""
    if database.server.version < 15:
        assert "prepared" not in manners(database.server.version)
        return
    database.execute("CREATE TABLE filler (i int)", "CREATE TABLE t (id int)", "CREATE PUBLICATION streams FOR TABLE t")
    names = [slot(database, name) for name in ("good", "bad")]
    with connect(database.dsn) as session:
        for name in names:
            session.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, true)", (name,))
        for gid in ("kept", "lost"):
            session.execute("BEGIN")
            session.execute("INSERT INTO t VALUES (%s)", ({"kept": 1, "lost": 2}[gid],))
            if is_streamed:
                session.execute(FILL)
            session.execute(f"PREPARE TRANSACTION '{gid}'")
        session.execute("INSERT INTO t VALUES (3)")
        finish(session, "half")
        assembler = Assembler(max_memory=0)
        half = assembled(stream(database.dsn, names[0], TWO_PHASE, "half"), assembler)
        assert rows(half) == [3]
        (commit,) = (event for event in half if isinstance(event, Commit))
        assert assembler.hold_lsn == assembler.confirmable_lsn < commit.end_lsn
        wait_until_free(session, names[0])
        for name, lsn in zip(names, (assembler.confirmable_lsn, commit.end_lsn), strict=True):
            session.execute("SELECT pg_replication_slot_advance(%s, '0/0'::pg_lsn + %s)", (name, lsn))
        session.execute("COMMIT PREPARED 'kept'")
        session.execute("ROLLBACK PREPARED 'lost'")
        session.execute("INSERT INTO t VALUES (4)")
        finish(session, "whole")
    again = assembled(stream(database.dsn, names[0], TWO_PHASE, "whole"), assembler := Assembler(max_memory=0))
    assert rows(again) == [3, 1, 4]
    assert assembler.idle and assembler.hold_lsn is None
    with pytest.raises(PositionError, match=r"the prepared transaction \d+ \(kept\) were not sent"):
        assembled(stream(database.dsn, names[1], TWO_PHASE, "whole"), Assembler())


def test_a_logical_message_has_the_id_of_the_whole_transaction(database: Database) -> None:
    """Whatever sub-transaction wrote it: of one before a savepoint and one behind it the server says the same."""
    database.execute("CREATE TABLE filler (i int)", "CREATE TABLE t (id int)", "CREATE PUBLICATION streams FOR TABLE t")
    name = slot(database, "messages")
    emit = "SELECT pg_logical_emit_message(true, '{}', '')"
    with connect(database.dsn) as session:
        session.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        # Decoded while it runs, so that the server does not know yet what will be rolled back.
        with closing(sent(database.dsn, name, Manner({"proto_version": "2", "streaming": "on"}))) as messages:
            for statement in ("BEGIN", FILL, "SAVEPOINT s", emit.format("behind"), FILL, FILL):
                session.execute(statement)
            decoder = Decoder()
            received: list[bytes] = []
            events: list[Any] = []

            def receive(kind: type) -> None:
                while kind not in map(type, events):
                    received.append(next(messages)[1])
                    events.append(decoder.decode(received[-1]))

            receive(Message)
            session.execute("ROLLBACK TO s")
            session.execute("COMMIT")
            receive(StreamCommit)
    (message,) = (event for event in events if isinstance(event, Message))
    (abort,) = (event for event in events if isinstance(event, StreamAbort))
    assert message.xid == abort.xid < abort.subxid
    with pytest.raises(ReplicationError, match="does not say whether it was rolled back with a savepoint") as caught:
        list(Assembler().read(received))
    assert caught.value.lsn == message.lsn
    assert "streaming off" in (caught.value.hint or "")


def test_a_logical_message_behind_a_row_that_follows_it(database: Database) -> None:
    """The server may send it so, where another sub-transaction wrote the row: both have the same LSN.

    A message's is the end of its WAL record, a row's the beginning: server functions `logicalmsg_decode` and
    `DecodeInsert`.
    """
    database.execute("CREATE TABLE filler (i int)", "CREATE TABLE t (id int)", "CREATE PUBLICATION streams FOR TABLE t")
    names = [slot(database, name) for name in ("plain", "streamed")]
    emit = "SELECT pg_logical_emit_message(true, '{}', '')"
    with connect(database.dsn) as session:
        for name in names:
            session.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        for statement in (
            *("BEGIN", "SAVEPOINT a", "INSERT INTO t VALUES (1)", "RELEASE a", emit.format("one")),
            *("SAVEPOINT b", "INSERT INTO t VALUES (2)", "RELEASE b", emit.format("two")),
            *("SAVEPOINT c", "INSERT INTO t VALUES (3)", "RELEASE c", FILL, FILL),
            *("SAVEPOINT d", "INSERT INTO t VALUES (4), (5)", emit.format("lost"), FILL, "ROLLBACK TO d", "COMMIT"),
            # Of this one nobody can say whether it stood before the savepoint that was rolled back, or behind it.
            *("BEGIN", "SAVEPOINT a", "INSERT INTO t VALUES (6)", "RELEASE a", emit.format("three")),
            *("SAVEPOINT b", "INSERT INTO t VALUES (7)", FILL, FILL, "ROLLBACK TO b", "COMMIT"),
        ):
            session.execute(statement)
        finish(session, END)
    plain = stream(database.dsn, names[0], Manner({"proto_version": "1"}))
    streamed = stream(database.dsn, names[1], Manner({"proto_version": "2", "streaming": "on"}))
    lsns, messages = zip(*plain, strict=True)
    expected = list(map(told, Decoder("dict").decode_many(messages, lsns)))
    for max_memory in (0, 2**25):
        lsns, messages = zip(*streamed, strict=True)
        batches = Assembler(max_memory=max_memory, format=RowFormat("dict")).read(messages, lsns)
        got: list[Any] = []
        with pytest.raises(ReplicationError, match="does not say whether it was rolled back"):
            got.extend(told(event) for batch in batches for event in batch.events())
        # At one LSN protocol 1 leaves the order to chance, too; here it is the WAL's.
        assert got == ["Begin", "Relation", 1, "one", 2, "two", 3, "Commit"]
        assert sorted(map(str, got)) == sorted(map(str, expected[: len(got)]))


def told(event: Any) -> Any:
    """A row by its id, a message by its prefix, else what it is."""
    if isinstance(event, Insert):
        return event.new["id"]
    return event.prefix if isinstance(event, Message) else type(event).__name__


def test_a_stream_abort_where_nothing_is_streamed(database: Database) -> None:
    """PostgreSQL 18 sends one for a large transaction that was rolled back with a savepoint in it; it changes nothing.

    That is when the roll-back is known by the time that memory is full: server functions
    `ReorderBufferCheckAndTruncateAbortedTXN` and `ReorderBufferAbort`.
    """
    large = "INSERT INTO t SELECT {0} + i, repeat('x', 30) FROM generate_series(1, {1}) i"
    name = slot(database, "not_streamed")
    database.execute(
        "CREATE TABLE t (id int, v text)",
        "CREATE PUBLICATION streams FOR TABLE t",
        f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')",
    )
    with connect(database.dsn) as session, connect(database.dsn) as other:
        for end in ("ROLLBACK", "ROLLBACK TO a", "RELEASE a"):
            session.execute("BEGIN")
            session.execute(large.format(10_000, 400))
            other.execute("INSERT INTO t VALUES (1, '')")
            session.execute("SAVEPOINT a")
            session.execute(large.format(20_000, 300))
            session.execute(end)
            session.execute("COMMIT")
        finish(other, END)
    pairs = stream(database.dsn, name, Manner({"proto_version": "1"}))
    lsns, messages = zip(*pairs, strict=True)
    rows_as = RowFormat("dict")
    decoded = Batch.of(messages, lsns).events(rows_as)
    aborts = [event for event in decoded if isinstance(event, StreamAbort)]
    assert bool(aborts) == (database.server.version >= 18)
    assert not any(isinstance(event, StreamStart | DecodeError) for event in decoded)
    first, second = range(10_001, 10_401), range(20_001, 20_301)
    kept = [1, 1, *first, 1, *first, *second]
    assert [event.new["id"] for event in decoded if isinstance(event, Insert)] == kept
    of_transactions = [(lsn, message) for lsn, message in pairs if message[:1] != b"A"]
    without = Batch.of([message for _, message in of_transactions], [lsn for lsn, _ in of_transactions]).events(rows_as)
    assert [event for event in decoded if not isinstance(event, StreamAbort)] == without
    batch = BatchReader(rows_as).read([wire.xlogdata(message, lsn) for lsn, message in pairs])
    assert (batch.in_progress, batch.events()) == (False, decoded)
    assert batch.changes() == [event for event in without if isinstance(event, Insert)]
    last = next(event for event in reversed(without) if isinstance(event, Commit))
    assert batch.end_lsn == last.end_lsn
    assembler = Assembler(format=rows_as)
    assert said(assembled(pairs, assembler)) == said(without)
    assert assembler.idle and assembler.confirmable_lsn == last.end_lsn


def wait_until_free(session: psycopg.Connection[Any], name: str) -> None:
    """A walsender notices a little later that its client has gone."""
    deadline = time.monotonic() + 30
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    while session.execute(active, (name,)).fetchone() == (True,):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows(events: list[Any]) -> list[int]:
    """What was inserted."""
    return [event.new.id for event in events if isinstance(event, Insert)]


@pytest.mark.slow
def test_half_a_million_rows_in_one_transaction(newest_database: Database) -> None:
    """What the process grows by is bounded on the way in and on the way out, and each row comes once (fault F14)."""
    count = 500_000
    newest_database.execute(
        "CREATE TABLE t (id int, v text)",
        "CREATE PUBLICATION streams FOR TABLE t",
        f"SELECT pg_create_logical_replication_slot('{slot(newest_database, 'large')}', 'pgoutput')",
        f"INSERT INTO t SELECT i, 'a row of the large transaction' FROM generate_series(1, {count}) i",
    )
    manner = Manner({"proto_version": "2", "streaming": "on"})
    process = psutil.Process()
    assembler = Assembler()
    before = most = spilled = seen = 0
    some: list[bytes] = []
    with closing(sent(newest_database.dsn, slot(newest_database, "large"), manner)) as messages:
        for number, (_, message) in enumerate(messages):
            some.append(message)
            if len(some) < 2000 and message[:1] != b"c":
                continue
            for batch in assembler.read(some):
                seen += len(batch.select([("public", "t")]).changes())
                most = max(most, process.memory_info().rss)
            some = []
            if not before and number > 10_000:
                gc.collect()
                before = process.memory_info().rss
            most = max(most, process.memory_info().rss)
            spilled = max(spilled, assembler.statistics().spilled_bytes)
            if message[:1] == b"c":
                break
    assert seen == count
    assert spilled > 2**20
    assert (most - before) / 2**20 < 64
