"""Slots looked at, moved and copied, and plans for them: what they free, what is lost, and who is in the way."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import pgcdc
from pgcdc.events import Insert
from pgcdc.replication import NewSlot, PlanStale, SlotPlan, slot_changes
from tests.replication.reading import read_past
from tests.replication.streams import ids, new_name, wal_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc.replication import Connection, SlotState
    from tests.conftest import Database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
    with pgcdc.connect(database.dsn) as connection:
        yield connection


def looked_at(connection: Connection, name: str) -> SlotState:
    state = connection.slot(name)
    assert state is not None
    return state


def flushed(database: Database) -> int:
    """Where the WAL ends that is flushed: on a server that nobody writes to, all of it."""
    database.execute("SET synchronous_commit = on", "SELECT pg_logical_emit_message(true, '', '')")
    return pgcdc.parse_lsn(database.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0])


def streamed(connection: Connection, database: Database, slot: str) -> list[int]:
    with connection.stream(slot, ["p"]) as stream:
        return ids(read_past(stream, wal_end(database)))


# Looking.


def test_what_each_version_tells(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name
    database.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    state = looked_at(connection, name)
    assert state.restart_lsn is not None and state.confirmed_flush_lsn is not None
    assert state.lag_bytes is not None and state.held_bytes is not None
    assert 50_000 < state.lag_bytes < state.held_bytes
    assert state.held_bytes - state.lag_bytes == state.confirmed_flush_lsn - state.restart_lsn
    assert isinstance(state.catalog_xmin, int) and state.xmin is None and state.two_phase_at is None
    assert not (state.conflicting or state.invalidation_reason or state.synced)
    [(now,)] = database.execute("SELECT now()")
    if connection.server_version >= 170000:
        assert state.inactive_since is not None and abs((now - state.inactive_since).total_seconds()) < 300
    else:
        assert state.inactive_since is None
    if connection.server_version >= 180000:
        prepares = looked_at(connection, connection.create_slot(new_name(), two_phase=True).name)
        assert prepares.two_phase_at == prepares.confirmed_flush_lsn
    physical = new_name()
    database.execute(f"SELECT pg_create_physical_replication_slot('{physical}', true)")
    try:
        names = [slot.name for slot in connection.slots()]
        assert names == sorted(names) and {name, physical} <= set(names)
        other = looked_at(connection, physical)
        assert (other.plugin, other.lag_bytes, other.lag_seconds) == (None, None, None)
        assert other.held_bytes is not None
    finally:
        connection.drop_slot(physical)
    document = msgspec.json.decode(msgspec.json.encode(state))
    assert document["lag_bytes"] == state.lag_bytes


def test_how_old_it_is_what_a_slot_lacks(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name
    connection.advance_slot(name, flushed(database))
    database.execute("INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()", "INSERT INTO t VALUES (2)")
    state = looked_at(connection, name)
    assert state.lag_seconds is not None and 0 <= state.lag_seconds < 300
    # The file is complete, and nothing is written to it any more: its age is ours to choose.
    lsn = state.confirmed_flush_lsn or 0
    [(file,)] = database.execute(f"SELECT pg_walfile_name('{pgcdc.format_lsn(lsn + 1)}')")
    an_hour_ago = time.time() - 3600
    os.utime(database.server.data / "pg_wal" / file, (an_hour_ago, an_hour_ago))
    age = looked_at(connection, name).lag_seconds
    assert age is not None and 3598 <= age < 3900
    # Who may not see the files is not told anything, rather than something that is not so.
    role = new_name("r")
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as other:
            assert looked_at(other, name).lag_seconds is None
            database.execute(f"GRANT pg_monitor TO {role}")
            assert (looked_at(other, name).lag_seconds or 0) >= 3598
    finally:
        database.execute(f"DROP ROLE {role}")


def test_a_slot_that_lacks_nothing(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name

    def caught_up() -> bool:
        connection.advance_slot(name, flushed(database))
        state = looked_at(connection, name)
        if state.lag_bytes:  # the server has written something of its own in between
            return False
        assert state.lag_seconds == 0.0
        return True

    assert any(caught_up() for _ in range(100))


# Moving.


def test_what_it_is_moved_over_does_not_come(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name
    database.execute("INSERT INTO t VALUES (1)")
    lsn = flushed(database)
    assert connection.advance_slot(name, lsn) == lsn == looked_at(connection, name).confirmed_flush_lsn
    assert connection.advance_slot(name, lsn) == lsn, "where it is already"
    database.execute("INSERT INTO t VALUES (2)")
    assert streamed(connection, database, name) == [2]


def test_where_it_cannot_go(connection: Connection, database: Database) -> None:
    slot = connection.create_slot(new_name())
    for lsn, sentence in ((slot.consistent_point - 1, "cannot go back"), (1 << 60, "the server's WAL ends at")):
        with pytest.raises(pgcdc.PositionError, match=sentence) as caught:
            connection.advance_slot(slot.name, lsn)
        assert caught.value.slot == slot.name and caught.value.lsn is not None
    assert looked_at(connection, slot.name).confirmed_flush_lsn == slot.consistent_point
    with pytest.raises(pgcdc.SlotNotFound, match='slot "nowhere" does not exist') as missing:
        connection.advance_slot("nowhere", slot.consistent_point)
    assert missing.value.sqlstate == "42704"
    # 17 and 18 would do it, and would read the other database's WAL without knowing its tables.
    with (
        pgcdc.connect(database.server.dsn()) as other,
        pytest.raises(pgcdc.ConfigError, match='belongs to database "test_'),
    ):
        other.advance_slot(slot.name, slot.consistent_point)
    with pgcdc.connect(database.dsn) as reader, reader.stream(slot.name, ["p"]):
        with pytest.raises(pgcdc.SlotInUse) as busy:
            connection.advance_slot(slot.name, flushed(database))
        assert busy.value.sqlstate == "55006" and f"process {reader.backend_pid}" in (busy.value.hint or "")


def test_a_temporary_slot_is_moved_by_the_session_that_has_it(connection: Connection, database: Database) -> None:
    """By the walsender, which decodes with the tables as they were all the same (decision 0008)."""
    name = connection.create_slot(new_name(), temporary=True).name
    database.execute("INSERT INTO t VALUES (1)")
    lsn = flushed(database)
    assert connection.advance_slot(name, lsn) == lsn
    with pgcdc.connect(database.dsn) as other, pytest.raises(pgcdc.SlotInUse):
        other.advance_slot(name, lsn)
    database.execute("INSERT INTO t VALUES (2)", "ALTER TABLE t ADD n int DEFAULT 7")
    again = connection.copy_slot(name, new_name(), temporary=True)
    assert connection.advance_slot(again.name, lsn) == lsn
    with connection.stream(again.name, ["p"]) as stream:
        (insert,) = [event for event in read_past(stream, wal_end(database)) if isinstance(event, Insert)]
        assert insert.new.id == 2 and not hasattr(insert.new, "n")
        with pytest.raises(pgcdc.SlotInUse):
            connection.advance_slot(name, flushed(database))


def test_the_time_that_it_may_take(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary slot is moved by the walsender, which does not answer: it stands still, as on a disk that hangs."""
    monkeypatch.setattr("pgcdc.replication.session._CANCEL_SECONDS", 0.1)
    with pgcdc.connect(newest_database.dsn) as connection:
        slot = connection.create_slot(new_name(), temporary=True)
        newest_database.execute("CREATE TABLE t (id int)")
        lsn = flushed(newest_database)
        pid = connection.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(pgcdc.ReplicationError) as caught:
                connection.advance_slot(slot.name, lsn, timeout=0.5)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert str(caught.value) == f'advancing slot "{slot.name}" to {pgcdc.format_lsn(lsn)} did not end within 0.5 s'
    assert "longer timeout" in (caught.value.hint or "")
    assert (caught.value.slot, caught.value.lsn) == (slot.name, lsn)


