# Made from test_parallel_snapshot_async.py by ./dev lint --fix: change that file, not this one.
"""A snapshot that several connections share: the same rows as one gives, and nobody who waits for somebody for ever.

Over 400 lines, because locks, rewrites and limits each have more than one way to go wrong.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.events import Delete, Insert, Update
from pgcdc.replication import Snapshot, SnapshotStale, published_tables
from pgcdc.replication.copy_command import copy_command
from pgcdc.replication.snapshot_plan import Piece
from tests.replication.reading import read_past, until
from tests.replication.streams import changes, ids, new_name, refuses_column_lists, wal_end
from tests.replication.test_snapshot import churn, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc.replication import Connection, SnapshotPart
    from tests.conftest import Database

BLOCK = 8192


@pytest.fixture
def newest(newest_database: Database) -> Iterator[Connection]:
    with pgcdc.connect(newest_database.dsn) as connection:
        yield connection


def wide_table(database: Database, name: str, count: int = 2000) -> None:
    """About eight rows a block."""
    database.execute(
        f"CREATE TABLE {name} (id int PRIMARY KEY, note text)",
        f"INSERT INTO {name} SELECT i, repeat('x', 900) FROM generate_series(1, {count}) i",
    )


def granted(database: Database, name: str) -> int:
    """How many other sessions have a lock of a table."""
    query = f"SELECT count(*) FROM pg_locks WHERE relation = '{name}'::regclass AND granted AND pid <> pg_backend_pid()"
    return int(database.execute(query)[0][0])


def waiting(database: Database, name: str) -> bool:
    query = f"SELECT 1 FROM pg_locks WHERE relation = '{name}'::regclass AND NOT granted"
    return bool(database.execute(query))


def test_nothing_missing_and_nothing_twice_beside_writers(connection: Connection, database: Database) -> None:
    """Four writers insert, update (which moves rows from range to range) and delete all the time."""
    database.execute(
        "CREATE TABLE t (id bigserial PRIMARY KEY, writer int, version int)",
        "ALTER SEQUENCE t_id_seq CACHE 10",
        "INSERT INTO t (writer, version) SELECT 0, 0 FROM generate_series(1, 20000)",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    stop = threading.Event()
    writers = [threading.Thread(target=churn, args=(database, number, stop)) for number in range(1, 5)]
    for writer in writers:
        writer.start()
    slot = new_name()
    try:
        until(lambda: database.execute("SELECT count(DISTINCT writer) FROM t")[0][0] == 5)
        mirror: dict[int, tuple[int, int]] = {}
        with connection.snapshot(slot, ["p"], connections=4, split_bytes=2 * BLOCK) as snapshot:
            assert len(snapshot._sessions) == 4
            lsn = snapshot.lsn
            for batch in snapshot.batches(max_rows=100):
                assert batch.last_position == (lsn, -1)
                for event in changes(batch.events()):
                    assert event.new.id not in mirror
                    mirror[event.new.id] = (event.new.writer, event.new.version)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with connection.stream(slot, ["p"]) as stream:
        applied = changes(read_past(stream, wal_end(database)))
    assert applied, "the writers wrote while the copy was made"
    for event in applied:
        assert event.commit_lsn >= lsn
        if isinstance(event, Insert):
            assert event.new.id not in mirror, "a row that is in the copy came again"
            mirror[event.new.id] = (event.new.writer, event.new.version)
        elif isinstance(event, Update):
            assert event.new.version == mirror[event.new.id][1] + 1, "an update was lost or came twice"
            mirror[event.new.id] = (event.new.writer, event.new.version)
        elif isinstance(event, Delete):
            del mirror[event.old.id]
    assert mirror == {row[0]: row[1:] for row in database.execute("SELECT id, writer, version FROM t")}


def test_ranges_are_read_by_blocks(connection: Connection, database: Database) -> None:
    """The server reads the blocks of a range and no others, or a large table would be read once for each range."""
    wide_table(database, "t")
    database.execute("CREATE PUBLICATION p FOR TABLE t", "ANALYZE t")
    [table] = published_tables(connection, ["p"])
    for piece in (Piece(("public", "t"), 8, 16), Piece(("public", "t"), 200, None)):
        query = copy_command(table, [False, False], piece).removeprefix("COPY (").partition(") TO STDOUT")[0]
        [(plan,)] = database.execute(f"EXPLAIN (FORMAT JSON) {query}")
        assert plan[0]["Plan"]["Node Type"] == "Tid Range Scan"


@pytest.mark.parametrize("via_root", [True, False])
def test_partitions_by_leaf_in_ranges(connection: Connection, database: Database, via_root: bool) -> None:
    database.execute(
        "CREATE TABLE t (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 (note text, gone int, part int NOT NULL, id int NOT NULL)",
        "ALTER TABLE t2 DROP COLUMN gone",
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)",
        "CREATE TABLE empty PARTITION OF t FOR VALUES IN (3)",
        "INSERT INTO t SELECT i, i % 2 + 1, repeat('x', 900) FROM generate_series(1, 500) i",
        f"CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = {via_root})",
    )
    events: list[Any] = []
    with connection.snapshot(None, ["p"], connections=3, split_bytes=4 * BLOCK) as snapshot:
        assert sum(len(plan.pieces) for plan in snapshot._plans) > 10
        for batch in snapshot.batches():
            events += batch.events()
    assert rows(events, "id", "part") == [(i, i % 2 + 1) for i in range(1, 501)]
    assert {event.table for event in events} == ({"t"} if via_root else {"t1", "t2"})
    assert {event.new.note for event in events} == {"x" * 900}


def test_a_root_without_leaves(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    database.execute(
        "CREATE TABLE t (id int) PARTITION BY LIST (id)",
        "CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true)",
    )
    with newest.snapshot(None, ["p"]) as snapshot:
        assert [part.kind for part in snapshot.parts()] == ["finished"]
        assert snapshot.progress().done == 1


def test_leaves_that_may_not_be_read(newest: Connection, newest_database: Database) -> None:
    """Who may read a root need not be allowed to read its leaves: then the root is read."""
    database = newest_database
    role = new_name("r")
    database.execute(
        "CREATE TABLE t (id int) PARTITION BY LIST (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "INSERT INTO t VALUES (1)",
        "CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true)",
        f"CREATE ROLE {role} LOGIN REPLICATION",
        f"GRANT SELECT ON t TO {role}",
    )
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as limited:  # noqa: SIM117
            with limited.snapshot(None, ["p"]) as snapshot:
                found = [event for batch in snapshot.batches() for event in batch.events()]
        assert ids(found) == [1]
    finally:
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_filters_and_lists_hold_in_every_range(connection: Connection, database: Database) -> None:
    if connection.server_version < 150000:
        refuses_column_lists(database)
        return
    wide_table(database, "t")
    database.execute(
        "ALTER TABLE t ADD secret text DEFAULT 'secret'",
        "CREATE PUBLICATION p FOR TABLE t (id, note) WHERE (id % 2 = 0 OR id = 1)",
    )
    events: list[Any] = []
    with connection.snapshot(None, ["p"], connections=2, split_bytes=8 * BLOCK) as snapshot:
        for batch in snapshot.batches():
            events += batch.events()
    assert [key for (key,) in rows(events, "id")] == [1, *range(2, 2001, 2)]
    assert not hasattr(events[0].new, "secret")


def parts_of(snapshot: Snapshot, max_rows: int = 10_000) -> list[SnapshotPart]:
    found = []
    for part in snapshot.parts(max_rows=max_rows):
        assert part.kind == "rows" or part.batch is None
        found.append(part)
    return found


def test_a_finished_table_is_told_after_all_its_rows(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    for name in ("a", "b", "c"):
        wide_table(database, name, 500)
    database.execute("CREATE TABLE nothing_in_it (id int)", "CREATE PUBLICATION p FOR TABLE a, b, c, nothing_in_it")
    with newest.snapshot(None, ["p"], connections=3, split_bytes=8 * BLOCK) as snapshot:
        parts = parts_of(snapshot, 50)
    counts: dict[str, int] = {}
    finished = []
    for part in parts:
        assert part.table.name not in finished
        if part.kind == "finished":
            finished.append(part.table.name)
        else:
            assert part.batch is not None
            counts[part.table.name] = counts.get(part.table.name, 0) + len(part.batch)
    assert sorted(finished) == ["a", "b", "c", "nothing_in_it"]
    assert counts == {"a": 500, "b": 500, "c": 500}


def test_one_stale_table_does_not_spoil_the_others(connection: Connection, database: Database) -> None:
    for name in ("a", "b", "c"):
        wide_table(database, name, 500)
    database.execute("CREATE PUBLICATION p FOR TABLE a, b, c")
    with connection.snapshot(None, ["p"], connections=2, split_bytes=8 * BLOCK) as snapshot:
        database.execute("TRUNCATE b")
        parts = parts_of(snapshot)
    kinds = {part.table.name: part.kind for part in parts if part.kind != "rows"}
    assert kinds == {"a": "finished", "b": "stale", "c": "finished"}
    assert sum(len(part.batch) for part in parts if part.batch is not None) == 1000
    [error] = [part.error for part in parts if part.error is not None]
    assert isinstance(error, SnapshotStale)
    assert error.table == "public.b"


def test_a_rewrite_between_two_tables_is_noticed(newest: Connection, newest_database: Database) -> None:
    """A table that is still to come is not locked; when its turn comes it is compared."""
    database = newest_database
    wide_table(database, "a", 5000)
    wide_table(database, "b", 100)
    database.execute("CREATE PUBLICATION p FOR TABLE a, b")
    with newest.snapshot(None, ["p"], connections=1) as snapshot:
        parts = snapshot.parts(max_rows=10)
        first = next(parts)
        assert first.table.name == "a"
        database.execute("ALTER TABLE b ALTER id TYPE bigint")
        rest = [(part.table.name, part.kind) for part in parts]
    assert [name for name, kind in rest if kind == "finished"] == ["a"]
    assert [name for name, kind in rest if kind == "stale"] == ["b"]


def test_a_leaf_attached_during_the_piece_is_noticed(connection: Connection, database: Database) -> None:
    """Beside our lock leaves come and go: the snapshot has none of this one's rows, and the stream never sends them."""
    database.execute(
        "CREATE TABLE t (id int, part int) PARTITION BY LIST (part)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t2 (id int, part int)",
        "INSERT INTO t VALUES (1, 1)",
        "INSERT INTO t2 VALUES (2, 2)",
        "CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root = true)",
    )
    with connection.snapshot(None, ["p"], connections=1) as snapshot:
        parts = snapshot.parts()
        first = next(parts)
        assert first.batch is not None and ids(first.batch.events()) == [1]
        database.execute("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)")
        assert [(part.table.name, part.kind) for part in parts] == [("t", "stale")]