# Copying.


def test_both_give_the_same(connection: Connection, database: Database) -> None:
    source = connection.create_slot(new_name()).name
    database.execute("INSERT INTO t VALUES (1)")
    with pgcdc.connect(database.dsn) as reader, reader.stream(source, ["p"]) as stream:
        assert ids(read_past(stream, wal_end(database))) == [1]
        copy = connection.copy_slot(source, new_name())
        temporary = connection.copy_slot(source, new_name(), temporary=True)
    state = looked_at(connection, copy.name)
    assert (copy.created, copy.snapshot_name) == (True, None)
    assert copy.consistent_point == state.confirmed_flush_lsn == looked_at(connection, source).confirmed_flush_lsn
    assert (state.plugin, state.temporary, state.database) == ("pgoutput", False, database.name)
    assert looked_at(connection, temporary.name).active_pid == connection.backend_pid
    for name in (temporary.name, copy.name, source):
        assert streamed(connection, database, name) == [1]
    assert connection.slot(temporary.name) is None, "the second stream has another walsender"
    permanent = connection.copy_slot(connection.create_slot(new_name(), temporary=True).name, new_name())
    assert not looked_at(connection, permanent.name).temporary


def test_what_cannot_be_copied(connection: Connection, database: Database) -> None:
    source = connection.create_slot(new_name()).name
    taken = connection.create_slot(new_name()).name
    with pytest.raises(pgcdc.ConfigError) as caught:
        connection.copy_slot(source, taken)
    assert (caught.value.sqlstate, caught.value.slot) == ("42710", taken)
    with pytest.raises(pgcdc.SlotNotFound) as missing:
        connection.copy_slot("nowhere", new_name())
    assert missing.value.slot == "nowhere"
    with pytest.raises(pgcdc.ConfigError, match="cannot be the name"):
        connection.copy_slot(source, "No")
    # The server would make a slot of this database, at a position in the other one's changes.
    with pgcdc.connect(database.server.dsn()) as other:
        with pytest.raises(pgcdc.ConfigError, match='belongs to database "test_'):
            other.copy_slot(source, name := new_name())
        assert other.slot(name) is None
    with connection.stream(source, ["p"]), pytest.raises(pgcdc.ConfigError, match="is streaming"):
        connection.copy_slot(taken, new_name(), temporary=True)


# Plans.


def kinds(plan: SlotPlan) -> list[str]:
    return [warning.kind for warning in plan.warnings]


def test_a_plan_is_what_happens(connection: Connection, database: Database) -> None:
    old, moved, kept = (connection.create_slot(new_name()).name for _ in range(3))
    database.execute("INSERT INTO t VALUES (1)")
    lsn = flushed(database)
    at_15 = connection.server_version >= 150000
    wanted = NewSlot(new_name(), two_phase=at_15, failover=connection.server_version >= 170000)
    plan = connection.plan_slots(create=[wanted, kept, old], advance={moved: lsn}, drop=[old, "nowhere"])
    assert (plan.drop, plan.advance, [slot.name for slot in plan.create]) == ((old,), {moved: lsn}, [wanted.name, old])
    assert [step.command.split()[0] for step in plan.steps] == ["DROP_REPLICATION_SLOT", "SELECT"] + [
        "CREATE_REPLICATION_SLOT"
    ] * 2
    assert kinds(plan)[:2] == ["rows_lost", "rows_lost"]
    assert plan.warnings[0].says.startswith(f"what slot {old} has not confirmed cannot be read")
    before = looked_at(connection, old)
    connection.apply(plan)
    assert looked_at(connection, moved).confirmed_flush_lsn == lsn
    made = looked_at(connection, wanted.name)
    assert (made.two_phase, made.failover) == (wanted.two_phase, wanted.failover)
    assert (looked_at(connection, old).confirmed_flush_lsn or 0) > (before.confirmed_flush_lsn or 0)
    again = connection.plan_slots(create=[wanted, kept, old], advance={moved: lsn}, drop=["nowhere"])
    assert (again.steps, again.warnings, str(again)) == ((), (), "slots: nothing to change")
    connection.apply(again)
    with pytest.raises(PlanStale) as caught:
        connection.apply(plan)
    assert caught.value.slot in (old, moved)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=SlotPlan) == plan


def test_how_much_it_frees(connection: Connection, database: Database) -> None:
    """The oracle: where the oldest WAL is that a slot or recovery needs, before and after."""
    older, old = (connection.create_slot(new_name()).name for _ in range(2))
    database.execute("INSERT INTO t SELECT generate_series(1, 50000)")
    connection.create_slot(new_name())
    database.execute("CHECKPOINT")

    def oldest() -> int:
        [(lsn,)] = database.execute(
            "SELECT LEAST((SELECT min(restart_lsn) FROM pg_replication_slots),"
            " (SELECT redo_lsn FROM pg_control_checkpoint()))::text"
        )
        return pgcdc.parse_lsn(lsn)

    first = connection.plan_slots(drop=[old])
    assert first.frees_bytes == 0
    assert kinds(first) == ["rows_lost", "wal_kept"] and older in first.warnings[1].says
    assert str(first).endswith("frees no WAL")
    both = connection.plan_slots(drop=[old, older])
    before = oldest()
    connection.apply(both)
    assert both.frees_bytes == oldest() - before > 1_000_000
    assert "MB of WAL, at the next checkpoint" in str(both)