def test_who_waits_for_an_exclusive_lock_stops_nobody(connection: Connection, database: Database) -> None:
    """Between two of our connections in a queue for a lock it would make a circle that the server does not see."""
    wide_table(database, "first", 100)
    wide_table(database, "t", 4000)
    database.execute("CREATE PUBLICATION p FOR TABLE first, t")
    found: list[int] = []
    with connection.snapshot(None, ["p"], connections=3, split_bytes=16 * BLOCK) as snapshot:
        batches = snapshot.batches(max_rows=5)
        found += ids(next(batches).events())
        altering = threading.Thread(target=database.execute, args=("ALTER TABLE t ADD more int DEFAULT 5",))
        altering.start()
        try:
            until(lambda: waiting(database, "t"))
            # Whoever copies the first table is done soon, and would help with the other one.
            for batch in batches:
                found += ids(batch.events())
            # The lock is given away with the table's last row, not at the end of the snapshot.
            altering.join(30)
            assert not altering.is_alive()
        finally:
            snapshot.close()  # or whoever waits for a lock waits for ever
            altering.join()
    assert sorted(found) == sorted([*range(1, 101), *range(1, 4001)])


def test_a_table_that_is_locked_is_copied_last(
    newest: Connection, newest_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database = newest_database
    wide_table(database, "a", 100)
    wide_table(database, "b", 100)
    database.execute("CREATE PUBLICATION p FOR TABLE a, b")
    finished = []
    caplog.set_level(logging.WARNING, "pgcdc")
    with newest.snapshot(None, ["p"], connections=2) as snapshot, database.connect() as locker:
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        for part in snapshot.parts():
            if part.kind == "finished":
                finished.append(part.table.name)
                if len(finished) == 1:
                    locker.execute("ROLLBACK")
    assert finished == ["b", "a"]
    assert "table public.a is locked by somebody" in caplog.text


def test_no_lock_but_access_share_and_not_for_longer_than_needed(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    wide_table(database, "a", 3000)
    wide_table(database, "b", 3000)
    database.execute("CREATE PUBLICATION p FOR TABLE a, b")
    modes = "SELECT DISTINCT mode FROM pg_locks WHERE relation IN ('a'::regclass, 'b'::regclass)"
    with newest.snapshot(None, ["p"], connections=2, split_bytes=64 * BLOCK) as snapshot:
        parts = snapshot.parts(max_rows=10)
        assert next(parts).table.name == "a"
        assert granted(database, "a") and not granted(database, "b")
        assert database.execute(modes) == [("AccessShareLock",)]
        for part in parts:
            if part.table.name == "a" and part.kind == "finished":
                break
        # Whichever comes first, there are rows of the other table still to come.
        for part in parts:
            if part.table.name == "b" and part.kind == "rows":
                assert not granted(database, "a")
                break
    until(lambda: not granted(database, "b"))  # the server ends its session when it hears of it


def test_what_is_kept_is_bounded(newest: Connection, newest_database: Database) -> None:
    """Whatever the servers send ahead, no more than the limits is taken before it is handed over."""
    database = newest_database
    wide_table(database, "t", 4000)
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    with newest.snapshot(None, ["p"], connections=4, split_bytes=32 * BLOCK) as snapshot:
        for batch in snapshot.batches(max_bytes=20_000, max_rows=1000):
            assert batch.nbytes < 20_000 + 1_000
            assert all(one._frames.nbytes < 20_000 + 1_000 for one in snapshot._sessions)


def test_progress(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    wide_table(database, "a", 1000)
    wide_table(database, "b", 3000)
    database.execute("CREATE TABLE nothing_in_it (id int)", "CREATE PUBLICATION p FOR TABLE a, b, nothing_in_it")
    database.execute("ANALYZE")
    with newest.snapshot(None, ["p"], connections=2, split_bytes=32 * BLOCK) as snapshot:
        progress = snapshot.progress()
        assert (progress.rows, progress.rows_expected, progress.done) == (0, 4000, 0)
        assert [table.state for table in progress.tables] == ["waiting"] * 3
        before = 0.0
        seen = 0
        for batch in snapshot.batches(max_rows=100):
            seen += len(batch)
            progress = snapshot.progress()
            assert progress.rows == seen
            assert before <= progress.done < 1
            before = progress.done
            assert progress.rows_per_second > 0 and progress.seconds_left is not None
        progress = snapshot.progress()
    assert (progress.rows, progress.done, progress.finished, progress.seconds_left) == (4000, 1, 3, 0)
    assert [(table.name, table.rows, table.state) for table in progress.tables] == [
        ("a", 1000, "finished"),
        ("b", 3000, "finished"),
        ("nothing_in_it", 0, "finished"),
    ]
    assert progress.nbytes > 4000 * 900
    assert snapshot.progress().seconds == progress.seconds


def test_the_slot_of_a_snapshot(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    database.execute("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "CREATE PUBLICATION p FOR TABLE t")
    with newest.snapshot(None, ["p"]) as snapshot:
        temporary = newest.slot(snapshot.slot.name)
        assert temporary is not None and temporary.temporary
    assert newest.slot(snapshot.slot.name) is None
    name = new_name()
    with newest.snapshot(name, ["p"]) as snapshot:
        database.execute("INSERT INTO t VALUES (2)")
        copied = [event for batch in snapshot.batches() for event in batch.events()]
    assert ids(copied) == [1]
    with newest.stream(name, ["p"]) as stream:
        assert ids(read_past(stream, wal_end(database))) == [2]
    with pytest.raises(pgcdc.PublicationNotFound), newest.snapshot(new_name(), ["absent"]):
        pass
    with pytest.raises(pgcdc.ConfigError, match="0 connections"):
        newest.snapshot(new_name(), ["p"], connections=0)


def read_to_the_end(connection: Connection, slot: str | None) -> None:
    with connection.snapshot(slot, ["p"]) as snapshot:
        for _ in snapshot.batches():
            pass


def test_what_to_do_about_a_slot_that_stays(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    role, name = new_name("r"), new_name()
    database.execute(
        "CREATE TABLE t (id int)",
        "CREATE PUBLICATION p FOR TABLE t",
        f"CREATE ROLE {role} LOGIN REPLICATION",
    )
    drop = f'connection.drop_slot("{name}"), and begin again'
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as limited:
            with pytest.raises(pgcdc.ConfigError) as refused:
                read_to_the_end(limited, name)
            assert f'slot "{name}" stays, and holds WAL back: {drop}' in (refused.value.hint or "")
            assert "GRANT" in (refused.value.hint or "")
            with pytest.raises(pgcdc.ConfigError, match="already exists") as exists:
                limited.snapshot(name, ["p"])
            assert drop in (exists.value.hint or "")
            assert newest.slot(name) is not None
            limited.drop_slot(name)
            with pytest.raises(pgcdc.ConfigError) as temporary:
                read_to_the_end(limited, None)
            assert "stays" not in (temporary.value.hint or "")
    finally:
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_fewer_connections_than_wanted(
    newest: Connection, newest_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database = newest_database
    caplog.set_level(logging.WARNING, "pgcdc")
    wide_table(database, "t", 500)
    role = new_name("r")
    database.execute(
        "CREATE PUBLICATION p FOR TABLE t",
        f"CREATE ROLE {role} LOGIN REPLICATION CONNECTION LIMIT 3",
        f"GRANT SELECT ON t TO {role}",
    )
    try:
        # A walsender does not count where the limit is one of the role's; the session beside it does.
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as limited:
            with limited.snapshot(None, ["p"], connections=8, split_bytes=4 * BLOCK) as snapshot:
                assert 1 <= len(snapshot._sessions) < 4
                found = [event for batch in snapshot.batches() for event in batch.events()]
            assert len(found) == 500
            assert "connections only: " in caplog.text
            name = new_name()
            database.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            with pytest.raises(pgcdc.Error, match="too many connections"), limited.snapshot(name, ["p"]):
                pass
            assert newest.slot(name) is None, "nothing is left behind"
    finally:
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def rest(batches: Iterator[pgcdc.Batch]) -> Iterator[int]:
    """How many rows are left."""
    count = 0
    for batch in batches:
        count += len(batch)
    yield count


def test_a_connection_of_several_is_lost(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    wide_table(database, "t", 4000)
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    with newest.snapshot(None, ["p"], connections=3, split_bytes=64 * BLOCK) as snapshot:
        batches = snapshot.batches(max_rows=5)
        next(batches)
        database.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE query LIKE 'COPY%' AND datname = current_database() LIMIT 1"
        )
        with pytest.raises(pgcdc.ConnectionLost) as caught:
            next(rest(batches))
    assert caught.value.table == "public.t"
    until(lambda: not granted(database, "t"))


def test_it_is_read_once_at_a_time(newest: Connection, newest_database: Database) -> None:
    database = newest_database
    wide_table(database, "t", 500)
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    with newest.snapshot(None, ["p"], connections=2) as snapshot:
        batches = snapshot.batches(max_rows=5)
        next(batches)
        with pytest.raises(pgcdc.ConfigError, match="being read already"):
            next(snapshot.batches())