def test_how_much_it_frees_for_who_may_not_look_at_checkpoints(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name
    role = new_name("r")
    revoke = "REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC"
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION", revoke, "INSERT INTO t VALUES (1)")
    try:
        with pgcdc.connect(database.server.dsn(database.name, user=role)) as other:
            known = connection.plan_slots(drop=[name])
            plan = other.plan_slots(drop=[name])
            assert plan.frees_bytes >= known.frees_bytes
            other.apply(plan)
    finally:
        database.execute(f"DROP ROLE {role}")
    assert connection.slot(name) is None


def test_who_is_in_the_way(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name
    idle = connection.create_slot(new_name()).name
    with pgcdc.connect(database.dsn) as other:
        theirs = other.create_slot(new_name(), temporary=True).name
        with other.stream(name, ["p"]):
            plan = connection.plan_slots(drop=[idle, name])
            assert "in_use" in kinds(plan) and f"process {other.backend_pid}" in str(plan)
            with pytest.raises(pgcdc.SlotInUse) as caught:
                connection.apply(plan)
            assert caught.value.slot == name and f"process {other.backend_pid}" in (caught.value.hint or "")
            assert connection.slot(idle) is not None, "nothing is done before everything was looked at"
        assert "belongs to process" in str(connection.plan_slots(drop=[theirs]))
    mine = connection.create_slot(new_name(), temporary=True).name
    plan = connection.plan_slots(drop=[mine])
    assert "in_use" not in kinds(plan)
    connection.apply(plan)
    assert connection.slot(mine) is None


def test_what_changed_since_is_noticed(connection: Connection, database: Database) -> None:
    name = connection.create_slot(new_name()).name
    database.execute("INSERT INTO t VALUES (1)")
    plan = connection.plan_slots(drop=[name])
    connection.advance_slot(name, flushed(database))
    with pytest.raises(PlanStale, match="was moved, lost, dropped or made again"):
        connection.apply(plan)
    assert connection.slot(name) is not None
    plan = connection.plan_slots(create=[made := new_name()])
    connection.create_slot(made)
    with pytest.raises(PlanStale, match="somebody has made it"):
        connection.apply(plan)


def test_what_was_done_before_it_failed_is_said(
    connection: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, name = (connection.create_slot(new_name()).name for _ in range(2))
    database.execute("INSERT INTO t VALUES (1)")
    plan = connection.plan_slots(drop=[gone], advance={name: flushed(database)})
    check = slot_changes._check_unchanged

    def and_then(*arguments: Any) -> None:
        check(*arguments)
        with pgcdc.connect(database.dsn) as other:
            other.drop_slot(name)

    monkeypatch.setattr(slot_changes, "_check_unchanged", and_then)
    with pytest.raises(pgcdc.SlotNotFound) as caught:
        connection.apply(plan)
    assert caught.value.__notes__ == [f"before that, slot {gone} was dropped"]
    assert connection.slot(gone) is None


def test_wishes_that_contradict(connection: Connection) -> None:
    name = connection.create_slot(new_name()).name
    lsn = looked_at(connection, name).confirmed_flush_lsn or 0
    for wish, sentence in (
        ({"advance": {name: lsn}, "drop": [name]}, "to be moved, and made or dropped besides"),
        ({"create": ["x", NewSlot("x", failover=True)]}, "made twice"),
        ({"create": [NewSlot(name, temporary=True)]}, "is there, with temporary off"),
        ({"create": ["No"]}, "cannot be the name"),
    ):
        with pytest.raises(pgcdc.ConfigError, match=sentence):
            connection.plan_slots(**wish)
    with pytest.raises(pgcdc.SlotNotFound):
        connection.plan_slots(advance={"nowhere": lsn})
    with pytest.raises(pgcdc.PositionError):
        connection.plan_slots(advance={name: lsn - 1})
    if connection.server_version < 170000:
        with pytest.raises(pgcdc.ConfigError, match="failover slots need PostgreSQL 17"):
            connection.plan_slots(create=[NewSlot("x", failover=True)])


def test_a_prepared_transaction_is_in_the_way_of_two_phase(connection: Connection) -> None:
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            connection.plan_slots(create=[NewSlot("x", two_phase=True)])
        return
    name = connection.create_slot(new_name(), two_phase=True).name
    connection.execute("SELECT pg_logical_emit_message(true, '', '')")
    state = looked_at(connection, name)
    plan = connection.plan_slots(advance={name: (state.confirmed_flush_lsn or 0) + 1})
    assert kinds(plan)[:2] == ["rows_lost", "rows_lost"] and "COMMIT PREPARED" in plan.warnings[1].says
